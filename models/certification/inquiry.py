"""The way from draws to an answer: pilot, looks, stopping.

An :class:`Inquiry` takes the draws of one picture in the order in which they were issued, however
they are divided into passes, and ends as soon as its question is answered. All its statements hold
together with at least the requested confidence, over the noise, for a picture that was fixed before
its noise was drawn.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil, floor, sqrt

import numpy as np

from models.certification.arrays import Draws, Floats
from models.certification.bounds import clopper_pearson_lower
from models.certification.division import Division, looks, pilot_ends
from models.certification.majority import further_votes
from models.certification.names import GROUNDS, Ground, Norm, Scoring, Stopped
from models.certification.question import Question
from models.certification.tally import Tally
from models.certification.tally_bounds import bound_pair
from models.certification.terms import Terms

# A picture is given up if even this many standard errors in its favour would not reach the target:
# three while fewer than 128 draws are counted, then two. Of 930 pictures given up in recorded votes
# of two models in the zoo, at targets of ½σ, σ and 1.5σ, 5 would have been certified.
EARLY_ERRORS, LATER_ERRORS = 3, 2
EARLY_DRAWS = 128
# With a target, the draws that are wanted at once double from this number on.
FIRST_WANTED = 32
# The bounds that certify a target are found to this much.
LOWEST_ERROR = 1e-6


@dataclass(frozen=True)
class Findings:
    """The tallies from which an answer follows, with its question and terms.

    Attributes:
        question: the question.
        terms: what turns bounds into sizes for the picture.
        scoring: ``votes`` or ``softmax``.
        pilot: the draws that chose the label, unless ``ground`` is a majority.
        counted: the counted draws of the look that certified most.
        ground: what that certificate rests on.
        total: all draws, including the pilot's and those after that look.
    """

    question: Question
    terms: Terms
    scoring: Scoring
    pilot: Tally
    counted: Tally
    ground: Ground
    total: Tally

    @property
    def label(self) -> int:
        """The certified label: the one that the pilot chose, or the one with the majority."""
        return (self.pilot + self.counted if self.ground == "majority" else self.pilot).leader

    @property
    def leads(self) -> bool:
        """Whether that label leads among all draws; if another does, nothing is certified."""
        return self.total.leader == self.label

    @cached_property
    def division(self) -> Division:
        """How α is divided."""
        return self.question.division(self.scoring, self.pilot)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The bounds pA and pB."""
        labels, tallies = len(self.pilot.sums), [self.counted]
        lower, upper = bound_pair(
            self.ground, self.pilot, tallies, self.label, self.division, labels
        )
        return float(lower[0]), float(upper[0])

    @cached_property
    def size(self) -> float:
        """The certified size as the answer states it; 0 if nothing is certified."""
        return self.size_in(self.question.norm)

    def size_in(self, norm: Norm) -> float:
        """The same in another norm."""
        return self.terms.answered(*self.bounds, norm) if self.leads else 0.0

    @property
    def stopped(self) -> Stopped:
        """Why there are no more draws than ``total``."""
        question, pilot, size = self.question, self.pilot, self.size
        counted = self.total - pilot
        if counted.draws in looks(question.max_draws - pilot.draws, question.steps):
            found = stops(question, self.terms, self.division, pilot, counted, size)
            return found or "deadline"
        between = self.ground == "majority" and counted.draws == self.counted.draws
        certified = question.target is not None and size >= question.target
        return "target_certified" if between and certified else "deadline"


def stops(
    question: Question,
    terms: Terms,
    division: Division,
    pilot: Tally,
    counted: Tally,
    size: float,
) -> Stopped | None:
    """Return why no more draws are wanted at a look; None if more are wanted.

    Args:
        question: the question.
        terms: what turns bounds into sizes for the picture.
        division: how α is divided after the pilot.
        pilot: the draws that chose the label.
        counted: the counted draws up to this look.
        size: the certified size so far, as an answer states it.
    """
    target, end = question.target, question.max_draws - pilot.draws
    if target is not None and size >= target:
        return "target_certified"
    if counted.draws == end:
        return "max_draws"
    if target is not None and _hopeless(question, terms, division, pilot, counted):
        return "target_out_of_reach"
    return None


