"""How often the whole procedure with a target is wrong between two labels, exactly.

The votes for one of two labels are a walk. A dynamic programme follows it through the pilot,
through every look and through every draw at which a majority may be certified, up to the end of the
budget, even if the procedure would have stopped. The result is exact, not an estimate.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from models.certification.bounds import betting_lower, clopper_pearson_lower
from models.certification.division import (
    CERTIFICATE_SHARE,
    STEPS_TARGET,
    Division,
    divide,
    looks,
    pilot_ends,
)
from models.certification.tally import Tally

BUDGET = 200


def pilots(p: float) -> Iterator[tuple[int, int, float]]:
    """Every possible pilot: its draws, its votes for label 0, and its probability."""
    block = STEPS_TARGET.pilot
    going = {0: 1.0}
    draws = 0
    while going:
        draws += block
        further = stats.binom.pmf(np.arange(block + 1), block, p)
        after: dict[int, float] = {}
        for votes, chance in going.items():
            for more in range(block + 1):
                after[votes + more] = after.get(votes + more, 0.0) + chance * further[more]
        going = {}
        for votes, chance in after.items():
            sums = np.array([votes, draws - votes])
            if pilot_ends(Tally(draws, sums, sums, 1), BUDGET, STEPS_TARGET):
                yield draws, votes, chance
            else:
                going[votes] = chance


def too_high(draws: int, alpha: float, p: float, *, fixed: bool = False, least: float = 0.0) -> int:
    """The fewest votes whose lower bound exceeds a true score ``p``, and ``least``."""
    votes = np.arange(draws + 1)
    if fixed:
        lower = clopper_pearson_lower(draws, votes, alpha)
    else:
        lower = betting_lower(draws, votes, votes, alpha)
    wrong = lower > max(p, least)
    return int(wrong.argmax()) if wrong.any() else draws + 1


def failures(p: float, division: Division) -> dict[str, float]:
    """How often claims on each ground, or on any, are wrong if label 0 has the score ``p``."""
    truth = (p, 1 - p)
    majority = [
        [too_high(n, division.majority, one, least=0.5) if n else 1 for n in range(BUDGET + 1)]
        for one in truth
    ]
    # No majority is certified while the pilot goes on.
    names = ("betting", "majority", "fixed", "any")
    failed = dict.fromkeys(names, 0.0)
    for draws, votes, chance in pilots(p):
        label = 0 if 2 * votes >= draws else 1
        end = BUDGET - draws
        schedule = set(looks(end, STEPS_TARGET))
        alive = {name: np.zeros(end + 1) for name in names}
        for walk in alive.values():
            walk[0] = chance
        for count in range(1, end + 1):
            for name, walk in alive.items():
                walk[1:] = p * walk[:-1] + (1 - p) * walk[1:]
                walk[0] *= 1 - p
                wrong = np.zeros(end + 1, dtype=bool)
                first = np.arange(end + 1)
                own = first if label == 0 else count - first
                if name in ("betting", "any") and count in schedule:
                    wrong |= own >= too_high(count, division.betting_label, truth[label])
                if name in ("fixed", "any") and count == end:
                    wrong |= own >= too_high(count, division.fixed_label, truth[label], fixed=True)
                if name in ("majority", "any"):
                    n = draws + count
                    wrong |= votes + first >= majority[0][n]
                    wrong |= n - votes - first >= majority[1][n]
                failed[name] += float(walk[wrong].sum())
                walk[wrong] = 0
    return failed


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("p", [0.5, 0.501, 0.55, 0.7, 0.95])
def test_the_certificates_are_wrong_with_at_most_their_share(confidence: float, p: float) -> None:
    division = divide(confidence, "votes", True, pair=True)
    failed = failures(p, division)
    print(f"{confidence} {p}", {name: f"{value:.4%}" for name, value in failed.items()})
    assert failed["betting"] <= division.betting_label
    assert failed["fixed"] <= division.fixed_label
    assert failed["majority"] <= 2 * division.majority
    assert failed["any"] <= CERTIFICATE_SHARE * (1 - confidence)


def test_wrong_shares_would_be_noticed() -> None:
    """If α were used twice, tied labels would fail more often than promised."""
    division = divide(0.8, "votes", True, pair=True)
    twice: dict[str, float] = {
        name: 2 * getattr(division, name) for name in ("betting_label", "fixed_label", "majority")
    }
    assert failures(0.5, replace(division, **twice))["any"] > CERTIFICATE_SHARE * (1 - 0.8)
    alone = replace(division, majority=4 * division.majority)
    assert failures(0.5, alone)["majority"] > 2 * division.majority
