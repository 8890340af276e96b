"""The real service as benchmarks run it, and the requests to it."""

import asyncio
import base64
import io
import json
import os
import re
import signal
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

from benchmarks.http import Connection, Reply, closed_loop, lasting

CORES = len(os.sched_getaffinity(0))
# The most clients; see ``bearable``.
CLIENTS = 32
BATCH = 8
# How long a picture may wait for its answer because of the load.
ANSWER_SECONDS = 10.0
# The longest time-out of a service: reaching it means too much load, or a fault.
TIMEOUT_MS = 600_000
# Limits for hangs: ten times what a slow machine takes.
START_SECONDS, STOP_SECONDS, REPORT_SECONDS = 600.0, 300.0, 300.0
# A service that uses less of a core is at rest.
AT_REST = 0.1


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a picture."""
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, "PNG")
    return stream.getvalue()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str], ready: str, seconds: float = START_SECONDS, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until it answers at ``ready`` and for as long as the block lasts.

    Raises:
        RuntimeError: it ended, or does not answer in time.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                with urlopen(ready, timeout=10) as response:
                    if response.status == 200:
                        break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError(f"{command[:4]} did not start") from None
                time.sleep(0.2)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Load(NamedTuple):
    """How many clients ask, and how many pictures each request of a batch has."""

    clients: int
    batch: int


def bearable(speed: float, draws: int) -> Load:
    """Return the load under which no picture waits much longer than ``ANSWER_SECONDS``.

    There are at least two pictures for each core, so that all have work, and the usual number on
    machines that are fast enough.

    Args:
        speed: draws per second.
        draws: of a picture.
    """
    pictures = int(speed * ANSWER_SECONDS / draws)
    clients = min(CLIENTS, max(2 * CORES, pictures // 2))
    return Load(clients, min(BATCH, max(1, pictures // clients)))


def processor_seconds(front: int) -> float:
    """Return the processor time of a process and its descendants so far."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(file.parent.name)
        children.setdefault(int(fields[1]), []).append(pid)
        # Its own, and that of its ended children.
        used[pid] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    found, total = [front], 0.0
    while found:
        pid = found.pop()
        total += used.get(pid, 0.0)
        found += children.get(pid, [])
    return total


def settle(front: int, longest: float, quiet: int = 3) -> None:
    """Wait until a service is at rest, after compilation, but not for ever.

    Args:
        front: its front process.
        longest: the longest wait, in seconds.
        quiet: the seconds in a row in which it must use hardly any processor time.
    """
    end, before, seconds = time.monotonic() + longest, processor_seconds(front), 0
    while seconds < quiet and time.monotonic() < end:
        time.sleep(1)
        used = processor_seconds(front)
        seconds = seconds + 1 if used - before < AT_REST else 0
        before = used


class Report(NamedTuple):
    """The draws that a worker has made, and when it reported them."""

    at: float
    draws: float


class Service:
    """The running service, and the requests to it."""

    def __init__(self, port: int, confidence: float, bodies: list[bytes]) -> None:
        self.port, self.confidence, self.bodies = port, confidence, bodies

    def query(self, n: int) -> str:
        """Return the options of requests that take up to ``n`` draws."""
        return f"max_draws={n}&confidence={self.confidence}&scores=1&timeout_ms={TIMEOUT_MS}"

    def connection(self, n: int, target: float | None) -> Callable[[], Connection]:
        """Return a function that makes connections asking for ``target`` within ``n`` draws."""
        query = self.query(n)
        query += "" if target is None else f"&target={target}"
        return lambda: Connection("127.0.0.1", self.port, f"/predict?{query}", "image/png")

    def saturate(
        self, n: int, target: float | None, more: Callable[[], bool]
    ) -> tuple[list[Reply], float]:
        """Let as many clients ask as the machine can bear, while ``more``."""
        clients = bearable(self.speed(), n).clients
        return asyncio.run(closed_loop(self.connection(n, target), self.bodies, clients, more))

    def saturate_for(
        self, n: int, target: float | None, seconds: float
    ) -> tuple[list[Reply], float]:
        """Let as many clients ask as the machine can bear, for some seconds."""
        return self.saturate(n, target, lasting(seconds))

    def saturate_batches(self, n: int, more: Callable[[], bool]) -> tuple[list[Reply], float]:
        """Let clients send batches without a target while ``more``."""
        load = bearable(self.speed(), n)
        encoded = [base64.b64encode(body).decode() for body in self.bodies]
        bodies = [
            json.dumps({"images": encoded[start : start + load.batch]}).encode()
            for start in range(0, len(encoded) - load.batch + 1, load.batch)
        ]

        def connection() -> Connection:
            path = f"/predict/batch?{self.query(n)}"
            return Connection("127.0.0.1", self.port, path, "application/json")

        return asyncio.run(closed_loop(connection, bodies, load.clients, more))

    def draws(self) -> dict[str, float]:
        """The draws that each worker has reported."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
            text = response.read().decode()
        return {
            name: float(draws)
            for name, draws in re.findall(r'^pixeldp_draws_total{worker="(\w+)"} (\S+)', text, re.M)
        }

    def reports(self) -> dict[str, Report]:
        """Await the next report of each worker, which makes passes, and return it.

        Raises:
            RuntimeError: a worker reports nothing.
        """
        before, reports = self.draws(), dict[str, Report]()
        end = time.monotonic() + REPORT_SECONDS
        while len(reports) < len(before):
            if time.monotonic() > end:
                raise RuntimeError(f"workers report nothing: {sorted(before.keys() - reports)}")
            time.sleep(0.02)
            for worker, draws in self.draws().items():
                if draws != before.get(worker) and worker not in reports:
                    reports[worker] = Report(time.perf_counter(), draws)
        return reports

    def ways(self) -> list[dict[str, Any]]:
        """How the service runs its model: one way, or several if workers measured differently."""
        with urlopen(f"http://127.0.0.1:{self.port}/models") as response:
            ways: list[dict[str, Any]] = json.load(response)["models"][0]["calibrations"]
            return ways

    def speed(self) -> float:
        """The draws per second that all workers together have measured."""
        return float(sum(way["draws_per_second"] for way in self.ways()))

    def how(self) -> str:
        """Say how the service runs its model."""
        return "; ".join(
            f"{way['workers']} x {way['provider']} {way['precision']}, "
            f"passes of {' and '.join(map(str, _sizes(way)))}, "
            f"{'compiled' if way['compiled'] else 'eager'}"
            for way in self.ways()
        )


def _sizes(way: dict[str, Any]) -> list[int]:
    """Return the sizes of a model's passes, the smaller one first."""
    return [way[name] for name in ("small_pass", "pass_size") if way.get(name)]


@contextmanager
def serving(
    bundle: Path,
    *options: str,
    seconds: float = START_SECONDS,
    python: Path = Path(sys.executable),
    **environment: str,
) -> Iterator[tuple[int, int]]:
    """Run the service with its defaults; yield its port and the process id of its front.

    Its self-check is off: its draws are in no answer, but draws are counted here.
    """
    port = free_port()
    command = [str(python), "-P", "-m", "service.cli.main", "serve", str(bundle)]
    command += ["--port", str(port)]
    ready = f"http://127.0.0.1:{port}/health/ready"
    environment = {"PIXELDP_CHECK_SECONDS": "0", **environment}
    with running([*command, *options], ready, seconds, **environment) as process:
        yield port, process.pid
