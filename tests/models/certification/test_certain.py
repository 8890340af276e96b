"""Certain sets against linear programs over all classifiers, and against all votes there can be."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from models.certification.answer import conclude
from models.certification.attack_bounds import known
from models.certification.certain import not_excluded
from models.certification.certificates import DEFAULTS
from models.certification.inquiry import Inquiry
from models.certification.laws import LAWS
from models.certification.names import CONTINUOUS, MECHANISM_NORMS, Mechanism
from models.certification.question import Question
from models.certification.split import SplitInquiry, SplitTerms
from models.certification.tally import DENOMINATORS
from models.certification.terms import Terms

Floats = NDArray[np.float64]


def exact_set(scores: Floats, terms: Terms, target: float) -> set[int]:
    """The set for expected scores that are known exactly."""
    labels = np.argsort(-scores).tolist()
    shown = scores[labels]
    best = float(shown[0]), float(shown[1])
    of_scores = known(labels, shown, shown, len(scores), best, 0.0)
    return set(not_excluded(of_scores, terms, terms.norm, target))


def may_be_first(label: int, scores: Floats, at: Floats, moved: Floats) -> bool:
    """Whether any classifier with these expected scores has the label first after the move.

    A classifier on a line cut into pieces is a table y[piece, label] ≥ 0 whose rows sum to at most
    1: a linear program, which Neyman and Pearson's lemma plays no part in.

    Args:
        label: the label.
        scores: [K], expected scores at the picture.
        at: [pieces], probabilities of the pieces at the picture.
        moved: [pieces], the same after the move.
    """
    pieces, labels = len(at), len(scores)
    sums = np.kron(np.eye(pieces), np.ones(labels))
    means = np.kron(at, np.eye(labels))
    ahead = [
        np.kron(moved, np.eye(labels)[rival] - np.eye(labels)[label])
        for rival in range(labels)
        if rival != label
    ]
    found = linprog(
        np.zeros(pieces * labels),
        A_ub=np.vstack([sums, *ahead]),
        b_ub=np.concatenate([np.ones(pieces), np.zeros(labels - 1)]),
        A_eq=means,
        b_eq=scores,
        bounds=(0, 1),
    )
    return bool(found.status == 0)


def pieces(mechanism: Mechanism, shift: float) -> tuple[Floats, Floats]:
    """Probabilities of 40 pieces of the line without and with a shift of the noise."""
    law = LAWS[mechanism].module
    edges = np.sort(
        np.concatenate([law.quantile(np.linspace(0.01, 0.99, 20)) + s for s in (0.0, shift)])
    )
    at, moved = (np.diff(np.concatenate([[0.0], law.cdf(edges - s), [1.0]])) for s in (0.0, shift))
    return at, moved


@pytest.mark.parametrize("mechanism", CONTINUOUS)
def test_no_classifier_has_a_label_first_that_is_excluded(mechanism: Mechanism) -> None:
    rng = np.random.default_rng(5)
    excluded = first = 0
    for _ in range(6):
        scores = rng.dirichlet(rng.choice([0.7, 3.0], 4))
        target = float(rng.choice([0.05, 0.2, 0.4]))
        terms = Terms(mechanism, 0.5, 0.8, MECHANISM_NORMS[mechanism], 9)
        found = exact_set(scores, terms, target)
        ways = [pieces(mechanism, sign * 0.8 * target / 0.5) for sign in (1, -1)]
        for label in range(4):
            if any(may_be_first(label, scores, *way) for way in ways):
                first += 1
                assert label in found, (scores, target, label)
        excluded += 4 - len(found)
    assert excluded > 3
    assert first > 6


# A law of one side has no certificate that is attained in both directions.
SYMMETRIC = [name for name in CONTINUOUS if float(LAWS[name].module.cdf(np.array(0.0))) == 0.5]


@pytest.mark.parametrize("mechanism", SYMMETRIC)
def test_what_is_not_excluded_can_come_first_if_there_are_two_labels(mechanism: Mechanism) -> None:
    """The set is as small as it can be: a half-line reaches both ends at once."""
    name = DEFAULTS[mechanism][MECHANISM_NORMS[mechanism]]
    law, certificate = LAWS[mechanism].module, LAWS[mechanism].module.SHIFTS[name]
    terms = Terms(mechanism, 0.5, 0.8, MECHANISM_NORMS[mechanism], 9)
    for own in (0.55, 0.7, 0.95):
        scores = np.array([own, 1 - own])
        most = float(certificate(np.array(own), np.array(1 - own))) * 0.5 / 0.8
        assert exact_set(scores, terms, most * 0.999) == {0}
        assert exact_set(scores, terms, most * 1.001) == {0, 1}
        # The noise moves beyond the half-line's end.
        moved = law.cdf(law.quantile(np.array(own)) - 0.8 * most * 1.001 / 0.5)
        assert float(moved) < 0.5


def test_sets_of_split_noise_against_all_votes_that_can_be() -> None:
    """Every way to move m of 8 votes among three labels and none, with the terms of λ = ½."""
    terms, draws = SplitTerms("split", 0.5, 1.0, "l1", 9), 255
    of_eight = [votes for votes in product(range(9), repeat=3) if sum(votes) <= 8]
    for counts in ((8, 0, 0), (5, 2, 1), (4, 4, 0), (3, 3, 2), (4, 3, 0), (6, 1, 1)):
        # 240 further draws vote for no label, whatever is done.
        share = np.array(counts) / draws
        for steps in range(1, 5):
            found = exact_set(share, terms, steps / 255)
            first: set[int] = set()
            for votes in of_eight:
                lost = sum(max(one - other, 0) for one, other in zip(counts, votes, strict=True))
                gained = sum(max(other - one, 0) for one, other in zip(counts, votes, strict=True))
                if max(lost, gained) <= steps:
                    first |= {i for i in range(3) if votes[i] == max(votes)}
            assert first <= found, (counts, steps)


def inquire(
    shares: list[float],
    target: float | None,
    allow: tuple[int, ...] | None = None,
    scoring: str = "votes",
    draws: int = 1000,
) -> Inquiry:
    rng = np.random.default_rng(3)
    terms = Terms("gaussian", 0.5, 1.0, "l2", 784, tau=1e-6, rho=1e-4)
    question = Question(0.99, draws, target, "l2", allow=allow)
    inquiry = Inquiry(question, terms, len(shares), "votes" if scoring == "votes" else "softmax")
    while not inquiry.stopped:
        votes = rng.choice(len(shares), 16, p=shares)
        rows = np.eye(len(shares), dtype=np.int64)[votes] * DENOMINATORS[inquiry.scoring]
        inquiry.add(rows)
    return inquiry


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
def test_a_robust_answer_has_its_label_alone(scoring: str) -> None:
    for shares in ([0.95, 0.03, 0.02], [0.05, 0.9, 0.05]):
        size = inquire(shares, None, scoring=scoring).size
        for target in (size * 0.5, size * 0.9, size * 1.5):
            inquiry = inquire(shares, target, scoring=scoring)
            found = conclude(inquiry, 3)
            assert found.certain is not None
            assert found.certain.within_allowed is None
            assert found.label in found.certain.labels
            if found.robust:
                assert found.certain.labels == [found.label]
                # Without the shortcut the intervals say the same.
                findings = inquiry.findings
                assert findings is not None
                labels = [found.label, *(i for i in range(3) if i != found.label)]
                ends = findings.intervals(labels)
                scores = known(labels, *ends, 3, findings.bounds, findings.size)
                assert not_excluded(scores, inquiry.terms, "l2", target) == (found.label,)


def test_without_a_target_there_is_no_set() -> None:
    found = conclude(inquire([0.9, 0.1], None), 2)
    assert found.certain is None
    with pytest.raises(ValueError, match="allow needs a target"):
        Question(0.99, 1000, None, "l2", allow=(1,))
    for allow in ((), (1, 1), (2, 1)):
        with pytest.raises(ValueError, match="different labels in order"):
            Question(0.99, 1000, 0.5, "l2", allow=allow)


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
def test_draws_go_on_until_the_set_is_allowed(scoring: str) -> None:
    """No single label of two that share the votes is ever certain; that it is one of them is."""
    shares = [0.48, 0.01, 0.5, 0.01]
    alone = inquire(shares, 0.2, scoring=scoring)
    assert alone.stopped == "target_out_of_reach"
    both = inquire(shares, 0.2, (0, 2), scoring)
    assert both.stopped == "target_certified"
    assert 32 < both.draws < 1000
    found = conclude(both, 4)
    assert found.robust is False
    assert found.certain is not None
    assert set(found.certain.labels) == {0, 2}
    assert found.certain.within_allowed is True
    assert found.evidence.allow == [0, 2]
    # The set is never within these, and the budget ends.
    other = inquire(shares, 0.2, (1, 2), scoring)
    assert (other.stopped, other.draws) == ("max_draws", 1000)
    assert conclude(other, 4).certain.within_allowed is False  # type: ignore[union-attr]
    # A single label that is certain ends the draws, whether it is allowed or not.
    easy = inquire([0.99, 0.01, 0.0, 0.0], 0.2, (1, 2), scoring)
    assert easy.stopped == "target_certified"
    assert conclude(easy, 4).certain.labels == [0]  # type: ignore[union-attr]


def test_a_set_by_split_noise_is_certain_before_all_draws_are_made() -> None:
    terms = SplitTerms("split", 1.0, 1.0, "l1", 784)
    votes = np.tile([0, 2, 0, 2, 2], 102)
    question = Question(1.0, 64, 0.2, "l1", allow=(0, 2))
    inquiry = SplitInquiry(question, terms, 4, np.arange)
    inquiry.add(votes)
    found = conclude(inquiry, 4)
    assert (inquiry.stopped, found.robust) == ("target_certified", False)
    assert found.draws < terms.draws
    assert found.certain is not None
    assert (set(found.certain.labels), found.certain.within_allowed) == ({0, 2}, True)


def test_of_many_labels_all_are_considered_however_few_are_shown() -> None:
    shares = [0.4, 0.4, *[0.2 / 98] * 98]
    inquiry = inquire(shares, 0.05, tuple(range(2, 100)), draws=300)
    few, every = (conclude(inquiry, shown).certain for shown in (1, 100))
    assert few == every
    assert few is not None
    assert len(few.labels) > 1


def test_a_label_behind_by_no_more_than_rounding_is_kept() -> None:
    terms = Terms("gaussian", 1.0, 1.0, "l2", 9)
    for behind, kept in ((0.0, True), (1e-10, True), (1e-8, False)):
        scores = np.array([0.5 + behind, 0.5])
        labels = known([0, 1], scores, scores, 2, (0.0, 1.0), 0.0)
        assert (1 in not_excluded(labels, terms, "l2", 1e-12)) == kept
