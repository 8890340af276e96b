"""Counting votes as they come in, compared with sorting them all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.certification.poll import Poll, Standing
from models.certification.tally import NO_VOTE, Tally


def ranking(counts: list[int]) -> list[int]:
    return sorted(range(len(counts)), key=lambda label: (-counts[label], label))


@given(
    labels=st.integers(2, 6),
    blocks=st.lists(st.lists(st.integers(NO_VOTE, 5), max_size=12), max_size=20),
    given_first=st.none() | st.integers(0, 1),
)
def test_the_two_leading_labels(
    labels: int, blocks: list[list[int]], given_first: int | None
) -> None:
    poll, counts, draws = Poll(labels, given_first), [0] * labels, 0
    for block in blocks:
        votes = [vote for vote in block if vote < labels]
        poll.add(votes)
        draws += len(votes)
        for vote in votes:
            if vote != NO_VOTE:
                counts[vote] += 1
        order = ranking(counts)
        first = order[0] if given_first is None else given_first
        assert poll.first == first
        assert poll.second == next(label for label in order if label != first)
        assert (poll.draws, poll.counts.tolist()) == (draws, counts)
        assert poll.tally.sums.tolist() == counts


def test_a_tally_does_not_follow_later_votes() -> None:
    poll = Poll(2)
    poll.add([0, 1, 1])
    tally = poll.tally
    poll.add([1])
    assert (tally.draws, tally.sums.tolist()) == (3, [1, 2])


@pytest.mark.parametrize("vote", [3, -2])
def test_a_vote_for_no_label_raises(vote: int) -> None:
    with pytest.raises(ValueError, match=f"a draw votes for label {vote} of 3"):
        Poll(3).add([0, vote])


def test_a_standing_has_everything_that_bounds_need() -> None:
    pilot = Tally(9, np.array([5, 1, 3]), np.array([5, 1, 3]), 1)
    counted = Tally(20, np.array([4, 10, 5]), np.array([4, 10, 5]), 1)
    expected = Standing(draws=20, own=4, most=10, total=29, shown=11, first=11, second=9)
    assert Standing.of(pilot, counted, 0) == expected
