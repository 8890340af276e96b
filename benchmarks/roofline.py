"""Draws through HTTP compared with bare loops of passes, in turns of half a second.

The speed of a machine varies over time by more than the difference to be measured. So the two are
stopped and continued in turns (SIGSTOP, SIGCONT), often: both meet the same conditions.
"""

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch

from benchmarks.http import Reply
from benchmarks.outcomes import Outcomes, outcomes
from benchmarks.service import Service
from models.execution import Execution
from models.loaded import load_model
from models.noise import Features
from models.predictor import Predictor

TURN_SECONDS = 0.5
# The least passes of each process in all its turns: a count may be wrong by one.
LEAST_PASSES = 40
# The time for each worker's next report, which it sends every second.
REPORT_SECONDS = 2.0
# Draws through HTTP cannot exceed those without it, except for an error of this size.
IMPOSSIBLE = 1.02


def run_for(seconds: float, send: Callable[[signal.Signals], None]) -> float:
    """Let stopped processes continue for some seconds; return for how long they ran.

    Args:
        seconds: how long.
        send: sends them a signal.
    """
    start = time.perf_counter()
    send(signal.SIGCONT)
    time.sleep(seconds)
    send(signal.SIGSTOP)
    return time.perf_counter() - start


@dataclass(frozen=True)
class BareLoop:
    """A process that only makes passes of ``pass_size`` draws; ``passes`` counts them."""

    pid: int
    pass_size: int
    passes: Any

    @property
    def draws(self) -> int:
        """Draws made so far."""
        passes: int = self.passes.value
        return self.pass_size * passes


@dataclass(frozen=True)
class BareLoops:
    """One bare loop for each worker, in its way of running the model, stopped until their turn."""

    loops: Sequence[BareLoop]

    @property
    def draws(self) -> int:
        """Draws made so far."""
        return sum(loop.draws for loop in self.loops)

    def run(self, seconds: float) -> float:
        """Let them continue for some seconds; return for how long they ran."""
        return run_for(seconds, self._signal)

    def _signal(self, number: signal.Signals) -> None:
        for loop in self.loops:
            os.kill(loop.pid, number)


def _loop(bundle: str, way: Execution, passes: Any) -> None:
    """Make passes for ever."""
    torch.set_num_threads(1)
    model, size = load_model(Path(bundle)), way.pass_size
    predictor = Predictor(model, size, precision=way.precision, provider=way.provider)
    if way.compiled:
        predictor = predictor.compile()
    shape = predictor.manifest.input.shape
    black = predictor.encode(np.zeros((shape[1], shape[2], shape[0]), np.uint8)).features
    features: list[Features] = [black]
    rows = np.zeros(way.pass_size, dtype=np.intp)
    while True:
        predictor.run(features, rows)
        passes.value += 1


def _execution(way: dict[str, Any]) -> Execution:
    """Return how workers run a model, of what ``GET /models`` says of them."""
    return Execution(way["provider"], way["precision"], way["pass_size"], way["compiled"])


@contextmanager
def bare_loops(bundle: Path, ways: Sequence[dict[str, Any]]) -> Iterator[BareLoops]:
    """Start one bare loop for each worker, in its number format and pass size, and stop them all.

    Args:
        bundle: the model.
        ways: how workers run it, and how many of them, as ``GET /models`` says.

    Raises:
        RuntimeError: one has ended by itself.
    """
    context = multiprocessing.get_context("spawn")
    alone = [way for way in ways for _ in range(way["workers"])]
    passes = [context.RawValue(ctypes.c_long) for _ in alone]
    processes = [
        context.Process(
            target=_loop,
            args=(str(bundle), _execution(way), made),
            daemon=True,
        )
        for way, made in zip(alone, passes, strict=True)
    ]
    for process in processes:
        process.start()
    try:
        while not all(made.value for made in passes):
            if not all(process.is_alive() for process in processes):
                raise RuntimeError("a bare loop has ended")
            time.sleep(0.2)
        loops = BareLoops(
            [
                BareLoop(int(process.pid or 0), way["pass_size"], made)
                for process, way, made in zip(processes, alone, passes, strict=True)
            ]
        )
        loops.run(0.0)
        yield loops
    finally:
        for process in processes:
            process.kill()


def turns(ways: Sequence[dict[str, Any]], seconds: float) -> int:
    """Return the number of turns for each: for at least ``seconds``, and for enough passes."""
    longest: float = max(
        way["workers"] * way["pass_size"] / way["draws_per_second"] for way in ways
    )
    return ceil(max(seconds, LEAST_PASSES * longest) / TURN_SECONDS)


@dataclass(frozen=True)
class Roofline:
    """Draws per second of bare loops and of the service, and the outcomes of its pictures.

    ``unaccounted`` are draws that the workers counted but that are in no answer.
    """

    bare: float
    through: float
    outcomes: Outcomes
    unaccounted: float

    @property
    def ratio(self) -> float:
        """The service's share of the bare loops' draws."""
        return self.through / self.bare

    def told(self) -> str:
        """Say what makes the ratio doubtful; empty if nothing does."""
        if self.ratio > IMPOSSIBLE:
            return (
                f"a roofline ratio of {self.ratio:.2f} is impossible: other work has disturbed the "
                "machine; measure again, for longer (--seconds)"
            )
        if self.unaccounted and not self.outcomes.failed:
            return f"{self.unaccounted:.0f} draws were counted, but are in no answer"
        return ""


def roofline(
    service: Service,
    front: int,
    loops: BareLoops,
    saturate: Callable[[Callable[[], bool]], tuple[list[Reply], float]],
    seconds: float,
) -> Roofline:
    """Measure the bare loops, and the service while all clients ask.

    The service is measured by its own counters, between two moments at which each worker reports:
    at the end there are fewer and fewer requests, and a worker may have nothing to do.

    Args:
        service: the running service.
        front: its front process, which leads its group.
        loops: the bare loops.
        saturate: lets all clients ask while its argument returns true.
        seconds: the least time for each of the two, in turns.
    """
    before = service.draws()
    bare, alone, stopped = loops.draws, 0.0, 0.0
    enough = Event()
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(saturate, lambda: not enough.is_set())
        try:
            time.sleep(REPORT_SECONDS / 2)
            first = service.reports()
            for _ in range(turns(service.ways(), seconds)):
                time.sleep(TURN_SECONDS)
                start = time.perf_counter()
                os.killpg(front, signal.SIGSTOP)
                alone += loops.run(TURN_SECONDS)
                os.killpg(front, signal.SIGCONT)
                stopped += time.perf_counter() - start
            last = service.reports()
        finally:
            enough.set()
        replies, _ = load.result()
    # Batches or single pictures: a batch that fails as a whole counts as one.
    found = outcomes(replies)
    return Roofline(
        bare=(loops.draws - bare) / alone,
        through=sum(
            (last[worker].draws - first[worker].draws)
            / (last[worker].at - first[worker].at - stopped)
            for worker in first
            if worker in last
        ),
        outcomes=found,
        unaccounted=_counted(service, before, found.draws) - found.draws,
    )


def _counted(service: Service, before: dict[str, float], answered: int) -> float:
    """Return the draws that workers have counted since ``before``, once the last has reported."""
    counted, end = 0.0, time.monotonic() + 5 * REPORT_SECONDS
    while counted != answered and time.monotonic() < end:
        time.sleep(REPORT_SECONDS / 10)
        counted = sum(service.draws().values()) - sum(before.values())
    return counted
