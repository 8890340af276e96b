"""An inquiry, draw by draw."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.certification.bounds import bounds
from models.certification.certificates import size
from models.certification.division import divide, looks, stands_alone
from models.certification.inquiry import FIRST_WANTED, Inquiry
from models.certification.names import Scoring
from models.certification.prospects import best_size, enough_votes, project
from models.certification.question import Question
from models.certification.reach import reachable_size
from models.certification.rounding import MOST_NUMBER, reduce_size, round_down
from models.certification.tally import DENOMINATORS, NO_VOTE, Tally, draw_scores
from models.certification.tally_bounds import certify
from models.certification.terms import Delta, Terms
from tests.models.certification.plain import Plain

TERMS = Terms("gaussian", 0.5, 1.0, "l2", 784)
SIZE = Question(0.99, 1000, None, "l2")
TARGET = Question(0.99, 1000, 0.4, "l2")


def votes(count: int, *probabilities: float, seed: int = 0) -> Any:
    return np.random.default_rng(seed).multinomial(1, probabilities, size=count).astype(np.int64)


def soft(count: int, *centre: float, spread: float = 1.0, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return draw_scores(np.array(centre) + rng.normal(0, spread, (count, len(centre))), "softmax")


def all_for(label: int, count: int, labels: int = 3) -> Any:
    scores = np.zeros((count, labels), dtype=np.int64)
    scores[:, label] = 1
    return scores


def inquire(
    question: Question, draws: Any, scoring: Scoring = "votes", terms: Terms = TERMS
) -> Inquiry:
    inquiry = Inquiry(question, terms, draws.shape[1], scoring)
    inquiry.add(draws)
    return inquiry


def state(inquiry: Inquiry) -> tuple[Any, ...]:
    """Everything of which an answer consists."""
    best = inquiry.findings
    found = None
    if best is not None:
        found = (
            best.ground,
            best.bounds,
            best.counted.draws,
            best.counted.sums.tolist(),
            best.counted.squares.tolist(),
        )
    total = inquiry.total
    return (
        inquiry.stopped,
        inquiry.label,
        inquiry.look,
        inquiry.size,
        found,
        (total.draws, total.sums.tolist(), total.squares.tolist()),
    )


questions = st.builds(
    Question,
    confidence=st.sampled_from([0.8, 0.99, 0.9999]),
    max_draws=st.integers(64, 1200),
    target=st.none() | st.sampled_from([0.01, 0.2, 0.5, 1.0]),
    norm=st.sampled_from(["l1", "l2", "linf"]),
)


def random_draws(seed: int, scoring: Scoring, count: int) -> Any:
    rng = np.random.default_rng(seed)
    labels = int(rng.integers(2, 9))
    centre = rng.normal(0, rng.choice([0.0, 1.0, 4.0]), labels)
    return draw_scores(centre + rng.normal(0, 1.5, (count, labels)), scoring)


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
@given(
    question=questions,
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 1400), max_size=30),
    curious=st.booleans(),
)
def test_however_the_draws_are_cut_the_outcome_is_the_same(
    scoring: Scoring, question: Question, seed: int, cuts: list[int], curious: bool
) -> None:
    draws = random_draws(seed, scoring, 1400)
    whole = inquire(question, draws, scoring)
    parts = Inquiry(question, TERMS, draws.shape[1], scoring)
    used = 0
    for part in np.split(draws, sorted(cuts)):
        used += parts.add(part)
        if curious:  # asking for it in between changes nothing
            state(parts)
    assert state(parts) == state(whole)
    assert used == whole.total.draws
    assert whole.stopped is not None
    assert whole.total.draws <= question.max_draws


ALL_TERMS = [
    TERMS,
    Terms("laplace", 0.5, 1.0, "l1", 784, tau=1e-6, further=(Delta("l2", "l2", 1.3, 1e-4),)),
    Terms("gaussian", 0.25, 1.0, "l2", 3072, tau=1e-4, rho=1e-3),
]


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
@given(question=questions, seed=st.integers(0, 2**32 - 1), terms=st.sampled_from(ALL_TERMS))
def test_nothing_that_saves_work_changes_an_answer(
    scoring: Scoring, question: Question, seed: int, terms: Terms
) -> None:
    """Bit for bit: counting, ruling out by counts, and results remembered from other pictures."""
    draws = random_draws(seed, scoring, question.max_draws)
    if scoring == "votes" and seed % 3 == 0:
        draws[:: 2 + seed % 50] = 0  # no vote
    plain, quick = Plain(question, terms, scoring, draws), inquire(question, draws, scoring, terms)
    best = quick.findings
    assert best is not None
    assert (quick.stopped, quick.label, quick.look) == (plain.stopped, plain.label, plain.look)
    assert quick.total.sums.tolist() == plain.total.sums.tolist()
    assert quick.total.squares.tolist() == plain.total.squares.tolist()
    found = best.ground, best.counted.draws, best.label, *best.bounds
    assert found == plain.best[1:]
    assert quick.size == best.size == plain.size(quick.draws)


@pytest.mark.parametrize("seed", [217, 1206])
def test_a_pass_that_ends_within_the_pilot_plays_no_part(seed: int) -> None:
    """With a small target, a majority may be possible before the pilot's block ends.

    With a third label, the rivals have less than 1 − pA, and the target is met before the predicted
    number of draws. So the draw at which it was predicted must not depend on the passes.
    """
    question = Question(0.2, 300, 0.064, "l2")
    draws = votes(300, 0.5, 0.4, 0.1, seed=seed)
    whole = inquire(question, draws)
    for size_of_pass in (1, 7, 40):
        parts = Inquiry(question, TERMS, 3, "votes")
        for first in range(0, len(draws), size_of_pass):
            parts.add(draws[first : first + size_of_pass])
        assert state(parts) == state(whole)


@given(question=questions, seed=st.integers(0, 2**32 - 1))
def test_draws_beyond_the_end_play_no_part(question: Question, seed: int) -> None:
    draws = random_draws(seed, "votes", 1200)
    whole = inquire(question, draws)
    used = whole.total.draws
    exact = inquire(question, draws[:used])
    assert state(exact) == state(whole)
    before = state(whole)
    assert whole.add(draws) == 0
    assert whole.wanted == 0
    assert state(whole) == before


@given(
    question=questions,
    seed=st.integers(0, 2**32 - 1),
    scoring=st.sampled_from(["votes", "softmax"]),
)
def test_wanted_leads_to_the_next_look(question: Question, seed: int, scoring: Scoring) -> None:
    """Making exactly the draws that are wanted reaches every look, with few draws too many."""
    draws = random_draws(seed, scoring, 1400)
    inquiry = Inquiry(question, TERMS, draws.shape[1], scoring)
    at = 0
    while not inquiry.stopped:
        look, label, wanted = inquiry.look, inquiry.label, inquiry.wanted
        assert 0 < wanted <= question.max_draws - at
        used = inquiry.add(draws[at : at + wanted])
        at += used
        if question.target is None:
            assert used == wanted
            assert label is None or inquiry.look == look + 1
        else:
            assert wanted <= max(at - used, FIRST_WANTED, question.steps.step, at // 16)
            assert used == wanted or inquiry.stopped
            assert label is None or inquiry.look > look
    assert at == inquiry.total.draws <= question.max_draws
    assert state(inquiry) == state(inquire(question, draws, scoring))


def test_wanted_at_first_is_what_a_majority_needs_if_all_agree() -> None:
    inquiry = Inquiry(Question(0.999, 1000, 0.25, "l2"), TERMS, 3, "votes")
    wanted = inquiry.wanted
    assert wanted > inquiry.question.steps.pilot + inquiry.question.steps.first
    assert inquiry.add(all_for(1, wanted - 1)) == wanted - 1
    assert inquiry.stopped is None
    assert inquiry.wanted >= 1
    inquiry.add(all_for(1, 1))
    assert inquiry.stopped == "target_certified"
    assert inquiry.findings is not None
    assert inquiry.findings.ground == "majority"


@given(question=questions, seed=st.integers(0, 2**32 - 1), more=st.integers(1, 500))
def test_draws_can_be_given_look_by_look(question: Question, seed: int, more: int) -> None:
    """``add_to_look`` stops at every look, with the same state as after ``add``."""
    draws = random_draws(seed, "votes", 1300)
    inquiry = Inquiry(question, TERMS, draws.shape[1], "votes")
    at = 0
    while not inquiry.stopped:
        look = inquiry.look
        used = inquiry.add_to_look(draws[at : at + more])
        assert used == more or inquiry.look == look + 1
        assert inquiry.look <= look + 1
        at += used
    assert at == inquiry.total.draws
    assert state(inquiry) == state(inquire(question, draws))


@given(question=questions, seed=st.integers(0, 2**32 - 1))
def test_votes_may_come_as_labels(question: Question, seed: int) -> None:
    scores = random_draws(seed, "votes", question.max_draws)
    scores[::7] = 0
    labels = np.where(scores.any(axis=1), scores.argmax(axis=1), NO_VOTE).astype(np.int16)
    by_label = Inquiry(question, TERMS, scores.shape[1], "votes")
    assert by_label.add(labels) == by_label.draws
    assert state(by_label) == state(inquire(question, scores))


def test_the_pilot_counts_as_draws_but_never_in_the_certificate() -> None:
    draws = np.concatenate([all_for(0, 32), all_for(1, 968)])
    inquiry = inquire(SIZE, draws)
    assert inquiry.label == 0
    assert inquiry.pilot.sums.tolist() == [32, 0, 0]
    assert inquiry.counted.sums.tolist() == [0, 968, 0]
    best = inquiry.findings
    assert best is not None
    assert best.pilot.draws == 32
    assert best.counted.sums[0] == 0
    assert best.bounds[0] == 0
    assert inquiry.size == 0
    assert inquiry.total.draws == 1000


def test_an_unclear_pilot_is_prolonged_up_to_128_draws() -> None:
    even = np.tile(np.eye(2, dtype=np.int64), (500, 1))
    inquiry = Inquiry(SIZE, TERMS, 2, "votes")
    for draws in (32, 64, 96):
        inquiry.add(even[:32])
        assert inquiry.label is None
        assert inquiry.pilot.draws == draws
    inquiry.add(even[:32])
    assert inquiry.label == 0  # of two equals, the lower index
    inquiry.add(even[:31])
    assert inquiry.pilot.draws == 128
    assert inquiry.counted.draws == 31
    assert inquiry.look == 0
    inquiry.add(even)
    assert inquiry.total.draws == 1000
    assert inquiry.counted.draws == 872


def test_looks_follow_the_schedule() -> None:
    inquiry = Inquiry(SIZE, TERMS, 3, "votes")
    seen = []
    for draw in votes(1000, 0.6, 0.3, 0.1):
        look = inquiry.look
        inquiry.add(draw[None])
        if inquiry.look > look:
            seen.append(inquiry.counted.draws)
    assert seen == list(looks(1000 - inquiry.pilot.draws, SIZE.steps))
    assert inquiry.stopped == "max_draws"


def test_the_deadline_yields_the_certificate_reached() -> None:
    draws = all_for(2, 1000)
    inquiry = Inquiry(SIZE, TERMS, 3, "votes")
    inquiry.add(draws[:500])
    reached = inquiry.size
    inquiry.cut()
    assert inquiry.stopped == "deadline"
    assert inquiry.size == reached > 0
    assert inquiry.add(draws[500:]) == 0
    assert inquiry.size == reached
    best = inquiry.findings
    assert best is not None
    assert best.ground == "betting"  # the look of Clopper-Pearson was never reached
    division = divide(0.99, "votes", False, alone=True)
    assert best.division == division
    inquiry.cut()
    assert inquiry.stopped == "deadline"


def test_the_deadline_before_the_first_look_leaves_nothing() -> None:
    inquiry = Inquiry(SIZE, TERMS, 3, "votes")
    inquiry.add(all_for(2, 63))
    inquiry.cut()
    assert inquiry.findings is None
    assert inquiry.size == 0
    assert inquiry.look == 0


def test_the_deadline_does_not_undo_an_answer() -> None:
    inquiry = inquire(TARGET, all_for(2, 1000))
    assert inquiry.stopped == "target_certified"
    inquiry.cut()
    assert inquiry.stopped == "target_certified"


def test_clopper_pearson_looks_once_at_the_whole_budget() -> None:
    inquiry = inquire(SIZE, all_for(1, 1000))
    best = inquiry.findings
    assert best is not None
    division = divide(0.99, "votes", False, alone=True)
    assert best.ground == "clopper-pearson"
    assert best.counted.draws == 968
    assert best.division == division
    lower, _ = bounds("clopper-pearson", 968, 968, 968, division.fixed_label)
    assert best.bounds == (lower, 1 - lower)
    assert inquiry.size == round_down(
        float(reduce_size(size("gaussian", lower, 1 - lower, 0.5, 1.0)))
    )


def test_soft_scores_have_only_betting() -> None:
    inquiry = inquire(SIZE, soft(1000, 4.0, 0.0, 0.0), "softmax")
    best = inquiry.findings
    assert best is not None
    assert best.ground == "betting"
    assert best.division.betting_label == pytest.approx(0.01 * 0.9 / 2)
    assert inquiry.size > 0


@given(question=questions, seed=st.integers(0, 2**32 - 1))
def test_the_best_look_is_the_largest_certificate_of_all(question: Question, seed: int) -> None:
    """Computed again from nothing but the draws, look by look."""
    draws = random_draws(seed, "votes", 1200)
    inquiry = inquire(question, draws)
    label, pilot, labels = inquiry.label, inquiry.pilot.draws, draws.shape[1]
    assert label is not None
    alone = stands_alone(inquiry.pilot)
    division = divide(
        question.confidence,
        "votes",
        question.target is not None,
        alone=alone,
        pair=draws.shape[1] == 2,
    )
    found = []
    schedule = looks(question.max_draws - pilot, question.steps)
    reached = [count for count in schedule if count < inquiry.counted.draws]
    for count in (*reached, inquiry.counted.draws):
        tally = Tally.of(draws[pilot : pilot + count], "votes")
        sums = draws[: pilot + count].sum(axis=0)
        leader = int(sums.argmax())
        pairs = []
        if count in schedule:
            pairs.append(("betting", label, division.betting_label, division.betting_rival))
        if count == schedule[-1]:
            pairs.append(("clopper-pearson", label, division.fixed_label, division.fixed_rival))
        if division.majority:
            pairs.append(("majority", leader, division.majority, 0.0))
        for bound, own, alpha_label, alpha_rival in pairs:
            if bound == "majority":
                votes = sums[leader]
                lower = bounds("betting", pilot + count, votes, votes, alpha_label)[0]
                upper = 1 - lower
                if lower <= 0.5:
                    lower, upper = np.array(0.0), np.array(1.0)
            else:
                lower, upper = certify(bound, [tally], own, alpha_label, alpha_rival)  # type: ignore[arg-type]
            shown = [
                float(bounds("betting", pilot + count, s, s, division.scores / (2 * labels))[1])
                for i, s in enumerate(sums)
                if i != own
            ]
            both = float(lower.max()), float(upper.max())
            if both[0] > 0 or bound != "majority":
                both = both[0], min(both[1], max(shown))
            found.append((float(TERMS.sizes(*both, question.norm)), own, both))
    _, own, pair = max(found, key=lambda one: one[0])
    leads = Tally.of(draws[: inquiry.total.draws], "votes").leader == own
    assert inquiry.size == (TERMS.answered(*pair, question.norm) if leads else 0.0)


def test_another_leader_at_the_end_gives_size_0() -> None:
    """The pilot's label is certified at early looks, and then falls behind another."""
    draws = np.concatenate([all_for(0, 32 + 200), all_for(1, 768)])
    inquiry = Inquiry(SIZE, TERMS, 3, "votes")
    inquiry.add(draws[:232])
    assert inquiry.size > 0
    inquiry.add(draws[232:])
    assert inquiry.total.leader == 1
    assert inquiry.label == 0
    best = inquiry.findings
    assert best is not None
    assert TERMS.sizes(*best.bounds) > 0
    assert inquiry.size == 0


