import numpy as np
import pytest
from scipy import optimize, stats

from models.evaluation.figures import (
    Answers,
    attacked_accuracy,
    certified_at,
    certified_curve,
    disagreement,
    interval,
)

RIGHT = np.array([True, True, True, True, False, False, True, False])
SIZES = np.array([0.0, 0.1, 0.2, 0.3, 0.25, 0.0, 0.2, 0.05])


def test_the_definitions_on_eight_pictures() -> None:
    at = certified_at(0.2, RIGHT, SIZES)
    # Robust: the third, fourth, fifth and seventh; the fifth is wrong.
    assert at.accuracy == 3 / 8
    assert at.fraction == 4 / 8
    assert at.precision == 3 / 4
    assert at.recall == 3 / 5
    assert at.accuracy_interval == interval(3, 8)
    assert at.precision_interval == interval(3, 4)
    assert at.recall_interval == interval(3, 5)


def test_an_abstention_fails_at_every_threshold_even_at_none() -> None:
    at = certified_at(0.0, RIGHT, SIZES)
    assert (at.accuracy, at.fraction) == (4 / 8, 6 / 8)


def test_shares_of_nothing_are_unknown() -> None:
    beyond = certified_at(0.31, RIGHT, SIZES)
    assert (beyond.accuracy, beyond.fraction, beyond.recall) == (0, 0, 0)
    assert beyond.precision is beyond.precision_interval is None
    wrong = certified_at(0.1, ~np.ones(8, dtype=bool), SIZES)
    assert wrong.recall is wrong.recall_interval is None
    assert wrong.precision == 0


@pytest.mark.parametrize(("count", "of"), [(0, 10), (10, 10), (3, 10), (989, 1000)])
def test_intervals_are_those_of_clopper_and_pearson(count: int, of: int) -> None:
    """By definition: at each end, the count has a tail probability of 2.5 %."""
    low, high = interval(count, of)
    if count:
        by_hand = optimize.brentq(lambda p: stats.binom.sf(count - 1, of, p) - 0.025, 1e-9, 1)
        assert low == pytest.approx(by_hand, abs=1e-9)
    else:
        assert low == 0
    if count < of:
        by_hand = optimize.brentq(lambda p: stats.binom.cdf(count, of, p) - 0.025, 0, 1 - 1e-9)
        assert high == pytest.approx(by_hand, abs=1e-9)
    else:
        assert high == 1


@pytest.mark.parametrize("largest", [3e-5, 0.3, 1.0, 1.29, 7.0, 4321.0])
def test_the_curve_is_fine_and_falls_to_zero(largest: float) -> None:
    sizes = np.linspace(0, largest, 500)
    curve = certified_curve(np.ones(500, dtype=bool), sizes)
    assert 25 <= len(curve) <= 103
    radii = [at.radius for at in curve]
    assert radii[0] == 0
    assert np.allclose(np.diff(radii), radii[1])
    assert (np.diff([at.accuracy for at in curve]) <= 0).all()
    assert curve[0].accuracy == 499 / 500
    assert radii[-2] <= largest < radii[-1]
    assert curve[-1].accuracy == 0


def test_a_curve_of_abstentions_is_one_point() -> None:
    (only,) = certified_curve(RIGHT, np.zeros(8))
    assert (only.radius, only.accuracy, only.precision) == (0, 0, None)


def test_accuracy_under_attack_counts_the_right_labels() -> None:
    found = attacked_accuracy(0.5, RIGHT, SIZES, (0.2, 1.0))
    assert (found.radius, found.accuracy) == (0.5, 5 / 8)
    assert found.accuracy_interval == interval(5, 8)
    assert found.robust == tuple(certified_at(radius, RIGHT, SIZES) for radius in (0.2, 1.0))


def test_two_answers_to_eight_pictures() -> None:
    leaders = np.array([0, 1, 2, 3, 4, 5, 6, 7])
    others = np.array([0, 1, 2, 3, 4, 5, 7, 6])
    sizes = np.array([0.0, 0.1, 0.2, 0.3, 0.15, 0.0, 0.1, 0.2])
    one, other = Answers(leaders, SIZES, SIZES, 512), Answers(others, sizes, SIZES, 512)
    labels, robust = disagreement(one, other, (0.05, 0.2, 1.0))
    assert labels == (2 / 8, interval(2, 8))
    # The eighth reaches 0.05 in both; at 0.2 it is the fifth, the seventh and the eighth.
    assert [(at.radius, at.share) for at in robust] == [(0.05, 0), (0.2, 3 / 8), (1.0, 0)]
    assert [at.share_interval for at in robust] == [interval(count, 8) for count in (0, 3, 0)]
    assert disagreement(one, one, (0.2,))[0][0] == 0
