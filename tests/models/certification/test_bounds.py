"""Bounds compared with 40-digit values, from their definitions rather than their formulas."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from models.certification.bounds import (
    CONVERGED_STEPS,
    betting_lower,
    betting_upper,
    bounds,
    clopper_pearson_lower,
    clopper_pearson_upper,
    empirical_bernstein_radius,
    hoeffding_radius,
    vote_lower,
    vote_upper,
)
from models.certification.names import BOUNDS, Bound
from tests.models.certification import oracles

REFERENCE: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "reference.json").read_text(encoding="utf-8")
)["bounds"]
UNIT = 2**20


def random_tally(rng: np.random.Generator, soft: bool) -> tuple[int, int, int, float]:
    """n, S, SS (in units of 2⁻²⁰ and 2⁻⁴⁰ if soft) and α: easy, hard and extreme cases."""
    n = round(10 ** rng.uniform(0, 5))
    alpha = float(10 ** rng.uniform(-12, -0.1))
    kind = rng.integers(4)
    if not soft:
        share = [rng.random(), 10 ** rng.uniform(-5, 0), 1 - 10 ** rng.uniform(-5, 0), 1.0][kind]
        s = min(max(round(share * n), 0), n)
        return n, s, s, alpha
    n = min(n, 3000)
    law = [(1, 1), (0.2, 3), (8, 0.5), (0.05, 0.05)][kind]
    x = np.floor(rng.beta(*law, size=n) * UNIT).astype(np.int64)
    return n, int(x.sum()), int((x * x).sum()), alpha


@pytest.mark.parametrize("figure", REFERENCE, ids=lambda f: f"{f['method']}-{f['sum']}")
def test_reference_figures(figure: dict[str, Any]) -> None:
    quarter = 4  # every figure is a multiple of 1/4, or of 1/16 for the squares
    s, ss = float(figure["sum"]) * quarter, float(figure["sum_squares"]) * quarter**2
    assert s == int(s)
    assert ss == int(ss)
    votes = figure["method"] == "clopper-pearson"
    lower, upper = bounds(
        figure["method"],
        figure["draws"],
        np.int64(s // quarter if votes else s),
        np.int64(ss // quarter**2 if votes else ss),
        float(figure["alpha"]),
        denominator=1 if votes else quarter,
        steps=CONVERGED_STEPS,
    )
    assert float(lower) == pytest.approx(float(figure["lower"]), abs=2e-12)
    assert float(upper) == pytest.approx(float(figure["upper"]), abs=2e-12)


def test_every_bound_has_reference_figures() -> None:
    assert {figure["method"] for figure in REFERENCE} == set(BOUNDS)


@pytest.mark.parametrize("soft", [False, True], ids=["votes", "soft"])
def test_betting_is_the_root_of_the_mixture(soft: bool) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        n, s, ss, alpha = random_tally(rng, soft)
        unit = UNIT if soft else 1
        exact_s, exact_ss = mp.mpf(s) / unit, mp.mpf(ss) / unit / unit
        lower, upper = bounds("betting", n, s, ss, alpha, denominator=unit, steps=CONVERGED_STEPS)
        exact = oracles.betting_lower(n, exact_s, exact_ss, alpha)
        assert abs(float(lower) - exact) <= 1e-10 * exact + 1e-14, (n, s, ss, alpha)
        exact = oracles.betting_upper(n, exact_s, exact_ss, alpha)
        assert abs((1 - float(upper)) - (1 - exact)) <= 1e-10 * (1 - exact) + 1e-14
        # The product's bound may stop short of it on the safe side; from the first look on, it is
        # equal.
        served_lower, served_upper = bounds("betting", n, s, ss, alpha, denominator=unit)
        short = 1e-10 if n >= 32 and alpha <= 0.05 else 0.02
        assert lower - short <= served_lower <= lower + 1e-14
        assert upper - 1e-14 <= served_upper <= upper + short


@given(
    n=st.integers(1, 5000),
    soft=st.booleans(),
    alpha=st.floats(1e-9, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_newton_step_is_a_valid_bound(n: int, soft: bool, alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.beta(rng.uniform(0.05, 3), rng.uniform(0.05, 3), size=n)
    x = np.floor(x * UNIT).astype(np.int64) if soft else (x > 0.5).astype(np.int64)
    unit = UNIT if soft else 1
    arguments = n, int(x.sum()), int((x * x).sum()), alpha
    root = float(betting_lower(*arguments, denominator=unit, steps=40))
    steps = [float(betting_lower(*arguments, denominator=unit, steps=k)) for k in range(9)]
    assert all(b >= a * (1 - 1e-13) for a, b in pairwise(steps))
    assert max(steps) <= root * (1 + 1e-12)
    assert root <= float(x.mean()) / unit * (1 + 1e-12)


@given(
    n=st.integers(1, 500),
    alpha=st.floats(1e-9, 0.5),
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0.01, 1),
)
def test_two_moments_never_claim_more_than_the_draws(
    n: int, alpha: float, seed: int, share: float
) -> None:
    """The wealth proven from S and SS is at most that of the same bets on the draws themselves."""
    rng = np.random.default_rng(seed)
    x = np.floor(rng.beta(rng.uniform(0.05, 3), rng.uniform(0.05, 3), size=n) * UNIT) / UNIT
    s, ss = int(x.sum() * UNIT), int((x * UNIT * x * UNIT).sum())
    lower = float(betting_lower(n, s, ss, alpha, denominator=UNIT))
    if lower == 0:
        return
    m = lower * share
    bets = 1 / (1 + np.exp(-np.arange(-5.0, 7.0)))
    weights = np.sqrt(bets * (1 - bets))
    wealth = np.log1p(bets[:, None] * (x / m - 1)).sum(axis=1)
    total = np.logaddexp.reduce(wealth + np.log(weights / weights.sum()))
    assert total >= -np.log(alpha) * (1 - 1e-9) - 1e-9


def test_clopper_pearson_is_the_binomial_tail() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        n = int(rng.integers(1, 400))
        k = int(rng.choice([0, 1, n - 1, n, int(rng.integers(0, n + 1))]))
        alpha = float(10 ** rng.uniform(-9, -0.4))
        lower = float(clopper_pearson_lower(n, k, alpha))
        upper = float(clopper_pearson_upper(n, k, alpha))
        if k == 0:
            assert lower == 0
        else:
            assert abs(oracles.binomial_tail(n, k, lower) / alpha - 1) < 1e-9
        # P(Bin(n, p) ≤ k) at p = upper is the probability of at least n − k misses at 1 − upper.
        misses = float(clopper_pearson_lower(n, n - k, alpha))
        assert upper == 1 - misses
        if k < n:
            assert abs(oracles.binomial_tail(n, n - k, misses) / alpha - 1) < 1e-9


def test_clopper_pearson_errs_with_exactly_alpha_at_worst() -> None:
    """Over all outcomes at each p: wrong with probability at most α, and almost α at some p."""
    n, alpha = 40, 0.05
    outcomes = np.arange(n + 1)
    lower = clopper_pearson_lower(n, outcomes, alpha)
    upper = clopper_pearson_upper(n, outcomes, alpha)
    wrong = []
    for p in np.concatenate([np.linspace(0.01, 0.99, 99), lower[1:] - 1e-9]):
        mass = stats.binom.pmf(outcomes, n, p)
        wrong.append(mass[lower > p].sum())
        assert mass[upper < p].sum() <= alpha + 1e-12
    assert max(wrong) <= alpha + 1e-12
    assert max(wrong) > 0.98 * alpha


def test_hoeffding_and_empirical_bernstein_against_40_digits() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        n = int(rng.integers(2, 20000))
        alpha = float(10 ** rng.uniform(-9, -0.4))
        x = np.floor(rng.beta(0.5, 2, size=min(n, 50)) * UNIT).astype(np.int64)
        x = np.resize(x, n)
        s, ss = int(x.sum()), int((x * x).sum())
        log = mp.log(1 / mp.mpf(alpha))
        assert abs(float(hoeffding_radius(n, alpha)) - mp.sqrt(log / (2 * n))) < 1e-14
        variance = (mp.mpf(ss) - mp.mpf(s) ** 2 / n) / (n - 1) / UNIT**2
        log = mp.log(2 / mp.mpf(alpha))
        exact = mp.sqrt(2 * variance * log / n) + 7 * log / (3 * (n - 1))
        found = empirical_bernstein_radius(n, s, ss, alpha, denominator=UNIT)
        assert abs(float(found) - exact) < 1e-12 * exact + 1e-14
        assert float(np.var(x / UNIT, ddof=1)) == pytest.approx(float(variance), abs=1e-12)


def test_empirical_bernstein_of_constant_draws_is_its_constant_part() -> None:
    third = UNIT // 3
    for n in (2, 7, 1000):
        found = empirical_bernstein_radius(n, n * third, n * third**2, 0.01, denominator=UNIT)
        assert float(found) == pytest.approx(7 * np.log(200) / (3 * (n - 1)), rel=1e-6)


SUMS = st.tuples(st.integers(1, 3000), st.floats(0, 1)).map(
    lambda pair: (pair[0], round(pair[0] * pair[1]))
)


@pytest.mark.parametrize("method", BOUNDS)
@given(counts=SUMS, alpha=st.floats(1e-9, 0.4))
def test_order_and_monotonicity(method: Bound, counts: tuple[int, int], alpha: float) -> None:
    n, s = counts[0] + 1, counts[1]

    def of(draws: int, votes: int, a: float) -> tuple[float, float]:
        lower, upper = bounds(method, draws, votes, votes, a, steps=CONVERGED_STEPS)
        return float(lower), float(upper)

    lower, upper = of(n, s, alpha)
    slack = 1e-12
    assert 0 <= lower <= s / n + slack
    assert s / n - slack <= upper <= 1
    if s < n:
        assert of(n, s + 1, alpha)[0] >= lower - slack or method == "empirical-bernstein"
        assert of(n, s + 1, alpha)[1] >= upper - slack or method == "empirical-bernstein"
    # More confidence widens them; twice the draws in the same proportions narrow them.
    wider = of(n, s, alpha / 2)
    assert wider[0] <= lower + slack
    assert wider[1] >= upper - slack
    narrower = of(2 * n, 2 * s, alpha)
    assert narrower[0] >= lower - slack
    assert narrower[1] <= upper + slack
    # One more agreeing draw never lowers the lower bound, nor one against it the upper.
    if method in ("betting", "clopper-pearson"):
        assert of(n + 1, s + 1, alpha)[0] >= lower - slack
        assert of(n + 1, s, alpha)[1] <= upper + slack
        mirrored = of(n, n - s, alpha)
        assert mirrored[0] == pytest.approx(1 - upper, abs=slack)
        assert mirrored[1] == pytest.approx(1 - lower, abs=slack)


def test_an_unknown_bound_raises() -> None:
    with pytest.raises(ValueError, match="unknown bound 'wilson'; known: betting"):
        bounds("wilson", 10, 5, 5, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="computed for up to 1,000,000,000"):
        bounds("betting", 10**9 + 1, 3, 3, 0.1)
    with pytest.raises(ValueError, match="votes only"):
        bounds("clopper-pearson", 10, 5, 5, 0.1, denominator=4)
    with pytest.raises(ValueError, match="votes only"):
        bounds("clopper-pearson", 10, 5, 4, 0.1)


def test_no_votes_give_a_lower_bound_of_zero_and_all_votes_an_upper_of_one() -> None:
    for unit in (1, UNIT):
        assert betting_lower(100, 0, 0, 0.01, denominator=unit) == 0
        assert betting_upper(100, 100 * unit, 100 * unit**2, 0.01, denominator=unit) == 1
    assert clopper_pearson_lower(100, 0, 0.01) == 0
    assert clopper_pearson_upper(100, 100, 0.01) == 1


def test_units_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    votes = rng.integers(0, 101, 50)
    coarse = bounds("betting", 100, votes, votes, 0.01)
    fine = bounds("betting", 100, votes * UNIT, votes * UNIT**2, 0.01, denominator=UNIT)
    assert np.array_equal(coarse, fine)


def test_the_largest_budget_fits_its_integers() -> None:
    """100,000 soft draws: sums of squares in 2⁻⁴⁰ still fit into int64 on both sides."""
    n = 100_000
    rng = np.random.default_rng(5)
    x = rng.integers(0, UNIT + 1, n)
    s, ss = int(x.sum()), int((x * x).sum())
    upper = betting_upper(n, np.int64(s), np.int64(ss), 1e-3, denominator=UNIT)
    exact = oracles.betting_upper(n, mp.mpf(s) / UNIT, mp.mpf(ss) / UNIT / UNIT, 1e-3)
    assert abs(float(upper) - exact) < 1e-8


def test_few_votes_of_very_many_draws_have_bounds() -> None:
    votes = np.arange(64)
    for draws in (2**17, 2**22, 10**9):
        lower = betting_lower(draws, votes, votes, 1e-3)
        upper = betting_upper(draws, votes, votes, 1e-3)
        assert np.all(np.diff(lower) >= 0)
        assert np.all((lower >= 0) & (lower <= votes / draws) & (votes / draws <= upper))


@given(
    draws=st.integers(1, 50_000),
    share=st.floats(0, 1),
    alpha=st.floats(1e-15, 0.9),
)
def test_bounds_of_one_count_of_votes_are_those_of_arrays(
    draws: int, share: float, alpha: float
) -> None:
    votes = int(draws * share)
    both = betting_lower(draws, votes, votes, alpha), betting_upper(draws, votes, votes, alpha)
    found = vote_lower(draws, votes, alpha), vote_upper(draws, votes, alpha)
    assert found == pytest.approx([float(end) for end in both], rel=1e-13, abs=1e-15)
