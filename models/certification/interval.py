"""The certification of a picture by intervals: the search for its largest proven box.

The theorem is in ``models.certification.laws.interval``. A draw is a box: its vote is the label
that h proves for all of it, or none, and that of the box of radius 0 is the picture's label. Boxes
are tried in rounds of 16: each divides what lies between the largest proven radius and the next one
that was not proven. Four rounds find any radius among 51,000, as 16 · 17³ is more. Whatever boxes
are tried, the largest proven radius is certified.

The expected scores of an answer are those of h for the picture: 1 for its label.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Context, Decimal
from functools import cached_property
from math import ceil

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Draws, Floats, Integers
from models.certification.certain import certain_labels
from models.certification.laws.interval import BOXES, ROUND, UNITS, largest_radius
from models.certification.names import Certificate, Norm, Scoring, Stopped
from models.certification.norms import convert, required
from models.certification.question import Question
from models.certification.rounding import DIGITS
from models.certification.taking import TakesDraws
from models.certification.tally import DENOMINATORS, NO_VOTE, Tally
from models.certification.terms import Terms

# With a target, the first round has these parts of it, so that there is a size if it is missed.
PARTS = (0, 4, 2, 1)
# No radius is above 1, so larger targets have the search of this one, of which all parts are.
FARTHEST = float(max(PARTS))
# Far above the error of a product of two floats, in units.
NEARLY = 1e-6


@dataclass(frozen=True)
class IntervalTerms(Terms):
    """What turns a proven radius into sizes. ``scale`` is the largest that is tried; L∞.

    Preprocessing maps bytes to bytes and moves them no further apart, so ``sensitivity`` is 1.

    Attributes:
        radius: the largest proven radius, in units of 1/51000; None for the largest that is tried.
    """

    radius: int | None = None

    @property
    def largest(self) -> int:
        """The largest radius that is tried, in units."""
        return largest_radius(self.scale)

    @property
    def proven(self) -> int:
        """The radius on which sizes rest, in units."""
        return self.largest if self.radius is None else self.radius

    def sizes(
        self, lower: ArrayLike, upper: ArrayLike, norm: Norm | None = None, *, paper: bool = False
    ) -> Floats:
        """Return the radius where pA > pB, without rounding; the paper's condition is the same."""
        size = np.where(np.asarray(lower) > np.asarray(upper), self.proven / UNITS, 0.0)
        return convert(size, "linf", norm or self.norm, self.values)

    def size(self, lower: float, upper: float, norm: Norm) -> float:
        """Return what :meth:`sizes` returns for one pair of bounds."""
        return float(self.sizes(lower, upper, norm))

    def answered(self, lower: float, upper: float, norm: Norm, *, paper: bool = False) -> float:
        """Return the radius as an answer states it: rounded down; it is the same in every norm.

        ‖δ‖∞ ≤ ‖δ‖₂ ≤ ‖δ‖₁, and one pixel alone attains both.
        """
        return stated(self.proven) if lower > upper else 0.0

    def method(self, lower: float, upper: float, norm: Norm) -> Certificate:
        """Return the certificate."""
        return "interval"

    def attacked(
        self, lower: ArrayLike, upper: ArrayLike, sizes: Sequence[float], norm: Norm
    ) -> tuple[Floats, Floats]:
        """Return what attacks can reach: nothing new up to the proven radius, anything beyond.

        Args:
            lower: [n], lower bounds on scores at the picture.
            upper: [n], upper bounds on them.
            sizes: [m], in ``norm``.
            norm: of ``sizes``.

        Returns:
            Two [n, m].
        """
        changes = np.array([required(size, "linf", norm, self.values) for size in sizes])
        inside = changes * UNITS <= self.proven + NEARLY
        low, high = (np.asarray(part)[:, None] for part in (lower, upper))
        return np.where(inside, low, 0.0), np.where(inside, high, 1.0)


def stated(units: int) -> float:
    """Return a radius as an answer states it: rounded down, from the exact decimal."""
    exact = Context(prec=DIGITS, rounding=ROUND_FLOOR)
    return float(exact.divide(Decimal(units), Decimal(UNITS)))


def units_for(target: float) -> int:
    """Return the smallest radius, in units, that is stated as at least ``target``.

    Of targets above ``FARTHEST`` it is that of ``FARTHEST``, so that they take no longer.
    """
    target = min(target, FARTHEST)
    units = max(ceil(target * UNITS) - 1, 1)
    while stated(units) < target:
        units += 1
    return units


