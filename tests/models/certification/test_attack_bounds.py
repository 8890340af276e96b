"""What an attacker could make of an answer at every size agrees with the certificate."""

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from models.certification.answer import Conclusion, conclude
from models.certification.attack_bounds import (
    Attacks,
    Known,
    _significant,
    attack_sizes,
    attacks,
    known,
    reached,
    stated,
)
from models.certification.certificates import DEFAULTS
from models.certification.inquiry import Inquiry
from models.certification.names import CONTINUOUS, MECHANISM_NORMS, NORMS, Mechanism, Norm, Scoring
from models.certification.question import Question
from models.certification.tally import DENOMINATORS
from models.certification.terms import Delta, Terms

LABELS = 6


def inquire(
    scoring: Scoring, mechanism: Mechanism, norm: Norm, share: float, target: float | None = None
) -> Inquiry:
    rng = np.random.default_rng(1)
    own: Norm = "l2" if mechanism == "gaussian" else "l1"
    further = (Delta("l2", "l2", 0.6, 1e-4),) if mechanism == "laplace" else ()
    terms = Terms(mechanism, 0.5, 0.6, own, 28 * 28, tau=1e-4, rho=1e-3, further=further)
    inquiry = Inquiry(Question(0.99, 1000, target, norm), terms, LABELS, scoring)
    while not inquiry.stopped:
        votes = np.where(rng.random(256) < share, 2, rng.integers(0, LABELS, 256))
        inquiry.add(np.eye(LABELS, dtype=np.int64)[votes] * DENOMINATORS[scoring])
    return inquiry


def tell(inquiry: Inquiry, sizes: list[float], shown: int = LABELS) -> tuple[Conclusion, Attacks]:
    one = conclude(inquiry, shown)
    assert inquiry.findings is not None
    total, labels = inquiry.total, [score.index for score in one.scores]
    # The intervals shown lie within these before rounding.
    lower, upper = (
        np.array([getattr(score, end) for score in one.scores]) for end in ("lower", "upper")
    )
    of_scores = known(
        labels, lower, upper, len(total.sums), inquiry.findings.bounds, one.certified_size
    )
    return one, attacks(of_scores, inquiry.terms, inquiry.question.norm, sizes)


@pytest.mark.parametrize("share", [0.4, 0.8, 1.0])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace", "exponential"])
@pytest.mark.parametrize("scoring", ["votes", "softmax"])
def test_the_label_stays_ahead_where_it_is_certified_and_not_far_beyond(
    scoring: Scoring, mechanism: Mechanism, norm: Norm, share: float
) -> None:
    inquiry = inquire(scoring, mechanism, norm, share)
    certified = inquiry.size
    assert certified > 0
    _, told = tell(inquiry, [0.0, certified / 2, certified, certified * 1.2])
    rivals = np.max([score.upper for score in told.scores[1:]], axis=0)
    clears = np.array(told.scores[0].lower) > rivals
    assert clears.tolist() == [True, True, True, False]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace", "exponential"])
@pytest.mark.parametrize("scoring", ["votes", "softmax"])
def test_a_robust_answer_says_so_in_every_number(
    scoring: Scoring, mechanism: Mechanism, norm: Norm
) -> None:
    """At exactly the certified size, the label's interval is above the others."""
    robust = 0
    for share in (0.5, 0.7, 0.9, 1.0):
        size = inquire(scoring, mechanism, norm, share).size
        for target in (size * 0.3, size * 0.7, size):
            one = conclude(inquire(scoring, mechanism, norm, share, target), LABELS)
            ends = [score.attacked for score in one.scores]
            assert all(ends)
            if one.robust:
                robust += 1
                assert ends[0].lower > max(end.upper for end in ends[1:])  # type: ignore[union-attr]
    assert robust >= 6


