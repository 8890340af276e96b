"""Whether a target can be reached: at this look, or by all draws that are left.

Most looks do not reach the target. That is known from their counts by a test that costs a hundredth
of the bounds. It is one-sided: what it rules out the bounds would not reach, and for all else they
are computed. So it changes no answer.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import ceil, exp, floor, log, sqrt

import numpy as np

from models.certification.bounds import BETS, LOG_KEEP, LOG_WEIGHTS, fixed_lower
from models.certification.division import Division
from models.certification.majority import HALF
from models.certification.names import Ground, Norm
from models.certification.poll import Standing
from models.certification.question import Question
from models.certification.tally import Tally
from models.certification.tally_bounds import bound_pair, interval_alpha, vote_pair
from models.certification.terms import Terms

# A picture is given up if even this many standard errors in its favour would not reach the target:
# three while fewer than 128 draws are counted, then two. Of 930 pictures given up in recorded votes
# of two models in the zoo, at targets of ½σ, σ and 1.5σ, 5 would have been certified.
EARLY_ERRORS, LATER_ERRORS = 3, 2
EARLY_DRAWS = 128
# The bounds that certify a target are found to this much.
LOWEST_ERROR = 1e-6
# A logarithm's error in ``may_exceed`` is far below this.
_LOG_SLACK = 1e-6


def may_exceed(draws: int, votes: int, alpha: float, mean: float) -> bool:
    """Say whether betting's lower bound may exceed ``mean``, in (0, 1); False is certain.

    The bound is the m at which the mixture of bets has 1/α, or less. The mixture decreases in m
    where votes are more than m·n. So if it has less at ``mean``, the bound is below ``mean``. The
    logarithm of every bet is at most n·KL(S/n ‖ m), that of the bet that is best in hindsight, and
    so is that of the mixture: this decides most cases without the bets.
    """
    share, goal = votes / draws, -log(alpha) - _LOG_SLACK
    if share <= mean:
        return False
    wealth = votes * log(share / mean)
    if votes < draws:
        wealth += (draws - votes) * log((1 - share) / (1 - mean))
    if wealth < goal:
        return False
    mixture, others = 0.0, draws - votes
    for weight, keep, gain in _bets(mean):
        logarithm = weight + others * keep + votes * gain - goal
        if logarithm >= 0:
            return True
        mixture += exp(logarithm)
    return mixture >= 1


@lru_cache(2**12)
def _bets(mean: float) -> list[tuple[float, float, float]]:
    """Return the logarithm of each bet's weight, and of its factors without and with a vote."""
    gains = np.log1p(BETS * (1 / mean - 1))
    return list(zip(LOG_WEIGHTS.tolist(), LOG_KEEP.tolist(), gains.tolist(), strict=True))


@lru_cache(2**14)
def _fewest(draws: int, alpha: float, mean: float) -> int:
    """Return with how many votes Clopper-Pearson's lower bound exceeds ``mean``."""
    return bisect_right(range(draws + 1), mean, key=lambda votes: fixed_lower(draws, votes, alpha))


def may_certify(
    ground: Ground, standing: Standing, division: Division, labels: int, mean: float
) -> bool:
    """Say whether ``ground`` may certify more than pA = ``mean``, pB = 1 − ``mean``.

    False is certain: every certificate grows with pA and falls with pB. pB is the least of 1 − pA
    and upper bounds on votes, and such a bound is below 1 − m if a lower bound on the draws that
    are not votes exceeds m.

    Args:
        ground: one for which there is α.
        standing: the counts.
        division: how α is divided.
        labels: K.
        mean: at least ½.
    """
    draws, own, most, total, shown, first, second = standing
    alpha, alpha_rival = division.of(ground)
    if ground == "majority":
        if may_exceed(total, first, alpha, mean):
            return True
        if not may_exceed(total, first, alpha, HALF):
            return False
        shown = second
    elif ground == "betting":
        if may_exceed(draws, own, alpha, mean):
            return True
        if alpha_rival and may_exceed(draws, draws - most, alpha_rival, mean):
            return True
    else:
        if own >= _fewest(draws, alpha, mean):
            return True
        if alpha_rival and draws - most >= _fewest(draws, alpha_rival, mean):
            return True
    return may_exceed(total, total - shown, interval_alpha(division, labels), mean)


