"""How often a certificate of each noise law is wrong, with noise from the sampler that serves.

The classifier is a half-line, which attains the certificates: its votes come from real draws, and
how far its mean can move before the other label has more of them follows from SciPy's law, without
the certificate's formula. A picture counts as wrong if at any look more than that is certified.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from models.certification.arrays import Integers
from models.certification.kinds import terms_kind
from models.certification.laws import LAWS as REGISTERED
from models.certification.names import ADDITIVE, MECHANISM_NORMS
from models.certification.question import Question
from models.noise import PIXEL_STEP, Features, GridNoise
from tests.soundness.forms import LONG
from tests.soundness.simulation import Law, simulate

PICTURES = 100_000 if LONG else 20_000
LEVEL = 1e-6
SCALE = 0.4
LAWS: dict[str, Any] = {
    "gaussian": stats.norm(),
    "laplace": stats.laplace(),
    "logistic": stats.logistic(),
    "uniform": stats.uniform(-1, 2),
    "generalised-normal": stats.gennorm(3),
    "exponential": stats.expon(),
    "discrete-laplace": stats.dlaplace(PIXEL_STEP / SCALE),
}


@dataclass(frozen=True)
class HalfLine:
    """The label 0 if the noise is above a threshold, or else below it.

    The threshold is the half grid step at which the label's score is nearest to ``score``.
    """

    mechanism: str
    score: float
    above: bool

    @property
    def unit(self) -> float:
        """The steps in a unit of SciPy's law, which for a discrete one is a step."""
        return 1.0 if REGISTERED[self.mechanism].discrete else SCALE / PIXEL_STEP

    @property
    def steps(self) -> float:
        law = LAWS[self.mechanism]
        exact = law.isf(self.score) if self.above else law.ppf(self.score)
        return float(np.floor(exact * self.unit)) + 0.5

    @property
    def expected(self) -> float:
        law, at = LAWS[self.mechanism], self.steps / self.unit
        return float(law.sf(at) if self.above else law.cdf(at))

    @property
    def size(self) -> float:
        """How far the mean can move towards the other label until both have a score of ½.

        Or the last whole step before that, for a discrete law.
        """
        median = float(LAWS[self.mechanism].median())
        distance = abs(self.steps - median * self.unit)
        discrete = REGISTERED[self.mechanism].discrete
        return float(np.floor(distance) if discrete else distance) * PIXEL_STEP


@cache
def grid(mechanism: str) -> GridNoise:
    return GridNoise(mechanism, SCALE, PIXEL_STEP, 1.0)


@dataclass
class Drawn:
    """Votes for it, with noise as it is drawn for answers."""

    cell: HalfLine
    rng: np.random.Generator

    def take(self, who: Integers, count: int) -> tuple[Integers, Integers]:
        zero = Features(np.zeros(len(who) * count, dtype=np.int32), on_grid=True)
        first = np.zeros(1, dtype=np.intp)
        noise = grid(self.cell.mechanism).draw([zero], first, self.rng.bytes(32))
        own = (noise.reshape(-1, count) > self.cell.steps) == self.cell.above
        hits = own.sum(axis=1)
        sums = np.stack([hits, count - hits], axis=1)
        return sums, sums


def wrong(cell: HalfLine, question: Question, scale: float = SCALE) -> tuple[int, float]:
    """How many pictures were told too much, and the mean size in shares of the true one."""
    norm = MECHANISM_NORMS[cell.mechanism]
    found = simulate(
        Law.of_votes(cell.expected, 1 - cell.expected),
        replace(question, norm=norm),
        Drawn(cell, np.random.default_rng(1)),
        PICTURES,
        terms=terms_kind(cell.mechanism)(cell.mechanism, scale, 1.0, norm, 1),
    )
    claimed = found.best > 0
    untrue = claimed & ((found.certified != 0) | (found.best > cell.size * (1 + 1e-9)))
    return int(untrue.sum()), float(np.maximum(found.best, 0).mean() / cell.size)


CELLS = [
    HalfLine(mechanism, score, above)
    for mechanism, score in product(ADDITIVE, (0.6, 0.95))
    for above in ((True, False) if mechanism == "exponential" else (False,))
]


@pytest.mark.parametrize("confidence", [0.8, 0.99])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_no_law_is_wrong_more_often_than_alpha_allows(cell: HalfLine, confidence: float) -> None:
    failures, share = wrong(cell, Question(confidence, 300, None, "l1"))
    print(f"{cell}: {failures} of {PICTURES} wrong at {confidence}, mean size {share:.3f}")
    assert stats.binom.sf(failures - 1, PICTURES, 1 - confidence) > LEVEL


@pytest.mark.parametrize("mechanism", ADDITIVE)
def test_a_constant_that_is_a_fifth_too_large_is_caught(mechanism: str) -> None:
    """In the direction in which the law is weakest: exponential noise betrays a move down."""
    cell = HalfLine(mechanism, 0.95, mechanism == "exponential")
    failures, _ = wrong(cell, Question(0.8, 1000, None, "l1"), 1.2 * SCALE)
    assert stats.binom.sf(failures - 1, PICTURES, 0.2) < LEVEL


def test_every_law_of_added_noise_has_its_cells() -> None:
    assert set(LAWS) == set(ADDITIVE)