def cases(seed: int) -> Iterator[tuple[Terms, float, float, list[Any]]]:
    """Terms and bounds of every kind: near ties, near certainty, tiny and huge scales."""
    rng = np.random.default_rng(seed)
    for _ in range(150):
        mechanism: Mechanism = rng.choice(CONTINUOUS)
        values = int(rng.choice([1, 784, 3 * 224 * 224]))
        tau, rho = (float(rng.choice([0, 10 ** rng.uniform(-12, -3)])) for _ in range(2))
        deltas = [
            Delta(source, target, float(10 ** rng.uniform(-1, 1)), rho)
            for target in DEFAULTS[mechanism]
            for source in NORMS
            if rng.random() < 0.6
        ]
        terms = Terms(
            mechanism,
            float(10 ** rng.uniform(-3, 3)),
            float(10 ** rng.uniform(-2, 2)),
            rng.choice(NORMS),
            values,
            tau,
            rho,
            tuple(deltas),
        )
        upper = float(rng.choice([rng.uniform(0, 0.5), 10 ** rng.uniform(-9, -1)]))
        gap = float(rng.choice([rng.uniform(0, 1 - 2 * upper), 10 ** rng.uniform(-13, -1)]))
        lower = min(upper + gap, 1 - upper)
        yield terms, lower, upper, [rng.uniform(0, lower), rng.uniform(upper, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_it_stays_ahead_at_its_own_certified_size_whatever_the_terms(seed: int) -> None:
    certified = 0
    for terms, lower, upper, (own_lower, rival_upper) in cases(seed):
        for norm in NORMS:
            size = terms.answered(lower, upper, norm)
            if size == 0:
                continue
            certified += 1
            of_scores = known(
                [4, 1],
                np.array([own_lower, 0.0]),
                np.array([1.0, rival_upper]),
                3,
                (lower, upper),
                size,
            )
            low, high = reached(of_scores, terms, norm, size)
            plot = attacks(of_scores, terms, norm, [0.0, size / 3, size])
            assert low[0] > high[1], (terms, lower, upper, norm)
            assert plot.others is not None
            for column in range(3):
                most = max(plot.scores[1].upper[column], plot.others[column])
                assert plot.scores[0].lower[column] > most, (terms, lower, upper, norm)
    assert certified > 100


def test_finer_digits_stay_outside_of_what_is_exact() -> None:
    """However many digits are shown, lower ends are rounded down and upper ends up."""
    finer = 0
    for terms, lower, upper, _ in cases(11):
        for norm in NORMS:
            size = terms.answered(lower, upper, norm)
            if size == 0:
                continue
            of_scores = known([0], np.array([0.0]), np.array([1.0]), 2, (lower, upper), size)
            low, high = stated(of_scores, terms, norm, [size], *_significant(6))
            exact = terms.attacked(of_scores.lower, of_scores.upper, [size], norm)
            assert (low <= exact[0]).all()
            assert (high >= exact[1]).all()
            finer += float(f"{low[0, 0]:.5e}") != low[0, 0]
    assert finer > 20


def test_intervals_only_widen_with_the_size() -> None:
    inquiry = inquire("votes", "gaussian", "l2", 0.8)
    for score in tell(inquiry, attack_sizes(2.0, 50))[1].scores:
        assert (np.diff(score.lower) <= 1e-6).all()
        assert (np.diff(score.upper) >= -1e-6).all()
        assert (np.array(score.lower) <= score.upper).all()


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace", "exponential"])
def test_they_agree_with_the_answers_attacked_bounds_at_its_target(mechanism: Mechanism) -> None:
    inquiry = inquire("votes", mechanism, "l2", 0.8, target=0.01)
    one = conclude(inquiry, LABELS, 3)
    assert one.attacks is not None
    _, told = tell(inquiry, [0.01])
    for reach, score in zip(told.scores, one.scores, strict=True):
        assert score.attacked is not None
        assert reach.lower[0] == pytest.approx(score.attacked.lower, abs=1e-5)
        assert reach.upper[0] == pytest.approx(score.attacked.upper, abs=1e-5)


def exactly(score: float) -> Known:
    return Known([0], np.array([score, 0.0]), np.array([score, 1 - score]), False, 0.0)


def test_no_half_spaces_score_can_be_moved_out_of_them() -> None:
    """y = 1[z > t], moved straight towards or away from t, is the worst case."""
    terms, sizes = Terms("gaussian", 0.5, 0.6, "l2", 100), [0.1, 0.5, 1.0]
    for threshold in np.linspace(-2, 2, 9):
        exact = float(special.ndtr(-threshold / 0.5))
        told = attacks(exactly(exact), terms, "l2", sizes).scores[0]
        for size, lower, upper in zip(sizes, told.lower, told.upper, strict=True):
            down, up = (special.ndtr((sign * 0.6 * size - threshold) / 0.5) for sign in (-1, 1))
            assert lower <= down <= lower + 2e-6
            assert upper - 2e-6 <= up <= upper


@settings(max_examples=50)
@given(score=st.floats(0.01, 0.99), size=st.floats(0.01, 2), slack=st.floats(1, 3))
def test_every_bound_on_the_moves_of_g_narrows_them(
    score: float, size: float, slack: float
) -> None:
    for mechanism in CONTINUOUS:
        own = MECHANISM_NORMS[mechanism]
        terms = Terms(mechanism, 0.5, 1.0, own, 9)
        more = Terms(mechanism, 0.5, 1.0, own, 9, further=(Delta("linf", own, slack, 0.0),))
        for norm in NORMS:
            plain = attacks(exactly(score), terms, norm, [size]).scores[0]
            both = attacks(exactly(score), more, norm, [size]).scores[0]
            assert both.lower[0] >= plain.lower[0]
            assert both.upper[0] <= plain.upper[0]
    narrow = Terms("gaussian", 0.5, 1.0, "l2", 9, further=(Delta("linf", "l2", 1.0, 0.0),))
    alone = Terms("gaussian", 0.5, 1.0, "linf", 9)
    assert attacks(exactly(score), narrow, "linf", [size]) == attacks(
        exactly(score), alone, "linf", [size]
    )


def test_labels_that_are_not_shown_are_bounded_together() -> None:
    inquiry = inquire("votes", "gaussian", "l2", 0.8)
    sizes = [0.0, 0.3]
    every, few = tell(inquiry, sizes)[1], tell(inquiry, sizes, shown=2)[1]
    assert every.others is None
    assert few.others is not None
    assert few.scores == every.scores[:2]
    for hidden in every.scores[2:]:
        assert all(np.array(few.others) >= hidden.upper)


def test_contradictory_bounds_do_not_reverse_an_interval() -> None:
    terms = Terms("gaussian", 0.5, 1.0, "l2", 100)
    of_scores = known([0, 1], np.array([0.45, 0.35]), np.array([0.55, 0.45]), 2, (0.7, 0.1), 0.5)
    for told in attacks(of_scores, terms, "l2", [0.0]).scores:
        assert told.lower[0] <= told.upper[0]


@pytest.mark.parametrize("largest", [1e-7, 0.0437, 1.616, 987.6])
def test_sizes_are_even_short_and_reach_beyond_the_largest(largest: float) -> None:
    sizes = attack_sizes(largest, 101)
    assert len(sizes) == 101
    assert sizes[0] == 0
    assert 1.25 * largest <= sizes[-1] < 1.4 * largest
    np.testing.assert_allclose(np.diff(sizes), sizes[1], rtol=1e-6)
    assert sizes[1] == float(f"{sizes[1]:.2g}")


@pytest.mark.parametrize("whole", [1, 2, 3, 50, 783])
def test_l1_attacks_near_an_integer_are_those_of_their_largest_change(whole: int) -> None:
    """⌊T⌋ entries of ±1, and one with the remainder."""
    terms = Terms("gaussian", 0.5, 1.0, "l2", 784)
    for size in (whole * (1 - 1e-12), float(whole), whole * (1 + 1e-12), whole + 0.5):
        rest = size - int(size)
        moved = sqrt(int(size) + rest**2) / 0.5
        told = attacks(exactly(0.9), terms, "l1", [size]).scores[0]
        exact = float(special.ndtr(special.ndtri(0.9) - moved))
        assert exact - 1.1e-6 <= told.lower[0] <= exact
