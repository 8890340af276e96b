"""Whether SIGTERM ends the service within its grace period, whatever hangs."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.chaos.attacks import BINARY, V2, batch, seven, tiny_webp
from tests.chaos.experiments import HANG_SECONDS, progress, wait_all_ready
from tests.chaos.hoards import hoards, post
from tests.chaos.load import PNG, closed_loop
from tests.chaos.processes import alive, decoders, tree, wait_gone, workers
from tests.e2e.conftest import ROOT, Service

Counts = dict[str, Any]
# The deployments' grace period; it includes a request's time-out and a pause for balancers.
GRACE_SECONDS = 45.0
DEPLOYED = {
    "PIXELDP_TIMEOUT_MS_LIMIT": "30000",
    "PIXELDP_STOP_DELAY_SECONDS": "5",
    "PIXELDP_DEVICES": "cpu,cpu",
    "PIXELDP_COMPILE": "false",
    "PIXELDP_REPOSITORY": str(ROOT / "models" / "zoo"),
}
# A model of the zoo that is not served at first.
ANOTHER = "mnist-cnn-l1"
CLIENTS = 8
UNREAD = 50
# More log lines than a pipe holds.
LINES = 1000
QUERY = "max_draws=1000&scores=1&timeout_ms={timeout_ms}"

Before = Callable[[Service, int], AbstractAsyncContextManager[object]]


class Unread(Service):
    """A service whose standard error is no longer read once its address is known."""

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "http://" in line:
                break
        self._first.set()


def _stop(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def stopping(processes: Callable[[int], list[int]], picture: Callable[[], bytes]) -> Before:
    """Return a function that stops the processes of one kind while they have pictures.

    Args:
        processes: finds them from the front's process id.
        picture: a picture that keeps them busy.
    """

    @asynccontextmanager
    async def stopped(service: Service, timeout_ms: int) -> AsyncIterator[object]:
        query = QUERY.format(timeout_ms=timeout_ms)
        async with closed_loop(service.address, query, [picture()], CLIENTS) as log:
            await progress(log)
            _stop(processes(service.process.pid))
            yield log

    return stopped


workers_stopped, decoders_stopped = stopping(workers, seven), stopping(decoders, tiny_webp)


@asynccontextmanager
async def log_unread(service: Service, timeout_ms: int) -> AsyncIterator[object]:
    """Make the service log more than its pipe holds."""
    async with httpx.AsyncClient(base_url=service.address, timeout=HANG_SECONDS) as client:
        for _ in range(LINES):
            await client.get("/models")
        yield client


@asynccontextmanager
async def load_hanging(service: Service, timeout_ms: int) -> AsyncIterator[object]:
    """Stop all workers while they load a model."""
    async with httpx.AsyncClient(base_url=service.address, timeout=HANG_SECONDS) as client:
        _stop(workers(service.process.pid))
        loading = asyncio.create_task(client.post(f"/v2/repository/models/{ANOTHER}/load"))
        await asyncio.sleep(1.0)
        yield loading
        await asyncio.gather(loading, return_exceptions=True)


@asynccontextmanager
async def answers_unread(service: Service, timeout_ms: int) -> AsyncIterator[object]:
    """Ask for much on many connections and read nothing."""
    parts = urlsplit(service.address)
    stream = post(f"/predict/stream?{QUERY.format(timeout_ms=timeout_ms)}", seven(), PNG)
    file = hoards()["the largest file"] + b"\r\n"
    writers = []
    for content in [file, stream, post(V2, batch(64, 64), BINARY), file * 20] * (UNREAD // 4):
        _, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**12)
        writer.write(content)
        writers.append(writer)
    await asyncio.sleep(1.0)
    yield writers
    for writer in writers:
        writer.transport.abort()


@asynccontextmanager
async def everything(service: Service, timeout_ms: int) -> AsyncIterator[object]:
    """Do all of these at once."""
    async with (
        answers_unread(service, timeout_ms),
        decoders_stopped(service, timeout_ms),
        workers_stopped(service, timeout_ms),
        load_hanging(service, timeout_ms),
    ):
        yield None


CASES: dict[str, tuple[type[Service], Before]] = {
    "workers stopped": (Service, workers_stopped),
    "decoders stopped": (Service, decoders_stopped),
    "standard error unread": (Unread, log_unread),
    "a load that hangs": (Service, load_hanging),
    "answers unread": (Service, answers_unread),
    "all at once": (Service, everything),
}


def end(name: str, timeout_ms: int = 30_000, environment: dict[str, str] = DEPLOYED) -> Counts:
    """Start a service, have something hang, send SIGTERM, and see when it has ended.

    Args:
        name: of the case.
        timeout_ms: of the requests that are under way.
        environment: of the service.
    """
    kind, before = CASES[name]
    service = kind(environment=environment).wait_ready()
    wait_all_ready(service)
    processes = tree(service.process.pid)

    async def experiment() -> tuple[int | None, float]:
        async with before(service, timeout_ms):
            begun = time.monotonic()
            service.process.terminate()
            # What hangs for good is killed here, so that the experiment ends.
            timer = threading.Timer(HANG_SECONDS, service.process.kill)
            timer.start()
            code = await asyncio.to_thread(service.process.wait)
            timer.cancel()
            return code, time.monotonic() - begun

    code, seconds = asyncio.run(experiment())
    left = wait_gone(processes, 1.0)
    for pid in filter(alive, processes):
        os.kill(pid, signal.SIGKILL)
    service.stop()
    return {
        "exit code": code,
        "ended after (s)": round(seconds, 1),
        "grace (s)": GRACE_SECONDS,
        "processes left": left,
    }
