"""What turns bounds into sizes for one picture and one model.

How far g moves can be bounded from several norms, and for Laplace noise in two. Each such bound
gives a size, which is converted to the requested norm; the largest counts. All follow from the same
event, so choosing costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, sqrt

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Floats
from models.certification.certificates import DEFAULT, DEFAULTS, PAPER, attacked, shift, shifts
from models.certification.laws.split import LEVELS
from models.certification.names import MECHANISM_NORMS, NORMS, Certificate, Mechanism, Norm
from models.certification.norms import convert, required
from models.certification.rounding import reduce_size, round_down, round_down_steps

# The float64 errors of an attacked interval are far below this, relative to the attack's size and
# to the ends. This in turn is far below what is subtracted from a size, so that at a certified size
# the label's interval clears the others.
CHANGE_SLACK = 1e-14
END_SLACK = 1e-13
# A bound that is smaller by less than this counts as equal.
_NEARLY = 1 - 1e-9


@dataclass(frozen=True)
class Delta:
    """One bound on how far g moves: ‖g(x) − g(x')‖_target ≤ value·‖x − x'‖_source + rho.

    Attributes:
        source: the norm of a change of the picture.
        target: the norm of the change of the features.
        value: Δ of preprocessing and g together.
        rho: what rounding adds, in ``target``; see ``certificates.size``.
    """

    source: Norm
    target: Norm
    value: float
    rho: float


@dataclass(frozen=True)
class Terms:
    """What turns bounds into sizes for one picture and one model.

    Attributes:
        mechanism: the noise law.
        scale: σ or b.
        sensitivity: Δ of preprocessing and g together, from ``norm`` to the mechanism's norm.
        norm: the model's own norm.
        values: number of values of the picture as sent.
        tau: see ``certificates.shifts``.
        rho: what rounding adds, in the mechanism's norm.
        further: further bounds on how far g moves.
    """

    mechanism: Mechanism
    scale: float
    sensitivity: float
    norm: Norm
    values: int
    tau: float = 0.0
    rho: float = 0.0
    further: tuple[Delta, ...] = ()

    @property
    def deltas(self) -> tuple[Delta, ...]:
        """Every bound on how far g moves, the model's own first."""
        own = Delta(self.norm, MECHANISM_NORMS[self.mechanism], self.sensitivity, self.rho)
        return own, *self.further

    def sizes(
        self, lower: ArrayLike, upper: ArrayLike, norm: Norm | None = None, *, paper: bool = False
    ) -> Floats:
        """Return the sizes that bounds allow, without rounding.

        Args:
            lower: pA.
            upper: pB.
            norm: of the sizes; the model's own by default.
            paper: by the paper's condition instead of the tight certificates.
        """
        names = self._certificates(paper)
        mu = {one: shifts(name, lower, upper, self.tau, self.scale) for one, name in names.items()}
        found = [
            convert(
                self._size(delta, mu[delta.target]), delta.source, norm or self.norm, self.values
            )
            for delta in self.deltas
            if delta.target in mu
        ]
        return np.asarray(np.max(found, axis=0))

    def size(self, lower: float, upper: float, norm: Norm) -> float:
        """Return what :meth:`sizes` returns for one pair of bounds."""
        return _size_of(self, lower, upper, norm) if lower > upper else 0.0

    def answered(self, lower: float, upper: float, norm: Norm, *, paper: bool = False) -> float:
        """Return the size that bounds allow as an answer states it: rounded down, in ``norm``.

        Only this number decides whether a target is met.
        """
        return _answered(self, lower, upper, norm, paper)[0]

    def method(self, lower: float, upper: float, norm: Norm) -> Certificate:
        """Return the certificate of the answered size; for 0, the mechanism's own."""
        return _answered(self, lower, upper, norm, False)[1]

    def attacked(
        self, lower: ArrayLike, upper: ArrayLike, sizes: Sequence[float], norm: Norm
    ) -> tuple[Floats, Floats]:
        """Return the interval that attacks can reach, for expected scores and sizes of the attack.

        It is the intersection of what each bound on g's moves allows.

        Args:
            lower: [n], lower bounds on expected scores at the picture.
            upper: [n], upper bounds on them.
            sizes: [m], in ``norm``.
            norm: of ``sizes``.

        Returns:
            Two [n, m], slightly wider than by the formulas.
        """
        lower, upper = np.asarray(lower)[:, None], np.asarray(upper)[:, None]
        low, high = np.zeros((len(lower), len(sizes))), np.ones((len(lower), len(sizes)))
        for delta in self.deltas:
            change = np.array([required(size, delta.source, norm, self.values) for size in sizes])
            below, above = attacked(
                DEFAULTS[self.mechanism][delta.target],
                lower,
                upper,
                change * (1 + CHANGE_SLACK),
                self.scale,
                delta.value,
                tau=self.tau,
                rho=delta.rho,
            )
            low = np.maximum(low, below * (1 - END_SLACK))
            high = np.minimum(high, above * (1 + END_SLACK))
        return low, high

    def _certificates(self, paper: bool) -> dict[Norm, Certificate]:
        """The certificates, by the norm in which g's moves are bounded."""
        if paper:
            return {MECHANISM_NORMS[self.mechanism]: PAPER[self.mechanism]}
        return {delta.target: DEFAULTS[self.mechanism][delta.target] for delta in self.deltas}

    def _size(self, delta: Delta, mu: Floats) -> Floats:
        return np.asarray(np.maximum((self.scale * mu - delta.rho) / delta.value, 0.0))


@dataclass(frozen=True)
class StepTerms(Terms):
    """The terms of a discrete law: the picture's own 8-bit values move by whole steps of 1/255.

    So Δ is 1, from L1 to L1; ρ is 0, and there are no further bounds.
    """

    def answered(self, lower: float, upper: float, norm: Norm, *, paper: bool = False) -> float:
        """Return the size that bounds allow as an answer states it: rounded down, in ``norm``."""
        steps = self.size(lower, upper, "l1") * LEVELS
        if paper or norm != "l1" or not isfinite(steps):
            return super().answered(lower, upper, norm, paper=paper)
        return round_down_steps(round(steps), LEVELS)


# Pictures whose draws agree share the work of all that follows from their bounds.


@lru_cache(2**14)
def _sizes_of(terms: Terms, lower: float, upper: float, paper: bool) -> list[tuple[Delta, float]]:
    """Return the size by each bound on g's moves, in its own norm."""
    names = terms._certificates(paper)
    mu = {norm: shift(name, lower, upper, terms.tau, terms.scale) for norm, name in names.items()}
    return [
        (delta, max((terms.scale * mu[delta.target] - delta.rho) / delta.value, 0.0))
        for delta in terms.deltas
        if delta.target in mu
    ]


@lru_cache(2**14)
def _size_of(terms: Terms, lower: float, upper: float, norm: Norm) -> float:
    found = _sizes_of(terms, lower, upper, False)
    return max(float(convert(size, delta.source, norm, terms.values)) for delta, size in found)


@lru_cache(2**14)
def _answered(
    terms: Terms, lower: float, upper: float, norm: Norm, paper: bool
) -> tuple[float, Certificate]:
    """Return the largest size of all bounds on g's moves, rounded down, and its certificate."""
    best, method = 0.0, DEFAULT[terms.mechanism]
    for delta, size in _sizes_of(terms, lower, upper, paper):
        reduced = reduce_size(size, terms.scale / delta.value)
        stated = round_down(float(convert(reduced, delta.source, norm, terms.values)))
        if stated > best:
            best, method = stated, DEFAULTS[terms.mechanism][delta.target]
    return best, method


def strongest(deltas: Sequence[Delta], values: int) -> tuple[Delta, ...]:
    """Drop every bound that follows from another by a change of norm.

    ‖δ‖_a ≤ k·‖δ‖_b turns a bound from norm a into one from norm b that is k times as large. A bound
    that is not smaller than that gives no larger size in any norm. The first of ``deltas`` stays.

    Args:
        deltas: bounds whose ``rho`` is the same for the same target.
        values: number of values of the picture as sent.
    """
    kept: list[Delta] = []
    for index, delta in enumerate(deltas):
        others = [other for other in deltas if other is not delta and other.target == delta.target]
        implied = any(
            delta.value >= _factor(delta.source, other.source, values) * other.value * _NEARLY
            for other in others
            if other in kept or other in deltas[index + 1 :]
        )
        if index == 0 or not implied:
            kept.append(delta)
    return tuple(kept)


def _factor(source: Norm, target: Norm, values: int) -> float:
    """The largest ‖δ‖_target over ‖δ‖_source ≤ 1."""
    if NORMS.index(source) <= NORMS.index(target):
        return 1.0
    return float(values) if (source, target) == ("linf", "l1") else sqrt(values)
