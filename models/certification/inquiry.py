"""The way from draws to an answer: pilot, looks, stopping.

An :class:`Inquiry` takes the draws of one picture in the order in which they were issued, however
they are divided into passes, and ends as soon as its question is answered. All its statements hold
together with at least the requested confidence, over the noise, for a picture that was fixed before
its noise was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt

import numpy as np

from models.certification.arrays import Integers
from models.certification.division import (
    LOOK_BLOCK,
    PILOT_BLOCK,
    Division,
    looks,
    pilot_ends,
)
from models.certification.names import Bound, Norm, Scoring, Stopped
from models.certification.question import Question
from models.certification.tally import Tally
from models.certification.tally_bounds import CERTIFYING, bound_pair
from models.certification.terms import Terms

# A picture is given up if even this many standard errors in its favour would not reach the target.
# Of 610 pictures given up in recorded votes of the CIFAR-10 model, none would have been certified;
# with two standard errors, 2 of 531 would.
STANDARD_ERRORS = 3


@dataclass(frozen=True)
class Findings:
    """The tallies from which an answer follows, with its question and terms.

    Attributes:
        question: the question.
        terms: what turns bounds into sizes for the picture.
        scoring: ``votes`` or ``softmax``.
        pilot: the draws that chose the label.
        counted: the counted draws of the look that certified most.
        bound: the bound that certified it.
        total: all draws, including the pilot's and those after that look.
    """

    question: Question
    terms: Terms
    scoring: Scoring
    pilot: Tally
    counted: Tally
    bound: Bound
    total: Tally

    @property
    def label(self) -> int:
        """The label that the pilot chose."""
        return self.pilot.leader

    @property
    def leads(self) -> bool:
        """Whether that label leads among all draws; if another does, nothing is certified."""
        return self.total.leader == self.label

    @property
    def division(self) -> Division:
        """How α is divided."""
        return self.question.division(self.scoring, self.pilot)

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds pA and pB."""
        labels, tallies = len(self.pilot.sums), [self.counted]
        lower, upper = bound_pair(
            self.bound, self.pilot, tallies, self.label, self.division, labels
        )
        return float(lower[0]), float(upper[0])

    @property
    def size(self) -> float:
        """The certified size as the answer states it; 0 if nothing is certified."""
        return self.size_in(self.question.norm)

    def size_in(self, norm: Norm) -> float:
        """The same in another norm."""
        return self.terms.answered(*self.bounds, norm) if self.leads else 0.0

    @property
    def stopped(self) -> Stopped:
        """Why there are no more draws than ``total``."""
        question, pilot = self.question, self.pilot
        counted = self.total - pilot
        if counted.draws in looks(question.max_draws - pilot.draws):
            found = stops(question, self.terms, self.scoring, pilot, counted, self.size)
            return found or "deadline"
        return "deadline"


def stops(
    question: Question,
    terms: Terms,
    scoring: Scoring,
    pilot: Tally,
    counted: Tally,
    size: float,
) -> Stopped | None:
    """Return why no more draws are wanted at a look; None if more are wanted.

    Args:
        question: the question.
        terms: what turns bounds into sizes for the picture.
        scoring: ``votes`` or ``softmax``.
        pilot: the draws that chose the label.
        counted: the counted draws up to this look.
        size: the certified size so far, as an answer states it.
    """
    target, end = question.target, question.max_draws - pilot.draws
    if target is not None and size >= target:
        return "target_certified"
    if counted.draws == end:
        return "max_draws"
    if target is not None:
        pair = [pilot.leader, counted.rival(pilot.leader)]
        own = Tally(pilot.draws, pilot.sums[pair], pilot.squares[pair], pilot.denominator)
        projected, labels = project(counted, pair, end), len(pilot.sums)
        divided = question.division(scoring, pilot)
        if best_size(own, projected, labels, terms, question, divided) < target:
            return "target_out_of_reach"
    return None


