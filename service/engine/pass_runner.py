"""Passes of one model, and what becomes of them when the device's memory does not hold them.

A pass that does not fit is halved. Halved passes are another h, as kernels differ with their
shapes, and a picture must be drawn for by one h from beginning to end: so a model changes its
runner, and the pictures of the former runner begin anew in the next.
"""

import copy
import gc
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
import torch

from models.batcher import Batcher, Pass, Ticket
from models.calibration import LEAST_PASS, compare
from models.certification.arrays import Integers
from models.execution import Calibration
from models.predictor import Predictor
from models.trial import RowsError

log = structlog.get_logger(__name__)


class PassRunner:
    """One h and the pictures that it draws for, from their first draw to their last."""

    def __init__(self, model: int, predictor: Predictor) -> None:
        self.model, self.predictor = model, predictor
        self.batcher = Batcher(predictor.pass_size)

    def run(self, planned: Pass) -> "Made | None":
        """Make a pass; None if it does not fit into the device's memory.

        If h fails, which may depend on the noise, the pass is made again with the very same noise,
        for one picture after another: no draw is drawn anew or dropped for what h makes of it. All
        other slots repeat the picture's own noisy features, which are nothing to its rows; these
        keep their places. So only a picture at which h fails by itself is left without its draws.
        """
        try:
            noisy = self.predictor.noisy([one.features for one in planned.tickets], planned.rows)
            try:
                return Made(self.predictor.score(noisy))
            except Exception as error:
                if _is_out_of_memory(error) or _is_lost(error):
                    raise
                log.warning("h failed in a pass", model=self.model, reason=_first_line(error))
            return self._replay(planned, noisy)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            log.warning("pass does not fit", slots=self.batcher.slots, reason=_first_line(error))
        # Not inside the except: the traceback keeps alive what the pass had allocated.
        free()
        return None

    def _replay(self, planned: Pass, noisy: torch.Tensor) -> "Made":
        slots = np.arange(len(noisy))
        made = Made(np.zeros((len(noisy), len(self.predictor.manifest.labels)), dtype=np.int64))
        start = 0
        for ticket, count in zip(planned.tickets, planned.counts, strict=True):
            own = slice(start, start + count)
            repeated = torch.from_numpy(start + (slots - start) % count).to(noisy.device)
            start += count
            try:
                made.scores[own] = self.predictor.score(noisy[repeated])[own]
            except Exception as error:
                if _is_out_of_memory(error) or _is_lost(error):
                    raise
                made.failed[ticket] = _first_line(error)
        return made


@dataclass
class Made:
    """What a pass made: the scores of its draws, and the pictures at which h failed, with why."""

    scores: Integers
    failed: dict[Ticket, str] = field(default_factory=dict)


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out: on a CPU PyTorch has no exception of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _is_lost(error: Exception) -> bool:
    """Say whether the device failed: then nothing runs on it before the process starts again."""
    return isinstance(error, torch.AcceleratorError)


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


@dataclass
class Running:
    """How one model runs: the runner that takes pictures, and the network as it was loaded."""

    eager: Predictor
    calibration: Calibration
    runner: PassRunner

    @classmethod
    def begin(cls, model: int, predictor: Predictor, calibration: Calibration) -> "Running":
        """Run a model as it was loaded."""
        return cls(predictor, calibration, PassRunner(model, predictor))

    def compiled(self, predictor: Predictor) -> bool:
        """Change to a compiled network if that is worth it, and say so."""
        former = self.runner
        if predictor.pass_size != former.batcher.slots:
            return False  # passes have become smaller while it was compiled
        try:
            found = compare(former.predictor, predictor)
        except torch.OutOfMemoryError:
            found = None
        if found is None:
            return False
        self.calibration, self.runner = found, PassRunner(former.model, predictor)
        return True

    def halve(self, runner: PassRunner) -> None:
        """Take pictures into passes of half the size of ``runner``'s, with those that it has.

        Raises:
            RuntimeError: not even the smallest pass fits, or none leaves the rows alone.
        """
        smaller, slots = copy.copy(self.eager), runner.batcher.slots // 2
        while True:
            if slots < LEAST_PASS:
                raise RuntimeError(f"not even a pass of {LEAST_PASS} draws fits into memory")
            smaller.pass_size = slots
            try:
                smaller.try_rows()
                break
            except (RuntimeError, MemoryError, RowsError) as error:
                if not isinstance(error, RowsError) and not _is_out_of_memory(error):
                    raise
                log.warning("pass cannot be made", slots=slots, reason=str(error))
            free()
            slots //= 2
        self.calibration = replace(self.calibration, pass_size=slots, compiled=False)
        self.runner = PassRunner(runner.model, smaller)
        for ticket in runner.batcher.withdraw():
            self.runner.batcher.admit(ticket)


def without(runners: Iterable[PassRunner], model: int) -> list[PassRunner]:
    """Return the runners that are not of ``model``."""
    return [runner for runner in runners if runner.model != model]


def free() -> None:
    """Give back the device memory that nothing refers to."""
    gc.collect()
    torch.cuda.empty_cache()