class Search:
    """The radii of the boxes of a question, which follow from the votes so far.

    Args:
        terms: the terms of the picture.
        target: the size needed, or None.

    Attributes:
        radii: of all boxes so far, in units; those of the present round at the end.
        proven: the largest proven radius.
        label: the vote of the box of radius 0.
        rounds: the number of rounds that have ended.
        stopped: why no more boxes are tried; None while more are.
    """

    def __init__(self, terms: IntervalTerms, target: float | None) -> None:
        self._beyond = terms.largest + 1
        self._target = None if target is None else units_for(target)
        self.proven, self.label, self.rounds = 0, NO_VOTE, 0
        self.stopped: Stopped | None = None
        self._votes: list[int] = []
        self.radii = [0, *_between(0, self._beyond, ROUND - 1)]
        if self._target is not None:
            parts = (self._target // part if part else 0 for part in PARTS)
            self.radii = sorted({min(part, terms.largest) for part in parts})

    @property
    def taken(self) -> int:
        """The number of votes."""
        return len(self._votes)

    @property
    def wanted(self) -> int:
        """The boxes of the round that have no votes yet; 0 at the end."""
        return len(self.radii) - self.taken

    @property
    def _sound(self) -> bool:
        """Whether no box was proven for another label than the picture's own, which lies in all.

        If one is, this h is not the one that proofs speak of: nothing may be claimed.
        """
        return {*self._votes} <= {*self._votes[:1], NO_VOTE}

    def take(self, votes: Iterable[int]) -> None:
        """Take the votes of further boxes, at most to the end of the round."""
        self._votes += votes
        if not self._sound:
            self.proven = 0
        if not self.wanted:
            self.rounds += 1
            self._end_round()

    def _end_round(self) -> None:
        self.label = self._votes[0]
        boxes = list(zip(self.radii, self._votes, strict=True))
        proven = [radius for radius, vote in boxes if vote == self.label != NO_VOTE]
        self.proven = max(proven, default=0) if self._sound else 0
        if self._target is not None:
            reached = self.proven >= self._target
            self.stopped = "target_certified" if reached else "target_out_of_reach"
            return
        above = [radius for radius, _ in boxes if radius > self.proven]
        following = _between(self.proven, min(above, default=self._beyond), ROUND)
        following = following[: BOXES - len(self.radii)]
        if following and self.label != NO_VOTE:
            self.radii += following
        else:
            self.stopped = "max_draws"


def _between(low: int, high: int, most: int) -> list[int]:
    """Return up to ``most`` whole numbers between ``low`` and ``high``, evenly."""
    count = min(high - low - 1, most)
    return [low + (high - low) * number // (count + 1) for number in range(1, count + 1)]


@dataclass(frozen=True)
class IntervalFindings:
    """The boxes from which an answer follows, with its question and terms.

    Attributes:
        question: the question.
        within: the terms of the picture, before anything was proven.
        labels: K.
        votes: the label proven for each box in their order, −1 for none; None if it was not tried.
    """

    question: Question
    within: IntervalTerms
    labels: int
    votes: tuple[int | None, ...]
    scoring: Scoring = "votes"

    @cached_property
    def search(self) -> Search:
        """The search, after all rounds that were ended."""
        search = Search(self.within, self.question.target)
        made = [vote for vote in self.votes if vote is not None]
        while made and search.stopped is None:
            taken, made = made[: search.wanted], made[search.wanted :]
            search.take(taken)
        return search

    @cached_property
    def terms(self) -> IntervalTerms:
        """The terms with the largest proven radius."""
        return replace(self.within, radius=self.search.proven)

    @cached_property
    def total(self) -> Tally:
        """All boxes."""
        made = [vote for vote in self.votes if vote is not None]
        sums = np.array([made.count(label) for label in range(self.labels)], dtype=np.int64)
        return Tally(len(made), sums, sums, DENOMINATORS[self.scoring])

    @property
    def counted(self) -> Tally:
        """All boxes."""
        return self.total

    @property
    def label(self) -> int:
        """The picture's label; the first if it has none, for which nothing is certified."""
        return max(self.search.label, 0)

    @property
    def leads(self) -> bool:
        """Whether some box around the picture is proven."""
        return self.search.proven > 0

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds pA and pB: h gives all to the label, if anything is proven."""
        return (1.0, 0.0) if self.leads else (0.0, 1.0)

    @property
    def means(self) -> Floats:
        """The scores of the picture, [K]."""
        return np.asarray(np.arange(self.labels) == self.search.label, dtype=float)

    @cached_property
    def size(self) -> float:
        """The certified size as the answer states it; 0 if nothing is certified."""
        return self.size_in(self.question.norm)

    def size_in(self, norm: Norm) -> float:
        """The same in another norm."""
        return self.terms.answered(*self.bounds, norm)

    @property
    def stopped(self) -> Stopped:
        """Why there are no more boxes."""
        if self.search.stopped == "target_out_of_reach" and self.question.allows(self.certain):
            return "target_certified"
        return self.search.stopped or "deadline"

    @cached_property
    def certain(self) -> tuple[int, ...] | None:
        """The labels that may be first up to the target: the picture's, or all."""
        return certain_labels(self)

    def intervals(self, labels: Sequence[int]) -> tuple[Floats, Floats]:
        """Bound the scores of labels: they are known, unless h gave none."""
        known = self.means[list(labels)]
        return known, known if self.search.label != NO_VOTE else np.ones(len(labels))


class IntervalInquiry(TakesDraws):
    """The certification of one picture by intervals; like ``models.certification.inquiry``'s.

    Its budget is ``BOXES``, whatever the question says.

    Args:
        question: the question.
        terms: what turns radii into sizes.
        labels: K ≥ 2.

    Attributes:
        look: the number of rounds ended; from the first on there is an answer.
        stopped: why no more boxes are wanted; None while more are.
    """

    scoring: Scoring = "votes"

    def __init__(self, question: Question, terms: IntervalTerms, labels: int) -> None:
        self.question = replace(question, max_draws=BOXES)
        self.terms, self.labels, self.look = terms, labels, 0
        self.stopped: Stopped | None = None
        self._search = Search(terms, question.target)
        self._votes: list[int] = []

    @property
    def draws(self) -> int:
        """The number of boxes tried."""
        return len(self._votes)

    @property
    def total(self) -> Tally:
        """All boxes tried."""
        return Tally.of_draws(np.array(self._votes, dtype=np.int64), self.labels, self.scoring)

    @property
    def issuable(self) -> int:
        """How many boxes there are until more votes are known."""
        return len(self._search.radii)

    def numbers(self, start: int, count: int) -> Integers:
        """Return the radii, in units, of ``count`` boxes from the one at ``start``."""
        return np.array(self._search.radii[start : start + count], dtype=np.int64)

    def anew(self) -> "IntervalInquiry":
        """Return an inquiry into the same question without any boxes; nothing is used up."""
        question = replace(self.question, restarts=self.question.restarts + 1)
        return IntervalInquiry(question, self.terms, self.labels)

    @property
    def least(self) -> int:
        """The fewest boxes that can answer the question: those of the first round."""
        return len(Search(self.terms, self.question.target).radii)

    @property
    def wanted(self) -> int:
        """The boxes of the round that are not tried yet."""
        return 0 if self.stopped else self._search.wanted

    def add_to_look(self, draws: Draws) -> int:
        """Do what :meth:`add` does, but take no boxes beyond the round."""
        taken: list[int] = draws[: self.wanted].tolist()
        if not taken:
            return 0
        ends = len(taken) == self.wanted
        self._votes += taken
        self._search.take(taken)
        if ends:
            self.look += 1
            found = self.findings
            self.stopped = found.stopped if found and self._search.stopped else None
        return len(taken)

    def cut(self) -> None:
        """End at the deadline, with the certificate reached so far."""
        if not self.stopped:
            self.stopped = "deadline"

    @property
    def findings(self) -> IntervalFindings | None:
        """The findings for an answer now; None before the first round has ended."""
        if not self.look:
            return None
        unmade: list[int | None] = [None] * (BOXES - len(self._votes))
        votes = (*self._votes, *unmade)
        return IntervalFindings(self.question, self.terms, self.labels, votes)

    @property
    def size(self) -> float:
        """The certified size so far, as the answer states it; 0 if nothing is certified."""
        return stated(self._search.proven)