@lru_cache(4096)
def lowest_majority(terms: Terms, norm: Norm, target: float) -> float:
    """Return nearly the lowest pA that certifies ``target`` if pB is 1 − pA; 1 if none does.

    It is too high by less than ``LOWEST_ERROR``, and never too low.
    """
    low, high = 0.5, float(np.nextafter(1, 0))
    for _ in range(4):
        ends = np.linspace(low, high, 33)
        enough = terms.sizes(ends, 1 - ends, norm) >= target
        if not enough.any():
            return 1.0
        at = int(enough.argmax())
        low, high = ends[max(at - 1, 0)], ends[at]
    return float(high)


@lru_cache(4096)
def enough_votes(terms: Terms, norm: Norm, target: float, draws: int, alpha: float) -> int:
    """Return with how many votes Clopper-Pearson certifies the target, if pB is 1 − pA.

    The fewest, or one or two more; ``draws`` + 1 if none is found.
    """
    needed = lowest_majority(terms, norm, target)

    def lower(votes: int) -> float:
        return fixed_lower(draws, votes, alpha)

    fewest = bisect_left(range(draws), needed, key=lower)
    for votes in range(fewest, min(fewest + 3, draws + 1)):
        if terms.answered(lower(votes), 1 - lower(votes), norm) >= target:
            return votes
    return draws + 1


def hopeless(
    question: Question, terms: Terms, division: Division, pilot: Tally, counted: Tally
) -> bool:
    """Say whether the remaining draws would miss the target even if they favoured the label.

    If a label leads that the pilot did not choose, it may still get a majority.
    """
    target, end, labels = question.target, question.max_draws - pilot.draws, len(pilot.sums)
    assert target is not None
    pair = [pilot.leader, counted.rival(pilot.leader)]
    if pilot.denominator != 1:
        projected = project(counted, pair, end)
        return best_size(pilot.of_labels(pair), projected, labels, terms, question, division) < (
            target
        )
    total = pilot + counted
    leaders = total.leader, total.second
    return Aim(question, terms, labels).hopeless(
        division,
        (pilot.draws, *pilot.sums[pair].tolist()),
        (counted.draws, *counted.sums[pair].tolist()),
        None if leaders[0] == pair[0] else tuple(total.sums[list(leaders)].tolist()),
    )


