"""What a stranger, or a client with a key, may send to take more than a fair share.

    python -m tests.chaos.attacks ADDRESS KEY NAME [--rate DRAWS]

Attacks until its input ends, then prints as JSON how its requests were answered. It is a separate
process of low priority, because real attackers take no processor time from those whom they attack.
"""

import argparse
import asyncio
import base64
import contextlib
import gzip
import io
import json
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from tests.chaos.load import PNG, Client, Log, head
from tests.e2e.conftest import ROOT

# The largest picture and the largest body that are allowed by default.
SIDE = 5000
BODY_BYTES = 20 * 2**20
CONNECTIONS = 32
# The pause after a refusal, before the same connection asks again.
REFUSED_SECONDS = 0.1
# The pictures of a batch, and the seconds of the key's rate that they ask for together.
BATCH, BATCH_SECONDS = 32, 5.0
# A slow upload: how many bytes at a time, and how many times a second.
DRIP_BYTES, DRIPS_A_SECOND = 200, 10
# How long a stream is left unread before it is given up for another.
UNREAD_SECONDS = 5.0

GREEDY = "max_draws={draws}&timeout_ms=30000"


@dataclass(frozen=True)
class Attack:
    """Requests: path and query, where ``{draws}`` stands for as many as a batch asks a picture."""

    target: str
    content: Callable[[], bytes]
    headers: dict[str, str] = field(default_factory=lambda: PNG)
    slow: bool = False
    unread: bool = False


def tiny_webp(side: int = SIDE) -> bytes:
    """A WebP of 46 bytes whose pixels take no bits: each of its prefix codes has one symbol."""
    bits = width = 0
    size = ((side - 1, 14), (side - 1, 14))
    # Signature, size, no alpha, version, no transform, no cache, no meta codes, five simple codes.
    for value, count in ((0x2F, 8), *size, (0, 1), (0, 3), (0, 3), *[(1, 4)] * 5):
        bits |= value << width
        width += count
    stream = bits.to_bytes(26, "little")
    chunk = b"VP8L" + struct.pack("<I", len(stream)) + stream
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_bomb() -> bytes:
    """A PNG of 3 KB."""
    return _saved(Image.new("1", (SIDE, SIDE)), "PNG", optimize=True)


@cache
def large_jpeg() -> bytes:
    """A progressive JPEG of some megabytes."""
    image = Image.effect_noise((SIDE // 4, SIDE // 4), 100).resize((SIDE, SIDE))
    return _saved(image, "JPEG", progressive=True, quality=60)


def noise_png(side: int) -> bytes:
    """A PNG of slightly more than ``side²`` bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    return _saved(Image.fromarray(pixels), "PNG", compress_level=0)


def seven() -> bytes:
    """The picture that the service comes with."""
    return (ROOT / "examples" / "7.png").read_bytes()


def packed_json() -> bytes:
    """A few kilobytes that decompress to a valid request of the largest size."""
    body = json.dumps({"image": base64.b64encode(seven()).decode(), "max_draws": 64}).encode()
    return gzip.compress(body.ljust(BODY_BYTES - 1))


def packed_zeros() -> bytes:
    """A few kilobytes that decompress to a body of the largest size."""
    return gzip.compress(bytes(BODY_BYTES - 1))


def batch(pictures: int, draws: int) -> bytes:
    """A request of /v2 for black pictures; its header is as long as :data:`V2_HEAD` says."""
    pixels = bytes(pictures * 28 * 28)
    tensor = {
        "name": "IMAGE",
        "datatype": "UINT8",
        "shape": [pictures, 28, 28, 1],
        "parameters": {"binary_data_size": len(pixels)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"max_draws": draws}}).encode()
    return head.ljust(V2_HEAD) + pixels


V2_HEAD = 300
V2 = "/v2/models/mnist-cnn/infer"
PACKED = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
BINARY = {"Inference-Header-Content-Length": str(V2_HEAD)}
MANY_DRAWS = GREEDY.format(draws=100_000)


def attacks(draws: int) -> dict[str, Attack]:
    """Return all attacks by name; batches ask for ``draws`` draws a picture."""
    few = f"/predict?{GREEDY.format(draws=64)}"
    return {
        "WebP of 46 bytes": Attack(few, tiny_webp),
        "PNG bombs": Attack(few, png_bomb),
        "large JPEGs": Attack(few, large_jpeg),
        "gzip bodies": Attack("/predict", packed_json, PACKED),
        "gzip bodies of v2": Attack(V2, packed_zeros, PACKED),
        "many small requests": Attack(few, seven),
        "many draws": Attack(f"/predict?{MANY_DRAWS}", seven),
        "batches of v2": Attack(V2, lambda: batch(BATCH, draws), BINARY),
        "high priority": Attack(f"{few}&priority=high", seven),
        "slow uploads": Attack(few, lambda: noise_png(1000), slow=True),
        "unread streams": Attack(f"/predict/stream?{MANY_DRAWS}", seven, unread=True),
    }


async def _exchange(address: str, attack: Attack, key: str, content: bytes) -> None:
    """Upload drop by drop, or read none of the answer, until one side gives up."""
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**12)
    try:
        start = head(attack.target, {**attack.headers, "X-API-Key": key})
        writer.write(start + b"Content-Length: %d\r\n\r\n" % len(content))
        if attack.unread:
            writer.write(content)
            await asyncio.sleep(UNREAD_SECONDS)
        for at in range(0, 0 if attack.unread else len(content), DRIP_BYTES):
            writer.write(content[at : at + DRIP_BYTES])
            await asyncio.sleep(1 / DRIPS_A_SECOND)
            if reader.at_eof():
                break
    finally:
        writer.close()


async def _attack(address: str, attack: Attack, key: str, stop: asyncio.Event) -> Log:
    log, content = Log(), attack.content()

    async def one() -> None:
        client = Client(address, attack.target, log, {**attack.headers, "X-API-Key": key})
        while True:
            if attack.slow or attack.unread:
                with contextlib.suppress(OSError):
                    await _exchange(address, attack, key, content)
            elif await client.ask(content) != 200:
                await asyncio.sleep(REFUSED_SECONDS)

    tasks = [asyncio.create_task(one()) for _ in range(CONNECTIONS)]
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return log


async def _until_input_ends(address: str, attack: Attack, key: str) -> Log:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    return await _attack(address, attack, key, stop)


def main() -> None:
    """Attack until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("key")
    parser.add_argument("name")
    parser.add_argument("--rate", type=float, default=1000.0, help="the key's")
    arguments = parser.parse_args()
    os.nice(19)
    attack = attacks(max(64, int(arguments.rate * BATCH_SECONDS / BATCH)))[arguments.name]
    log = asyncio.run(_until_input_ends(arguments.address, attack, arguments.key))
    print(json.dumps({"statuses": dict(log.answered), "broken off": dict(log.lost)}))


if __name__ == "__main__":
    main()
