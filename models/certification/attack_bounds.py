"""The scores that attacks can reach, by the size of the attack.

This is the paper's Figure 1b at many sizes at once: for each label, the interval within which an
attack can move its expected score. Up to the certified size the label's interval clears all others,
also after rounding: see :func:`stated`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal

import numpy as np

from models.certification.arrays import Floats
from models.certification.names import Norm
from models.certification.rounding import DIGITS, round_down, round_up
from models.certification.terms import Terms

# Attack sizes go somewhat beyond the largest size that can be certified.
BEYOND = 1.25
_STEP = Context(prec=2, rounding=ROUND_CEILING)
DECIMALS = 6
# The numbers of digits to try if fewer would hide that the label's interval clears the others.
MORE_DIGITS = (9, 12, 15)

Round = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Reached:
    """The intervals within which one label's expected score can be moved, for each size."""

    index: int
    lower: list[float]
    upper: list[float]


@dataclass(frozen=True)
class Attacks:
    """The scores that attacks of each of ``sizes`` can reach.

    Attributes:
        sizes: from 0, in the norm of the answer.
        scores: for each label that the answer shows.
        others: the most that any label not shown can reach; None if all are shown.
    """

    sizes: list[float]
    scores: list[Reached]
    others: list[float] | None


@dataclass(frozen=True)
class Known:
    """Bounds on expected scores at the picture, which hold together.

    Attributes:
        shown: [n], the labels shown, the answer's own first.
        lower: [n + 1], of their expected scores; 0 last, for the labels that are not shown.
        upper: [n + 1].
        all_shown: whether there are no other labels.
        certified: the certified size.
    """

    shown: Sequence[int]
    lower: Floats
    upper: Floats
    all_shown: bool
    certified: float


def known(
    shown: Sequence[int],
    lower: Floats,
    upper: Floats,
    labels: int,
    pair: tuple[float, float],
    certified: float,
) -> Known:
    """Combine the known bounds on the scores.

    The scores' own intervals and the certificate's bounds hold together, with the answer's
    confidence, so each score lies in their intersection.

    Args:
        shown: the labels shown, the answer's own first.
        lower: [n], of their own intervals.
        upper: [n], of their own intervals.
        labels: K.
        pair: pA, below the answer's label, and pB, above every other.
        certified: the certified size.
    """
    own = np.arange(len(shown)) == 0
    lower = np.where(own, np.maximum(lower, pair[0]), lower)
    upper = np.where(own, upper, np.minimum(upper, pair[1]))
    # If bounds contradict each other, one is wrong; intervals must still not be reversed.
    lower = np.where(own, lower, np.minimum(lower, upper))
    upper = np.where(own, np.maximum(lower, upper), upper)
    return Known(
        shown,
        np.append(lower, 0.0),
        np.append(upper, pair[1]),
        len(shown) == labels,
        certified,
    )


def attack_sizes(largest: float, count: int) -> list[float]:
    """Return ``count`` sizes, at least 2, evenly from 0 to above ``largest``, as short decimals."""
    step = _STEP.create_decimal(Decimal(BEYOND * largest / (count - 1)))
    return [float(number * step) for number in range(count)]


def attacks(known: Known, terms: Terms, norm: Norm, sizes: list[float]) -> Attacks:
    """Return the scores that attacks of ``sizes`` in ``norm`` can reach, to six decimals."""
    whole = 10.0**DECIMALS

    def down(values: Floats) -> Floats:
        return np.floor(values * whole) / whole

    def up(values: Floats) -> Floats:
        return np.minimum(np.ceil(values * whole) / whole, 1.0)

    low, high = stated(known, terms, norm, sizes, down, up)
    reached = [
        Reached(index, low[row].tolist(), high[row].tolist())
        for row, index in enumerate(known.shown)
    ]
    return Attacks(sizes, reached, None if known.all_shown else high[-1].tolist())


def reached(known: Known, terms: Terms, norm: Norm, size: float) -> tuple[Floats, Floats]:
    """Return the intervals that attacks of one size can reach, to six significant digits."""
    low, high = stated(known, terms, norm, [size], *_significant(DIGITS))
    return low[:-1, 0], high[:-1, 0]


def stated(
    known: Known, terms: Terms, norm: Norm, sizes: Sequence[float], down: Round, up: Round
) -> tuple[Floats, Floats]:
    """Return the intervals that attacks can reach as an answer states them, rounded outward.

    At a certified size the label's interval clears all others, however narrowly: with pA and pB
    moved by less than the certificate allows, G(G⁻¹(pA) − μ) > G(G⁻¹(pB) + μ). (With τ, too:
    G(G⁻¹(p) − μ) is convex and 0 at 0, or the least of functions that are, its mirror image concave
    and 1 at 1, so that the certified mixture of ``certificates.shifts`` leaves more than 2τ.) So if
    ``down`` and ``up`` would hide this, all intervals of that size are rounded to the fewest of
    ``MORE_DIGITS`` significant digits that show it.

    Returns:
        Two [n + 1, sizes].
    """
    exact = terms.attacked(known.lower, known.upper, sizes, norm)
    low, high = down(exact[0]), up(exact[1])
    rows = slice(1, -1 if known.all_shown else None)
    certified = np.array(sizes) <= known.certified if known.certified > 0 else np.array([False])
    for digits in MORE_DIGITS:
        hidden = np.flatnonzero(certified & (low[0] <= high[rows].max(axis=0)))
        if not len(hidden):
            break
        finer_down, finer_up = _significant(digits)
        low[:, hidden], high[:, hidden] = (
            finer_down(exact[0][:, hidden]),
            finer_up(exact[1][:, hidden]),
        )
    return low, high


def _significant(digits: int) -> tuple[Round, Round]:
    """Return functions that round down and up to ``digits`` significant digits, up to at most 1."""

    def down(values: Floats) -> Floats:
        rounded = [round_down(value, digits) for value in values.ravel().tolist()]
        return np.array(rounded).reshape(values.shape)

    def up(values: Floats) -> Floats:
        rounded = [min(round_up(value, digits), 1.0) for value in values.ravel().tolist()]
        return np.array(rounded).reshape(values.shape)

    return down, up