class Aim:
    """A target, and what the counts of votes must be to reach it.

    Args:
        question: one with a target.
        terms: what turns bounds into sizes for the picture.
        labels: K.

    Attributes:
        lowest: nearly the lowest pA that certifies the target with pB = 1 − pA; 1 if none does.
    """

    def __init__(self, question: Question, terms: Terms, labels: int) -> None:
        assert question.target is not None
        self._question, self._terms, self._labels = question, terms, labels
        self.target = question.target
        self.lowest = lowest_majority(terms, question.norm, self.target)
        self._below = self.lowest - LOWEST_ERROR
        self._known: dict[tuple[int, int, float], int] = {}

    def may_meet(self, ground: Ground, standing: Standing, division: Division) -> bool:
        """Say whether ``ground`` may certify the target; False is certain."""
        return may_certify(ground, standing, division, self._labels, self._below)

    def meets(self, ground: Ground, standing: Standing, division: Division) -> bool:
        """Say whether ``ground`` certifies the target, as an answer states sizes."""
        if not self.may_meet(ground, standing, division):
            return False
        pair = vote_pair(ground, standing, division, self._labels)
        return self._terms.answered(*pair, self._question.norm) >= self.target

    def hopeless(
        self,
        division: Division,
        pilot: tuple[int, int, int],
        counted: tuple[int, int, int],
        leaders: tuple[int, int] | None,
    ) -> bool:
        """Do what :func:`hopeless` does for votes.

        Args:
            division: how α is divided after the pilot.
            pilot: its draws, and the votes of its label and of that one's rival among ``counted``.
            counted: the counted draws, likewise.
            leaders: the votes of the first and of the second among all draws, if the first is
                another label than the pilot's.
        """
        before, end = pilot[0], self._question.max_draws - pilot[0]
        if counted[1] >= self._hopeful(counted[0], end, division.fixed_label):
            return False
        own, rival = project_votes(*counted, end)
        all_own, all_rival = pilot[1] + own, pilot[2] + rival
        ahead = max(all_own, all_rival), min(all_own, all_rival)
        standing = Standing(end, own, rival, before + end, all_rival, *ahead)
        if any(self.meets(ground, standing, division) for ground in division.grounds):
            return False
        if leaders is None or not division.majority:
            return True
        first, second = project_votes(before + counted[0], *leaders, before + end)
        ahead = max(first, second), min(first, second)
        standing = Standing(0, 0, 0, before + end, second, *ahead)
        return not self.meets("majority", standing, division)

    def _hopeful(self, draws: int, end: int, alpha: float) -> int:
        """Return with how many votes of ``draws`` the votes projected to ``end`` are enough.

        What is projected grows with the votes: the mean plus its standard errors does, until that
        is 1.
        """
        known = self._known.get((draws, end, alpha))
        if known is None:
            norm, needed = self._question.norm, end + 1
            if alpha:
                needed = enough_votes(self._terms, norm, self.target, end, alpha)
            known = bisect_left(
                range(draws + 1), needed, key=lambda votes: project_votes(draws, votes, 0, end)[0]
            )
            self._known[draws, end, alpha] = known
        return known


@lru_cache(1024)
def aim_at(question: Question, terms: Terms, labels: int) -> Aim:
    """Return the same :class:`Aim` for pictures with the same question and terms."""
    return Aim(question, terms, labels)


def project_votes(draws: int, own: int, rival: int, end: int) -> tuple[int, int]:
    """Do what :func:`project` does for votes: return those of the label, and of the rival."""
    return _further(draws, own, own, 1, end, 1)[0], _further(draws, rival, rival, 1, end, -1)[0]


def project(tally: Tally, pair: Sequence[int], end: int) -> Tally:
    """Extrapolate the sums of the label and one rival to ``end`` draws, in the label's favour.

    Every remaining draw is assumed to score the mean so far plus some standard errors (three, and
    two from 128 draws on), or for the rival minus.
    """
    both = [
        _further(tally.draws, int(tally.sums[index]), int(tally.squares[index]), unit, end, sign)
        for unit in [tally.denominator]
        for index, sign in zip(pair, (1, -1), strict=True)
    ]
    sums, squares = np.array(both).T
    return Tally(end, sums, squares, tally.denominator)


def _further(draws: int, own: int, square: int, unit: int, end: int, sign: int) -> tuple[int, int]:
    """Return a label's sum and sum of squares after ``end`` draws."""
    errors = EARLY_ERRORS if draws < EARLY_DRAWS else LATER_ERRORS
    mean = own / unit / draws
    second = square / unit / unit / draws
    spread = sqrt(max(second - mean * mean, 0.0) / draws)
    share = min(max(mean + sign * errors * spread, 0.0), 1.0)
    ratio = min(second / mean, 1.0) if mean > 0 else 1.0
    whole = (ceil if sign > 0 else floor)(share * (end - draws) * unit)
    # Rounding up must not let a sum exceed its number of draws.
    total = min(own + whole, end * unit)
    return total, total if unit == 1 else min(square + int(whole * ratio) * unit, end * unit * unit)


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
    pairs = [
        bound_pair(ground, pilot, [counted], 0, division, labels) for ground in division.grounds
    ]
    return max(
        terms.answered(float(lower[0]), float(upper[0]), question.norm) for lower, upper in pairs
    )
