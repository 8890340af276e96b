"""What an inquiry keeps of a picture's draws, and what its looks certify.

Votes are counted in integers, and of a look the few counts remain that bounds depend on
(:class:`VoteRecord`). Soft scores need whole tallies (:class:`ScoreRecord`).
"""

from abc import ABC, abstractmethod
from array import array
from dataclasses import dataclass
from typing import Any, ClassVar

from models.certification.arrays import Floats
from models.certification.division import Division
from models.certification.majority import HALF, further_votes
from models.certification.names import GROUNDS, Ground, Scoring
from models.certification.poll import Poll, ScorePoll, Standing, tally_of
from models.certification.prospects import (
    LOWEST_ERROR,
    aim_at,
    hopeless,
    lowest_majority,
    may_certify,
)
from models.certification.question import Question
from models.certification.tally import Tally
from models.certification.tally_bounds import bound_pair, vote_pair
from models.certification.terms import Terms

# A look is not computed if its pA and pB are worse than those of the best look by more than this.
_NEAR = 1e-9


@dataclass(frozen=True)
class Certified:
    """What one ground certifies at one look.

    Attributes:
        size: without rounding; 0 if nothing is certified.
        ground: the ground.
        counted: the counted draws of the look.
        label: the label, which may be another than the pilot's if ``ground`` is a majority.
        pair: pA and pB.
    """

    size: float
    ground: Ground
    counted: Tally
    label: int
    pair: tuple[float, float]


Counts = Poll | ScorePoll


class Record(ABC):
    """The draws of one picture.

    Args:
        question: the question.
        terms: what turns bounds into sizes for the picture.
        labels: K ≥ 2.

    Attributes:
        total: all draws.
        pilot: the draws that chose the label; none until the pilot ends.
        counted: the draws after the pilot.
        best: what certifies most, of all looks that were computed.
    """

    poll: ClassVar[type[Counts]]
    total: Counts
    counted: Counts

    def __init__(self, question: Question, terms: Terms, labels: int) -> None:
        self._question, self._terms, self._labels = question, terms, labels
        self.total, self.counted = self.poll(labels), self.poll(labels)
        self.pilot = self.counted.tally
        self.best: Certified | None = None

    def add(self, rows: Any) -> None:
        """Take further draws, as the poll takes them."""
        self.total.add(rows)
        if self.pilot.draws:
            self.counted.add(rows)

    def end_pilot(self) -> int:
        """Count from now on; return the label that is certified by further draws."""
        self.pilot, label = self.total.tally, self.total.first
        self.counted = self.poll(self._labels, label)
        return label

    @abstractmethod
    def keep_look(self, last: bool) -> None:
        """Keep the draws so far as a look, whose certificates can be computed later."""

    @abstractmethod
    def compute(self, division: Division) -> None:
        """Compute the certificates of the looks kept, as far as they can be the best."""

    @abstractmethod
    def meets(self, division: Division) -> bool:
        """Say whether the target is met at the look kept last."""

    @abstractmethod
    def hopeless(self, division: Division) -> bool:
        """Say whether the target is out of reach; see :func:`prospects.hopeless`."""

    def certain(self, division: Division) -> int:
        """Return the number of draws with which a majority meets the target if all further agree.

        More than the budget if none does.
        """
        return self._question.max_draws + 1

    def meets_by_majority(self, division: Division) -> bool:
        """Say whether a majority meets the target now; then this is a look."""
        return False

    @property
    def size(self) -> float:
        """The size of the best, as an answer states it; 0 unless its label leads all draws."""
        if self.best is None or self.best.label != self.total.first:
            return 0.0
        return self._terms.answered(*self.best.pair, self._question.norm)

    def _met(self) -> bool:
        target = self._question.target
        assert target is not None
        return self.best is not None and self.best.size >= target and self.size >= target


@dataclass(frozen=True)
class _Look:
    standing: Standing
    counts: "array[int]"
    leader: int
    last: bool


