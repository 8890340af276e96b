"""Passes of one model, and what happens if they do not fit into the device's memory.

A pass that does not fit is halved. Halved passes are another h, because kernels depend on their
shapes, and a single h must make all draws of a picture. So the model gets another runner, and the
pictures of the former runner begin again in the new one.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
import torch

from models.batcher import Batcher, Pass, Ticket
from models.calibration import LEAST_PASS, compare, gauge
from models.certification.arrays import Integers
from models.execution import Calibration
from models.memory import free, is_out_of_memory
from models.predictor import Predictor
from models.trial import RowsError

log = structlog.get_logger(__name__)


class PassRunner:
    """One h, and the pictures for which it draws, from their first draw to their last."""

    def __init__(self, model: int, predictor: Predictor) -> None:
        self.model, self.predictor = model, predictor
        self.batcher = Batcher(predictor.pass_size)

    def run(self, planned: Pass) -> "Made | None":
        """Make a pass; None if it does not fit into the device's memory.

        If h fails, which may depend on the noise, the pass is repeated with the same noise for one
        picture after another: no draw is repeated with other noise, or dropped, because of its
        outcome. All other slots repeat the picture's own noisy features, which do not affect its
        rows; these keep their places. So only a picture on which h fails alone loses its draws.
        """
        try:
            noisy = self.predictor.noisy([one.features for one in planned.tickets], planned.rows)
            try:
                return Made(self.predictor.score(noisy))
            except Exception as error:
                if is_out_of_memory(error) or _is_lost(error):
                    raise
                log.warning("h failed in a pass", model=self.model, reason=_first_line(error))
            return self._replay(planned, noisy)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            log.warning("pass does not fit", slots=self.batcher.slots, reason=_first_line(error))
        # Not inside the except: the traceback keeps the memory of the pass alive.
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
                if is_out_of_memory(error) or _is_lost(error):
                    raise
                made.failed[ticket] = _first_line(error)
        return made


@dataclass
class Made:
    """The result of a pass: the scores of its draws, and why h failed on which pictures."""

    scores: Integers
    failed: dict[Ticket, str] = field(default_factory=dict)


def _is_lost(error: Exception) -> bool:
    """Say whether the device failed: then nothing runs on it until the process restarts."""
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

    def change(self, compiled: Predictor, compare_: bool) -> str:
        """Let a compiled network take pictures.

        Args:
            compiled: the network.
            compare_: whether it must be faster.

        Returns:
            Why all stays as it is; nothing if it does not.
        """
        former = self.runner
        if compiled.pass_size != former.batcher.slots:
            return "passes have become smaller while it was compiled"
        try:
            found = compare(former.predictor, compiled) if compare_ else gauge(compiled)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return "compiled it does not fit into memory"
        if found is None:
            return "compiled it is not faster"
        self.calibration, self.runner = found, PassRunner(former.model, compiled)
        return ""

    def halve(self, runner: PassRunner) -> None:
        """Move the pictures of ``runner``, and new ones, into passes of half its size.

        Raises:
            RuntimeError: not even the smallest pass fits, or no size keeps the rows apart.
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
                if not isinstance(error, RowsError) and not is_out_of_memory(error):
                    raise
                log.warning("pass cannot be made", slots=slots, reason=str(error))
            free()
            slots //= 2
        self.calibration = replace(self.calibration, pass_size=slots, compiled=False)
        self.runner = PassRunner(runner.model, smaller)
        for ticket in runner.batcher.withdraw():
            self.runner.batcher.admit(ticket)


def without(runners: Iterable[PassRunner], model: int) -> list[PassRunner]:
    """Return the runners of all models except ``model``."""
    return [runner for runner in runners if runner.model != model]