def test_it_ends_at_the_first_look_that_reaches_the_target() -> None:
    draws = votes(1000, 0.97, 0.02, 0.01, seed=3)
    for norm in ("l1", "l2", "linf"):
        most = inquire(replace(SIZE, norm=norm), draws)
        target = 0.6 * most.size
        ended = inquire(Question(0.99, 1000, target, norm), draws)
        assert ended.stopped == "target_certified"
        assert ended.size >= target
        assert ended.total.draws < 1000
        # One draw earlier it was not reached.
        earlier = inquire(Question(0.99, 1000, target, norm), draws[: ended.total.draws - 1])
        assert earlier.stopped is None
        assert earlier.size < target


def test_the_target_is_decided_on_the_size_as_answered() -> None:
    draws, question = all_for(0, 1000), replace(TARGET, max_draws=64)
    most = reachable_size(question, TERMS, "votes", 3)
    reached = inquire(replace(question, target=most), draws)
    assert reached.stopped == "target_certified"
    assert reached.size == most
    beyond = inquire(replace(question, target=float(np.nextafter(most, 1))), draws)
    assert beyond.stopped in ("target_out_of_reach", "max_draws")
    assert beyond.size < float(np.nextafter(most, 1))


class Hopeful(Inquiry):
    """An inquiry that never gives up."""

    def _reach_look(self) -> None:
        super()._reach_look()
        if self.stopped == "target_out_of_reach":
            self.stopped = None


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
@given(
    seed=st.integers(0, 2**32 - 1),
    target=st.floats(0.01, 1.5),
    max_draws=st.integers(64, 1200),
)
def test_giving_up_only_ever_withholds_size(
    scoring: Scoring, seed: int, target: float, max_draws: int
) -> None:
    draws = random_draws(seed, scoring, 1200)
    question = Question(0.99, max_draws, target, "l2")
    inquiry = inquire(question, draws, scoring)
    hopeful = Hopeful(question, TERMS, draws.shape[1], scoring)
    hopeful.add(draws)
    if inquiry.stopped != "target_out_of_reach":
        assert state(inquiry) == state(hopeful)
        return
    assert inquiry.total.draws < max_draws
    assert inquiry.size < target
    # Until it gave up, both say the same.
    same = Hopeful(question, TERMS, draws.shape[1], scoring)
    same.add(draws[: inquiry.total.draws])
    assert state(same)[1:] == state(inquiry)[1:]
    # The one that goes on can only find more, unless another label takes the lead.
    best, more = inquiry.findings, hopeful.findings
    assert best is not None
    assert more is not None
    assert TERMS.sizes(*more.bounds) >= TERMS.sizes(*best.bounds)