class VoteRecord(Record):
    """The votes of one picture; arguments as for :class:`Record`."""

    poll = Poll
    total: Poll
    counted: Poll

    def __init__(self, question: Question, terms: Terms, labels: int) -> None:
        super().__init__(question, terms, labels)
        self._aim = None if question.target is None else aim_at(question, terms, labels)
        self._looks: list[_Look] = []

    def keep_look(self, last: bool) -> None:
        """Keep its counts."""
        self._looks.append(self._look(last))

    def compute(self, division: Division) -> None:
        """Compute what is not ruled out by its counts."""
        looks, self._looks = self._looks, []
        for ground in reversed(GROUNDS):
            if division.of(ground)[0]:
                for look in reversed(looks):
                    self._consider(ground, look, division)
        if looks and self.best is None:
            self.best = self._certified("betting", looks[0], division)

    def meets(self, division: Division) -> bool:
        """Compute what may meet the target."""
        assert self._aim is not None
        look = self._looks[-1]
        for ground in GROUNDS:
            if division.of(ground)[0] and self._aim.may_meet(ground, look.standing, division):
                self._consider(ground, look, division)
        return self._end_if_met()

    def certain(self, division: Division) -> int:
        """Return the number of draws at which a majority may end the inquiry."""
        if self._aim is None or self._aim.lowest == 1:
            return super().certain(division)
        draws, votes = self.total.draws, self.total.counts[self.total.first]
        more = further_votes(draws, votes, self._aim.lowest, division.majority)
        return draws + max(more, 1)

    def meets_by_majority(self, division: Division) -> bool:
        """Compute a majority if it meets the target."""
        assert self._aim is not None
        look = self._look(last=False)
        if not self._aim.meets("majority", look.standing, division):
            return False
        former = self.best
        self._consider("majority", look, division)
        return self.best is not former and self._end_if_met()

    def _end_if_met(self) -> bool:
        met = self._met()
        if met:
            # What was ruled out when it was looked at is below the target, and so below the best.
            self._looks.clear()
        return met

    def hopeless(self, division: Division) -> bool:
        """Project the counts."""
        assert self._aim is not None
        pilot, counted, total = self.pilot, self.counted, self.total
        own, rival = counted.first, counted.second
        leaders = total.counts[total.first], total.counts[total.second]
        return self._aim.hopeless(
            division,
            (pilot.draws, int(pilot.sums[own]), int(pilot.sums[rival])),
            (counted.draws, counted.counts[own], counted.counts[rival]),
            None if total.first == own else leaders,
        )

    def _look(self, last: bool) -> _Look:
        counted, total = self.counted, self.total
        shown = total.second if total.first == counted.first else total.first
        standing = Standing(
            counted.draws,
            counted.counts[counted.first],
            counted.counts[counted.second],
            total.draws,
            total.counts[shown],
            total.counts[total.first],
            total.counts[total.second],
        )
        return _Look(standing, counted.counts[:], total.first, last)

    def _consider(self, ground: Ground, look: _Look, division: Division) -> None:
        """Keep what ``ground`` certifies at a look if that is the best."""
        if ground == "clopper-pearson" and not look.last:
            return
        best = self.best
        mean = best.pair[0] - _NEAR if best and best.size > 0 else HALF
        if may_certify(ground, look.standing, division, self._labels, mean):
            found = self._certified(ground, look, division)
            if found.size > (best.size if best else 0.0):
                self.best = found

    def _certified(self, ground: Ground, look: _Look, division: Division) -> Certified:
        pair = vote_pair(ground, look.standing, division, self._labels)
        size = self._terms.size(*pair, self._question.norm)
        label = look.leader if ground == "majority" else self.counted.first
        return Certified(size, ground, tally_of(look.standing.draws, look.counts), label, pair)


class ScoreRecord(Record):
    """The soft scores of one picture; arguments as for :class:`Record`."""

    poll = ScorePoll

    def __init__(self, question: Question, terms: Terms, labels: int) -> None:
        super().__init__(question, terms, labels)
        self._looks: list[Tally] = []

    def keep_look(self, last: bool) -> None:
        """Keep its tally."""
        self._looks.append(self.counted.tally)

    def compute(self, division: Division) -> None:
        """Compute all looks together."""
        if not self._looks:
            return
        lower, upper = self._bounds(self._looks, division)
        sizes = self._terms.sizes(lower, upper, self._question.norm)
        at = int(sizes.argmax())
        if self.best is None or sizes[at] > self.best.size:
            pair, counted = (float(lower[at]), float(upper[at])), self._looks[at]
            self.best = Certified(float(sizes[at]), "betting", counted, self.pilot.leader, pair)
        self._looks = []

    def meets(self, division: Division) -> bool:
        """Compute the last look, and the others if it may meet the target."""
        target = self._question.target
        assert target is not None
        least = lowest_majority(self._terms, self._question.norm, target) - LOWEST_ERROR
        lower, upper = self._bounds(self._looks[-1:], division)
        if lower[0] > least or lower[0] > upper[0] != 1 - lower[0]:
            self.compute(division)
        return self._met()

    def hopeless(self, division: Division) -> bool:
        """Project the tally."""
        return hopeless(self._question, self._terms, division, self.pilot, self.counted.tally)

    def _bounds(self, looks: list[Tally], division: Division) -> tuple[Floats, Floats]:
        label, labels = self.pilot.leader, self._labels
        return bound_pair("betting", self.pilot, looks, label, division, labels)


RECORDS: dict[Scoring, type[Record]] = {"votes": VoteRecord, "softmax": ScoreRecord}
