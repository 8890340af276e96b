"""What counts rule out, compared with the bounds themselves."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.certification.bounds import betting_lower, vote_lower
from models.certification.division import divide
from models.certification.names import Ground
from models.certification.poll import Standing
from models.certification.prospects import LOWEST_ERROR, lowest_majority, may_certify, may_exceed
from models.certification.tally_bounds import vote_pair
from models.certification.terms import Terms

LAWS = [
    Terms("gaussian", 0.5, 1.0, "l2", 784),
    Terms("laplace", 0.5, 1.0, "l1", 784, tau=1e-4),
    Terms("gaussian", 0.25, 2.0, "l2", 3072, tau=1e-3, rho=1e-3),
]


@given(
    draws=st.integers(1, 20_000),
    share=st.floats(0, 1),
    alpha=st.floats(1e-15, 0.9),
    mean=st.floats(0.01, 0.999999),
)
def test_sizes_ruled_out_are_never_reached(
    draws: int, share: float, alpha: float, mean: float
) -> None:
    votes = round(draws * share)
    if not may_exceed(draws, votes, alpha, mean):
        assert vote_lower(draws, votes, alpha) <= mean


def test_sizes_not_ruled_out_are_nearly_reached() -> None:
    for draws in (50, 200, 1000):
        for alpha in (1e-2, 1e-5):
            for votes in range(draws + 1):
                lower = betting_lower(draws, votes, votes, alpha, steps=16)
                assert may_exceed(draws, votes, alpha, 0.7) == (lower > 0.7)


@given(
    counts=st.tuples(*[st.integers(0, 400)] * 4),
    pilot=st.tuples(*[st.integers(0, 30)] * 3),
    leads=st.booleans(),
    confidence=st.sampled_from([0.8, 0.999]),
    alone=st.booleans(),
    terms=st.sampled_from(LAWS),
    share=st.floats(0.02, 3),
    ground=st.sampled_from(["betting", "clopper-pearson", "majority"]),
)
def test_no_ground_certifies_what_its_counts_rule_out(
    counts: Any,
    pilot: Any,
    leads: bool,
    confidence: float,
    alone: bool,
    terms: Terms,
    share: float,
    ground: Ground,
) -> None:
    counted = np.array(sorted(counts[:3], reverse=leads))
    total, draws = counted + pilot, int(counted.sum()) + counts[3] + 1
    first, second = sorted(total.tolist(), reverse=True)[:2]
    standing = Standing(
        draws,
        int(counted[0]),
        int(counted[1:].max()),
        draws + sum(pilot),
        int(total[1:].max()),
        first,
        second,
    )
    division = divide(confidence, "votes", True, alone=alone)
    pair = vote_pair(ground, standing, division, 5)
    target = share * terms.scale
    least = lowest_majority(terms, "l2", target) - LOWEST_ERROR
    if not may_certify(ground, standing, division, 5, least):
        assert terms.answered(*pair, "l2") < target
    if not may_certify(ground, standing, division, 5, 0.5):
        assert terms.size(*pair, "l2") == 0


@pytest.mark.parametrize("terms", LAWS)
@given(target=st.floats(1e-3, 2))
def test_the_lowest_majority(terms: Terms, target: float) -> None:
    lowest = lowest_majority(terms, "l2", target)
    below = lowest - LOWEST_ERROR
    assert terms.sizes(below, 1 - below, "l2") < target
    if lowest < 1:
        assert terms.sizes(lowest, 1 - lowest, "l2") >= target
