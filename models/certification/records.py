"""What an inquiry keeps of a picture's draws, and what its looks certify.

Votes are counted in integers, and of a look the few counts remain that bounds depend on
(:class:`VoteRecord`). Soft scores need whole tallies (:class:`ScoreRecord`).
"""

from abc import ABC, abstractmethod
from array import array
from typing import Any, ClassVar, NamedTuple

from models.certification.arrays import Floats
from models.certification.majority import HALF, further_votes
from models.certification.names import Ground, Scoring, Stopped
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


class Certified(NamedTuple):
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
        division: how α is divided; it is final when the pilot has ended.
    """

    scoring: ClassVar[Scoring]
    poll: ClassVar[type[Counts]]
    total: Counts
    counted: Counts

    def __init__(self, question: Question, terms: Terms, labels: int) -> None:
        self._question, self._terms, self._labels = question, terms, labels
        self.total, self.counted = self.poll(labels), self.poll(labels)
        self.pilot = self.counted.tally
        self.best: Certified | None = None
        self.division = question.division(self.scoring, self.pilot)

    def add(self, rows: Any) -> None:
        """Take further draws, as the poll takes them."""
        self.total.add(rows)
        if self.pilot.draws:
            self.counted.add(rows)

    def end_pilot(self, pilot: Tally) -> None:
        """Count further draws, to certify the label that leads ``pilot``, all draws so far."""
        self.pilot = pilot
        self.counted = self.poll(self._labels, pilot.leader)
        self.division = self._question.division(self.scoring, pilot)

    def reach_look(self, last: bool) -> Stopped | None:
        """Keep the draws so far as a look, and say why no more are wanted."""
        self._keep_look(last)
        targeted = self._question.target is not None
        if targeted and self._meets():
            return "target_certified"
        if last:
            return "max_draws"
        # A set of labels may become certain where a single label has no chance.
        targeted = targeted and self._question.allow is None
        return "target_out_of_reach" if targeted and self._hopeless() else None

    @abstractmethod
    def compute(self) -> None:
        """Compute the certificates of the looks kept, as far as they can be the best."""

    @abstractmethod
    def _keep_look(self, last: bool) -> None:
        """Keep the draws so far; their certificates can be computed later."""

    @abstractmethod
    def _meets(self) -> bool:
        """Say whether the target is met at the look kept last."""

    @abstractmethod
    def _hopeless(self) -> bool:
        """Say whether the target is out of reach; see :func:`prospects.hopeless`."""

    def certain(self) -> int:
        """Return the number of draws with which a majority meets the target if all further agree.

        More than the budget if none does.
        """
        return self._question.max_draws + 1

    def meets_by_majority(self) -> bool:
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


class _Look(NamedTuple):
    standing: Standing
    counts: "array[int]"
    leader: int
    last: bool


class VoteRecord(Record):
    """The votes of one picture; arguments as for :class:`Record`."""

    scoring, poll = "votes", Poll
    total: Poll
    counted: Poll

    def __init__(self, question: Question, terms: Terms, labels: int) -> None:
        super().__init__(question, terms, labels)
        self._aim = None if question.target is None else aim_at(question, terms, labels)
        self._looks: list[_Look] = []

    def _keep_look(self, last: bool) -> None:
        self._looks.append(self._look(last))

    def compute(self) -> None:
        """Compute what its counts do not rule out as the best."""
        looks, self._looks = self._looks, []
        for ground in reversed(self.division.grounds):
            for look in reversed(looks):
                best = self.best
                mean = best.pair[0] - _NEAR if best and best.size > 0 else HALF
                if self._applies(ground, look) and may_certify(
                    ground, look.standing, self.division, self._labels, mean
                ):
                    self._take(ground, look)
        if looks and self.best is None:
            self.best = self._certified("betting", looks[0])

    def _meets(self) -> bool:
        assert self._aim is not None
        look = self._looks[-1]
        for ground in self.division.grounds:
            if self._applies(ground, look) and self._aim.may_meet(
                ground, look.standing, self.division
            ):
                self._take(ground, look)
        return self._end_if_met()

    def certain(self) -> int:
        """Return the number of draws at which a majority may end the inquiry."""
        if self._aim is None or self._aim.lowest == 1:
            return super().certain()
        draws, votes = self.total.draws, self.total.counts[self.total.first]
        more = further_votes(draws, votes, self._aim.lowest, self.division.majority)
        return draws + max(more, 1)

    def meets_by_majority(self) -> bool:
        """Compute a majority if it meets the target."""
        assert self._aim is not None
        look = self._look(last=False)
        if not self._aim.meets("majority", look.standing, self.division):
            return False
        former = self.best
        self._take("majority", look)
        return self.best is not former and self._end_if_met()

    def _end_if_met(self) -> bool:
        met = self._met()
        if met:
            # What was ruled out when it was looked at is below the target, and so below the best.
            self._looks.clear()
        return met

    def _hopeless(self) -> bool:
        assert self._aim is not None
        pilot, counted, total = self.pilot, self.counted, self.total
        own, rival = counted.first, counted.second
        leaders = total.counts[total.first], total.counts[total.second]
        return self._aim.hopeless(
            self.division,
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

    @staticmethod
    def _applies(ground: Ground, look: _Look) -> bool:
        return look.last or ground != "clopper-pearson"

    def _take(self, ground: Ground, look: _Look) -> None:
        """Compute what ``ground`` certifies at a look; keep it if it is the best."""
        found = self._certified(ground, look)
        if found.size > (self.best.size if self.best else 0.0):
            self.best = found

    def _certified(self, ground: Ground, look: _Look) -> Certified:
        pair = vote_pair(ground, look.standing, self.division, self._labels)
        size = self._terms.size(*pair, self._question.norm)
        label = look.leader if ground == "majority" else self.counted.first
        return Certified(size, ground, tally_of(look.standing.draws, look.counts), label, pair)


class ScoreRecord(Record):
    """The soft scores of one picture; arguments as for :class:`Record`."""

    scoring, poll = "softmax", ScorePoll

    def __init__(self, question: Question, terms: Terms, labels: int) -> None:
        super().__init__(question, terms, labels)
        self._looks: list[Tally] = []

    def _keep_look(self, last: bool) -> None:
        self._looks.append(self.counted.tally)

    def compute(self) -> None:
        """Compute all looks together."""
        if not self._looks:
            return
        lower, upper = self._bounds(self._looks)
        sizes = self._terms.sizes(lower, upper, self._question.norm)
        at = int(sizes.argmax())
        if self.best is None or sizes[at] > self.best.size:
            pair, counted = (float(lower[at]), float(upper[at])), self._looks[at]
            self.best = Certified(float(sizes[at]), "betting", counted, self.pilot.leader, pair)
        self._looks = []

    def _meets(self) -> bool:
        target = self._question.target
        assert target is not None
        least = lowest_majority(self._terms, self._question.norm, target) - LOWEST_ERROR
        lower, upper = self._bounds(self._looks[-1:])
        if lower[0] > least or lower[0] > upper[0] != 1 - lower[0]:
            self.compute()
        return self._met()

    def _hopeless(self) -> bool:
        return hopeless(self._question, self._terms, self.division, self.pilot, self.counted.tally)

    def _bounds(self, looks: list[Tally]) -> tuple[Floats, Floats]:
        label, labels = self.pilot.leader, self._labels
        return bound_pair("betting", self.pilot, looks, label, self.division, labels)


RECORDS: dict[Scoring, type[Record]] = {"votes": VoteRecord, "softmax": ScoreRecord}
