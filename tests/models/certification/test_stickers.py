"""Two masks at a time: the procedure, its theorem, and the inquiry that asks for its views."""

from itertools import pairwise, product

import numpy as np
import pytest

from models.certification.answer import conclude
from models.certification.question import Question
from models.certification.stickers import (
    NOT_MADE,
    Masks,
    Span,
    StickerInquiry,
    certified,
    count_views,
    cover,
    decide,
)
from models.certification.tally import NO_VOTE


def masks(rows: int, columns: int) -> Masks:
    """So many masks; where they are does not matter here."""
    return Masks(tuple((i, i + 1) for i in range(rows)), tuple((i, i + 1) for i in range(columns)))


def by_hand(layout: Masks, label: dict[tuple[int, int], int]) -> int:
    """The procedure as the module's text has it, from the label of each pair of masks."""
    every = range(layout.count)
    first = [label[mask, mask] for mask in every]
    real = [one for one in first if one >= 0]
    if not real:
        return 0
    most = min(real, key=lambda one: (-real.count(one), one))
    for mask in every:
        own = first[mask]
        if own not in (most, NO_VOTE) and all(
            label[min(mask, other), max(mask, other)] == own for other in every
        ):
            return own
    return most


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_the_procedure_is_the_one_described(labels: int) -> None:
    rng = np.random.default_rng(labels)
    layout = masks(2, 2)
    ends = set()
    for _ in range(1000):
        # Views of one disagreeing mask often agree with it, or second rounds would never end well.
        votes = np.where(rng.random(10) < 0.7, 1, rng.integers(NO_VOTE, labels, 10))
        if rng.random() < 0.3:
            votes[layout.numbers[rng.integers(4)]] = 0
        expected = by_hand(layout, dict(zip(layout.pairs, votes.tolist(), strict=True)))
        assert decide(layout, votes) == expected
        agreed = len(set(votes[:4].tolist())) == 1
        ends.add((agreed, expected == np.bincount(votes[:4] + 1).argmax() - 1))
    assert ends >= {(True, True), (False, True), (False, False)}


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (1, 3), (2, 2)])
def test_the_theorem_for_every_attack(rows: int, columns: int) -> None:
    """Whatever h says of the views that do not hide the sticker, the label is the certified one."""
    layout = masks(rows, columns)
    label, others = 1, (NO_VOTE, 0, 1, 2)
    for hiding in range(layout.count):
        hidden = set(layout.numbers[hiding].tolist())
        free = [view for view in range(len(layout.pairs)) if view not in hidden]
        for said in product(others, repeat=len(free)):
            votes = np.full(len(layout.pairs), label)
            votes[free] = said
            assert decide(layout, votes) == label


def test_one_view_less_proves_nothing() -> None:
    """With any one pair of masks not agreeing, an attack can change the label."""
    layout = masks(1, 3)
    broken = 0
    for view in range(layout.count, len(layout.pairs)):
        for hiding in range(layout.count):
            hidden = layout.numbers[hiding]
            base = np.ones(len(layout.pairs), dtype=int)
            base[view] = 0
            free = [one for one in range(len(layout.pairs)) if one not in hidden]
            for said in product((0, 1, 2), repeat=len(free)):
                votes = base.copy()
                votes[free] = said
                broken += decide(layout, votes) != decide(layout, base)
        assert broken


def run(votes: np.ndarray, layout: Masks, seed: int, ahead: bool) -> StickerInquiry:
    """Ask for views in passes of random sizes, up to three of them in flight."""
    rng = np.random.default_rng(seed)
    inquiry = StickerInquiry(Question(1.0, 64, 3.0, "l2", masks=2), layout, 4)
    flying: list[np.ndarray] = []
    issued = 0
    while not inquiry.stopped:
        spare = int(rng.integers(0, 5)) if ahead else 0
        wanted = max(inquiry.wanted - (issued - inquiry.draws), 0)
        size = min(min(wanted, int(rng.integers(1, 7))) + spare, len(votes) - issued)
        if size:
            flying.append(inquiry.numbers(issued, size))
            issued += size
        if not size or len(flying) > 2:
            inquiry.add(votes[flying.pop(0)].astype(np.int16))
    return inquiry


