"""The way from draws to an answer: pilot, looks, stopping.

An :class:`Inquiry` takes the draws of one picture in the order in which they were issued, however
they are cut into passes, and ends as soon as its question is answered. Everything it says holds
together with probability at least the confidence asked, over the noise, for a picture fixed before
its noise was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Floats, Integers
from models.certification.bounds import (
    Bound,
    betting_lower,
    betting_upper,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from models.certification.certificates import DEFAULT, Certificate, Mechanism, size
from models.certification.division import (
    LEAST_DRAWS,
    LOOK_BLOCK,
    PILOT_BLOCK,
    divide,
    looks,
    pilot_ends,
)
from models.certification.norms import Norm, convert
from models.certification.rounding import round_size
from models.certification.tally import Scoring, Tally

Stopped = Literal["target_certified", "target_out_of_reach", "max_draws", "deadline"]

# Rivals whose upper bound is computed exactly; the rest are covered by one that is larger.
EXACT_RIVALS = 3


@dataclass(frozen=True)
class Terms:
    """What turns bounds into a size for one picture and one model.

    Attributes:
        mechanism: the noise law.
        scale: σ or b.
        sensitivity: Δ of preprocessing and g together, from ``norm`` to the mechanism's norm.
        norm: the norm that Δ takes, and in which sizes are computed.
        values: number of values of the picture as sent.
        tau: see ``certificates.size``.
        rho: see ``certificates.size``.
    """

    mechanism: Mechanism
    scale: float
    sensitivity: float
    norm: Norm
    values: int
    tau: float = 0.0
    rho: float = 0.0

    def sizes(
        self, lower: ArrayLike, upper: ArrayLike, certificate: Certificate | None = None
    ) -> Floats:
        """Return the sizes of a certificate, by default the tight one, in ``norm``."""
        return size(
            certificate or DEFAULT[self.mechanism],
            lower,
            upper,
            self.scale,
            self.sensitivity,
            tau=self.tau,
            rho=self.rho,
        )

    def answered(self, size_: float, norm: Norm) -> float:
        """Return a size as an answer states it: converted to ``norm`` and rounded down.

        Whether a target is met is decided on this number alone.
        """
        return round_size(float(convert(size_, self.norm, norm, self.values)))


@dataclass(frozen=True)
class Question:
    """What a client asks of one picture.

    Attributes:
        confidence: η in (0, 1).
        max_draws: the budget, the pilot's draws included; at least 64.
        target: the size that the client needs, in ``norm``; None to have as much as there is.
        norm: the norm that sizes are asked and answered in.
    """

    confidence: float
    max_draws: int
    target: float | None
    norm: Norm

    def __post_init__(self) -> None:
        if self.max_draws < LEAST_DRAWS:
            raise ValueError(f"max_draws must be at least {LEAST_DRAWS}, not {self.max_draws}")
        if self.target is not None and not self.target > 0:
            raise ValueError(f"target must be above 0, not {self.target}")


@dataclass(frozen=True)
class Certified:
    """One certificate: the bounds at one look, with what is needed to compute them again."""

    label: int
    pilot_draws: int
    tally: Tally
    bound: Bound
    alpha_label: float
    alpha_rival: float
    lower: float
    upper: float
    size: float


def certify(
    bound: Bound,
    tallies: Sequence[Tally],
    label: int,
    alpha_label: float,
    alpha_rival: float,
) -> tuple[Floats, Floats]:
    """Return pA ≤ E y_c and pB ≥ max_{i≠c} E y_i for each tally of counted draws.

    Holds with probability ≥ 1 − alpha_label − alpha_rival for a label chosen beforehand: with
    ``betting`` at all tallies at once, with ``clopper-pearson`` at one. The rivals' bound is the
    largest of all their upper bounds, not that of the rival with the largest mean, and never above
    1 − pA, because the scores of a draw sum to at most 1.
    """
    sums = np.stack([tally.sums for tally in tallies])
    squares = np.stack([tally.squares for tally in tallies])
    draws = np.array([tally.draws for tally in tallies])
    return certify_arrays(
        bound, draws, sums, squares, label, alpha_label, alpha_rival, tallies[0].denominator
    )


def certify_arrays(
    bound: Bound,
    draws: Integers,
    sums: Integers,
    squares: Integers,
    label: int | Integers,
    alpha_label: float | Floats,
    alpha_rival: float | Floats,
    denominator: int,
) -> tuple[Floats, Floats]:
    """Do what :func:`certify` does for arrays over tallies.

    Args:
        bound: ``betting``, or for votes ``clopper-pearson``.
        draws: [B].
        sums: [B, K].
        squares: [B, K].
        label: the certified label, one for all or [B].
        alpha_label: one for all or [B].
        alpha_rival: one for all or [B].
        denominator: the tallies' unit.
    """
    every = np.arange(len(sums))
    own, own_squares = sums[every, label], squares[every, label]
    rivals = sums.copy()
    rivals[every, label] = -1
    lower: Floats
    upper: Floats
    if denominator == 1:
        # The upper bound of votes grows with their sum, so the largest sum has the largest.
        most = rivals.max(axis=1)
        if bound == "betting":
            lower = betting_lower(draws, own, own, alpha_label)
            upper = betting_upper(draws, most, most, alpha_rival)
        elif bound == "clopper-pearson":
            lower = clopper_pearson_lower(draws, own, alpha_label)
            upper = clopper_pearson_upper(draws, most, alpha_rival)
        else:
            raise ValueError(f"no certificate rests on the bound {bound!r}")
    elif bound == "betting":
        lower = betting_lower(draws, own, own_squares, alpha_label, denominator=denominator)
        most = min(EXACT_RIVALS, rivals.shape[1] - 1)
        top = np.argpartition(rivals, -most, axis=1)[:, -most:]
        rows = every[:, None]
        shape = np.broadcast_to(np.asarray(alpha_rival), draws.shape)
        exact = betting_upper(
            draws[:, None],
            rivals[rows, top],
            squares[rows, top],
            shape[:, None],
            denominator=denominator,
        )
        upper = exact.max(axis=1)
        if rivals.shape[1] - 1 > most:
            # ub(S, SS) ≤ ub(S, S), which grows with S: the next largest covers all the rest.
            rivals[rows, top] = -1
            rest = rivals.max(axis=1)
            cover = betting_upper(
                draws, rest, rest * denominator, alpha_rival, denominator=denominator
            )
            upper = np.maximum(upper, cover)
    else:
        raise ValueError(f"no certificate rests on the bound {bound!r} for soft scores")
    return lower, np.minimum(upper, 1 - lower)


@lru_cache(2**16)
def _certify_votes(
    bound: Bound, draws: int, own: int, most: int, alpha_label: float, alpha_rival: float
) -> tuple[float, float]:
    """Certify votes by their counts; pictures that agree share the work."""
    sums = np.array([[own, most]])
    lower, upper = certify_arrays(
        bound, np.array([draws]), sums, sums, 0, alpha_label, alpha_rival, 1
    )
    return float(lower[0]), float(upper[0])


class Inquiry:
    """The certification of one picture, draw by draw.

    Args:
        question: what is asked.
        terms: what the picture's certificates are worth.
        labels: K ≥ 2.
        scoring: ``votes`` or ``softmax``.

    Attributes:
        look: how many looks have been reached; from the first on there is an answer.
        stopped: why no more draws are wanted; None while some are.
    """

    def __init__(self, question: Question, terms: Terms, labels: int, scoring: Scoring) -> None:
        self.question, self.terms, self.scoring = question, terms, scoring
        self.division = divide(question.confidence, scoring, question.target is not None)
        self.pilot = Tally.empty(labels, scoring)
        self.counted = Tally.empty(labels, scoring)
        self.label: int | None = None
        self.stopped: Stopped | None = None
        self._schedule: tuple[int, ...] = ()
        self.look = 0
        self._unseen: list[Tally] = []
        self._best: Certified | None = None

    @property
    def total(self) -> Tally:
        """All draws, the pilot's too."""
        return self.pilot + self.counted

    @property
    def wanted(self) -> int:
        """How many more draws lead to the next look, if the pilot need not be prolonged."""
        if self.stopped:
            return 0
        return self._block + (LOOK_BLOCK if self.label is None else 0)

    @property
    def _block(self) -> int:
        """How many more draws lead to the next decision."""
        if self.label is None:
            return PILOT_BLOCK - self.pilot.draws % PILOT_BLOCK
        return self._schedule[self.look] - self.counted.draws

    def add(self, scores: Integers) -> int:
        """Take the next draws in the order of their issue.

        Args:
            scores: [rows, K] integer scores.

        Returns:
            How many of them were used; the rest came after the end and play no part.
        """
        used = 0
        while not self.stopped and used < len(scores):
            used += self.add_to_look(scores[used:])
        return used

    def add_to_look(self, scores: Integers) -> int:
        """Do what :meth:`add` does, but take no draws beyond the next look."""
        used, look = 0, self.look
        while not self.stopped and self.look == look and used < len(scores):
            block = Tally.of(scores[used : used + self._block], self.scoring)
            used += block.draws
            if self.label is None:
                self.pilot += block
                if pilot_ends(self.pilot, self.question.max_draws):
                    self.label = self.pilot.leader
                    self._schedule = looks(self.question.max_draws - self.pilot.draws)
            else:
                self.counted += block
                if self.counted.draws == self._schedule[self.look]:
                    self._reach_look()
        return used

    def cut(self) -> None:
        """End at the deadline, with the certificate reached so far."""
        if not self.stopped:
            self.stopped = "deadline"

    def _reach_look(self) -> None:
        self.look += 1
        self._unseen.append(self.counted)
        last = self.look == len(self._schedule)
        target = self.question.target
        if target is not None:
            if self.size >= target:
                self.stopped = "target_certified"
            elif not last and self._hopeless(target):
                self.stopped = "target_out_of_reach"
        if last and not self.stopped:
            self.stopped = "max_draws"

    @property
    def best(self) -> Certified | None:
        """The largest certificate of all looks so far: one event covers them all."""
        if not self._unseen:
            return self._best
        tallies, self._unseen = self._unseen, []
        division = self.division
        self._consider("betting", tallies, division.betting_label, division.betting_rival)
        if tallies[-1].draws == self._schedule[-1] and division.fixed_label > 0:
            alphas = division.fixed_label, division.fixed_rival
            self._consider("clopper-pearson", tallies[-1:], *alphas)
        return self._best

    @property
    def size(self) -> float:
        """The certified size so far, as the answer states it; 0 when nothing is certified.

        Should another label lead by now than the one that the pilot chose, nothing is.
        """
        best = self.best
        if best is None or best.size <= 0 or self.total.leader != self.label:
            return 0.0
        return self.terms.answered(best.size, self.question.norm)

    def _consider(
        self, bound: Bound, tallies: Sequence[Tally], alpha_label: float, alpha_rival: float
    ) -> None:
        label = self.label
        assert label is not None
        lower, upper = _certify_again(bound, tallies, label, alpha_label, alpha_rival)
        sizes = self.terms.sizes(lower, upper)
        at = int(sizes.argmax())
        if self._best is None or sizes[at] > self._best.size:
            self._best = Certified(
                label=label,
                pilot_draws=self.pilot.draws,
                tally=tallies[at],
                bound=bound,
                alpha_label=alpha_label,
                alpha_rival=alpha_rival,
                lower=float(lower[at]),
                upper=float(upper[at]),
                size=float(sizes[at]),
            )

    def _hopeless(self, target: float) -> bool:
        """Whether even two standard errors in favour would not certify ``target`` at the end.

        Costs no α: it only withholds.
        """
        assert self.label is not None
        end = self._schedule[-1]
        sums = self.counted.sums.copy()
        sums[self.label] = -1
        rival = int(sums.argmax())
        projected = project(self.counted, [self.label, rival], end)
        best = best_size(projected, self.terms, self.question, self.scoring)
        return best < target


