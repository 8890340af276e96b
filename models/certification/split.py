"""The certification of a picture by split noise: counting the N draws that there are.

The theorem is in ``models.certification.laws.split``. Nothing is estimated, so there is nothing to
be wrong about: confidence 1. N draws decide, and a part of them proves something only if the rest
cannot matter any more. With a confidence below 1 the draws are made in a random order, and what j
of them say about all N follows from draws without replacement
(:mod:`models.certification.without_replacement`), at every look at once by the union bound.

The expected scores of an answer are the shares of the N draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Draws, Floats, Integers
from models.certification.certain import certain_labels
from models.certification.division import Steps, looks, share_of_run
from models.certification.laws.split import LEVELS, NEARLY, certified_steps, count_draws, counts
from models.certification.names import Certificate, Norm, Scoring, Stopped
from models.certification.norms import convert, required
from models.certification.question import Question
from models.certification.rounding import reduce_size, round_down, round_down_steps
from models.certification.taking import TakesDraws
from models.certification.tally import NO_VOTE, Tally
from models.certification.terms import Terms
from models.certification.without_replacement import least_count, most_count

# There is no pilot: c is whatever leads, as the bounds hold for all labels.
STEPS_SPLIT = Steps(pilot=0, longest_pilot=0, first=64, step=16, growth=1 / 16)
Shuffle = Callable[[int], Integers]


@dataclass(frozen=True)
class SplitTerms(Terms):
    """What turns shares of the N draws into sizes. ``scale`` is λ, and ``norm`` L1.

    Preprocessing maps bytes to bytes and moves them no further apart, so ``sensitivity`` is 1.
    """

    @property
    def draws(self) -> int:
        """N."""
        return count_draws(self.scale)

    def steps(self, lower: ArrayLike, upper: ArrayLike) -> Integers:
        """Return the certified steps of 1/255 for bounds on shares of the N draws."""
        return certified_steps(*counts(lower, upper, self.draws))

    def sizes(
        self, lower: ArrayLike, upper: ArrayLike, norm: Norm | None = None, *, paper: bool = False
    ) -> Floats:
        """Return the sizes that bounds allow; the paper's condition allows the same.

        Draws of two pictures at L1 distance m/255 differ in at most m of N: (0, m/N)-PixelDP;
        Lécuyer et al. 2019, proposition 1, then asks for pA > pB + 2m/N.
        """
        return convert(self.steps(lower, upper) / LEVELS, "l1", norm or self.norm, self.values)

    def size(self, lower: float, upper: float, norm: Norm) -> float:
        """Return what :meth:`sizes` returns for one pair of bounds."""
        return float(self.sizes(lower, upper, norm))

    def answered(self, lower: float, upper: float, norm: Norm, *, paper: bool = False) -> float:
        """Return the size that bounds allow as an answer states it: rounded down, in ``norm``."""
        steps = int(self.steps(lower, upper))
        if norm == "l1":
            return round_down_steps(steps, LEVELS)
        size = reduce_size(steps / LEVELS)
        return round_down(float(convert(size, "l1", norm, self.values)))

    def method(self, lower: float, upper: float, norm: Norm) -> Certificate:
        """Return the certificate."""
        return "split"

    def attacked(
        self, lower: ArrayLike, upper: ArrayLike, sizes: Sequence[float], norm: Norm
    ) -> tuple[Floats, Floats]:
        """Return the shares of the N draws that attacks can reach: m steps move at most m draws.

        Args:
            lower: [n], lower bounds on shares at the picture.
            upper: [n], upper bounds on them.
            sizes: [m], in ``norm``.
            norm: of ``sizes``.

        Returns:
            Two [n, m].
        """
        changes = [required(size, "l1", norm, self.values) for size in sizes]
        moved = np.floor(np.array(changes) * LEVELS * (1 + 1e-12) + NEARLY)
        own, most = (part[:, None] for part in counts(lower, upper, self.draws))
        low, high = np.maximum(own - moved, 0), np.minimum(most + moved, self.draws)
        return low / self.draws, high / self.draws


@dataclass(frozen=True)
class SplitFindings:
    """The draws from which an answer follows, with its question and terms.

    Attributes:
        question: the question; its budget is N.
        terms: what turns shares of draws into sizes.
        counted: the draws of the look that certified most.
        total: all draws.
        votes: the label of each of the N draws by its number; None if it was not made.
    """

    question: Question
    terms: SplitTerms
    counted: Tally
    total: Tally
    votes: tuple[int | None, ...]
    scoring: Scoring = "votes"

    @property
    def label(self) -> int:
        """The certified label."""
        return self.counted.leader

    @property
    def leads(self) -> bool:
        """Whether that label leads among all draws; if another does, nothing is certified."""
        return self.total.leader == self.label

    @cached_property
    def chance(self) -> float:
        """The chance that one bound on one label's votes fails at one look; 0 with certainty.

        Two bounds for each of the K labels at each look hold together with the confidence.
        """
        return chance_of_bound(self.question, len(self.total.sums))

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The bounds pA and pB, as shares of the N draws."""
        return share_bounds(self.counted, self.terms.draws, self.chance)

    @cached_property
    def size(self) -> float:
        """The certified size as the answer states it; 0 if nothing is certified."""
        return self.size_in(self.question.norm)

    def size_in(self, norm: Norm) -> float:
        """The same in another norm."""
        return self.terms.answered(*self.bounds, norm) if self.leads else 0.0

    @property
    def means(self) -> Floats:
        """The shares of all draws, [K]."""
        return self.total.means

    @property
    def stopped(self) -> Stopped:
        """Why there are no more draws than ``total``."""
        if self.total.draws not in schedule(self.terms):
            return "deadline"
        within = self.question.allows(self.certain)
        return stops(self.question, self.terms, self.total, self.size, within) or "deadline"

    @cached_property
    def certain(self) -> tuple[int, ...] | None:
        """The labels that may be first up to the target, by falling share; None without one."""
        return certain_labels(self)

    def intervals(self, labels: Sequence[int]) -> tuple[Floats, Floats]:
        """Bound the shares of labels among the N draws, by the draws of the same look."""
        counts = [int(self.counted.sums[label]) for label in labels]
        given = self.terms.draws, self.counted.draws
        lower = [least_count(*given, count, self.chance) for count in counts]
        upper = [most_count(*given, count, self.chance) for count in counts]
        return np.array(lower) / given[0], np.array(upper) / given[0]


