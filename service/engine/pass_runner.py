"""Passes of one model, and what happens if they do not fit into the device's memory.

A pass that does not fit is halved. Halved passes are another h, because kernels depend on their
shapes, and a single h must make all draws of a picture. So the model gets another runner, and the
pictures of the former runner begin again in the new one. It may have been another model that needed
the memory, for a moment: when one has been loaded or removed, the former passes are tried again.
"""

from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np
import structlog

from models.batcher import Batcher, Pass, Ticket
from models.calibration import LEAST_PASS, compare, gauge, gauge_small
from models.certification.arrays import Draws
from models.certification.tally import make_draws
from models.device import DeviceError, Handle, Submitted
from models.execution import Calibration, SmallPass
from models.memory import is_out_of_memory
from models.predictor import Predictor
from models.trial import RowsError

# How many times sooner a single large pass for several pictures must be than small ones: with 8 and
# 12 pictures at once, mnist-cnn gave 36 % more and 16 % fewer answers per second than with 1.
LONE_PASS = 1.5

log = structlog.get_logger(__name__)


class PassRunner:
    """One h, and the pictures for which it draws, from their first draw to their last."""

    def __init__(self, model: int, predictor: Predictor) -> None:
        self.model, self.predictor = model, predictor
        self.batcher = Batcher(predictor.pass_size)

    def submit(self, planned: Pass) -> Submitted:
        """Submit a pass to the device."""
        return self.predictor.submit(planned.features, planned.rows)

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


@dataclass(frozen=True)
class Former:
    """How a model ran before a pass did not fit into memory: in large passes, and in small ones."""

    predictors: list[Predictor]
    calibration: Calibration

    def fits(self) -> bool:
        """Try its passes again, and say whether they fit into memory now.

        Raises:
            RowsError: its rows are not independent any more.
        """
        try:
            for one in self.predictors:
                one.try_rows()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True


@dataclass
class Running:
    """How one model runs: the runners that take pictures, and the network as it was loaded.

    ``small`` is the runner with smaller passes, if there is one. ``former`` is how it ran before a
    pass did not fit into memory: once there may be more memory, it is tried again.
    """

    eager: Predictor
    calibration: Calibration
    runner: PassRunner
    small: PassRunner | None = None
    former: "Former | None" = None

    @classmethod
    def begin(cls, model: int, predictor: Predictor, calibration: Calibration) -> "Running":
        """Run a model as it was loaded."""
        return cls(predictor, calibration, PassRunner(model, predictor))

    def shorten(self, predictor: Predictor, small: SmallPass) -> None:
        """Have small passes beside those of ``predictor``, unless another has taken its place."""
        if self.runner.predictor is predictor:
            smaller = predictor.resized(small.pass_size)
            self.small = PassRunner(self.runner.model, smaller)
            self.calibration = replace(self.calibration, small=small)

    @property
    def runners(self) -> list[PassRunner]:
        """The runners that take pictures."""
        return [self.runner] if self.small is None else [self.runner, self.small]

    def choose(self, least: int, others: int) -> PassRunner:
        """Return the runner for a picture that has no draws yet.

        It is the one whose passes would sooner answer this picture and the others if all were like
        it and easy. Large passes after the first are taken as full: what these leave free, further
        draws of harder pictures take. A single large pass for all would leave the front without
        work meanwhile, and then the worker, so it must be sooner by ``LONE_PASS``. Nothing of this
        depends on what its draws will say.

        Args:
            least: the fewest draws that answer its question, as far as that is known.
            others: the number of the model's pictures in flight.
        """
        small, draws = self.calibration.small, least * (others + 1)
        if self.small is None or small is None:
            return self.runner
        large = self.calibration
        in_small = ceil(draws / small.pass_size) * small.pass_size / small.draws_per_second
        in_large = max(draws, large.pass_size) / large.draws_per_second
        if others and draws <= large.pass_size:
            in_large *= LONE_PASS
        return self.small if in_small < in_large else self.runner

    def of(self, pass_size: int) -> PassRunner:
        """Return the runner with passes of this size; the one with large passes if none has."""
        return next((one for one in self.runners if one.batcher.slots == pass_size), self.runner)

    def change(self, compiled: list[Predictor], compare_: bool) -> str:
        """Let a compiled network take pictures.

        Args:
            compiled: the network in large passes and, if the model has them, in small ones.
            compare_: whether it must be faster.

        Returns:
            Why all stays as it is; nothing if it does not.
        """
        sizes = [one.batcher.slots for one in self.runners]
        if [one.pass_size for one in compiled] != sizes:
            return "passes have become smaller while it was compiled"
        large, *smaller = compiled
        try:
            found = compare(self.runner.predictor, large) if compare_ else gauge(large)
            small = [gauge_small(one) for one in smaller] if found else []
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return "compiled it does not fit into memory"
        if found is None:
            return "compiled it is not faster"
        self._run(compiled, replace(found, small=small[0] if small else None))
        return ""

    def restore(self) -> None:
        """Run as before a pass did not fit into memory; the present runners keep their pictures."""
        assert self.former is not None
        self._run(self.former.predictors, self.former.calibration)
        self.former = None

    def _run(self, predictors: list[Predictor], calibration: Calibration) -> None:
        self.calibration = calibration
        self.runner, *others = [PassRunner(self.runner.model, one) for one in predictors]
        self.small = others[0] if others else None

    def halve(self, runner: PassRunner) -> list[Ticket]:
        """Move the pictures of ``runner``, and new ones, into passes of half its size.

        The model keeps small passes only if they are smaller still.

        Returns:
            The pictures that were moved, which begin again.

        Raises:
            RuntimeError: not even the smallest pass fits, or no size keeps the rows apart.
        """
        slots = runner.batcher.slots // 2
        if slots < self.runner.batcher.slots:
            self._shrink(slots)
        moved = runner.batcher.withdraw()
        for ticket in moved:
            self.runner.batcher.admit(ticket)
        return moved

    def _shrink(self, slots: int) -> None:
        self.eager.on.free()
        while True:
            if slots < LEAST_PASS:
                raise RuntimeError(f"not even a pass of {LEAST_PASS} draws fits into memory")
            smaller = self.eager.resized(slots)
            try:
                smaller.try_rows()
                break
            except (RuntimeError, MemoryError, RowsError) as error:
                if not isinstance(error, RowsError) and not is_out_of_memory(error):
                    raise
                log.warning("pass cannot be made", slots=slots, reason=str(error))
            smaller.on.free()
            slots //= 2
        if self.former is None:
            self.former = Former([one.predictor for one in self.runners], self.calibration)
        small = self.calibration.small
        if self.small and self.small.batcher.slots >= slots:
            small = self.small = None
        self.calibration = replace(self.calibration, pass_size=slots, compiled=False, small=small)
        self.runner = PassRunner(self.runner.model, smaller)
