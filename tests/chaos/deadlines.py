"""When answers come while processes are stopped, as by SIGSTOP or a hanging device."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import httpx

from tests.chaos.attacks import seven, tiny_webp
from tests.chaos.experiments import progress, wait_all_ready
from tests.chaos.load import closed_loop
from tests.chaos.processes import alive, decoders, workers
from tests.e2e.conftest import Service

Counts = dict[str, Any]
DEADLINE_SECONDS = 1.0
# How long processes stay stopped: not so long that they are replaced.
STOPPED_SECONDS = 6.0
QUERY = f"max_draws=128&scores=1&timeout_ms={1000 * DEADLINE_SECONDS:.0f}"


# Large enough for a decoder process, and small enough to decode many within the deadline.
SIDE = 1000


def large() -> bytes:
    """Return a picture that goes to a decoder."""
    return tiny_webp(SIDE)


def one_worker(front: int) -> list[int]:
    """Return one of the two workers."""
    return workers(front)[:1]


def everything(front: int) -> list[int]:
    """Return all processes that the front has started."""
    return workers(front) + decoders(front)


# Which processes are stopped, and what is asked: decoders get only large pictures.
CASES: dict[str, tuple[Callable[[int], list[int]], Callable[[], bytes]]] = {
    "one of two workers stopped": (one_worker, seven),
    "all workers stopped": (workers, seven),
    "one of two decoders stopped": (lambda front: decoders(front)[:1], large),
    "all decoders stopped": (decoders, large),
    "all workers and decoders stopped, large pictures": (everything, large),
    "all workers and decoders stopped": (everything, seven),
}


def pass_seconds(service: Service) -> float:
    """Return how long the longest pass takes, as measured at the start."""
    ways = httpx.get(f"{service.address}/models").json()["models"][0]["calibrations"]
    return max(float(way["workers"]) * way["pass_size"] / way["draws_per_second"] for way in ways)


def stop(service: Service, name: str, seconds: float = STOPPED_SECONDS, clients: int = 8) -> Counts:
    """Stop processes for some seconds under load, and see how late the answers come."""
    choose, picture = CASES[name]
    wait_all_ready(service)
    took = pass_seconds(service)

    async def experiment() -> Counts:
        pictures = [picture()]
        async with closed_loop(service.address, QUERY, pictures, clients) as log:
            await progress(log)
            before = len(log.seconds)
            stopped = choose(service.process.pid)
            try:
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(seconds)
            finally:
                for pid in filter(alive, stopped):
                    os.kill(pid, signal.SIGCONT)
        late = max(log.seconds[before:]) - DEADLINE_SECONDS
        return {
            "stopped": len(stopped),
            "requests": log.requests,
            "statuses": dict(sorted(log.answered.items())),
            "broken off": dict(log.lost),
            "pass (ms)": round(1000 * took, 1),
            "latest after its deadline (ms)": round(1000 * late, 1),
            "beyond a pass and 100 ms (ms)": round(1000 * (late - took) - 100, 1),
        }

    return asyncio.run(experiment())