def schedule(terms: SplitTerms) -> tuple[int, ...]:
    """Return the numbers of draws at which there are looks; the last is N."""
    return looks(terms.draws, STEPS_SPLIT)


def chance_of_bound(question: Question, labels: int) -> float:
    """Return the chance that one bound may fail: of 2K at each look but the last, which counts."""
    alpha = share_of_run(question.restarts) * (1 - question.confidence)
    return alpha / (2 * labels * max(len(looks(question.max_draws, STEPS_SPLIT)) - 1, 1))


def share_bounds(tally: Tally, draws: int, chance: float) -> tuple[float, float]:
    """Return pA of the leader and pB of every other label, as shares of the N = ``draws`` draws.

    The upper bound grows with a label's votes, so the rival with most of them has the largest; and
    all draws together have N votes at most.
    """
    leader = tally.leader
    own, most = int(tally.sums[leader]), int(tally.sums[tally.rival(leader)])
    lower = least_count(draws, tally.draws, own, chance)
    upper = min(most_count(draws, tally.draws, most, chance), draws - lower)
    return lower / draws, upper / draws


def stops(
    question: Question, terms: SplitTerms, total: Tally, size: float, within: bool | None
) -> Stopped | None:
    """Return why no more draws are wanted at a look; None if more are wanted.

    A target is out of reach if it is missed even with all votes that are left for the leader: for
    no other label could they achieve more. A set may still become certain.

    Args:
        question: the question.
        terms: what turns shares of draws into sizes.
        total: the draws so far.
        size: the certified size so far, as an answer states it.
        within: whether none but allowed labels may be first up to the target.
    """
    if within or (question.target is not None and size >= question.target):
        return "target_certified"
    left = terms.draws - total.draws
    if not left:
        return "max_draws"
    own, most = int(total.sums[total.leader]), int(total.sums[total.rival(total.leader)])
    best = terms.answered((own + left) / terms.draws, most / terms.draws, question.norm)
    if question.target is not None and question.allow is None and best < question.target:
        return "target_out_of_reach"
    return None


