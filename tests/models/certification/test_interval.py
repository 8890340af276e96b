"""The search for the largest proven box, whatever boxes are proven."""

import numpy as np
import pytest

from models.certification.answer import conclude
from models.certification.certificates import size
from models.certification.interval import IntervalInquiry, IntervalTerms, stated, units_for
from models.certification.kinds import terms_kind
from models.certification.laws.interval import BOXES, UNITS, largest_radius
from models.certification.question import Question
from models.certification.reach import draws_needed, reachable_size

TERMS = IntervalTerms("interval", 1.0, 1.0, "linf", 4)


def ask(
    target: float | None = None, scale: float = 1.0, confidence: float = 1.0
) -> IntervalInquiry:
    terms = IntervalTerms("interval", scale, 1.0, "linf", 4)
    return IntervalInquiry(Question(confidence, 64, target, "linf"), terms, 3)


def answer(inquiry: IntervalInquiry, proven: set[int] | int, part: int = 7) -> IntervalInquiry:
    """Let h prove some radii, or those up to one; in parts of a round."""
    while not inquiry.stopped:
        radii = inquiry.numbers(inquiry.draws, min(part, inquiry.wanted))
        votes = [
            1 if (one <= proven if isinstance(proven, int) else one in proven) else -1
            for one in radii.tolist()
        ]
        assert inquiry.add(np.array(votes)) == len(votes)
    return inquiry


@pytest.mark.parametrize("scale", [1.0, 0.12, 0.0013, 1 / UNITS])
def test_every_radius_is_found_exactly(scale: float) -> None:
    largest = largest_radius(scale)
    rng = np.random.default_rng(0)
    for radius in {0, 1, largest - 1, largest, largest + 5, *rng.integers(0, largest + 1, 40)}:
        inquiry = answer(ask(scale=scale), int(radius))
        assert inquiry.draws <= BOXES
        assert inquiry.stopped == "max_draws"
        assert inquiry.size == stated(min(max(int(radius), 0), largest))


def test_only_what_was_proven_is_claimed_if_larger_boxes_are_proven_and_smaller_are_not() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        proven = {0, *rng.choice(UNITS, UNITS // 2, replace=False).tolist()}
        inquiry = answer(ask(), proven)
        assert round(inquiry.size * UNITS) in proven
    nothing = answer(ask(), set())
    assert (nothing.size, nothing.stopped) == (0.0, "max_draws")
    assert conclude(nothing, 3).lower == 0


def test_a_box_with_another_label_than_its_picture_proves_nothing() -> None:
    inquiry = ask()
    votes = np.full(inquiry.wanted, 2)
    votes[0] = 1
    inquiry.add(votes)
    assert inquiry.size == 0.0


@pytest.mark.parametrize("target", [None, 0.1])
@pytest.mark.parametrize("late", [False, True])
def test_boxes_with_two_labels_prove_nothing(target: float | None, late: bool) -> None:
    """Not even of a box that has the picture's own label, nor after rounds that had one."""
    inquiry = ask(target)
    votes = np.full(inquiry.wanted, 1)
    if late and target is None:
        votes[8:] = -1
        inquiry.add(votes)
        assert inquiry.size > 0.0
        inquiry.add(np.full(inquiry.wanted - 1, 0))
        inquiry.cut()
    else:
        votes[2:] = 0
        inquiry.add(votes)
    found = conclude(inquiry, 3)
    assert (inquiry.size, found.certified_size, found.lower) == (0.0, 0.0, 0.0)
    assert not found.robust
    assert found.stopped != "target_certified"


@pytest.mark.parametrize(("target", "proven"), [(0.1, 5100), (1 / 3, 17_000), (0.0123456, 630)])
def test_a_target_takes_one_round_and_is_met_exactly_from_its_radius_on(
    target: float, proven: int
) -> None:
    assert stated(units_for(target)) >= target > stated(units_for(target) - 1)
    met, missed = answer(ask(target), units_for(target)), answer(ask(target), units_for(target) - 1)
    assert met.stopped == "target_certified"
    assert met.size >= target
    assert missed.stopped == "target_out_of_reach"
    assert target / 2.1 < missed.size < target
    assert met.draws == missed.draws == 4
    if target == 0.1:
        assert units_for(target) == proven
    far = answer(ask(0.5, scale=0.1), 5100)
    assert far.stopped == "target_out_of_reach"
    assert not conclude(far, 3).reachable


def test_what_is_shown_of_a_proven_picture() -> None:
    for confidence in (1.0, 0.9):
        shown = conclude(answer(ask(0.1, confidence=confidence), 6000), 3, 11)
        assert (shown.label, shown.robust, shown.lower, shown.upper) == (1, True, 1.0, 0.0)
        assert set(shown.sizes.values()) == {0.1}
        assert [(one.expected, one.lower, one.upper) for one in shown.scores] == [
            (1.0, 1.0, 1.0),
            (0.0, 0.0, 0.0),
            (0.0, 0.0, 0.0),
        ]
        assert all(one.attacked == shown.scores[0].attacked for one in shown.scores[:1])
        assert shown.attacks is not None
        for number, attack in enumerate(shown.attacks.sizes):
            inside = attack <= 0.1
            low, high = shown.attacks.scores[0].lower, shown.attacks.scores[1].upper
            assert (low[number], high[number]) == ((1.0, 0.0) if inside else (0.0, 1.0))
        assert shown.evidence.bound == "interval"
        assert shown.evidence.alpha_certificate == 0


def test_a_deadline_keeps_what_is_proven() -> None:
    inquiry = ask()
    assert inquiry.findings is None
    inquiry.add(np.where(inquiry.numbers(0, 16) <= 20_000, 1, -1))
    inquiry.add(np.where(inquiry.numbers(16, 3) <= 20_000, 1, -1))
    inquiry.cut()
    found = conclude(inquiry, 3)
    assert (found.stopped, found.draws) == ("deadline", 19)
    assert 0 < found.certified_size <= 20_000 / UNITS
    again = inquiry.anew()
    assert (again.draws, again.question.restarts, again.wanted) == (0, 1, again.least)


def test_no_more_boxes_are_issued_than_are_known() -> None:
    inquiry = ask()
    assert inquiry.issuable == inquiry.wanted == 16
    assert len(inquiry.numbers(0, 64)) == 16
    inquiry.add(np.where(inquiry.numbers(0, 16) <= 9, 1, -1))
    assert inquiry.issuable == 32


def test_terms_state_what_can_be_reached() -> None:
    question = Question(1.0, 64, None, "l2")
    assert terms_kind("interval") is IntervalTerms
    assert reachable_size(question, TERMS, "votes", 3) == 1.0
    assert draws_needed(question, TERMS, "votes", 3) == BOXES
    assert draws_needed(question, TERMS, "votes", 3, share=0.99) is None
    assert float(size("interval", 1.0, 0.0, 0.12, 1.0)) == pytest.approx(0.12, abs=1e-9)
    assert float(size("interval", 0.4, 0.6, 0.12, 1.0)) == 0
    for wrong in ({"sensitivity": 2.0}, {"tau": 0.1}, {"rho": 0.1}):
        with pytest.raises(ValueError, match="interval needs"):
            size("interval", 1.0, 0.0, 0.12, **({"sensitivity": 1.0} | wrong))
    for scale in (0.0, 1.1, 1e-6):
        with pytest.raises(ValueError, match="boxes of radius"):
            largest_radius(scale)