def test_giving_up_saves_draws_and_loses_little() -> None:
    gave_up = lost = hopeless_draws = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        share = rng.choice([0.6, 0.75, 0.85, 0.9])
        draws = votes(1000, share, 1 - share, 0.0, seed=seed)
        inquiry = inquire(replace(TARGET, target=0.5), draws)
        if inquiry.stopped == "target_out_of_reach":
            gave_up += 1
            hopeless_draws += inquiry.total.draws
            hopeful = Hopeful(replace(TARGET, target=0.5), TERMS, 3, "votes")
            hopeful.add(draws)
            lost += hopeful.stopped == "target_certified"
    assert gave_up > 150
    assert hopeless_draws / gave_up < 350
    assert lost <= 0.02 * 400


def test_nothing_is_hopeless_that_agreeing_draws_would_reach() -> None:
    for max_draws in (100, 300, 1000):
        counts = np.array([max_draws - 32, 0, 0])
        agreeing = Tally(max_draws - 32, counts, counts, 1)
        divided = divide(0.99, "votes", True, alone=True)
        most = best_size(Tally.of(all_for(0, 32), "votes"), agreeing, 3, TERMS, TARGET, divided)
        inquiry = inquire(replace(TARGET, max_draws=max_draws, target=most), all_for(0, max_draws))
        assert inquiry.stopped == "target_certified"
        assert inquiry.total.draws == max_draws


