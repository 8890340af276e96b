"""Split noise: no picture breaks a size, and no further vote could change an early answer."""

from decimal import Decimal
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.stats import hypergeom

from models.certification.answer import conclude
from models.certification.arrays import Integers
from models.certification.laws.split import LEVELS, certified_steps, count_draws, sizes
from models.certification.question import Question
from models.certification.reach import draws_needed, reachable_size
from models.certification.split import SplitInquiry, SplitTerms, schedule
from models.certification.without_replacement import least_count, most_count
from models.mechanisms.split import SplitNoise
from models.noise import Features, random_order

SMALLEST = 0.5


def terms(scale: float = SMALLEST, values: int = 4) -> SplitTerms:
    return SplitTerms("split", scale, 1.0, "l1", values)


def inquiry(
    target: float | None, confidence: float = 1.0, scale: float = SMALLEST, labels: int = 3
) -> SplitInquiry:
    question = Question(confidence, 1000, target, "l1")
    return SplitInquiry(
        question, terms(scale), labels, lambda draws: random_order(draws, bytes(range(32)))
    )


def within(picture: tuple[int, int], steps: int) -> Integers:
    """All pictures of two pixels that are at most so many steps of 1/255 away."""
    sides = [range(max(0, one - steps), min(LEVELS, one + steps) + 1) for one in picture]
    near = [
        other
        for other in product(*sides)
        if sum(abs(a - b) for a, b in zip(picture, other, strict=True)) <= steps
    ]
    return np.array(near)


def every_draw(noise: SplitNoise, picture: Integers) -> Integers:
    """[N, …]: what h sees of a picture in each draw."""
    features = Features(picture.astype(np.int32), on_grid=True, numbers=np.arange(noise.draws))
    return noise.draw([features], np.zeros(noise.draws, dtype=np.intp))


def votes_by(noise: SplitNoise, wrong: Integers, own: Integers, pictures: Integers) -> Integers:
    """[pictures]: how many draws see what the picture ``own`` shows, and are not among ``wrong``.

    This is the classifier that is easiest to attack: whatever it sees that ``own`` does not show,
    it votes for the rival.
    """
    numbers = np.arange(noise.draws)
    seen = every_draw(noise, own)
    found = []
    for picture in pictures:
        same = (seen == every_draw(noise, picture)).all(axis=1)
        found.append(int((same & ~np.isin(numbers, wrong)).sum()))
    return np.array(found)


@pytest.mark.parametrize("picture", [(0, 255), (3, 120), (254, 2)])
@pytest.mark.parametrize("wrong", [90, 91, 108])
def test_no_picture_within_the_size_has_another_label(picture: tuple[int, int], wrong: int) -> None:
    rng = np.random.default_rng(wrong)
    noise = SplitNoise(SMALLEST, rng.integers(0, 1000, 2))
    own = np.array(picture, dtype=np.int32)
    # The draws that vote for the rival in any case are not among those that a change of the first
    # pixel wins over.
    split = (noise._template[0] + np.arange(noise.draws)) % noise.draws
    bad = rng.choice(np.flatnonzero(abs(split - picture[0]) > 60), wrong, replace=False)
    steps = int(certified_steps(noise.draws - wrong, wrong))
    near = within(picture, steps + 1).astype(np.int32)
    votes = votes_by(noise, bad, own, near)
    leads = votes > noise.draws - votes
    inside = np.abs(near - own).sum(axis=1) <= steps
    assert leads[inside].all()
    # One step more is too much, so the size is the largest that holds for every classifier.
    assert not leads[~inside].all()


@pytest.mark.parametrize("scale", [SMALLEST, 1.0, 2.0])
def test_a_step_of_a_pixel_changes_at_most_one_draw(scale: float) -> None:
    noise = SplitNoise(scale, np.array([17]))
    seen = [every_draw(noise, np.array([value])) for value in range(LEVELS + 1)]
    for one, other in pairwise(seen):
        assert (one != other).any(axis=1).sum() == 1


def test_sizes_are_exact_and_rounded_down() -> None:
    given = terms()
    shares = np.arange(256) / given.draws
    for own in (128, 129, 200, 255):
        steps = max((own - (255 - own) - 1) // 2, 0)
        size = given.answered(float(shares[own]), float(shares[255 - own]), "l1")
        assert Decimal(str(size)) <= Decimal(steps) / 255
        assert (steps + 1) / 255 > size > steps / 255 - 1e-6
    assert given.answered(141 / 255, 0.0, "l1") == 0.274509
    wide = terms(1.0)
    assert wide.answered(307 / 510, 0.0, "l1") == 0.6  # 153/255, which floats cannot hold
    assert wide.answered(0.4, 0.4, "l1") == 0
    assert float(sizes(307 / 510, 0.0, 1.0)) == 153 / 255


def test_a_bare_gap_does_not_reach_a_target() -> None:
    """At a target of 0.5, 2·255·0.5 = 255: a gap of 256 certifies 127/255 only."""
    draws = count_draws(2.0)
    given = terms(2.0)
    assert given.answered((draws + 256) / 2 / draws, (draws - 256) / 2 / draws, "l1") == 0.498039
    assert given.answered((draws + 258) / 2 / draws, (draws - 258) / 2 / draws, "l1") == 0.50196


@pytest.mark.parametrize("scale", [0.4, 0.501, 1 / 510, -1.0, 16_001.0, 1e300, float("inf")])
def test_a_scale_needs_a_whole_number_of_draws(scale: float) -> None:
    with pytest.raises(ValueError, match="whole number of draws"):
        count_draws(scale)


def vote(asked: SplitInquiry, share: float, rng: np.random.Generator) -> Integers:
    """Let draws vote until the question is answered; each has its number, whatever the order."""
    labels = len(asked.total.sums)
    votes = np.where(
        rng.random(asked.terms.draws) < share,
        1,
        rng.integers(0, labels, 10**5)[: asked.terms.draws],
    )
    while not asked.stopped:
        start, count = asked.total.draws, max(asked.wanted, 1)
        numbers = asked.numbers(start, min(count, asked.terms.draws - start))
        asked.add(votes[numbers])
    return np.bincount(votes, minlength=labels)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.8, 0.7, 0.5, 0.0])
