"""Everything that is fixed before the first counted draw."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.certification.division import (
    LEAST_DRAWS,
    STEPS_SIZE,
    STEPS_TARGET,
    Steps,
    divide,
    looks,
    pilot_ends,
    share_of_run,
)
from models.certification.names import SCORINGS, Scoring
from models.certification.tally import Tally


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("scoring", SCORINGS)
@given(confidence=st.floats(0.01, 1 - 1e-9))
def test_nothing_exceeds_alpha(scoring: Scoring, targeted: bool, confidence: float) -> None:
    division = divide(confidence, scoring, targeted)
    parts = [
        division.betting_label,
        division.betting_rival,
        division.fixed_label,
        division.fixed_rival,
        # Any label may have the majority: all labels together need twice the share of one.
        2 * division.majority,
        division.scores,
    ]
    assert all(part >= 0 for part in parts)
    total, alpha = sum(map(Fraction, parts)), 1 - Fraction(confidence)
    assert total <= alpha * (1 + Fraction(1, 2**50))
    assert total >= alpha * (1 - Fraction(1, 2**19))


def test_all_runs_together_have_alpha() -> None:
    """Runs are numbered by three counts, of which only the sum n matters."""
    shares = [Fraction(share_of_run(restarts)) for restarts in range(200)]
    together = sum(math.comb(n + 2, 2) * one for n, one in enumerate(shares))
    assert 1 - Fraction(1, 2**50) <= together <= 1 + Fraction(1, 2**50)
    assert 1 - shares[0] < Fraction(1, 10**6), "pictures that never begin again lose nothing"
    first, second = divide(0.95, "votes", True), divide(0.95, "votes", True, restarts=1)
    assert second.betting_label == pytest.approx(first.betting_label * share_of_run(1), rel=1e-6)


def test_shares() -> None:
    size, target = divide(0.999, "votes", False), divide(0.999, "votes", True)
    assert size.betting_label == pytest.approx(0.001 * 0.9 * 0.1 * 0.8)
    assert size.fixed_rival == pytest.approx(0.001 * 0.9 * 0.9 * 0.2)
    assert target.betting_rival == pytest.approx(0.001 * 0.9 * 0.1 / 2)
    assert target.fixed_label == pytest.approx(0.001 * 0.9 * 0.5 / 2)
    assert target.majority == pytest.approx(0.001 * 0.9 * 0.4 / 2)
    assert target.of("majority") == (target.majority, 0.0)
    assert target.whole("majority") == 2 * target.majority
    assert size.majority == 0
    assert size.scores == target.scores == pytest.approx(0.0001)
    for targeted in (False, True):
        soft = divide(0.999, "softmax", targeted)
        assert soft.fixed_label == soft.fixed_rival == soft.majority == 0
        assert soft.betting_label == soft.betting_rival == pytest.approx(0.00045)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.1, 1.1, float("nan")])
def test_confidence_outside_zero_and_one_raises(confidence: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        divide(confidence, "votes", True)


@pytest.mark.parametrize("steps", [STEPS_SIZE, STEPS_TARGET])
@given(counted=st.integers(1, 200_000))
def test_looks(steps: Steps, counted: int) -> None:
    schedule = looks(counted, steps)
    assert schedule[0] == min(steps.first, counted)
    assert schedule[-1] == counted
    assert all(a < b for a, b in pairwise(schedule))
    for a, b in pairwise(schedule[:-1]):
        assert (b - a) % steps.step == 0
        assert b - a == max(steps.step, int(steps.growth * a) // steps.step * steps.step)


def test_looks_of_the_usual_budget() -> None:
    assert looks(968, STEPS_SIZE) == (
        *range(32, 449, 32),
        512,
        576,
        640,
        736,
        832,
        928,
        968,
    )
    assert looks(32, STEPS_SIZE) == (32,)
    assert len(looks(100_000, STEPS_SIZE)) < 60
    # With a target in steps of 8, and from 256 on in steps of a sixteenth.
    fine = looks(984, STEPS_TARGET)
    assert fine[:33] == (*range(8, 257, 8), 272)
    assert len(fine) == 58
    assert len(looks(100_000, STEPS_TARGET)) < 140


def tally(draws: int, *sums: int) -> Tally:
    return Tally(draws, np.array(sums), np.array(sums), 1)


def test_the_pilot_ends_at_once_on_a_clear_lead() -> None:
    assert not pilot_ends(tally(31, 31, 0), 1000, STEPS_SIZE)
    assert pilot_ends(tally(32, 32, 0), 1000, STEPS_SIZE)
    # A lead of l in n votes has a standard error of √(first + second − l²/n).
    assert pilot_ends(tally(32, 22, 10), 1000, STEPS_SIZE)  # 12 > 2·√(32 − 4.5)
    assert not pilot_ends(tally(32, 21, 11), 1000, STEPS_SIZE)  # 10 < 2·√(32 − 3.1)
    assert not pilot_ends(tally(32, 16, 16), 1000, STEPS_SIZE)


def test_the_pilot_goes_on_in_blocks_and_ends_at_128() -> None:
    for draws in (33, 48, 63, 65, 127):
        assert not pilot_ends(tally(draws, draws, 0), 1000, STEPS_SIZE)
    for draws in (32, 64, 96):
        assert not pilot_ends(tally(draws, draws // 2, draws // 2), 1000, STEPS_SIZE)
    assert pilot_ends(tally(128, 64, 64), 1000, STEPS_SIZE)
    assert pilot_ends(tally(64, 44, 20), 1000, STEPS_SIZE)


def test_the_pilot_leaves_room_for_the_first_look() -> None:
    even = tally(32, 16, 16)
    assert LEAST_DRAWS == 64
    assert pilot_ends(even, 64, STEPS_SIZE)
    assert pilot_ends(even, 95, STEPS_SIZE)
    assert not pilot_ends(even, 96, STEPS_SIZE)
    assert pilot_ends(tally(64, 32, 32), 127, STEPS_SIZE)
    assert not pilot_ends(tally(64, 32, 32), 128, STEPS_SIZE)


def test_the_pilot_with_a_target_is_shorter() -> None:
    assert not pilot_ends(tally(15, 15, 0), 1000, STEPS_TARGET)
    assert pilot_ends(tally(16, 16, 0), 1000, STEPS_TARGET)
    assert pilot_ends(tally(16, 12, 4), 1000, STEPS_TARGET)  # 8 > 2·√(16 − 4)
    assert not pilot_ends(tally(16, 11, 5), 1000, STEPS_TARGET)  # 6 < 2·√(16 − 2.25)
    assert not pilot_ends(tally(48, 24, 24), 1000, STEPS_TARGET)
    assert pilot_ends(tally(64, 32, 32), 1000, STEPS_TARGET)
    assert not pilot_ends(tally(32, 16, 16), LEAST_DRAWS, STEPS_TARGET)
    assert pilot_ends(tally(48, 24, 24), LEAST_DRAWS, STEPS_TARGET)


def test_the_pilot_of_scores_that_say_nothing_goes_to_its_limit() -> None:
    assert not pilot_ends(tally(96, 0, 0, 0), 1000, STEPS_SIZE)
    assert pilot_ends(tally(128, 0, 0, 0), 1000, STEPS_SIZE)


def test_the_pilot_of_soft_scores_measures_their_own_spread() -> None:
    unit = 2**20
    mild = np.array([[unit * 66 // 100, unit * 34 // 100]] * 32)
    wild = np.array([[unit, 0]] * 21 + [[0, unit]] * 11)
    assert mild.mean(axis=0)[0] == pytest.approx(wild.mean(axis=0)[0], rel=0.01)
    assert pilot_ends(Tally.of(mild, "softmax"), 1000, STEPS_SIZE)
    assert not pilot_ends(Tally.of(wild, "softmax"), 1000, STEPS_SIZE)
