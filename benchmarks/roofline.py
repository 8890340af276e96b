"""Draws through HTTP against bare loops of passes, in turns of a few seconds.

What a machine can do changes from one minute to the next by more than what is to be measured. So
the two are stopped and let go on in turns (SIGSTOP, SIGCONT): each meets the same minutes.
"""

import ctypes
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.http import Reply
from benchmarks.service import Service
from models.loaded import load_model
from models.noise import Features
from models.precision import Precision
from models.predictor import Predictor

CORES = len(os.sched_getaffinity(0))
TURN_SECONDS = 2.0
# For each worker's next report, which it sends every second.
REPORT_SECONDS = 2.0


@dataclass(frozen=True)
class BareLoops:
    """One process a core that makes passes and nothing else, stopped until its turn.

    ``passes`` has what each has made so far.
    """

    pass_size: int
    pids: Sequence[int]
    passes: Sequence[Any]

    @property
    def draws(self) -> int:
        """Draws made so far."""
        return self.pass_size * sum(int(one.value) for one in self.passes)

    def run(self, seconds: float) -> None:
        """Let them go on for some seconds."""
        _signal(self.pids, signal.SIGCONT)
        time.sleep(seconds)
        _signal(self.pids, signal.SIGSTOP)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def _loop(
    bundle: str,
    precision: Precision,
    pass_size: int,
    compiled: bool,
    passes: Any,
) -> None:
    """Make passes for ever."""
    torch.set_num_threads(1)
    predictor = Predictor(load_model(Path(bundle)), pass_size, precision=precision)
    if compiled:
        predictor = predictor.compile()
    shape = predictor.manifest.input.shape
    black = predictor.encode(np.zeros((shape[1], shape[2], shape[0]), np.uint8)).features
    features: list[Features] = [black]
    rows = np.zeros(pass_size, dtype=np.intp)
    while True:
        predictor.run(features, rows)
        passes.value += 1


@contextmanager
def bare_loops(bundle: Path, calibration: dict[str, Any]) -> Iterator[BareLoops]:
    """Start one bare loop a core, in the service's own format and pass size, and stop them all.

    Raises:
        RuntimeError: one has ended by itself.
    """
    how = [calibration[name] for name in ("precision", "pass_size", "compiled")]
    context = multiprocessing.get_context("spawn")
    passes = [context.RawValue(ctypes.c_long) for _ in range(CORES)]
    processes = [
        context.Process(target=_loop, args=(str(bundle), *how, one), daemon=True) for one in passes
    ]
    for process in processes:
        process.start()
    try:
        while not all(one.value for one in passes):
            if not all(process.is_alive() for process in processes):
                raise RuntimeError("a bare loop has ended")
            time.sleep(0.2)
        pids = [int(process.pid or 0) for process in processes]
        _signal(pids, signal.SIGSTOP)
        yield BareLoops(calibration["pass_size"], pids, passes)
    finally:
        for process in processes:
            process.kill()


def roofline(
    service: Service,
    front: int,
    loops: BareLoops,
    saturate: Callable[[float], tuple[list[Reply], float]],
    seconds: float,
) -> tuple[float, float]:
    """Return the draws a second of the bare loops, and of the service while all clients ask.

    The service's by its own counters, from a moment when each worker reports to another:
    afterwards fewer and fewer requests are worked off, and one worker may have nothing to do.

    Args:
        service: the running service.
        front: its front process, which leads its group.
        loops: the bare loops.
        saturate: has all clients ask for some seconds.
        seconds: for each of the two, in turns.

    Raises:
        RuntimeError: a request failed, or the counters say anything else than the answers.
    """
    turns = max(1, round(seconds / TURN_SECONDS))
    before = service.draws()
    bare, stopped = loops.draws, 0.0
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(saturate, 2 * turns * TURN_SECONDS + 3 * REPORT_SECONDS)
        time.sleep(REPORT_SECONDS / 2)
        first = service.reports()
        for _ in range(turns):
            time.sleep(TURN_SECONDS)
            start = time.perf_counter()
            os.killpg(front, signal.SIGSTOP)
            loops.run(TURN_SECONDS)
            os.killpg(front, signal.SIGCONT)
            stopped += time.perf_counter() - start
        last = service.reports()
        replies, _ = load.result()
    time.sleep(REPORT_SECONDS)
    counted = sum(service.draws().values()) - sum(before.values())
    if counted != drawn(replies):
        raise RuntimeError(f"{counted} draws were counted, {drawn(replies)} answered")
    through = sum(
        (last[worker].draws - first[worker].draws) / (last[worker].at - first[worker].at - stopped)
        for worker in first
    )
    return (loops.draws - bare) / (turns * TURN_SECONDS), through


def drawn(replies: Sequence[Reply]) -> int:
    """Sum the draws of answers, of single pictures or batches.

    Raises:
        RuntimeError: a request failed.
    """
    failed = [reply.status for reply in replies if reply.status != 200]
    if failed:
        raise RuntimeError(f"{len(failed)} requests failed, the first with {failed[0]}")
    answers = [json.loads(reply.body) for reply in replies]
    return sum(one["draws"] for answer in answers for one in answer.get("predictions", [answer]))
