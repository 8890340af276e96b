"""What an attacker could make of an answer, at every size: agrees with the certificate."""

import numpy as np
import pytest
from scipy import special

from models.certification.answer import Conclusion, Score, conclude
from models.certification.attacks import Attacks, attack_sizes, attacks
from models.certification.certificates import Mechanism
from models.certification.norms import Norm
from models.certification.procedure import Inquiry, Question, Terms
from models.certification.tally import DENOMINATORS, Scoring

LABELS = 6


def conclusion(
    scoring: Scoring, mechanism: Mechanism, norm: Norm, share: float, target: float | None = None
) -> tuple[Conclusion, Terms]:
    rng = np.random.default_rng(1)
    own: Norm = "l2" if mechanism == "gaussian" else "l1"
    terms = Terms(mechanism, 0.5, 0.6, own, 28 * 28, tau=1e-4, rho=1e-3)
    inquiry = Inquiry(Question(0.99, 1000, target, norm), terms, LABELS, scoring)
    while not inquiry.stopped:
        votes = np.where(rng.random(256) < share, 2, rng.integers(0, LABELS, 256))
        inquiry.add(np.eye(LABELS, dtype=np.int64)[votes] * DENOMINATORS[scoring])
    return conclude(inquiry, LABELS), terms


def tell(one: Conclusion, terms: Terms, sizes: list[float], shown: int = LABELS) -> Attacks:
    scores = one.scores[:shown]
    return attacks(scores, one.label, one.lower, one.upper, LABELS, terms, one.norm, sizes)


@pytest.mark.parametrize("share", [0.4, 0.8, 1.0])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("scoring", ["votes", "softmax"])
def test_the_label_clears_the_rest_where_it_is_certified_and_not_far_beyond(
    scoring: Scoring, mechanism: Mechanism, norm: Norm, share: float
) -> None:
    one, terms = conclusion(scoring, mechanism, norm, share)
    certified = one.certified_size
    assert certified > 0
    sizes = [0.0, certified / 2, certified, certified * 1.2]
    told = tell(one, terms, sizes)
    (own,) = (score for score in told.scores if score.index == one.label)
    rivals = np.max([score.upper for score in told.scores if score is not own], axis=0)
    # Three intervals are rounded to 1e-6; the size is exactly where they would touch.
    clears = np.array(own.lower) - rivals > -3e-6
    assert clears.tolist() == [True, True, True, False]


def test_intervals_only_widen_with_the_size() -> None:
    one, terms = conclusion("votes", "gaussian", "l2", 0.8)
    for score in tell(one, terms, attack_sizes(2.0, 50)).scores:
        assert (np.diff(score.lower) <= 0).all()
        assert (np.diff(score.upper) >= 0).all()
        assert (np.array(score.lower) <= score.upper).all()


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_they_lie_within_what_the_answer_tells_of_its_target(mechanism: Mechanism) -> None:
    one, terms = conclusion("votes", mechanism, "l2", 0.8, target=0.01)
    for told, score in zip(tell(one, terms, [0.01]).scores, one.scores, strict=True):
        assert score.attacked is not None
        assert told.lower[0] >= score.attacked.lower - 2e-6
        assert told.upper[0] <= score.attacked.upper + 2e-6


def test_no_half_space_can_be_moved_out_of_them() -> None:
    """y = 1[z > t], moved straight towards and away from t, is the worst that there is."""
    terms, sizes = Terms("gaussian", 0.5, 0.6, "l2", 100), [0.1, 0.5, 1.0]
    for threshold in np.linspace(-2, 2, 9):
        exact = float(special.ndtr(-threshold / 0.5))
        score = Score(0, exact, exact, exact, None)
        told = attacks([score], 0, exact, 1 - exact, 1, terms, "l2", sizes).scores[0]
        for size, lower, upper in zip(sizes, told.lower, told.upper, strict=True):
            down, up = (special.ndtr((sign * 0.6 * size - threshold) / 0.5) for sign in (-1, 1))
            assert lower <= down <= lower + 2e-6
            assert upper - 2e-6 <= up <= upper


def test_labels_that_are_not_shown_are_bounded_together() -> None:
    one, terms = conclusion("votes", "gaussian", "l2", 0.8)
    sizes = [0.0, 0.3]
    every, few = tell(one, terms, sizes), tell(one, terms, sizes, shown=2)
    assert every.others is None
    assert few.others is not None
    assert few.scores == every.scores[:2]
    for hidden in every.scores[2:]:
        assert all(np.array(few.others) >= hidden.upper)


def test_contradicting_bounds_do_not_turn_an_interval_over() -> None:
    terms = Terms("gaussian", 0.5, 1.0, "l2", 100)
    scores = [Score(0, 0.5, 0.45, 0.55, None), Score(1, 0.4, 0.35, 0.45, None)]
    for told in attacks(scores, 0, 0.7, 0.1, 2, terms, "l2", [0.0]).scores:
        assert told.lower[0] <= told.upper[0]


@pytest.mark.parametrize("largest", [1e-7, 0.0437, 1.616, 987.6])
def test_sizes_are_even_short_and_reach_beyond_the_largest(largest: float) -> None:
    sizes = attack_sizes(largest, 101)
    assert len(sizes) == 101
    assert sizes[0] == 0
    assert 1.25 * largest <= sizes[-1] < 1.4 * largest
    np.testing.assert_allclose(np.diff(sizes), sizes[1], rtol=1e-6)
    assert sizes[1] == float(f"{sizes[1]:.2g}")