class Inquiry:
    """The certification of one picture, draw by draw.

    Args:
        question: the question.
        terms: what turns bounds into sizes for the picture.
        labels: K ≥ 2.
        scoring: ``votes`` or ``softmax``.

    Attributes:
        label: the label that the pilot chose; None until it ends.
        look: the number of looks reached; from the first on there is an answer.
        stopped: why no more draws are wanted; None while more are.
    """

    def __init__(self, question: Question, terms: Terms, labels: int, scoring: Scoring) -> None:
        self.question, self.terms, self.scoring = question, terms, scoring
        self.pilot = Tally.empty(labels, scoring)
        self.counted = Tally.empty(labels, scoring)
        self.label: int | None = None
        self.stopped: Stopped | None = None
        self._schedule: tuple[int, ...] = ()
        self.look = 0
        self._unseen: list[Tally] = []
        self._best: tuple[float, Bound, Tally] | None = None

    @property
    def total(self) -> Tally:
        """All draws, including the pilot's."""
        return self.pilot + self.counted

    @property
    def wanted(self) -> int:
        """The number of draws to the next look, if the pilot need not be extended."""
        if self.stopped:
            return 0
        return self._block + (LOOK_BLOCK if self.label is None else 0)

    @property
    def _block(self) -> int:
        """The number of draws to the next decision."""
        if self.label is None:
            return PILOT_BLOCK - self.pilot.draws % PILOT_BLOCK
        return self._schedule[self.look] - self.counted.draws

    def add(self, scores: Integers) -> int:
        """Take the next draws in the order of their issue.

        Args:
            scores: [rows, K] integer scores.

        Returns:
            The number of draws used; the others came after the end and are ignored.
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
        if last and self.question.target is None:
            self.stopped = "max_draws"
        elif self.question.target is not None:
            self.stopped = stops(
                self.question, self.terms, self.scoring, self.pilot, self.counted, self.size
            )

    @property
    def findings(self) -> Findings | None:
        """The findings for an answer now: those of the largest certificate of all looks so far.

        One event covers all looks. None before the first look.
        """
        if self._unseen:
            tallies, self._unseen = self._unseen, []
            self._consider("betting", tallies)
            if tallies[-1].draws == self._schedule[-1] and self.scoring == "votes":
                self._consider("clopper-pearson", tallies[-1:])
        return self._best and self._found(*self._best[1:])

    @property
    def size(self) -> float:
        """The certified size so far, as the answer states it; 0 if nothing is certified.

        Nothing is certified if another label leads than the one that the pilot chose.
        """
        findings = self.findings
        return findings.size if findings else 0.0

    def _found(self, bound: Bound, counted: Tally) -> Findings:
        return Findings(
            self.question, self.terms, self.scoring, self.pilot, counted, bound, self.total
        )

    def _consider(self, bound: Bound, tallies: Sequence[Tally]) -> None:
        label = self.label
        assert label is not None
        divided = self.question.division(self.scoring, self.pilot)
        labels = len(self.pilot.sums)
        lower, upper = bound_pair(bound, self.pilot, tallies, label, divided, labels)
        sizes = self.terms.sizes(lower, upper, self.question.norm)
        at = int(sizes.argmax())
        if self._best is None or sizes[at] > self._best[0]:
            self._best = float(sizes[at]), bound, tallies[at]


def project(tally: Tally, pair: Sequence[int], end: int) -> Tally:
    """Extrapolate the sums of the label and one rival to ``end`` draws, in the label's favour.

    Every remaining draw is assumed to score the mean so far plus ``STANDARD_ERRORS`` standard
    errors, or for the rival minus.
    """
    more = end - tally.draws
    unit = tally.denominator
    sums, squares = [], []
    for index, sign in zip(pair, (1, -1), strict=True):
        mean = tally.sums[index] / unit / tally.draws
        second = tally.squares[index] / unit / unit / tally.draws
        spread = sqrt(max(second - mean * mean, 0.0) / tally.draws)
        further = min(max(mean + sign * STANDARD_ERRORS * spread, 0.0), 1.0)
        ratio = min(second / mean, 1.0) if mean > 0 else 1.0
        whole = (ceil if sign > 0 else floor)(further * more * unit)
        sums.append(int(tally.sums[index]) + whole)
        squares.append(int(tally.squares[index]) + int(whole * ratio) * unit)
    if unit == 1:
        squares = sums
    # Rounding up must not let a sum exceed its number of draws.
    sums[0] = min(sums[0], end * unit)
    squares[0] = min(squares[0], end * unit * unit)
    return Tally(end, np.array(sums), np.array(squares), unit)


def best_size(
    pilot: Tally,
    counted: Tally,
    labels: int,
    terms: Terms,
    question: Question,
    division: Division,
) -> float:
    """Return the answered size if the draws of the last look were ``counted``.

    Args:
        pilot: its tally of the label, which comes first, and one rival.
        counted: the counted draws, likewise.
        labels: K.
        terms: what turns bounds into sizes for the picture.
        question: the question.
        division: how α is divided.
    """
    best = 0.0
    for bound in CERTIFYING:
        if division.of(bound)[0] > 0:
            lower, upper = bound_pair(bound, pilot, [counted], 0, division, labels)
            best = max(best, terms.answered(float(lower[0]), float(upper[0]), question.norm))
    return best
