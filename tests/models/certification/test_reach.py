"""What is promised for a budget is what would be answered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.certification.inquiry import Inquiry
from models.certification.interval import IntervalInquiry, IntervalTerms
from models.certification.kinds import SizeInquiry, first_look, terms_kind
from models.certification.names import MECHANISM_NORMS, MECHANISMS, SCORINGS, Norm, Scoring
from models.certification.question import Question
from models.certification.reach import draws_needed, reachable_size
from models.certification.split import SplitInquiry, SplitTerms
from models.certification.tally import DENOMINATORS
from models.certification.terms import Terms

TERMS = Terms("gaussian", 1.0, 1.0, "l2", 784)


def agreeing(question: Question, terms: Terms, scoring: Scoring, labels: int = 10) -> Inquiry:
    """An inquiry in which every draw of the budget gives label 3 the whole score."""
    inquiry = Inquiry(question, terms, labels, scoring)
    scores = np.zeros((question.max_draws, labels), dtype=np.int64)
    scores[:, 3] = DENOMINATORS[scoring]
    inquiry.add(scores)
    return inquiry


@pytest.mark.parametrize("scoring", SCORINGS)
@given(
    max_draws=st.integers(64, 3000),
    confidence=st.floats(0.5, 1 - 1e-7),
    scale=st.floats(0.1, 5),
    norm=st.sampled_from(["l1", "l2", "linf"]),
    mechanism=st.sampled_from(["gaussian", "laplace"]),
)
def test_reachable_size_is_answered_when_all_agree(
    scoring: Scoring,
    max_draws: int,
    confidence: float,
    scale: float,
    norm: Norm,
    mechanism: str,
) -> None:
    terms = Terms(mechanism, scale, 1.0, "l2", 784, tau=1e-9, rho=1e-6)  # type: ignore[arg-type]
    question = Question(confidence, max_draws, None, norm)
    inquiry = agreeing(question, terms, scoring)
    assert inquiry.stopped == "max_draws"
    assert inquiry.size == reachable_size(question, terms, scoring, 10)


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("target", [0.2, 1.0, 1.5, 2.3])
@pytest.mark.parametrize("confidence", [0.9, 0.999, 1 - 1e-6])
def test_draws_needed_is_the_exact_threshold(
    scoring: Scoring, target: float, confidence: float
) -> None:
    question = Question(confidence, 64, target, "l2")
    needed = draws_needed(question, TERMS, scoring, 10)
    assert needed is not None
    enough = agreeing(Question(confidence, needed, target, "l2"), TERMS, scoring)
    assert enough.stopped == "target_certified"
    assert enough.size >= target
    if needed > 64:
        fewer = agreeing(Question(confidence, needed - 1, target, "l2"), TERMS, scoring)
        assert fewer.size < target
        assert fewer.stopped in ("max_draws", "target_out_of_reach")


@pytest.mark.parametrize("scoring", SCORINGS)
def test_draws_needed_without_a_target_asks_for_any_size(scoring: Scoring) -> None:
    assert draws_needed(Question(0.95, 64, None, "l2"), TERMS, scoring, 10) == 64
    demanding = Question(1 - 1e-15, 64, None, "l2")
    needed = draws_needed(demanding, TERMS, scoring, 10)
    assert needed is not None
    assert needed > 64
    assert reachable_size(Question(1 - 1e-15, needed, None, "l2"), TERMS, scoring, 10) > 0
    assert reachable_size(Question(1 - 1e-15, needed - 1, None, "l2"), TERMS, scoring, 10) == 0


@pytest.mark.parametrize("scoring", SCORINGS)
def test_targets_that_take_very_many_draws(scoring: Scoring) -> None:
    """Sums of squares of 10⁹ soft draws do not fit into int64, but the threshold is found."""
    needed = draws_needed(Question(0.999, 64, 5.0, "l2"), TERMS, scoring, 10)
    assert needed is not None
    assert 10**7 < needed < 10**8
    assert draws_needed(Question(0.999, 64, 20.0, "l2"), TERMS, scoring, 10) is None


def test_reference_figures_at_confidence_999() -> None:
    """In σ/Δ, with a target and the pilot deducted; the figures are truncated to two digits."""
    for draws, most in [(100, 1.30), (300, 1.89), (1000, 2.38), (10_000, 3.14), (100_000, 3.76)]:
        found = reachable_size(Question(0.999, draws, 0.1, "l2"), TERMS, "votes", 10)
        assert most <= found < most + 0.0101


@given(draws=st.integers(64, 2000), confidence=st.floats(0.5, 1 - 1e-9))
def test_more_draws_and_less_confidence_reach_further(draws: int, confidence: float) -> None:
    here = reachable_size(Question(confidence, draws, None, "l2"), TERMS, "votes", 10)
    assert reachable_size(Question(confidence, draws + 1, None, "l2"), TERMS, "votes", 10) >= here
    less = 1 - (1 - confidence) * 1.5
    assert reachable_size(Question(less, draws, None, "l2"), TERMS, "votes", 10) >= here


@pytest.mark.parametrize("target", [None, 0.5])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_first_look_comes_when_it_is_said_to(mechanism: str, target: float | None) -> None:
    scale, norm = 0.5, MECHANISM_NORMS[mechanism]
    question = Question(0.99, 1000, target, norm)
    terms = terms_kind(mechanism)(mechanism, scale, 1.0, norm, 784)
    inquiry: SizeInquiry
    if isinstance(terms, SplitTerms):
        inquiry = SplitInquiry(question, terms, 3, np.arange)
    elif isinstance(terms, IntervalTerms):
        inquiry = IntervalInquiry(question, terms, 3)
    else:
        inquiry = Inquiry(question, terms, 3, "votes")
    for _ in range(first_look(question, mechanism)):
        assert not inquiry.look
        inquiry.add(np.array([1]))
    assert inquiry.look == 1


def test_the_first_look_at_stickers_is_at_all_views() -> None:
    assert first_look(Question(1.0, 64, 3, "l2", masks=5), "gaussian") == 25