@pytest.mark.parametrize("ahead", [False, True])
def test_the_order_of_views_changes_no_label(ahead: bool) -> None:
    rng = np.random.default_rng(7)
    layout, fewest = masks(2, 3), 21
    for seed in range(300):
        votes = np.where(rng.random(21) < 0.9, 2, rng.integers(NO_VOTE, 4, 21))
        if seed % 3 == 0:
            votes[layout.numbers[rng.integers(6)]] = 0
        if seed % 10 == 1:
            votes[:] = 3
        inquiry = run(votes, layout, seed, ahead)
        found = conclude(inquiry, 4)
        assert found.label == decide(layout, votes)
        assert found.certified == (len(set(votes.tolist())) == 1 and votes[0] >= 0)
        assert found.stopped == ("target_certified" if found.certified else "target_out_of_reach")
        made = [one for one in found.evidence.votes if one is not None]
        assert found.draws == len(made) == inquiry.draws <= 21
        assert inquiry.look > 0
        if found.certified:
            assert made == votes.tolist()
        fewest = min(fewest, found.draws)
    assert fewest < 12  # it ends where two labels differ


def test_an_answer_cut_short_has_the_label_of_the_first_round() -> None:
    layout = masks(2, 2)
    inquiry = StickerInquiry(Question(1.0, 64, 3.0, "l2", masks=2), layout, 3)
    inquiry.numbers(0, 4)
    inquiry.add(np.array([1, 1, 1], dtype=np.int16))
    assert not inquiry.look
    with pytest.raises(ValueError, match="before the label is decided"):
        conclude(inquiry, 3)
    inquiry.add(np.array([1], dtype=np.int16))
    inquiry.cut()
    found = conclude(inquiry, 3)
    assert (found.label, found.certified, found.stopped) == (1, False, "deadline")
    assert found.evidence.votes == [1] * 4 + [None] * 6
    leader = found.scores[0]
    assert (leader.index, leader.expected, leader.lower, leader.upper) == (1, 1.0, 0.4, 1.0)
    assert not inquiry.wanted
    assert inquiry.anew().wanted == 4


def test_views_without_a_label_certify_nothing() -> None:
    layout = masks(1, 2)
    assert decide(layout, np.full(3, NO_VOTE)) == 0
    assert not certified(np.full(3, NO_VOTE))
    assert decide(layout, np.array([NOT_MADE, 1, 1])) is None
    scores = np.zeros((3, 4), dtype=np.int64)
    scores[:, 2] = 5
    inquiry = StickerInquiry(Question(1.0, 64, 3.0, "l2", masks=2), layout, 4)
    inquiry.numbers(0, 3)
    inquiry.add(scores)
    assert (conclude(inquiry, 1).label, inquiry.stopped) == (2, "target_certified")


def shortest(spans: list[Span], count: int) -> int:
    """The least length with which so many spans cover all, by trying all ways to divide them."""
    best = spans[-1][1] - spans[0][0]
    if count > 1:
        for cut in range(1, len(spans)):
            left = spans[cut - 1][1] - spans[0][0]
            best = min(best, max(left, shortest(spans[cut:], count - 1)))
    return best


@pytest.mark.parametrize("seed", range(30))
def test_spans_cover_and_are_as_short_as_possible(seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.integers(0, 3, 9))
    ends = np.maximum.accumulate(starts + rng.integers(1, 6, 9))
    spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
    for count in (1, 2, 3, 5):
        found = cover([(0, 0), *spans, (40, 40)], count)
        assert len(found) == count
        for start, end in spans:
            assert any(first <= start and end <= last for first, last in found)
        assert max(last - first for first, last in found) == shortest(spans, count)
        assert all(one <= other for one, other in pairwise(found))


def test_numbers_of_views() -> None:
    layout = masks(3, 3)
    assert len(layout.pairs) == count_views(3) == 45
    assert len(set(layout.pairs)) == 45
    for number, (one, other) in enumerate(layout.pairs):
        assert layout.numbers[one, other] == layout.numbers[other, one] == number
    assert layout.rectangle(5) == (layout.rows[1], layout.columns[2])
