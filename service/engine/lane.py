"""Passes of one model, and what becomes of them when the device's memory does not hold them.

A pass that does not fit is halved. Halved passes are another h, as kernels differ with their
shapes, and a picture must be drawn for by one h from beginning to end: so a model changes its lane,
and the pictures of the former lane begin anew in the next.
"""

import copy
import gc
from collections.abc import Iterable
from dataclasses import dataclass, replace

import structlog
import torch

from models.calibration import LEAST_PASS, compare
from models.certification.arrays import Integers
from models.precision import Calibration
from models.predictor import Predictor
from service.engine.batcher import Batcher, Pass

log = structlog.get_logger(__name__)


class Lane:
    """One h and the pictures that it draws for, from their first draw to their last."""

    def __init__(self, model: int, predictor: Predictor) -> None:
        self.model, self.predictor = model, predictor
        self.batcher = Batcher(predictor.pass_size)

    def run(self, planned: Pass) -> Integers | None:
        """Make a pass; return its scores, or None if it does not fit into the device's memory."""
        try:
            return self.predictor.run([one.features for one in planned.tickets], planned.rows)
        except torch.OutOfMemoryError as error:
            log.warning("pass does not fit", slots=self.batcher.slots, reason=str(error))
        # Not inside the except: the traceback keeps alive what the pass had allocated.
        free()
        return None


@dataclass
class Running:
    """How one model runs: the lane that takes pictures, and the network as it was loaded."""

    eager: Predictor
    calibration: Calibration
    lane: Lane

    @classmethod
    def begin(cls, model: int, predictor: Predictor, calibration: Calibration) -> "Running":
        """Run a model as it was loaded."""
        return cls(predictor, calibration, Lane(model, predictor))

    def compiled(self, predictor: Predictor) -> bool:
        """Change to a compiled network if that is worth it, and say so."""
        former = self.lane
        if predictor.pass_size != former.batcher.slots:
            return False  # passes have become smaller while it was compiled
        try:
            found = compare(former.predictor, predictor, self.calibration)
        except torch.OutOfMemoryError:
            found = None
        if found is None:
            return False
        self.calibration, self.lane = found, Lane(former.model, predictor)
        return True

    def halve(self, lane: Lane) -> None:
        """Take pictures into passes of half the size of ``lane``'s, with those that it has.

        Raises:
            RuntimeError: not even the smallest pass fits.
        """
        slots = lane.batcher.slots // 2
        if slots < LEAST_PASS:
            raise RuntimeError(f"not even a pass of {lane.batcher.slots} draws fits into memory")
        smaller = copy.copy(self.eager)
        smaller.pass_size = slots
        self.calibration = replace(self.calibration, pass_size=slots, compiled=False)
        self.lane = Lane(lane.model, smaller)
        for ticket in lane.batcher.withdraw():
            self.lane.batcher.admit(ticket)


def without(lanes: Iterable[Lane], model: int) -> list[Lane]:
    """Return the lanes that are not of ``model``."""
    return [lane for lane in lanes if lane.model != model]


def free() -> None:
    """Give back the device memory that nothing refers to."""
    gc.collect()
    torch.cuda.empty_cache()
