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

from models.batcher import Batcher, Pass, Ticket
from models.calibration import LEAST_PASS, compare, gauge
from models.certification.arrays import Draws
from models.certification.tally import make_draws
from models.device import DeviceError, Handle
from models.execution import Calibration
from models.memory import is_out_of_memory
from models.predictor import Predictor, Submitted
from models.trial import RowsError

log = structlog.get_logger(__name__)


class PassRunner:
    """One h, and the pictures for which it draws, from their first draw to their last."""

    def __init__(self, model: int, predictor: Predictor) -> None:
        self.model, self.predictor = model, predictor
        self.batcher = Batcher(predictor.pass_size)

    def submit(self, planned: Pass) -> Submitted:
        """Submit a pass to the device."""
        return self.predictor.submit([one.features for one in planned.tickets], planned.rows)

    def collect(self, planned: Pass, submitted: Submitted) -> "Made | None":
        """Wait for a pass; return None if it does not fit into the device's memory.

        If h fails, which may depend on the noise, the pass is repeated with the same noise for one
        picture after another: no draw is repeated with other noise, or dropped, because of its
        outcome. All other slots repeat the picture's own noisy features, which do not affect its
        rows; these keep their places. So only a picture on which h fails alone loses its draws.
        """
        try:
            try:
                return Made(submitted.votes())
            except Exception as error:
                if is_out_of_memory(error) or isinstance(error, DeviceError):
                    raise
                log.warning("h failed in a pass", model=self.model, reason=_first_line(error))
            return self._replay(planned, submitted.handle)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            log.warning("pass does not fit", slots=self.batcher.slots, reason=_first_line(error))
        # Not inside the except: the traceback keeps the memory of the pass alive.
        self.predictor.on.free()
        return None

    def _replay(self, planned: Pass, failed: Handle) -> "Made":
        manifest = self.predictor.manifest
        nothing = np.full((len(planned.rows), len(manifest.labels)), np.nan)
        made = Made(make_draws(nothing, manifest.scoring))
        start = 0
        for ticket, count in zip(planned.tickets, planned.counts, strict=True):
            own = slice(start, start + count)
            start += count
            try:
                made.draws[own] = failed.again(own)
            except Exception as error:
                if is_out_of_memory(error) or isinstance(error, DeviceError):
                    raise
                made.failed[ticket] = _first_line(error)
        return made


@dataclass
class Made:
    """The result of a pass: its draws, and why h failed on which pictures."""

    draws: Draws
    failed: dict[Ticket, str] = field(default_factory=dict)


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
            smaller.on.free()
            slots //= 2
        self.calibration = replace(self.calibration, pass_size=slots, compiled=False)
        self.runner = PassRunner(runner.model, smaller)
        for ticket in runner.batcher.withdraw():
            self.runner.batcher.admit(ticket)


def without(runners: Iterable[PassRunner], model: int) -> list[PassRunner]:
    """Return the runners of all models except ``model``."""
    return [runner for runner in runners if runner.model != model]