def _hopeless(
    question: Question, terms: Terms, division: Division, pilot: Tally, counted: Tally
) -> bool:
    """Say whether the remaining draws would miss the target even if they favoured the label.

    If a label leads that the pilot did not choose, it may still get a majority.
    """
    target, end, labels = question.target, question.max_draws - pilot.draws, len(pilot.sums)
    assert target is not None
    pair = [pilot.leader, counted.rival(pilot.leader)]
    projected = project(counted, pair, end)
    if division.fixed_label:
        enough = enough_votes(terms, question.norm, target, end, division.fixed_label)
        if projected.sums[0] >= enough:
            return False
    if best_size(pilot.of_labels(pair), projected, labels, terms, question, division) >= target:
        return False
    total = pilot + counted
    leader = total.leader
    if leader == pilot.leader or not division.majority:
        return True
    pair = [leader, total.rival(leader)]
    projected = project(total, pair, question.max_draws)
    nothing = projected - projected
    return size_on("majority", nothing, projected, labels, terms, question, division) < target


@lru_cache(4096)
def enough_votes(terms: Terms, norm: Norm, target: float, draws: int, alpha: float) -> int:
    """Return with how many votes Clopper-Pearson certifies the target, if pB is 1 − pA.

    The fewest, or one or two more; ``draws`` + 1 if none is found.
    """
    needed = lowest_majority(terms, norm, target)

    def lower(votes: int) -> float:
        return float(clopper_pearson_lower(draws, votes, alpha))

    fewest = bisect_left(range(draws), needed, key=lower)
    for votes in range(fewest, min(fewest + 3, draws + 1)):
        if terms.answered(lower(votes), 1 - lower(votes), norm) >= target:
            return votes
    return draws + 1


