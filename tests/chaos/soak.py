"""Ask the service for a long time, and see whether its memory grows.

    python -m tests.chaos.soak [--requests 100000] [--clients 16] [--json FILE]

Memory is read at evenly spaced numbers of requests. The mean of the last quarter is compared with
that of the second; in the first, caches fill.
"""

import argparse
import asyncio
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tests.chaos.load import Log, closed_loop
from tests.chaos.processes import memory, tree
from tests.e2e.conftest import Service

SAMPLES = 40
# The growth over the last three quarters that is allowed, as a share.
MOST_GROWTH = 0.01
MIB = 2**20
QUERY = "max_draws=128&target=0.3&evidence=true"


def pictures() -> list[bytes]:
    """Return handwritten digits, some of them resized or in colour."""
    rng = np.random.default_rng(0)
    found = []
    for number, digit in enumerate(load_digits().images):
        # Their 8 x 8 pixels are 0 … 16.
        image = Image.fromarray((digit * 15.9).astype(np.uint8)).resize((28, 28))
        if number % 8 == 0:
            side = int(rng.integers(20, 120))
            image = image.resize((side, side)).convert("RGB")
        stream = io.BytesIO()
        image.save(stream, "PNG")
        found.append(stream.getvalue())
    return found


def growth(samples: list[float]) -> float:
    """Return by how much the last quarter's mean is above the second's, as a share of it."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    return float(np.mean(last) / np.mean(second) - 1)


async def soak(service: Service, requests: int, clients: int) -> tuple[Log, list[dict[str, Any]]]:
    """Send requests; return how they ended, and the memory read meanwhile."""
    readings: list[dict[str, Any]] = []
    begun = time.monotonic()
    async with closed_loop(service.address, QUERY, pictures(), clients) as log:
        while log.requests < requests:
            await asyncio.sleep(0.05)
            if service.process.poll() is not None:
                raise RuntimeError(f"the service has ended: {service.log[-2000:]}")
            if log.requests * SAMPLES < (len(readings) + 1) * requests:
                continue
            taken = {pid: memory(pid) / MIB for pid in tree(service.process.pid)}
            front = taken.pop(service.process.pid)
            readings.append(
                {
                    "requests": log.requests,
                    "seconds": round(time.monotonic() - begun, 1),
                    "front (MiB)": round(front, 2),
                    "workers (MiB)": round(sum(taken.values()), 2),
                    "files": len(os.listdir(f"/proc/{service.process.pid}/fd")),
                }
            )
            if len(readings) % (SAMPLES // 10) == 1:
                print("  ".join(f"{name} {value:>10}" for name, value in readings[-1].items()))
                sys.stdout.flush()
    return log, readings


def report(log: Log, readings: list[dict[str, Any]]) -> dict[str, Any]:
    """Say what came of it."""
    front, workers = ([one[f"{name} (MiB)"] for one in readings] for name in ("front", "workers"))
    both = [one + other for one, other in zip(front, workers, strict=True)]
    return {
        "requests": log.requests,
        "failed": log.failed,
        "requests a second": round(log.requests / readings[-1]["seconds"], 1),
        "growth": round(growth(both), 5),
        "growth of the front": round(growth(front), 5),
        "growth of the workers": round(growth(workers), 5),
        "files at first and at last": [readings[0]["files"], readings[-1]["files"]],
    }


def main() -> None:
    """Soak, print a table, write JSON, and end with 1 if memory has grown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.requests < SAMPLES:
        parser.error(f"--requests is {arguments.requests}; growth takes at least {SAMPLES}")
    # Compiling a network meanwhile would take memory, and so would a log line for each request.
    environment = {"PIXELDP_COMPILE": "false", "PIXELDP_LOG_LEVEL": "warning"}
    service = Service(environment=environment).wait_ready()
    try:
        log, readings = asyncio.run(soak(service, arguments.requests, arguments.clients))
    finally:
        service.stop()
    found = report(log, readings)
    for name, value in found.items():
        print(f"{name:>28}  {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**found, "readings": readings}, indent=2))
    sys.exit(1 if log.failed or found["growth"] > MOST_GROWTH else 0)


if __name__ == "__main__":
    main()
