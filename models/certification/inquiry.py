"""The way from draws to an answer: pilot, looks, stopping.

An :class:`Inquiry` takes the draws of one picture in the order in which they were issued, however
they are divided into passes, and ends as soon as its question is answered. All its statements hold
together with at least the requested confidence, over the noise, for a picture that was fixed before
its noise was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from models.certification.arrays import Draws, Floats
from models.certification.certain import certain_labels
from models.certification.division import Division, looks, pilot_ends
from models.certification.names import Ground, Norm, Scoring, Stopped
from models.certification.prospects import hopeless
from models.certification.question import Question
from models.certification.records import RECORDS
from models.certification.taking import TakesDraws
from models.certification.tally import Tally
from models.certification.tally_bounds import bound_pair, interval_alpha, intervals_of
from models.certification.terms import Terms

# With a target, the draws that are wanted at once double from this number on.
FIRST_WANTED = 32


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

    @cached_property
    def label(self) -> int:
        """The certified label: the one that the pilot chose, or the one with the majority."""
        return (self.pilot + self.counted if self.ground == "majority" else self.pilot).leader

    @cached_property
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

    def intervals(self, labels: Sequence[int]) -> tuple[Floats, Floats]:
        """Bound the expected scores of labels, by all draws."""
        total, chosen = self.total, list(labels)
        sums, squares = (tuple(part[chosen].tolist()) for part in (total.sums, total.squares))
        alpha = interval_alpha(self.division, len(total.sums))
        return intervals_of(total.draws, sums, squares, total.denominator, alpha)

    @cached_property
    def certain(self) -> tuple[int, ...] | None:
        """The labels that may be first up to the target, by falling mean; None without a target."""
        return certain_labels(self)

    @property
    def stopped(self) -> Stopped:
        """Why there are no more draws than ``total``."""
        question, pilot = self.question, self.pilot
        counted, end = self.total - pilot, question.max_draws - pilot.draws
        target, at_look = question.target, counted.draws in looks(end, question.steps)
        between = self.ground == "majority" and counted.draws == self.counted.draws
        if target is not None and self.size >= target and (at_look or between):
            return "target_certified"
        if at_look and question.allows(self.certain):
            return "target_certified"
        if at_look and counted.draws == end:
            return "max_draws"
        targeted = at_look and target is not None and question.allow is None
        if targeted and hopeless(question, self.terms, self.division, pilot, counted):
            return "target_out_of_reach"
        return "deadline"


class Inquiry(TakesDraws):
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
        self._record = RECORDS[scoring](question, terms, labels)
        self.label: int | None = None
        self.stopped: Stopped | None = None
        self.look = 0
        self._schedule: tuple[int, ...] = ()
        # The number of draws before which a majority is tried at looks only: with so many it
        # certifies the target if all agree.
        self._certain = self._record.certain()

    @property
    def draws(self) -> int:
        """The number of all draws."""
        return self._record.total.draws

    @property
    def total(self) -> Tally:
        """All draws, including the pilot's."""
        return self._record.total.tally

    @property
    def pilot(self) -> Tally:
        """The pilot's draws so far."""
        return self.total if self.label is None else self._record.pilot

    @property
    def counted(self) -> Tally:
        """The counted draws."""
        return self._record.counted.tally

    def anew(self) -> "Inquiry":
        """Return an inquiry into the same question without any draws, with the next share of α."""
        question = replace(self.question, restarts=self.question.restarts + 1)
        return Inquiry(question, self.terms, len(self.total.sums), self.scoring)

    @property
    def issuable(self) -> int:
        """How many draws there are at most."""
        return self.question.max_draws

    @property
    def wanted(self) -> int:
        """The number of draws that are worth making now, within the budget.

        Those to the next look, if the pilot need not be extended. With a target, those that a
        majority needs if they all agree, because few pictures end before; but at most as many as
        there are already, because the picture may be given up.
        """
        if self.stopped:
            return 0
        total, budget = self.draws, self.question.max_draws
        if self.label is None:
            nearest = self._pilot_block + self.question.steps.first
        else:
            nearest = self._schedule[self.look] - self._record.counted.draws
        if self._certain <= budget:
            nearest = max(nearest, min(self._certain - total, max(total, FIRST_WANTED)))
        return min(nearest, budget - total)

    @property
    def least(self) -> int:
        """The fewest draws that answer the question, as far as that is known; at most the budget.

        With a target, those that a majority needs if they all agree.
        """
        return min(self._certain, self.question.max_draws)

    @property
    def _pilot_block(self) -> int:
        """The number of draws to the end of the pilot's block."""
        block = self.question.steps.pilot
        return block - self.draws % block

    @property
    def _block(self) -> int:
        """The number of draws to the next decision."""
        if self.label is None:
            return self._pilot_block
        nearest = self._schedule[self.look] - self._record.counted.draws
        return min(nearest, max(self._certain - self.draws, 1))

    def add_to_look(self, draws: Draws) -> int:
        """Do what :meth:`add` does, but take no draws beyond the next look."""
        used, look, record = 0, self.look, self._record
        rows: Any = record.total.rows(draws)
        while not self.stopped and self.look == look and used < len(rows):
            due = self._block
            block = rows[used : used + due]
            used += len(block)
            record.add(block)
            if self.label is None:
                self._try_to_end_pilot()
            elif record.counted.draws == self._schedule[self.look]:
                self._reach_look()
            elif record.total.draws >= self._certain:
                self._try_majority()
            # Not within a block of the pilot: a pass may end anywhere, and must not play a part.
            if len(block) == due and record.total.draws >= self._certain:
                self._certain = record.certain()
        return used

    def cut(self) -> None:
        """End at the deadline, with the certificate reached so far."""
        if not self.stopped:
            self.stopped = "deadline"

    def _try_to_end_pilot(self) -> None:
        question, steps = self.question, self.question.steps
        if self.draws % steps.pilot:
            return
        pilot = self.total
        if not pilot_ends(pilot, question.max_draws, steps):
            return
        self.label = pilot.leader
        self._record.end_pilot(pilot)
        self._schedule = looks(question.max_draws - self.draws, steps)

    def _reach_look(self) -> None:
        self.look += 1
        last = self.look == len(self._schedule)
        self.stopped = self._record.reach_look(last)
        found = self.findings if self.question.allow else None
        if found and self.question.allows(found.certain):
            self.stopped = "target_certified"

    def _try_majority(self) -> None:
        """End between looks if a majority certifies the target."""
        if self._record.meets_by_majority():
            self.look += 1
            self.stopped = "target_certified"

    @property
    def findings(self) -> Findings | None:
        """The findings for an answer now: those of the largest certificate of all looks so far.

        One event covers all looks. None before the first look.
        """
        record = self._record
        record.compute()
        best = record.best
        if best is None:
            return None
        found = Findings(
            self.question,
            self.terms,
            self.scoring,
            record.pilot,
            best.counted,
            best.ground,
            self.total,
        )
        # They follow from the tallies, but are known.
        vars(found).update(division=record.division, bounds=best.pair, label=best.label)
        return found

    @property
    def size(self) -> float:
        """The certified size so far, as the answer states it; 0 if nothing is certified.

        Nothing is certified if another label leads than the one that the pilot chose.
        """
        self._record.compute()
        return self._record.size