def test_a_target_beyond_the_budget_ends_at_the_first_look() -> None:
    inquiry = inquire(replace(TARGET, target=50.0), all_for(0, 1000))
    assert inquiry.stopped == "target_out_of_reach"
    assert inquiry.total.draws == 24
    assert inquiry.size > 0


@given(
    n=st.integers(32, 500),
    share=st.floats(0, 1),
    more=st.integers(0, 500),
    scoring=st.sampled_from(["votes", "softmax"]),
)
def test_projections_stay_within_what_draws_can_sum_to(
    n: int, share: float, more: int, scoring: Scoring
) -> None:
    unit = DENOMINATORS[scoring]
    own = int(n * share * unit)
    sums = np.array([own, (n * unit - own) // 2])
    squares = sums * unit
    projected = project(Tally(n, sums, squares, unit), [0, 1], n + more)
    assert projected.draws == n + more
    assert (projected.sums >= sums).all()
    assert (projected.sums <= (n + more) * unit).all()
    assert (projected.squares <= projected.sums * unit).all()
    if more:
        assert projected.sums[0] / (n + more) >= sums[0] / n - 1  # never against the label
    pilot = Tally(n, sums, squares, unit)
    assert best_size(pilot, projected, 3, TERMS, TARGET, divide(0.99, scoring, True)) >= 0


@pytest.mark.parametrize("agree", ["votes", "softmax"])
def test_scores_of_nothing_certify_nothing(agree: Scoring) -> None:
    """Every pass failed: NaN scores zero for every label."""
    inquiry = inquire(SIZE, draw_scores(np.full((1000, 4), np.nan), agree), agree)
    assert inquiry.stopped == "max_draws"
    assert inquiry.size == 0


def test_terms_reduce_the_size() -> None:
    draws = all_for(0, 1000)
    plain = inquire(SIZE, draws).size
    worse: Sequence[Terms] = [
        replace(TERMS, tau=1e-3),
        replace(TERMS, rho=1e-2),
        replace(TERMS, sensitivity=1.1),
        replace(TERMS, scale=0.4),
    ]
    for terms in worse:
        assert 0 < inquire(SIZE, draws, terms=terms).size < plain


def test_questions_that_make_no_sense_raise() -> None:
    with pytest.raises(ValueError, match="max_draws must be at least 64, not 63"):
        Question(0.99, 63, None, "l2")
    for target in (0.0, -1.0, float("nan"), float("inf"), 2 * MOST_NUMBER):
        with pytest.raises(ValueError, match="target must be above 0"):
            Question(0.99, 64, target, "l2")
    with pytest.raises(ValueError, match="confidence"):
        Inquiry(Question(1.0, 64, None, "l2"), TERMS, 2, "votes")


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), scoring=st.sampled_from(["votes", "softmax"]))
def test_the_order_of_labels_does_not_matter(seed: int, scoring: Scoring) -> None:
    draws = random_draws(seed, scoring, 600)
    order = np.random.default_rng(seed).permutation(draws.shape[1])
    here = inquire(replace(SIZE, max_draws=600), draws, scoring)
    there = inquire(replace(SIZE, max_draws=600), draws[:, order], scoring)
    if np.unique(here.pilot.sums).size == draws.shape[1] and here.pilot.draws == there.pilot.draws:
        assert order[there.label] == here.label
        assert there.size == here.size


