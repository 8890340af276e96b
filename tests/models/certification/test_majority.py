"""Certifying a majority: the steps of its proof on exact events, and its exact rate of failure.

Nothing here is simulated. The votes for a label are a walk on (draws, votes), and so are all votes
for two or three labels; dynamic programmes over these walks give probabilities to the last digit.
"""

from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.certification.bounds import betting_lower
from models.certification.majority import further_votes, majority_pair

END = 240


@cache
def crossing(alpha: float, level: float, end: int = END) -> tuple[int, ...]:
    """For each number of draws, the fewest votes whose lower bound exceeds ``level``."""
    fewest = []
    for draws in range(end + 1):
        votes = np.arange(draws + 1)
        above = betting_lower(draws, votes, votes, alpha) > level if draws else np.array([False])
        assert (np.diff(above.astype(int)) >= 0).all(), "more votes must not lower the bound"
        fewest.append(int(above.argmax()) if above.any() else draws + 1)
    return tuple(fewest)


def ever(p: float, fewest: tuple[int, ...]) -> float:
    """The probability that votes of probability ``p`` ever reach so many, from the walk itself."""
    alive = np.zeros(len(fewest) + 1)
    alive[0] = 1.0
    reached = 0.0
    for draws in range(1, len(fewest)):
        alive[1:] = p * alive[:-1] + (1 - p) * alive[1:]
        alive[0] *= 1 - p
        reached += alive[fewest[draws] :].sum()
        alive[fewest[draws] :] = 0
    return float(reached)


ALPHAS = [0.2, 0.05, 0.01, 1.8e-4]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_each_label_fails_with_at_most_twice_its_probability_of_a_vote(alpha: float) -> None:
    """P(E_c) ≤ 2·p_c·α' on both sides of ½: the whole proof rests on this."""
    half = crossing(alpha, 0.5)
    for p in (1e-6, 0.01, 0.1, 0.25, 0.4, 0.49, 0.4999, 0.5):
        assert ever(p, half) <= 2 * p * alpha
    for p in (0.5001, 0.51, 0.6, 0.75, 0.9, 0.99, 1.0):
        assert ever(p, crossing(alpha, p)) <= alpha < 2 * p * alpha


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_event_at_half_is_not_far_below_its_bound(alpha: float) -> None:
    """The bound is tight enough that a wrong constant would be noticed."""
    assert ever(0.5, crossing(alpha, 0.5, 4 * END)) > 0.3 * alpha


@pytest.mark.parametrize("alpha", ALPHAS)
@given(p=st.floats(0.001, 0.999), gamma=st.floats(1, 20), level=st.floats(0.05, 0.95))
def test_powers_of_increasing_events(alpha: float, p: float, gamma: float, level: float) -> None:
    """P_{p^γ}(A) ≤ P_p(A)^γ for the very events behind the bounds."""
    fewest = crossing(alpha, round(level, 1))
    assert ever(p**gamma, fewest) <= ever(p, fewest) ** gamma * (1 + 1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99), st.floats(1, 10))
def test_powers_of_any_increasing_event(seed: int, p: float, gamma: float) -> None:
    """The same for arbitrary increasing events of six draws, by counting all outcomes."""
    rng = np.random.default_rng(seed)
    draws = np.array(list(product((0, 1), repeat=6)))
    least = draws[rng.choice(len(draws), int(rng.integers(1, 6)), replace=False)]
    inside = (draws[:, None, :] >= least[None]).all(axis=2).any(axis=1)

    def probability(q: float) -> float:
        votes = draws[inside].sum(axis=1)
        return float((q**votes * (1 - q) ** (6 - votes)).sum())

    assert probability(p**gamma) <= probability(p) ** gamma * (1 + 1e-9)