class SplitInquiry(TakesDraws):
    """The certification of one picture by split noise; like ``models.certification.inquiry``'s.

    Its budget is N, whatever the question says.

    Args:
        question: the question.
        terms: what turns shares of draws into sizes.
        labels: K ≥ 2.
        shuffle: returns 0 … N − 1 for N in the order in which draws are made; if the confidence is
            below 1, every time in a fresh, secret and random order.

    Attributes:
        total: all draws.
        look: the number of looks reached; from the first on there is an answer.
        stopped: why no more draws are wanted; None while more are.
    """

    scoring: Scoring = "votes"

    def __init__(
        self, question: Question, terms: SplitTerms, labels: int, shuffle: Shuffle
    ) -> None:
        order = shuffle(terms.draws)
        if len(order) != terms.draws or not np.array_equal(np.sort(order), np.arange(terms.draws)):
            raise ValueError(f"the order of draws must have each number below {terms.draws} once")
        self.question = replace(question, max_draws=terms.draws)
        self.terms, self.look = terms, 0
        self.total = Tally.empty(labels, "votes")
        self.stopped: Stopped | None = None
        self._shuffle, self._order, self._schedule = shuffle, order, schedule(terms)
        self._votes = np.full(terms.draws, NO_VOTE, dtype=np.int64)
        self._best: tuple[float, Tally] | None = None
        self._chance = chance_of_bound(self.question, labels)

    @property
    def draws(self) -> int:
        """The number of all draws."""
        return self.total.draws

    @property
    def issuable(self) -> int:
        """How many draws there are at most."""
        return self.terms.draws

    def numbers(self, start: int, count: int) -> Integers:
        """Return the numbers v of ``count`` draws, from the one at ``start`` in their order."""
        return self._order[start : start + count]

    def anew(self) -> "SplitInquiry":
        """Return an inquiry into the same question without any draws, with the next share of α."""
        question = replace(self.question, restarts=self.question.restarts + 1)
        return SplitInquiry(question, self.terms, len(self.total.sums), self._shuffle)

    @property
    def least(self) -> int:
        """The fewest draws that can answer the question, from the first on: if all agree."""
        target = self.question.target
        if target is None:
            return self.terms.draws
        return self._needed(0) if self._skips else self._schedule[0]

    @property
    def wanted(self) -> int:
        """The draws that are worth making now.

        Those to the next look, or those without which a target cannot be certified whatever they
        vote.
        """
        if self.stopped:
            return 0
        nearest = self._schedule[self.look]
        if self._skips:
            sums, leader = self.total.sums, self.total.leader
            gap = int(sums[leader] - sums[self.total.rival(leader)])
            nearest = max(nearest, self._needed(gap))
        return nearest - self.total.draws

    @property
    def _skips(self) -> bool:
        """Whether looks before a target can be certified are not worth waiting for."""
        question = self.question
        return question.target is not None and question.allow is None and not self._chance

    def _needed(self, gap: int) -> int:
        """Return with how many draws a target can be certified at the earliest; at most N.

        ``gap`` votes lie between the leader and its rival. Each further vote for the leader closes
        two of what is missing.
        """
        target, norm = self.question.target, self.question.norm
        assert target is not None
        steps = int(required(target, "l1", norm, self.terms.values) * LEVELS)
        left = self.terms.draws - self.total.draws
        missing = max(2 * steps + 1 - (gap - left), 0)
        return min(self.total.draws + missing // 2, self.terms.draws)

    def add_to_look(self, draws: Draws) -> int:
        """Do what :meth:`add` does, but take no draws beyond the next look."""
        if self.stopped:
            return 0
        begun = self.total.draws
        taken = draws[: self._schedule[self.look] - begun]
        block = Tally.of_draws(taken, len(self.total.sums), self.scoring)
        self._votes[self.numbers(begun, len(taken))] = taken
        self.total += block
        if self.total.draws == self._schedule[self.look]:
            self._reach_look()
        return block.draws

    def _reach_look(self) -> None:
        self.look += 1
        bounds = share_bounds(self.total, self.terms.draws, self._chance)
        size = self.terms.answered(*bounds, self.question.norm)
        if self._best is None or size >= self._best[0]:
            self._best = size, self.total
        found = self.findings if self.question.allow else None
        within = self.question.allows(found.certain) if found else None
        self.stopped = stops(self.question, self.terms, self.total, self.size, within)

    def cut(self) -> None:
        """End at the deadline, with the certificate reached so far."""
        if not self.stopped:
            self.stopped = "deadline"

    @property
    def findings(self) -> SplitFindings | None:
        """The findings for an answer now; None before the first look."""
        if self._best is None:
            return None
        votes: list[int | None] = [None] * self.terms.draws
        for number in self.numbers(0, self.total.draws).tolist():
            votes[number] = int(self._votes[number])
        return SplitFindings(self.question, self.terms, self._best[1], self.total, tuple(votes))

    @property
    def size(self) -> float:
        """The certified size so far, as the answer states it; 0 if nothing is certified."""
        if self._best is None or self._best[1].leader != self.total.leader:
            return 0.0
        return self._best[0]
