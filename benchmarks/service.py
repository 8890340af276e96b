"""The real service as a benchmark runs it, and what is asked of it."""

import asyncio
import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.http import Connection, Reply, closed_loop

CLIENTS = 32
BATCH = 8
START_SECONDS = 60.0


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a picture."""
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, "PNG")
    return stream.getvalue()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str], ready: str, seconds: float = START_SECONDS
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until it answers at ``ready`` and for as long as the block lasts."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                with urlopen(ready, timeout=1) as response:
                    if response.status == 200:
                        break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError(f"{command[:4]} did not start") from None
                time.sleep(0.2)
        yield process
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


class Report(NamedTuple):
    """The draws that a worker has made, and when it said so."""

    at: float
    draws: float


class Service:
    """The running service, and what is asked of it."""

    def __init__(self, port: int, confidence: float, bodies: list[bytes]) -> None:
        self.port, self.confidence, self.bodies = port, confidence, bodies

    def connection(self, n: int, target: float | None) -> Callable[[], Connection]:
        """Return what makes connections that ask for ``target`` within ``n`` draws."""
        query = f"max_draws={n}&confidence={self.confidence}&scores=1&timeout_ms=120000"
        query += "" if target is None else f"&target={target}"
        return lambda: Connection("127.0.0.1", self.port, f"/predict?{query}", "image/png")

    def saturate(self, n: int, target: float | None, seconds: float) -> tuple[list[Reply], float]:
        """Have all clients ask for some seconds."""
        return asyncio.run(closed_loop(self.connection(n, target), self.bodies, CLIENTS, seconds))

    def saturate_batches(self, n: int, seconds: float) -> tuple[list[Reply], float]:
        """Have all clients send batches without a target for some seconds."""
        query = f"max_draws={n}&confidence={self.confidence}&scores=1&timeout_ms=120000"
        encoded = [base64.b64encode(body).decode() for body in self.bodies]
        bodies = [
            json.dumps({"images": encoded[start : start + BATCH]}).encode()
            for start in range(0, len(encoded) - BATCH + 1, BATCH)
        ]

        def connection() -> Connection:
            return Connection("127.0.0.1", self.port, f"/predict/batch?{query}", "application/json")

        return asyncio.run(closed_loop(connection, bodies, CLIENTS, seconds))

    def draws(self) -> dict[str, float]:
        """The draws that each worker has reported."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
            text = response.read().decode()
        return {
            name: float(draws)
            for name, draws in re.findall(r'^pixeldp_draws_total{worker="(\w+)"} (\S+)', text, re.M)
        }

    def reports(self) -> dict[str, Report]:
        """Await the next report of each worker, which makes passes, and return it."""
        before, reports = self.draws(), dict[str, Report]()
        while len(reports) < len(before):
            time.sleep(0.02)
            for worker, draws in self.draws().items():
                if draws != before[worker] and worker not in reports:
                    reports[worker] = Report(time.perf_counter(), draws)
        return reports

    def calibration(self) -> dict[str, Any]:
        """How the service runs its model.

        Raises:
            RuntimeError: some workers run it otherwise than others; start again.
        """
        with urlopen(f"http://127.0.0.1:{self.port}/models") as response:
            ways: list[dict[str, Any]] = json.load(response)["models"][0]["calibrations"]
        if len(ways) != 1:
            raise RuntimeError(f"workers run the model in different ways: {ways}")
        return ways[0]


@contextmanager
def serving(
    bundle: Path, *options: str, seconds: float = START_SECONDS
) -> Iterator[tuple[int, int]]:
    """Run the service with its defaults; yield its port and the process id of its front."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "service.cli", "serve", str(bundle), "--port", str(port)]
    ready = f"http://127.0.0.1:{port}/health/ready"
    with running([*command, *options], ready, seconds) as process:
        yield port, process.pid
