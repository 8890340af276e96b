"""The statistics of self-checks: how often they fail by chance, and what they find."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from models.certification.names import Scoring
from models.certification.tally import Tally
from service.engine.check import (
    RECENT_CHECKS,
    REFERENCE_DRAWS,
    Recent,
    Reference,
    WrongAnswerError,
    differing,
    tails,
)
from service.engine.probe import DRAWS

YEARS, WORKERS, MODELS = 100, 1000, 10
CHECKS = WORKERS * MODELS * YEARS * Fraction("365.25") * 24 * 60


def votes(*sums: int) -> Tally:
    counts = np.array(sums)
    return Tally(int(counts.sum()), counts, counts, 1)


def law(n: int, m: int, together: int) -> dict[int, Fraction]:
    """The distribution of how many of ``together`` votes are among the first n of n + m draws."""
    of = comb(n + m, n)
    least, most = max(together - m, 0), min(n, together)
    return {
        x: Fraction(comb(together, x) * comb(n + m - together, n - x), of)
        for x in range(least, most + 1)
    }


@pytest.mark.parametrize(("n", "m"), [(5, 9), (64, 64), (64, 1024), (1024, 1024)])
def test_tails_are_those_of_the_exact_law(n: int, m: int) -> None:
    for together in (1, 3, n // 2, n, n + 1, m, n + m - 1):
        chances = law(n, m, together)
        for x in list(chances)[:: max(len(chances) // 20, 1)]:
            one, other = votes(x, n - x), votes(together - x, m - together + x)
            at_least = sum(chance for value, chance in chances.items() if value >= x)
            assert tails(one, other)[0] == pytest.approx(float(at_least), rel=1e-9)


def alarms(n: int, m: int, together: int) -> Fraction:
    """The exact chance that the tallies of two labels are judged different, given their votes."""
    chances = law(n, m, together)
    return sum(
        (
            chance
            for x, chance in chances.items()
            if differing(votes(together - x, m - together + x), votes(x, n - x)) is not None
        ),
        start=Fraction(0),
    )


@pytest.mark.parametrize("part", [0, 0.01, 0.1, 0.5, 0.9])
def test_a_fleet_has_no_false_alarm_in_a_hundred_years(part: float) -> None:
    """By the exact law, whatever the network's votes are; and the test is not needlessly weak."""
    worst = Fraction(0)
    for n in (DRAWS, DRAWS * RECENT_CHECKS):
        together = [max(round(part * (n + REFERENCE_DRAWS)) + more, 1) for more in range(3)]
        worst += max(alarms(n, REFERENCE_DRAWS, one) for one in together)
    assert CHECKS * worst < Fraction(1, 20)
    # If a label has few votes, no number of them is unlikely enough.
    assert part < 0.1 or CHECKS * worst > Fraction(1, 10_000)


def draw(
    rng: np.random.Generator, shares: list[float], scoring: Scoring = "votes", draws: int = DRAWS
) -> Tally:
    labels = rng.choice(len(shares), size=draws, p=shares)
    scores = np.eye(len(shares), dtype=np.int64)[labels]
    if scoring == "softmax":
        # 98 % for the leading label, the remainder for the others.
        scores = (scores * 0.97 + 0.01) * 2**20 / (0.97 + 0.01 * len(shares))
    return Tally.of(scores.astype(np.int64), scoring)


def fill(rng: np.random.Generator, shares: list[float], scoring: Scoring = "votes") -> Reference:
    reference = Reference()
    while not reference.full:
        reference.compare(draw(rng, shares, scoring), Recent())
    return reference


SHARES = {"one label": [1.0, 0.0, 0.0], "even": [0.34, 0.33, 0.33], "most": [0.0, 0.9, 0.1]}


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_an_unchanged_worker_passes(shares: list[float], scoring: Scoring) -> None:
    rng = np.random.default_rng(0)
    reference, recent = fill(rng, shares, scoring), Recent()
    for _ in range(1000):
        reference.compare(draw(rng, shares, scoring), recent)


def checks_until_found(before: list[float], after: list[float], scoring: Scoring) -> int:
    """After how many checks a change is found in a worker that had passed many."""
    rng = np.random.default_rng(1)
    reference, recent = fill(rng, before, scoring), Recent()
    for _ in range(2 * RECENT_CHECKS):
        reference.compare(draw(rng, before, scoring), recent)
    for count in range(1, 1000):
        try:
            reference.compare(draw(rng, after, scoring), recent)
        except WrongAnswerError:
            return count
    return 1000


@pytest.mark.parametrize(
    ("before", "after", "scoring", "most"),
    [
        ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], "votes", 1),
        ([1.0, 0.0, 0.0], [0.6, 0.2, 0.2], "votes", 1),
        ([1.0, 0.0, 0.0], [0.94, 0.06, 0.0], "votes", RECENT_CHECKS),
        ([0.4, 0.3, 0.3], [1.0, 0.0, 0.0], "votes", 1),
        ([0.4, 0.3, 0.3], [0.6, 0.2, 0.2], "votes", RECENT_CHECKS),
        ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], "softmax", 1),
        ([1.0, 0.0, 0.0], [0.8, 0.2, 0.0], "softmax", RECENT_CHECKS),
    ],
)
def test_a_change_is_found(
    before: list[float], after: list[float], scoring: Scoring, most: int
) -> None:
    assert checks_until_found(before, after, scoring) <= most


@pytest.mark.parametrize(("part", "checks"), [(Fraction(1, 3), 1), (Fraction(6, 100), 16)])
def test_it_finds_what_it_promises_to_find(part: Fraction, checks: int) -> None:
    """With ten labels, and a picture whose votes all agreed, by the exact binomial law."""
    rest, draws = [0] * 8, checks * DRAWS
    reference = votes(REFERENCE_DRAWS, 0, *rest)
    found = sum(
        comb(draws, wrong) * part**wrong * (1 - part) ** (draws - wrong)
        for wrong in range(draws + 1)
        if differing(reference, votes(draws - wrong, wrong, *rest)) is not None
    )
    assert found > Fraction(95, 100)


def test_logits_that_are_no_numbers_are_found_at_once() -> None:
    """Such draws vote for no label."""
    reference = fill(np.random.default_rng(0), [0.5, 0.5])
    nothing = Tally(DRAWS, np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64), 1)
    with pytest.raises(WrongAnswerError, match=r"of 64 draws for the probe picture 0\.0% are of"):
        reference.compare(nothing, Recent())


def test_a_failed_check_does_not_enter_the_reference() -> None:
    reference = Reference()
    right, wrong = votes(DRAWS, 0), votes(0, DRAWS)
    reference.compare(right, Recent())
    for _ in range(3):
        with pytest.raises(WrongAnswerError):
            reference.compare(wrong, Recent())
        reference.compare(right, Recent())
