"""What a client asks of one picture."""

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
from models.certification.names import Norm, Scoring
from models.certification.tally import Tally


@dataclass(frozen=True)
class Question:
    """What a client asks of one picture.

    Attributes:
        confidence: η in (0, 1), or 1 for noise that has finitely many draws.
        max_draws: the budget, the pilot's draws included; at least 64.
        target: the size that the client needs, in ``norm``; None for the largest possible.
        norm: the norm of the target and of the answer's sizes.
        restarts: how often the picture has begun again; each run has its own share of α.
    """

    confidence: float
    max_draws: int
    target: float | None
    norm: Norm
    restarts: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise ValueError(f"confidence must lie between 0 and 1, not {self.confidence}")
        if self.max_draws < LEAST_DRAWS:
            raise ValueError(f"max_draws must be at least {LEAST_DRAWS}, not {self.max_draws}")
        if self.target is not None and not self.target > 0:
            raise ValueError(f"target must be above 0, not {self.target}")

    @property
    def steps(self) -> Steps:
        """How long the pilot is, and when one looks."""
        return STEPS_SIZE if self.target is None else STEPS_TARGET

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
