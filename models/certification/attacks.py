"""What an attacker could make of an answer's scores, by the size of the attack.

The picture of the paper's Figure 1b at many sizes at once: for each label the interval that its
expected score can be moved within. The answer is robust where its label's interval clears all
others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal

import numpy as np

from models.certification.answer import Score
from models.certification.arrays import Floats
from models.certification.certificates import attacked
from models.certification.norms import Norm, required
from models.certification.procedure import Terms

# Sizes reach somewhat beyond what any picture can be certified for.
BEYOND = 1.25
_STEP = Context(prec=2, rounding=ROUND_CEILING)
DECIMALS = 6


@dataclass(frozen=True)
class Reached:
    """Where one label's expected score can be moved to: an interval for each size."""

    index: int
    lower: list[float]
    upper: list[float]


@dataclass(frozen=True)
class Attacks:
    """What attacks of each of ``sizes`` could make of the scores.

    Attributes:
        sizes: from 0, in the norm of the answer.
        scores: for each label that the answer shows.
        others: the most that any label reaches that is not shown; None if all are.
    """

    sizes: list[float]
    scores: list[Reached]
    others: list[float] | None


def attack_sizes(largest: float, count: int) -> list[float]:
    """Return ``count`` sizes, at least 2, evenly from 0 to beyond ``largest``: short decimals."""
    step = _STEP.create_decimal(Decimal(BEYOND * largest / (count - 1)))
    return [float(number * step) for number in range(count)]


def attacks(
    scores: Sequence[Score],
    label: int,
    lower: float,
    upper: float,
    labels: int,
    terms: Terms,
    norm: Norm,
    sizes: list[float],
) -> Attacks:
    """Say what attacks could make of an answer's scores.

    The scores' intervals and the certificate's bounds hold at once, with the answer's confidence,
    so that each score lies in what they have in common. Hence the label's interval clears the
    others at every size that is certified.

    Args:
        scores: the labels shown.
        label: the answer's.
        lower: pA, below its expected score.
        upper: pB, above every other label's.
        labels: K.
        terms: the picture's.
        norm: of ``sizes``.
        sizes: of the attacks.
    """
    # Where bounds contradict each other one is wrong; intervals are kept from turning over.
    lowers = [
        max(score.lower, min(lower, score.upper)) if score.index == label else score.lower
        for score in scores
    ]
    uppers = [
        score.upper if score.index == label else min(score.upper, max(upper, score.lower))
        for score in scores
    ]
    change = np.array([required(size, terms.norm, norm, terms.values) for size in sizes])
    low, high = _moved(terms, np.array([*lowers, 0.0]), np.array([*uppers, upper]), change)
    reached = [
        Reached(score.index, low[row].tolist(), high[row].tolist())
        for row, score in enumerate(scores)
    ]
    return Attacks(sizes, reached, high[-1].tolist() if len(scores) < labels else None)


def _moved(terms: Terms, lower: Floats, upper: Floats, change: Floats) -> tuple[Floats, Floats]:
    """Return where intervals can be moved to, [intervals, sizes], rounded outwards."""
    low, high = attacked(
        terms.mechanism,
        lower[:, None],
        upper[:, None],
        change * (1 + 1e-9),
        terms.scale,
        terms.sensitivity,
        tau=terms.tau,
        rho=terms.rho,
    )
    whole = 10.0**DECIMALS
    below = np.floor(low * (1 - 1e-9) * whole) / whole
    above = np.ceil(high * (1 + 1e-9) * whole) / whole
    return below, np.minimum(above, 1.0)