class Inquiry:
    """The certification of one picture, draw by draw.

    Args:
        question: the question.
        terms: what turns bounds into sizes for the picture.
        labels: K ≥ 2.
        scoring: ``votes`` or ``softmax``.

    Attributes:
        label: the label that the pilot chose; None until it ends.
        total: all draws, including the pilot's.
        look: the number of looks reached; from the first on there is an answer.
        stopped: why no more draws are wanted; None while more are.
    """

    def __init__(self, question: Question, terms: Terms, labels: int, scoring: Scoring) -> None:
        self.question, self.terms, self.scoring = question, terms, scoring
        self.pilot = Tally.empty(labels, scoring)
        self.counted = Tally.empty(labels, scoring)
        self.total = self.pilot
        self.label: int | None = None
        self.stopped: Stopped | None = None
        self._schedule: tuple[int, ...] = ()
        self.look = 0
        self._unseen: list[Tally] = []
        self._best: tuple[float, Ground, Tally] | None = None
        # How α is divided; it is final when the pilot has ended.
        self._division = question.division(scoring, self.pilot)
        # The number of draws before which a majority is tried at looks only.
        self._certain = question.max_draws + 1
        self._look_ahead()

    @property
    def wanted(self) -> int:
        """The number of draws that are worth making now, within the budget.

        Those to the next look, if the pilot need not be extended. With a target, those that a
        majority needs if they all agree, because few pictures end before; but at most as many as
        there are already, because the picture may be given up.
        """
        if self.stopped:
            return 0
        total = self.total.draws
        if self.label is None:
            nearest = self._pilot_block + self.question.steps.first
        else:
            nearest = self._schedule[self.look] - self.counted.draws
        budget = self.question.max_draws
        if self._certain <= budget:
            nearest = max(nearest, min(self._certain - total, max(total, FIRST_WANTED)))
        return min(nearest, budget - total)

    @property
    def _pilot_block(self) -> int:
        """The number of draws to the end of the pilot's block."""
        block = self.question.steps.pilot
        return block - self.pilot.draws % block

    @property
    def _block(self) -> int:
        """The number of draws to the next decision."""
        if self.label is None:
            return self._pilot_block
        nearest = self._schedule[self.look] - self.counted.draws
        return min(nearest, max(self._certain - self.total.draws, 1))

    def add(self, draws: Draws) -> int:
        """Take the next draws in the order of their issue.

        Args:
            draws: votes [rows] or integer scores [rows, K].

        Returns:
            The number of draws used; the others came after the end and are ignored.
        """
        used = 0
        while not self.stopped and used < len(draws):
            used += self.add_to_look(draws[used:])
        return used

    def add_to_look(self, draws: Draws) -> int:
        """Do what :meth:`add` does, but take no draws beyond the next look."""
        used, look, question, labels = 0, self.look, self.question, len(self.total.sums)
        while not self.stopped and self.look == look and used < len(draws):
            due = self._block
            block = Tally.of_draws(draws[used : used + due], labels, self.scoring)
            used += block.draws
            self.total += block
            if self.label is None:
                self.pilot += block
                if pilot_ends(self.pilot, question.max_draws, question.steps):
                    self.label = self.pilot.leader
                    self._division = question.division(self.scoring, self.pilot)
                    counted = question.max_draws - self.pilot.draws
                    self._schedule = looks(counted, question.steps)
            else:
                self.counted += block
                if self.counted.draws == self._schedule[self.look]:
                    self._reach_look()
                elif self.total.draws >= self._certain:
                    self._try_majority()
            # Not within a block of the pilot: a pass may end anywhere, and must not play a part.
            if block.draws == due and self.total.draws >= self._certain:
                self._look_ahead()
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
            size = self.size if self._may_meet(self.question.target) else 0.0
            self.stopped = stops(
                self.question, self.terms, self._division, self.pilot, self.counted, size
            )

    def _may_meet(self, target: float) -> bool:
        """Say whether the target may be met at the look just reached; False is certain.

        If 1 − pA bounds the rivals, the target has a lowest pA. An answer states no more than the
        formulas do.
        """
        least = lowest_majority(self.terms, self.question.norm, target) - LOWEST_ERROR
        for ground in GROUNDS:
            if ground == "clopper-pearson" and self.counted.draws < self._schedule[-1]:
                continue
            if self._division.of(ground)[0]:
                lower, upper = self._bounds(ground, [self.counted])
                if lower[0] > least or lower[0] > upper[0] != 1 - lower[0]:
                    self._evaluate()
                    return self._best is not None and self._best[0] >= target
        return self._best is not None and self._best[0] >= target

    def _bounds(self, ground: Ground, tallies: Sequence[Tally]) -> tuple[Floats, Floats]:
        label, labels = self.pilot.leader, len(self.pilot.sums)
        return bound_pair(ground, self.pilot, tallies, label, self._division, labels)

    def _try_majority(self) -> None:
        """End between looks if a majority certifies the target."""
        target, counted = self.question.target, self.counted
        assert target is not None
        division = self.question.division(self.scoring, self.pilot)
        labels = len(self.pilot.sums)
        size = size_on("majority", self.pilot, counted, labels, self.terms, self.question, division)
        if size < target:
            return
        self._consider([("majority", [counted])])
        if self._best and self._best[2] is counted and self.size >= target:
            self.look += 1
            self.stopped = "target_certified"

    def _look_ahead(self) -> None:
        """Find the number of draws with which a majority certifies the target if they agree."""
        question, total = self.question, self.total
        if question.target is None or self.scoring != "votes":
            return
        lower = lowest_majority(self.terms, question.norm, question.target)
        if lower < 1:
            votes = int(total.sums.max())
            more = further_votes(total.draws, votes, lower, self._division.majority)
            self._certain = total.draws + max(more, 1)

    @property
    def findings(self) -> Findings | None:
        """The findings for an answer now: those of the largest certificate of all looks so far.

        One event covers all looks. None before the first look.
        """
        self._evaluate()
        return self._best and self._found(*self._best[1:])

    def _evaluate(self) -> None:
        """Certify the looks that have not been certified yet."""
        if not self._unseen:
            return
        tallies, self._unseen = self._unseen, []
        grounds: list[tuple[Ground, list[Tally]]] = [("betting", tallies)]
        if self._division.majority:
            grounds.append(("majority", tallies))
        if self._division.fixed_label and tallies[-1].draws == self._schedule[-1]:
            grounds.append(("clopper-pearson", tallies[-1:]))
        self._consider(grounds)

    @property
    def size(self) -> float:
        """The certified size so far, as the answer states it; 0 if nothing is certified.

        Nothing is certified if another label leads than the one that the pilot chose.
        """
        findings = self.findings
        return findings.size if findings else 0.0

    def _found(self, ground: Ground, counted: Tally) -> Findings:
        return Findings(
            self.question, self.terms, self.scoring, self.pilot, counted, ground, self.total
        )

    def _consider(self, grounds: Sequence[tuple[Ground, list[Tally]]]) -> None:
        pairs = [self._bounds(ground, tallies) for ground, tallies in grounds]
        lower, upper = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
        if len(lower) > len(GROUNDS):
            sizes = self.terms.sizes(lower, upper, self.question.norm)
        else:
            ends = zip(lower.tolist(), upper.tolist(), strict=True)
            sizes = np.array([self.terms.size(*pair, self.question.norm) for pair in ends])
        at = int(sizes.argmax())
        if self._best is None or sizes[at] > self._best[0]:
            of = [(ground, tally) for ground, tallies in grounds for tally in tallies]
            self._best = float(sizes[at]), *of[at]