@pytest.mark.parametrize("target", [None, 0.1, 0.3, 0.498, 0.499, 1.9, 2.0])
def test_early_answers_are_those_of_all_draws(target: float | None, share: float) -> None:
    rng = np.random.default_rng(0)
    asked = inquiry(target, scale=1.0)
    counts = vote(asked, share, rng)
    own, most = np.sort(counts)[:-3:-1]
    size = asked.terms.answered(own / 510, most / 510, "l1")
    assert asked.findings is not None
    found = conclude(asked, 3)
    if target is None:
        assert (asked.stopped, asked.size) == ("max_draws", size)
        assert found.label == int(counts.argmax())
    elif asked.stopped == "target_certified":
        assert size >= asked.size >= target
        assert found.label == int(counts.argmax())
        assert found.robust
    else:
        assert asked.stopped in ("target_out_of_reach", "max_draws")
        assert size < target
        assert not found.robust
    assert found.certified_size <= size
    for score in found.scores:
        assert score.lower <= counts[score.index] / 510 <= score.upper


def test_the_rest_could_not_have_changed_the_answer() -> None:
    """With one draw fewer than needed the target is open; looks decide when it is noticed."""
    asked = inquiry(0.5, scale=2.0, labels=2)
    draws, steps = asked.terms.draws, 128
    needed = (draws + 2 * steps + 2) // 2
    first = next(look for look in schedule(asked.terms) if look >= needed)
    while not asked.stopped:
        asked.add(np.zeros(asked.wanted, dtype=np.int64))
    assert asked.total.draws == first
    assert asked.size >= 0.5


def test_votes_for_no_label_help_nobody() -> None:
    asked = inquiry(None, labels=2)
    asked.add(np.full(asked.terms.draws, -1))
    found = conclude(asked, 2)
    assert (found.certified_size, found.draws) == (0, 255)
    assert found.evidence.votes == [-1] * 255


def test_the_budget_is_every_draw_whatever_is_asked() -> None:
    asked = inquiry(None)
    assert asked.question.max_draws == 255
    assert reachable_size(asked.question, asked.terms, "votes", 3) == 0.498039
    assert draws_needed(asked.question, asked.terms, "votes", 3) == 255
    again = asked.anew()
    assert (again.total.draws, again.question.restarts) == (0, 1)
    with pytest.raises(ValueError, match="each number"):
        SplitInquiry(asked.question, asked.terms, 3, lambda draws: np.zeros(draws, dtype=np.intp))


@pytest.mark.parametrize("confidence", [1.0, 0.999, 0.5])
@pytest.mark.parametrize("target", [0.2, 1.0, 1.5])
def test_the_draws_needed_are_where_they_end_if_all_agree(target: float, confidence: float) -> None:
    asked = inquiry(target, confidence, scale=2.0)
    asked.add(np.ones(1020, dtype=np.int64))
    assert asked.stopped == "target_certified"
    assert draws_needed(asked.question, asked.terms, "votes", 3) == asked.draws
    # With this share a gap of little more than 510 times the target is left at the end.
    scarcely = 0.5 + target / 4 + 0.002
    further = draws_needed(asked.question, asked.terms, "votes", 3, scarcely)
    assert further is not None
    assert asked.draws < further <= 1020
    assert draws_needed(asked.question, asked.terms, "votes", 3, scarcely - 0.004) is None


@pytest.mark.parametrize("chance", [0.05, 1e-4])
@pytest.mark.parametrize(("total", "draws"), [(30, 7), (255, 100), (255, 255)])
def test_bounds_on_counts_fail_no_more_often_than_stated(
    total: int, draws: int, chance: float
) -> None:
    for count in range(0, total + 1, 5):
        found = np.arange(max(0, draws - (total - count)), min(draws, count) + 1)
        weights = hypergeom.pmf(found, total, count, draws)
        low = np.array([least_count(total, draws, int(one), chance) for one in found])
        high = np.array([most_count(total, draws, int(one), chance) for one in found])
        assert weights[low > count].sum() <= chance
        assert weights[high < count].sum() <= chance
    least = least_count(total, draws, draws, chance)
    assert least == total or hypergeom.sf(draws - 1, total, least - 1, draws) <= chance


def test_without_chance_bounds_are_what_was_counted() -> None:
    assert least_count(100, 40, 30, 0.0) == 30
    assert most_count(100, 40, 30, 0.0) == 90
    with pytest.raises(ValueError, match="impossible"):
        least_count(100, 40, 41, 0.1)


def test_a_confidence_below_one_takes_fewer_draws() -> None:
    certain, nearly = inquiry(0.5, scale=2.0), inquiry(0.5, 0.999, scale=2.0)
    for asked in (certain, nearly):
        vote(asked, 0.95, np.random.default_rng(1))
        assert asked.stopped == "target_certified"
    assert nearly.total.draws < certain.total.draws / 2