def fails(weights: tuple[float, ...], alpha: float, end: int) -> float:
    """The exact probability that anything untrue is certified of any label at any n up to ``end``.

    The last of ``weights`` is for draws for no label, or for all other labels, which get too few
    votes to be certified; the walk is over the votes of the rest.
    """
    *labels, _ = weights
    limits = [np.array(crossing(alpha, max(p, 0.5), end)) for p in labels]
    alive: NDArray[np.float64] = np.zeros((end + 1,) * len(labels))
    alive[(0,) * len(labels)] = 1.0
    failed = 0.0
    for draws in range(1, end + 1):
        after = weights[-1] * alive
        for axis, p in enumerate(labels):
            moved = np.roll(alive, 1, axis=axis)
            moved[(slice(None),) * axis + (0,)] = 0
            after += p * moved
        wrong = np.zeros(alive.shape, dtype=bool)
        for axis, limit in enumerate(limits):
            wrong[(slice(None),) * axis + (slice(limit[draws], None),)] = True
        failed += float(after[wrong].sum())
        alive = np.where(wrong, 0.0, after)
    return failed


@pytest.mark.parametrize("alpha", [0.1, 0.01, 1.8e-4])
@pytest.mark.parametrize(
    "weights",
    [
        (0.5, 0.5, 0.0),
        (0.501, 0.499, 0.0),
        (0.55, 0.45, 0.0),
        (0.7, 0.3, 0.0),
        (0.999, 0.001, 0.0),
        (0.5, 0.49, 0.01),
        (0.4, 0.3, 0.3),
        (0.45, 0.0, 0.55),
    ],
)
def test_two_labels_and_the_rest_fail_with_at_most_twice_alpha(
    alpha: float, weights: tuple[float, ...]
) -> None:
    assert fails(weights, alpha, 150) <= 2 * alpha


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3, 0.0), (0.5, 0.3, 0.2, 0.0)])
def test_three_labels_fail_with_at_most_twice_alpha(weights: tuple[float, ...]) -> None:
    assert fails(weights, 0.1, 40) <= 2 * 0.1


def test_alpha_alone_would_not_be_enough() -> None:
    """Of two tied labels, either may be certified, so the factor of two is needed."""
    for alpha in (0.2, 0.1):
        level = fails((0.5, 0.5, 0.0), alpha, 400)
        assert alpha < level <= 2 * alpha


@pytest.mark.parametrize("labels", [4, 10, 1000])
def test_many_labels_together_have_twice_alpha(labels: int) -> None:
    """The sum over all labels, each by its own walk, for probabilities of every shape."""
    alpha, half = 0.05, crossing(0.05, 0.5)
    for first in (1 / labels, 0.3, 0.5):
        rest = (1 - first) / (labels - 1)
        assert ever(first, half) + (labels - 1) * ever(rest, half) <= 2 * alpha
    for first in (0.51, 0.7, 0.95):
        rest = (1 - first) / (labels - 1)
        whole = ever(first, crossing(alpha, first)) + (labels - 1) * ever(rest, half)
        assert whole <= 2 * alpha


@example(draws=497, share=0.4921875, lower=0.9854243374303373, alpha=0.05)
@given(
    draws=st.integers(0, 500),
    share=st.floats(0, 1),
    lower=st.floats(0.5, 0.999),
    alpha=st.sampled_from(ALPHAS),
)
def test_at_most_one_further_vote_too_many_is_predicted(
    draws: int, share: float, lower: float, alpha: float
) -> None:
    votes = int(draws * share)
    more = further_votes(draws, votes, lower, alpha)

    def bound(further: int) -> float:
        n, s = draws + further, votes + further
        return float(betting_lower(n, s, s, alpha, steps=16)) if n else 0.0

    assert bound(more) >= lower - 1e-9
    fewer = more - 2  # one would do, but two steps of Newton's method end just above the root
    assert fewer < 0 or bound(fewer) < lower + 1e-9


def test_the_pair_of_a_majority() -> None:
    lower, upper = majority_pair(30, 30, 1e-3)
    assert lower == betting_lower(30, 30, 30, 1e-3) > 0.5
    assert upper == 1 - lower
    # Nothing is claimed unless the lower bound exceeds a half.
    assert majority_pair(30, 16, 1e-3) == majority_pair(30, 0, 1e-3) == (0, 1)