@lru_cache(4096)
def lowest_majority(terms: Terms, norm: Norm, target: float) -> float:
    """Return nearly the lowest pA that certifies ``target`` if pB is 1 − pA; 1 if none does."""
    low, high = 0.5, float(np.nextafter(1, 0))
    for _ in range(4):
        ends = np.linspace(low, high, 33)
        enough = terms.sizes(ends, 1 - ends, norm) >= target
        if not enough.any():
            return 1.0
        at = int(enough.argmax())
        low, high = ends[max(at - 1, 0)], ends[at]
    return float(high)


def project(tally: Tally, pair: Sequence[int], end: int) -> Tally:
    """Extrapolate the sums of the label and one rival to ``end`` draws, in the label's favour.

    Every remaining draw is assumed to score the mean so far plus some standard errors (three, and
    two from 128 draws on), or for the rival minus.
    """
    more = end - tally.draws
    errors = EARLY_ERRORS if tally.draws < EARLY_DRAWS else LATER_ERRORS
    unit = tally.denominator
    sums, squares = [], []
    for index, sign in zip(pair, (1, -1), strict=True):
        mean = tally.sums[index] / unit / tally.draws
        second = tally.squares[index] / unit / unit / tally.draws
        spread = sqrt(max(second - mean * mean, 0.0) / tally.draws)
        further = min(max(mean + sign * errors * spread, 0.0), 1.0)
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
    return max(
        size_on(ground, pilot, counted, labels, terms, question, division)
        for ground in GROUNDS
        if division.of(ground)[0] > 0
    )


def size_on(
    ground: Ground,
    pilot: Tally,
    counted: Tally,
    labels: int,
    terms: Terms,
    question: Question,
    division: Division,
) -> float:
    """Return the size that rests on ``ground`` alone; the other arguments as above."""
    lower, upper = bound_pair(ground, pilot, [counted], 0, division, labels)
    return terms.answered(float(lower[0]), float(upper[0]), question.norm)
