"""The answer to one question, in the numbers that clients read."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.certification.answer import Conclusion, conclude
from models.certification.bounds import bounds
from models.certification.certificates import attacked, size
from models.certification.inquiry import Inquiry
from models.certification.names import NORMS, Norm, Scoring
from models.certification.norms import convert
from models.certification.question import Question
from models.certification.reach import reachable_size
from models.certification.rounding import reduce_size, round_down
from models.certification.tally import draw_scores
from models.certification.terms import Terms

TERMS = Terms("gaussian", 0.5, 1.0, "l2", 784)
SIZE = Question(0.999, 1000, None, "l2")


def all_for(label: int, count: int, labels: int) -> Any:
    scores = np.zeros((count, labels), dtype=np.int64)
    scores[:, label] = 1
    return scores


def answered(
    question: Question,
    draws: Any,
    scoring: Scoring = "votes",
    terms: Terms = TERMS,
    shown: int = 10,
) -> Conclusion:
    inquiry = Inquiry(question, terms, draws.shape[1], scoring)
    inquiry.add(draws)
    return conclude(inquiry, shown)


def mixed(seed: int, labels: int = 10, count: int = 1000) -> Any:
    rng = np.random.default_rng(seed)
    centre = np.zeros(labels)
    centre[4], centre[2] = 4.0, 1.5
    return draw_scores(centre + rng.normal(0, 1, (count, labels)), "votes")


def test_the_figures_of_the_interface() -> None:
    """σ = ½, Δ = 1, ten labels, confidence .999, a target of ½, every draw agreeing."""
    found = answered(Question(0.999, 1000, 0.5, "l2"), all_for(7, 1000, 10), shown=1)
    assert found.label == 7
    assert found.robust is True
    assert found.draws == 61
    assert found.stopped == "target_certified"
    assert found.reachable
    assert found.certified_size == 0.504752
    assert (found.lower, found.upper) == (0.843633, 0.156367)
    assert found.sizes == {"l1": 0.504752, "l2": 0.504752, "linf": 0.0180268}
    assert (found.method, found.paper, found.paper_size) == (
        "gaussian",
        "pixeldp-gaussian",
        0.146199,
    )
    (score,) = found.scores
    assert (score.index, score.expected, score.lower, score.upper) == (7, 1.0, 0.793271, 1.0)
    assert score.attacked is not None
    assert (score.attacked.lower, score.attacked.upper) == (0.503792, 1.0)
    evidence = found.evidence
    assert (evidence.label, evidence.pilot_draws, evidence.draws) == (7, 16, 45)
    assert (evidence.denominator, evidence.bound) == (1, "majority")
    assert evidence.sums == evidence.sums_of_squares == [0] * 7 + [45, 0, 0]
    assert (evidence.tau, evidence.rho) == (0, 0)


def test_nothing_is_concluded_before_the_first_look() -> None:
    inquiry = Inquiry(SIZE, TERMS, 3, "votes")
    inquiry.add(all_for(0, 63, 3))
    with pytest.raises(ValueError, match="before the first look"):
        conclude(inquiry, 3)


def test_the_certificate_follows_from_the_evidence() -> None:
    for seed, scoring in [(1, "votes"), (2, "votes"), (3, "softmax")]:
        draws = draw_scores(
            np.random.default_rng(seed).normal(np.array([0, 3, 0, 1, 0, 0]), 1, (1000, 6)),
            scoring,  # type: ignore[arg-type]
        )
        found = answered(SIZE, draws, scoring)  # type: ignore[arg-type]
        evidence = found.evidence
        own = bounds(
            evidence.bound,
            evidence.draws,
            evidence.sums[evidence.label],
            evidence.sums_of_squares[evidence.label],
            evidence.alpha_label,
            denominator=evidence.denominator,
        )[0]
        rivals = [
            float(
                bounds(
                    evidence.bound,
                    evidence.draws,
                    s,
                    ss,
                    evidence.alpha_rival,
                    denominator=evidence.denominator,
                )[1]
            )
            for i, (s, ss) in enumerate(zip(evidence.sums, evidence.sums_of_squares, strict=True))
            if i != evidence.label
        ]
        assert found.lower <= float(own) <= found.lower * (1 + 1e-5)
        upper = min(max(rivals), 1 - float(own))
        assert found.upper * (1 - 1e-5) <= upper + 1e-12
        assert found.upper >= upper
        raw = float(size("gaussian", own, upper, 0.5, 1.0))
        assert found.certified_size <= raw
        if scoring == "votes":
            assert found.certified_size == round_down(float(reduce_size(raw)))
        assert evidence.alpha_certificate == evidence.alpha_label + evidence.alpha_rival
        assert evidence.alpha_certificate + evidence.alpha_scores <= 0.001 * (1 + 1e-12)


def test_sizes_in_every_norm_and_for_every_model_norm() -> None:
    for own in NORMS:
        for asked in NORMS:
            terms = replace(TERMS, norm=own)
            found = answered(replace(SIZE, norm=asked), mixed(0), terms=terms)
            own_sum = found.evidence.sums[4]
            lower, _ = bounds("clopper-pearson", 968, own_sum, own_sum, 0.000405)
            raw = float(size("gaussian", lower, 1 - lower, 0.5, 1.0))
            assert found.norm == asked
            assert found.certified_size == found.sizes[asked] > 0
            for norm, stated in found.sizes.items():
                exact = float(convert(raw, own, norm, 784))
                # pB may be below 1 − pA, so the size is at least this one.
                assert stated >= exact * (1 - 2e-5)
            assert found.paper_size < found.certified_size


def test_laplace() -> None:
    terms = Terms("laplace", 0.3, 1.0, "l1", 784)
    found = answered(Question(0.999, 1000, 0.2, "l1"), mixed(1), terms=terms)
    assert (found.method, found.paper) == ("laplace", "pixeldp-laplace")
    assert found.stopped == "target_certified"
    assert 0 < found.paper_size <= found.certified_size
    assert found.sizes["linf"] == pytest.approx(found.certified_size / 784, rel=2e-5)


def test_robust_needs_a_target_and_a_size() -> None:
    assert answered(SIZE, mixed(0)).robust is None
    tied = np.tile(np.eye(2, dtype=np.int64), (500, 1))
    for target, draws, expected in [
        (0.1, mixed(0), True),
        (5.0, mixed(0), False),
        (1e-9, tied, False),
    ]:
        found = answered(replace(SIZE, target=target), draws)
        assert found.robust is expected
        assert found.robust == (found.certified_size > 0 and found.certified_size >= target)


def test_reachable_says_what_agreeing_draws_would_reach() -> None:
    for target in (1e-3, 0.5, 1.1, 1.19, 1.2, 1.3, 5.0):
        question = replace(SIZE, target=target)
        found = answered(question, mixed(0))
        assert found.reachable == (reachable_size(question, TERMS, "votes", 10) >= target)
        agreeing = answered(question, all_for(0, 1000, 10))
        assert agreeing.reachable == (agreeing.stopped == "target_certified")
    assert answered(SIZE, mixed(0)).reachable
    assert not answered(replace(SIZE, confidence=1 - 1e-16, max_draws=64), mixed(0)).reachable


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
def test_shown_scores(scoring: Scoring) -> None:
    draws = draw_scores(
        np.random.default_rng(5).normal(0, 1.5, (1000, 30)) + np.linspace(3, 0, 30)[::-1], scoring
    )
    question = replace(SIZE, target=0.05)
    found = answered(question, draws, scoring, shown=5)
    used = draws[: found.draws].sum(axis=0) / found.draws
    unit = 2**20 if scoring == "softmax" else 1
    assert len(found.scores) == 5
    assert [score.index for score in found.scores] == np.argsort(-used, kind="stable")[:5].tolist()
    assert found.scores[0].index == found.label
    total = draws[: found.draws]
    for score in found.scores:
        column = total[:, score.index]
        assert score.expected == pytest.approx(column.mean() / unit, abs=1e-6)
        # All draws count, the pilot's too; a union bound over both sides of all labels, shown or
        # not.
        lower, upper = bounds(
            "betting",
            found.draws,
            column.sum(),
            (column * column).sum(),
            found.evidence.alpha_scores / 60,
            denominator=unit,
        )
        assert score.lower <= lower <= score.lower * (1 + 1.1e-5)
        assert score.upper * (1 - 1.1e-5) <= upper <= score.upper
        assert score.attacked is not None
        low, high = attacked("gaussian", lower, upper, 0.05, 0.5, 1.0)
        assert score.attacked.lower <= low <= score.attacked.lower * (1 + 1.1e-5)
        assert score.attacked.upper * (1 - 1.1e-5) <= high <= score.attacked.upper
        assert score.attacked.lower < score.lower
        assert score.attacked.upper > score.upper
    assert all(score.attacked is None for score in answered(SIZE, draws, scoring).scores)


def test_equal_scores_are_shown_by_index() -> None:
    draws = np.tile(np.eye(4, dtype=np.int64)[[2, 1, 2, 1, 3]], (200, 1))
    found = answered(SIZE, draws)
    assert [score.index for score in found.scores] == [1, 2, 3, 0]
    assert found.label == 1


@pytest.mark.parametrize(
    ("norm", "asked", "change"),
    [("l2", "linf", 0.01 * 28), ("l2", "l1", 0.01), ("l1", "linf", 7.84), ("linf", "l2", 0.01)],
)
def test_attacked_bounds_are_in_the_norm_of_the_target(
    norm: Norm, asked: Norm, change: float
) -> None:
    terms = replace(TERMS, norm=norm)
    found = answered(Question(0.999, 200, 0.01, asked), mixed(3), terms=terms)
    for score in found.scores[:3]:
        lower, upper = score.lower, score.upper
        if score.index == found.label:
            lower = max(lower, found.lower)
        else:
            upper = min(upper, found.upper)
        low, high = attacked("gaussian", lower, upper, change, 0.5, 1.0)
        assert score.attacked is not None
        assert score.attacked.lower == pytest.approx(float(low), rel=1e-4, abs=1e-9)
        assert score.attacked.upper == pytest.approx(float(high), rel=1e-4)


def test_the_leader_is_named_with_size_0_when_the_pilot_chose_another() -> None:
    draws = np.concatenate([all_for(0, 232, 3), all_for(1, 768, 3)])
    found = answered(SIZE, draws)
    assert found.label == 1
    assert found.certified_size == found.paper_size == 0
    assert found.sizes == {"l1": 0, "l2": 0, "linf": 0}
    assert found.evidence.label == 0
    assert answered(replace(SIZE, target=0.01), draws[::-1].copy()).label == 1


def test_sizes_are_rounded_down() -> None:
    for seed in range(30):
        draws = draw_scores(
            np.random.default_rng(seed).normal(np.array([2, 0, 0, 0, 0]), 1, (400, 5)), "votes"
        )
        inquiry = Inquiry(replace(SIZE, max_draws=400), TERMS, 5, "votes")
        inquiry.add(draws)
        assert inquiry.findings is not None
        lower, upper = inquiry.findings.bounds
        found = conclude(inquiry, 5)
        for norm, stated in found.sizes.items():
            exact = float(TERMS.sizes(lower, upper, norm))
            assert stated <= exact
            assert stated >= exact * (1 - 1.1e-5) - 1e-11
            assert float(f"{stated:.5e}") == stated
        assert found.lower <= lower
        assert found.upper >= upper


def test_an_answer_cut_short_is_the_answer_of_its_looks() -> None:
    inquiry = Inquiry(SIZE, TERMS, 10, "votes")
    inquiry.add(mixed(6)[:300])
    running = conclude(inquiry, 10)
    assert running.stopped == "deadline"
    inquiry.cut()
    assert conclude(inquiry, 10) == running