@pytest.mark.parametrize(
    "terms", [TERMS, replace(TERMS, mechanism="laplace"), replace(TERMS, tau=1e-3)]
)
@given(draws=st.integers(40, 2000), target=st.floats(0.01, 1.2), alpha=st.floats(1e-6, 0.05))
def test_the_predicted_votes_suffice_and_are_few_more_than_needed(
    terms: Terms, draws: int, target: float, alpha: float
) -> None:
    votes = enough_votes(terms, "l2", target, draws, alpha)

    def certified(count: int) -> bool:
        lower = float(bounds("clopper-pearson", draws, count, count, alpha)[0])
        return terms.answered(lower, 1 - lower, "l2") >= target

    if votes <= draws:
        assert certified(votes)
        assert votes < 3 or not certified(votes - 3)
    else:
        assert not certified(draws - 3)


@given(lower=st.floats(0, 1), upper=st.floats(0, 1), norm=st.sampled_from(["l1", "l2", "linf"]))
def test_the_size_for_numbers_is_that_for_arrays(lower: float, upper: float, norm: Any) -> None:
    for terms in (TERMS, Terms("laplace", 0.5, 1.0, "l1", 784, tau=1e-6, rho=1e-3)):
        if lower < 1 and upper > 0:
            assert terms.size(lower, upper, norm) == terms.sizes(lower, upper, norm)
