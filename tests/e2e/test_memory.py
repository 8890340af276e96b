"""How much strangers can make the front process hold, measured as its resident memory."""

import asyncio
import contextlib
import gzip
import io
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from service.http.connections import LEAST_FILES
from service.http.guards.keys import add
from tests.e2e.conftest import ROOT, Service, Start

pytestmark = pytest.mark.slow

PNG = {"Content-Type": "image/png"}
MIB = 2**20
BUDGET = 64 * MIB
LIMITS = {"PIXELDP_QUEUE_BYTES": str(BUDGET), "PIXELDP_DEVICES": "cpu"}
CONNECTIONS = 300
# By how much the front may grow beyond what it counts: objects of connections and requests, and
# memory that the allocator keeps.
SLACK = 64 * MIB


class Watched(Service):
    """A running service and the resident memory of its front."""

    def __init__(self) -> None:
        super().__init__(environment=LIMITS)
        parts = urlsplit(self.address)
        self.place = str(parts.hostname), int(parts.port or 0)
        self.wait_ready()
        self.start = self.resident

    @property
    def resident(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.findall(r"VmRSS:\s+(\d+)", status)[0])

    def connect(self) -> socket.socket:
        """Return a connection that takes almost nothing of an answer."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(self.place)
        return client

    def peak(self, seconds: float) -> int:
        """Return the largest growth of memory within some seconds."""
        most, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            most = max(most, self.resident)
            time.sleep(0.02)
        return most - self.start

    def check(self) -> None:
        """Assert that the service works as before."""
        content = (ROOT / "examples" / "7.png").read_bytes()
        url = f"{self.address}/predict?max_draws=64"
        for _ in range(100):
            response = httpx.post(url, content=content, headers=PNG, timeout=60)
            if response.status_code != 503:  # what was held may not be free yet
                break
            time.sleep(0.1)
        assert response.status_code == 200, response.text
        assert httpx.get(f"{self.address}/health/ready").status_code == 200


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    one = Watched()
    yield one
    assert one.stop() == 0, one.log


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\n" % path.encode()


def post(path: str, size: int, *headers: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {size}", *headers)
    return "\r\n".join([*lines, "", ""]).encode()


def flood(watched: Watched, content: bytes, connections: int = CONNECTIONS) -> int:
    """Send the same on many connections, read nothing, and return by how much memory has grown."""
    clients = [watched.connect() for _ in range(connections)]
    try:
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(OSError):  # full, or refused and closed
                client.send(content)
        return watched.peak(3)
    finally:
        for client in clients:
            client.close()
        watched.check()


FILE = "/swagger/swagger-ui-bundle.js"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(get(FILE) + b"\r\n", id="a large file that nobody takes"),
        pytest.param((get(FILE) + b"\r\n") * 50, id="many times on each connection"),
        pytest.param((get("/openapi.json") + b"\r\n") * 50, id="the document"),
        pytest.param((get("/models") + b"\r\n") * 50, id="the models"),
        pytest.param(get("/") + b"X: " + b"x" * 60_000, id="heads that are not whole"),
        pytest.param(get(FILE) + b"\r\n" + b"x" * 250_000, id="bytes behind a request"),
        pytest.param(
            post("/predict", 60_000, "Content-Type: image/png") + b"x" * 50_000,
            id="small bodies that are not whole",
        ),
        pytest.param(
            post("/predict", 2_000_000, "Content-Type: image/png") + b"x" * 1_900_000,
            id="large bodies that are not whole",
        ),
    ],
)
def test_connections_together_hold_no_more_than_they_may(watched: Watched, content: bytes) -> None:
    assert flood(watched, content) < BUDGET + SLACK


def test_the_static_file_arrives_whole_if_it_is_read(watched: Watched) -> None:
    with httpx.Client(base_url=watched.address, timeout=60) as client:
        first, second = client.get(FILE), client.get(FILE)
    assert len(first.content) == int(first.headers["Content-Length"]) > MIB
    assert first.content == second.content


def test_compressed_bodies_count_by_their_decompressed_size(watched: Watched) -> None:
    packed = gzip.compress(bytes(19 * MIB))
    assert len(packed) < 30_000
    path = "/v2/models/mnist-cnn/infer"
    content = post(path, len(packed), "Content-Encoding: gzip") + packed
    assert flood(watched, content, 60) < BUDGET + SLACK + 2 * 20 * MIB


def webp(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "WEBP", lossless=True)
    return file.getvalue()


def test_pictures_of_a_few_bytes_are_not_decoded_in_the_front(watched: Watched) -> None:
    picture = webp(5000)
    assert len(picture) < 2000
    head = post("/predict?timeout_ms=2000", len(picture), "Content-Type: image/webp")
    assert flood(watched, head + picture, 60) < SLACK
    numbers = httpx.get(f"{watched.address}/metrics").text
    assert "pixeldp_pictures_decoding" in numbers
    found = re.findall(r"^pixeldp_held_limit_bytes (\S+)$", numbers, re.M)
    assert list(map(float, found)) == [BUDGET]


def test_files_are_freed_once_they_are_decoded(watched: Watched) -> None:
    """Long requests hold their pictures, not their files."""
    picture = io.BytesIO()
    Image.effect_noise((700, 700), 100).save(picture, "PNG", compress_level=0)
    content = picture.getvalue()
    assert len(content) > 400_000

    async def ask() -> float:
        url = f"{watched.address}/predict?max_draws=100000&timeout_ms=60000"
        async with httpx.AsyncClient(timeout=120) as client:
            tasks = [
                asyncio.create_task(client.post(url, content=content, headers=PNG))
                for _ in range(8)
            ]
            held = 0.0
            for _ in range(600):
                text = (await client.get(f"{watched.address}/metrics")).text
                held = sum(map(float, re.findall(r"^pixeldp_held_bytes{.*} (\S+)$", text, re.M)))
                running = re.findall(r"^pixeldp_pictures_in_flight (\S+)$", text, re.M)
                if float(running[0]) == len(tasks):
                    break
                await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return held

    assert asyncio.run(ask()) < 8 * len(content) / 2


def test_a_key_is_charged_for_pixels(start: Start, tmp_path: Path) -> None:
    """A picture that takes seconds of processor time costs more than the draws of a small one."""
    keys = tmp_path / "keys.json"
    modest, other = add(keys, "modest", ["predict"], 1000), add(keys, "other", ["predict"], None)
    service = start(environment={**LIMITS, "PIXELDP_KEYS": str(keys)})
    try:
        url, picture = f"{service.address}/predict?max_draws=64&timeout_ms=300000", webp(5000)
        seven = (ROOT / "examples" / "7.png").read_bytes()

        async def ask() -> tuple[list[int], list[int]]:
            async with httpx.AsyncClient(timeout=300) as client:
                greedy = [
                    client.post(url, content=picture, headers={"X-API-Key": modest})
                    for _ in range(30)
                ]
                asked = asyncio.gather(*greedy)
                honest = [
                    await client.post(url, content=seven, headers={"X-API-Key": other})
                    for _ in range(20)
                ]
                return [one.status_code for one in await asked], [one.status_code for one in honest]

        greedy, honest = asyncio.run(ask())
        assert honest == [200] * 20
        assert set(greedy) <= {200, 429, 503}
        assert greedy.count(200) < 10
        assert 429 in greedy
        high = httpx.post(
            f"{url}&priority=high", content=seven, headers={"X-API-Key": other}, timeout=60
        )
        assert (high.status_code, high.json()["scope"]) == (403, "priority")
    finally:
        assert service.stop() == 0, service.log


def test_with_too_few_files_the_service_does_not_start() -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LEAST_FILES - 1, LEAST_FILES - 1))

    run = subprocess.run(
        [sys.executable, "-m", "service.cli.main", "serve", "--port", "0"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        preexec_fn=few,
    )
    assert run.returncode == 1
    assert f"at least {LEAST_FILES}" in run.stderr