def _certify_again(
    bound: Bound, tallies: Sequence[Tally], label: int, alpha_label: float, alpha_rival: float
) -> tuple[Floats, Floats]:
    """Do what :func:`certify` does; votes with counts seen before are not computed again."""
    if tallies[0].denominator != 1:
        return certify(bound, tallies, label, alpha_label, alpha_rival)
    pairs = []
    for tally in tallies:
        rivals = tally.sums.copy()
        rivals[label] = -1
        own, most = int(tally.sums[label]), int(rivals.max())
        pairs.append(_certify_votes(bound, tally.draws, own, most, alpha_label, alpha_rival))
    lower, upper = np.array(pairs).T
    return lower, upper


def project(tally: Tally, pair: Sequence[int], end: int) -> Tally:
    """Carry the label's and one rival's sums on to ``end`` draws, two standard errors in favour."""
    more = end - tally.draws
    unit = tally.denominator
    sums, squares = [], []
    for index, sign in zip(pair, (1, -1), strict=True):
        mean = tally.sums[index] / unit / tally.draws
        second = tally.squares[index] / unit / unit / tally.draws
        spread = sqrt(max(second - mean * mean, 0.0) / tally.draws)
        further = min(max(mean + sign * 2 * spread, 0.0), 1.0)
        ratio = min(second / mean, 1.0) if mean > 0 else 1.0
        whole = (ceil if sign > 0 else floor)(further * more * unit)
        sums.append(int(tally.sums[index]) + whole)
        squares.append(int(tally.squares[index]) + int(whole * ratio) * unit)
    if unit == 1:
        squares = sums
    # Rounding up must not let a sum outgrow its number of draws.
    sums[0] = min(sums[0], end * unit)
    squares[0] = min(squares[0], end * unit * unit)
    return Tally(end, np.array(sums), np.array(squares), unit)


def best_size(tally: Tally, terms: Terms, question: Question, scoring: Scoring) -> float:
    """Return the answered size if the last look's tally were ``tally``, label 0 leading."""
    division = divide(question.confidence, scoring, question.target is not None)
    pairs: list[tuple[Bound, float, float]] = [
        ("betting", division.betting_label, division.betting_rival)
    ]
    if division.fixed_label > 0:
        pairs.append(("clopper-pearson", division.fixed_label, division.fixed_rival))
    best = 0.0
    for bound, alpha_label, alpha_rival in pairs:
        lower, upper = _certify_again(bound, [tally], 0, alpha_label, alpha_rival)
        best = max(best, float(terms.sizes(lower, upper)[0]))
    return terms.answered(best, question.norm)
