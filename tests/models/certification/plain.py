"""The procedure of an inquiry without shortcuts: every look computes all bounds from all draws.

Nothing is counted as it comes in, ruled out by its counts, or remembered.
"""

from math import ceil, floor, sqrt
from typing import Any

import numpy as np

from models.certification.arrays import Integers
from models.certification.bounds import betting_lower
from models.certification.division import looks, pilot_ends
from models.certification.majority import further_votes
from models.certification.names import GROUNDS, Ground, Scoring
from models.certification.prospects import lowest_majority
from models.certification.question import Question
from models.certification.tally import Tally
from models.certification.tally_bounds import certify, rivals_upper
from models.certification.terms import Terms


class Plain:
    """An inquiry into ``scores`` [n, K], with at least as many draws as the budget.

    Attributes:
        stopped: why it ended.
        label: the pilot's.
        look: the number of looks.
        total: all draws used.
        best: (size, ground, counted draws, label, pA, pB) of the largest certificate.
        size: as an answer states it.
    """

    def __init__(
        self, question: Question, terms: Terms, scoring: Scoring, scores: Integers
    ) -> None:
        self.question, self.terms, self.scoring, self.scores = question, terms, scoring, scores
        self.labels, self.look, self.stopped = scores.shape[1], 0, ""
        steps, n = question.steps, 0
        certain = self.certain(n, question.division(scoring, self.tally(0, 0)))
        while not pilot_ends(self.tally(0, n), question.max_draws, steps) or n == 0:
            n += steps.pilot
            if n >= certain:
                certain = self.certain(n, question.division(scoring, self.tally(0, 0)))
        self.pilot = self.tally(0, n)
        self.label = self.pilot.leader
        self.division = question.division(scoring, self.pilot)
        if n >= certain:
            certain = self.certain(n, self.division)
        self.schedule = looks(question.max_draws - n, steps)
        self.found: list[tuple[float, Ground, int, int, float, float]] = []
        while not self.stopped:
            look = self.pilot.draws + self.schedule[self.look]
            n = min(look, max(certain, n + 1))
            self.decide(n, n == look, n >= certain)
            if n >= certain:
                certain = self.certain(n, self.division)
        self.total = self.tally(0, n)

    def tally(self, first: int, last: int) -> Tally:
        return Tally.of(self.scores[first:last], self.scoring)

    def certain(self, n: int, division: Any) -> int:
        if self.question.target is None or self.scoring != "votes":
            return self.question.max_draws + 1
        lower = lowest_majority(self.terms, self.question.norm, self.question.target)
        if lower == 1:
            return self.question.max_draws + 1
        votes = int(self.scores[:n].sum(axis=0).max())
        return n + max(further_votes(n, votes, lower, division.majority), 1)

    def decide(self, n: int, at_look: bool, majority: bool) -> None:
        counted, target = self.tally(self.pilot.draws, n), self.question.target
        if not at_look:
            if not majority or self.stated("majority", self.pilot, counted, self.label) < target:  # type: ignore[operator]
                return
            self.keep("majority", counted)
            if self.found[-1] is self.best and self.size(n) >= target:  # type: ignore[operator]
                self.look, self.stopped = self.look + 1, "target_certified"
            return
        self.look += 1
        last = self.look == len(self.schedule)
        for ground in GROUNDS:
            if self.division.of(ground)[0] and (last or ground != "clopper-pearson"):
                self.keep(ground, counted)
        if target is not None and self.size(n) >= target:
            self.stopped = "target_certified"
        elif last:
            self.stopped = "max_draws"
        elif target is not None and self.hopeless(n, counted):
            self.stopped = "target_out_of_reach"

    def keep(self, ground: Ground, counted: Tally) -> None:
        lower, upper = self.pair(ground, self.pilot, counted, self.label)
        label = (self.pilot + counted).leader if ground == "majority" else self.label
        size = float(self.terms.sizes(lower, upper, self.question.norm))
        self.found.append((size, ground, counted.draws, label, lower, upper))

    @property
    def best(self) -> tuple[float, Ground, int, int, float, float]:
        """The largest; of equals the one of the first look, and betting before others."""
        return max(self.found, key=lambda one: (one[0], -GROUNDS.index(one[1])))

    def size(self, n: int) -> float:
        _, _, _, label, lower, upper = self.best
        leads = self.tally(0, n).leader == label
        return self.terms.answered(lower, upper, self.question.norm) if leads else 0.0

    def pair(self, ground: Ground, pilot: Tally, counted: Tally, label: int) -> tuple[float, float]:
        total = pilot + counted
        if ground == "majority":
            label, n = total.leader, total.draws
            votes = total.sums[label]
            lower = float(betting_lower(n, votes, votes, self.division.majority))
            if lower <= 0.5:
                return 0.0, 1.0
            upper = 1 - lower
        else:
            ends = certify(ground, [counted], label, *self.division.of(ground))
            lower, upper = float(ends[0][0]), float(ends[1][0])
        arrays = np.array([total.draws]), total.sums[None], total.squares[None]
        each = self.division.scores / (2 * self.labels)
        shown = rivals_upper("betting", *arrays, label, each, total.denominator)
        return lower, min(upper, float(shown[0]))

    def stated(self, ground: Ground, pilot: Tally, counted: Tally, label: int) -> float:
        return self.terms.answered(*self.pair(ground, pilot, counted, label), self.question.norm)

    def hopeless(self, n: int, counted: Tally) -> bool:
        target, budget = self.question.target, self.question.max_draws
        pair = [self.label, counted.rival(self.label)]
        pilot, then = (
            self.of(self.pilot, pair),
            self.projected(counted, pair, budget - self.pilot.draws),
        )
        for ground in GROUNDS:
            if self.division.of(ground)[0] and self.stated(ground, pilot, then, 0) >= target:  # type: ignore[operator]
                return False
        total = self.tally(0, n)
        if total.leader == self.label or not self.division.majority:
            return True
        then = self.projected(total, [total.leader, total.rival(total.leader)], budget)
        return self.stated("majority", then - then, then, 0) < target  # type: ignore[operator]

    def of(self, tally: Tally, pair: list[int]) -> Tally:
        return Tally(tally.draws, tally.sums[pair], tally.squares[pair], tally.denominator)

    def projected(self, tally: Tally, pair: list[int], end: int) -> Tally:
        unit, n = tally.denominator, tally.draws
        errors = 3 if n < 128 else 2
        sums, squares = [], []
        for index, sign in zip(pair, (1, -1), strict=True):
            own, square = int(tally.sums[index]), int(tally.squares[index])
            mean, second = own / unit / n, square / unit / unit / n
            spread = sqrt(max(second - mean * mean, 0) / n)
            share = min(max(mean + sign * errors * spread, 0), 1)
            whole = ceil(share * (end - n) * unit) if sign > 0 else floor(share * (end - n) * unit)
            ratio = min(second / mean, 1) if mean > 0 else 1
            sums.append(min(own + whole, end * unit))
            squares.append(min(square + int(whole * ratio) * unit, end * unit * unit))
        both = np.array(sums), np.array(sums if unit == 1 else squares)
        return Tally(end, *both, unit)
