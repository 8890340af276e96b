"""Tallies are exact, whatever the order of draws and the passes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.certification.names import SCORINGS, Scoring
from models.certification.tally import DENOMINATORS, NO_VOTE, Tally, draw_scores, make_draws

UNIT = DENOMINATORS["softmax"]
logits = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.integers(2, 12)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32)
    | st.sampled_from([np.nan, np.inf, -np.inf, 0.0]),
)


@pytest.mark.parametrize("scoring", SCORINGS)
@given(values=logits)
def test_scores_are_whole_and_sum_to_at_most_one(
    scoring: Scoring, values: "np.ndarray[tuple[int, int], np.dtype[np.float32]]"
) -> None:
    scores = draw_scores(values, scoring)
    assert scores.dtype == np.int64
    assert scores.shape == values.shape
    assert (scores >= 0).all()
    assert (scores.sum(axis=1) <= DENOMINATORS[scoring]).all()
    finite = np.isfinite(values).all(axis=1)
    assert (scores[~finite] == 0).all()
    # Flooring takes less than one unit a label from a draw.
    assert (scores[finite].sum(axis=1) > DENOMINATORS[scoring] - values.shape[1]).all()


def test_votes_go_to_the_largest_and_ties_to_the_lowest_index() -> None:
    values = np.array([[0.0, 2.0, 1.0], [3.0, 3.0, 1.0], [-1.0, -2.0, -1.0], [0.0, np.nan, 9.0]])
    assert draw_scores(values, "votes").tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]


@given(values=logits)
def test_votes_are_the_labels_of_their_scores(
    values: "np.ndarray[tuple[int, int], np.dtype[np.float32]]",
) -> None:
    votes, labels = make_draws(values, "votes"), values.shape[1]
    assert votes.dtype == np.int16
    found = Tally.of_draws(votes, labels, "votes")
    expected = Tally.of(draw_scores(values, "votes"), "votes")
    assert (found.draws, found.denominator) == (expected.draws, expected.denominator)
    assert found.sums.tolist() == expected.sums.tolist()
    assert found.squares.tolist() == expected.squares.tolist()


def test_votes_distinguish_all_labels() -> None:
    labels = 2**15 + 1  # more than 16 bits hold
    values = np.zeros((2, labels), np.float32)
    values[0, -1] = values[1, 2**15 - 1] = 1.0
    assert make_draws(values, "votes").tolist() == [2**15, 2**15 - 1]


@pytest.mark.parametrize("vote", [3, NO_VOTE - 1])
def test_a_vote_for_no_label_is_refused(vote: int) -> None:
    with pytest.raises(ValueError, match=r"label 3 of 3|negative"):
        Tally.of_draws(np.array([0, vote], np.int16), 3, "votes")


def test_softmax_is_floored_to_its_unit() -> None:
    values = np.array([[0.0, 0.0], [np.log(3.0), 0.0], [200.0, 0.0], [-np.inf, 0.0]])
    scores = draw_scores(values, "softmax").tolist()
    assert scores[0] == [UNIT // 2, UNIT // 2]
    assert scores[1] in ([UNIT * 3 // 4, UNIT // 4], [UNIT * 3 // 4 - 1, UNIT // 4])
    assert scores[2] == [UNIT, 0]
    assert scores[3] == [0, 0]
    # Never rounded up: two thirds of 2²⁰ is 699050.67.
    assert draw_scores(np.log([[2.0, 1.0]]), "softmax").tolist() == [[699050, 349525]]
    shifted = draw_scores(np.array([[1.5, 0.25, -3.0]]) + 1e4, "softmax")
    assert abs(shifted - draw_scores(np.array([[1.5, 0.25, -3.0]]), "softmax")).max() <= 1


def test_an_unknown_scoring_raises() -> None:
    with pytest.raises(ValueError, match="unknown scoring 'logits'; known: votes, softmax"):
        draw_scores(np.zeros((1, 2)), "logits")  # type: ignore[arg-type]


@pytest.mark.parametrize("scoring", SCORINGS)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_sums_do_not_depend_on_order_or_cuts(
    scoring: Scoring, data: st.DataObject, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = data.draw(st.integers(1, 80))
    scores = draw_scores(rng.normal(0, 3, (rows, 5)), scoring)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=6)))
    whole = Tally.of(scores, scoring)
    total = Tally.empty(5, scoring)
    for part in np.split(rng.permutation(scores), cuts):
        total += Tally.of(part, scoring)
    assert total.draws == whole.draws == rows
    assert (total.sums == whole.sums).all()
    assert (total.squares == whole.squares).all()
    assert total.denominator == whole.denominator


def test_moments_and_leader() -> None:
    tally = Tally.of(np.array([[UNIT, 0, 0], [UNIT // 2, UNIT // 2, 0]]), "softmax")
    assert tally.sums.tolist() == [3 * UNIT // 2, UNIT // 2, 0]
    assert tally.squares.tolist() == [5 * UNIT**2 // 4, UNIT**2 // 4, 0]
    assert tally.means.tolist() == [0.75, 0.25, 0.0]
    assert tally.leader == 0
    tied = Tally(4, np.array([1, 2, 2]), np.array([1, 2, 2]), 1)
    assert tied.leader == 1


def test_scorings_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match="different scorings"):
        _ = Tally.empty(3, "votes") + Tally.empty(3, "softmax")
