"""What a client asks of one picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.certification.division import (
    LEAST_DRAWS,
    STEPS_SIZE,
    STEPS_TARGET,
    Division,
    Steps,
    divide,
    stands_alone,
)
from models.certification.names import Norm, Scoring, Threat
from models.certification.rounding import MOST_NUMBER
from models.certification.tally import Tally


@dataclass(frozen=True)
class Question:
    """What a client asks of one picture.

    Attributes:
        confidence: η in (0, 1), or 1 for noise that has finitely many draws.
        max_draws: the budget, the pilot's draws included; at least 64.
        target: the size that the client needs, in ``norm``, up to ``MOST_NUMBER``; None for the
            largest possible. Of a question about stickers, their side in pixels of the picture as
            sent.
        norm: the norm of the target and of the answer's sizes; of a question about stickers, of
            nothing.
        restarts: how often the picture has begun again; each run has its own share of α.
        allow: labels, in order; with a target, the question is answered, too, if only these may be
            first under a change up to it. None if it is about a single label.
        masks: of a question about stickers, the number of masks along each side
            (``models.certification.stickers``); 0 for one about the size of a change.
    """

    confidence: float
    max_draws: int
    target: float | None
    norm: Norm
    restarts: int = 0
    allow: tuple[int, ...] | None = None
    masks: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise ValueError(f"confidence must lie between 0 and 1, not {self.confidence}")
        if self.max_draws < LEAST_DRAWS and not self.masks:
            raise ValueError(f"max_draws must be at least {LEAST_DRAWS}, not {self.max_draws}")
        if self.target is not None and not 0 < self.target <= MOST_NUMBER:
            raise ValueError(
                f"target must be above 0 and at most {MOST_NUMBER:g}, not {self.target}"
            )
        if self.allow is not None and self.target is None:
            raise ValueError("allow needs a target: a set of labels is certain up to a size")
        if self.allow is not None and (not self.allow or list(self.allow) != sorted({*self.allow})):
            raise ValueError("allow must be different labels in order, at least one")

    @property
    def threat(self) -> Threat:
        """What the picture is to be certified against."""
        return "sticker" if self.masks else "norm"

    @property
    def steps(self) -> Steps:
        """How long the pilot is, and when one looks."""
        return STEPS_SIZE if self.target is None else STEPS_TARGET

    def allows(self, labels: Sequence[int] | None) -> bool | None:
        """Say whether all of ``labels`` are allowed; None if the question names none."""
        if self.allow is None or labels is None:
            return None
        return {*labels} <= {*self.allow}

    def division(self, scoring: Scoring, pilot: Tally) -> Division:
        """Return how α is divided after ``pilot``."""
        return divide(
            self.confidence,
            scoring,
            self.target is not None,
            alone=stands_alone(pilot),
            pair=len(pilot.sums) == 2,
            restarts=self.restarts,
        )
