"""Certificates compared with 40-digit values and with each other, and what they must never do."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from models.certification.certificates import (
    DEFAULT,
    PAPER,
    attacked,
    construction_scale,
    size,
)
from models.certification.laws import LAWS
from models.certification.laws.laplace import SLOPE as LAPLACE_SLOPE
from models.certification.laws.laplace import cdf as laplace_cdf
from models.certification.laws.laplace import quantile as laplace_quantile
from models.certification.names import MECHANISM_NORMS
from tests.models.certification import oracles

REFERENCE: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "reference.json").read_text(encoding="utf-8")
)["certificates"]
# For the two laws of the paper; tests of other laws are in test_laws.py and test_split.py.
CERTIFICATES = [*LAWS["gaussian"].certificates, *LAWS["laplace"].certificates]
OURS = [figure for figure in REFERENCE if figure["certificate"] in CERTIFICATES]
TENG = [figure for figure in REFERENCE if figure["certificate"] == "teng"]
CLOSED = ["pixeldp-laplace", "gaussian", "laplace", "laplace-l2"]
QUICK = [name for name in CERTIFICATES if name != "analytic-gaussian"]  # by bisection: 20 ms each

probabilities = st.floats(1e-9, 1 - 1e-9)


def one(certificate: str, lower: float, upper: float, **options: float) -> float:
    return float(size(certificate, lower, upper, 1.0, 1.0, **options))


def random_bounds(count: int, seed: int) -> tuple[Any, Any]:
    """pA > pB with a sum of at most 1: ordinary, lopsided, near ties, near certainty."""
    rng = np.random.default_rng(seed)
    top = np.where(rng.random(count) < 0.5, rng.random(count), 1 - 10 ** rng.uniform(-9, 0, count))
    top = np.clip(top, 1e-6, 1 - 1e-9)
    below = np.where(
        rng.random(count) < 0.5,
        top * rng.random(count),
        top * np.minimum(10 ** rng.uniform(-9, 0, count), 1 - 10 ** rng.uniform(-9, -1, count)),
    )
    return top, np.minimum(below, 1 - top)


@pytest.mark.parametrize("figure", OURS, ids=lambda f: f"{f['certificate']}-{f['lower']}")
def test_reference_figures(figure: dict[str, Any]) -> None:
    found = size(
        figure["certificate"],
        float(figure["lower"]),
        float(figure["upper"]),
        float(figure["scale"]),
        float(figure["sensitivity"]),
    )
    assert float(found) == pytest.approx(float(figure["size"]), rel=1e-9, abs=1e-12)


def test_every_certificate_has_reference_figures() -> None:
    # "laplace-l2" is "gaussian" times a constant, which is tested below.
    assert {figure["certificate"] for figure in OURS} == set(CERTIFICATES) - {"laplace-l2"}
    assert len(OURS) >= 30


@pytest.mark.parametrize("figure", TENG, ids=lambda f: f["lower"])
def test_never_below_teng(figure: dict[str, Any]) -> None:
    lower, upper = float(figure["lower"]), float(figure["upper"])
    scale, sensitivity = float(figure["scale"]), float(figure["sensitivity"])
    theirs = float(figure["size"])
    assert float(oracles.teng(lower, upper)) * scale / sensitivity == pytest.approx(theirs)
    assert float(size("laplace", lower, upper, scale, sensitivity)) >= theirs * (1 - 1e-11)


@pytest.mark.parametrize("certificate", CLOSED)
def test_closed_forms_against_40_digits(certificate: str) -> None:
    oracle = getattr(oracles, certificate.replace("-", "_"))
    for lower, upper in zip(*random_bounds(200, 1), strict=True):
        exact = oracle(float(lower), float(upper))
        # Near a tie, the difference of the quantiles is only as exact as the quantiles.
        assert abs(one(certificate, lower, upper) - exact) <= 1e-13 * exact + 2e-15 * abs(
            oracles.laplace_quantile(float(upper))
        )


@pytest.mark.parametrize("certificate", ["pixeldp-gaussian", "renyi"])
def test_searched_certificates_against_40_digits(certificate: str) -> None:
    oracle = getattr(oracles, certificate.replace("-", "_"))
    for lower, upper in zip(*random_bounds(25, 2), strict=True):
        exact = float(oracle(float(lower), float(upper)))
        found = one(certificate, lower, upper)
        assert found <= exact * (1 + 1e-9) + 1e-14, (lower, upper)
        assert found >= exact * (1 - 1e-6) - 1e-9, (lower, upper)


def test_analytic_gaussian_is_the_largest_certified_shift() -> None:
    for lower, upper in zip(*random_bounds(20, 3), strict=True):
        found = one("analytic-gaussian", lower, upper)
        below, above = found * (1 - 1e-9) - 1e-14, found * (1 + 1e-6) + 1e-14
        assert below <= 0 or oracles.analytic_slack(float(lower), float(upper), below) >= 0
        if found < 3:  # beyond, ε is searched only up to 12, which can only make it smaller
            assert oracles.analytic_slack(float(lower), float(upper), above) < 0


def test_the_slope_of_laplace_against_gaussian_is_largest_in_the_middle() -> None:
    """T = Φ⁻¹∘F: to 40 digits, its difference quotients and its slope never exceed √(π/2)."""
    limit = mp.sqrt(mp.pi / 2)
    assert abs(mp.mpf(LAPLACE_SLOPE) - limit) < mp.mpf("1e-15")
    points = [mp.mpf(x) / 8 for x in range(-160, 161)]
    images = [oracles.normal_quantile(oracles.laplace_cdf(x)) for x in points]
    slopes = []
    for (x, y), (u, v) in pairwise(zip(points, images, strict=True)):
        quotient = (v - y) / (u - x)
        assert 0 < quotient < limit
        slopes.append(quotient)
        density = mp.exp(-abs(x)) / 2
        assert density / mp.npdf(y) <= limit * (1 + mp.mpf("1e-30"))
    assert slopes == sorted(slopes[:160]) + sorted(slopes[160:], reverse=True)
    tiny = mp.mpf("1e-12")
    steepest = oracles.normal_quantile(oracles.laplace_cdf(tiny)) / tiny
    assert limit * (1 - mp.mpf("1e-11")) < steepest < limit


@pytest.mark.slow
def test_laplace_in_l2_never_exceeds_its_exact_trade_off() -> None:
    """Two coordinates moved together: Neyman-Pearson, the best test of all, on a fine grid.

    The log-likelihood ratio of a shift θ in each is |z₁| − |z₁ − θ|, plus the same for z₂. At every
    level, the best test leaves at least what ``laplace-l2`` says.
    """
    edges = np.linspace(-30, 30, 3001)
    here = np.diff(laplace_cdf(edges))
    for theta in (0.1, 0.5, 1.0, 2.0, 4.0):
        there = np.diff(laplace_cdf(edges - theta))
        masses, moved = np.outer(here, here).ravel(), np.outer(there, there).ravel()
        ratio = np.round(np.log(moved / masses), 9)
        values, groups = np.unique(ratio, return_inverse=True)
        mass, shifted = (np.cumsum(np.bincount(groups, part)) for part in (masses, moved))
        # A grid can only make the two laws harder to distinguish: allow for its cells.
        for p in (0.5, 0.8, 0.9, 0.99, 0.999):
            least = float(np.interp(p, mass, shifted))
            bound, _ = attacked("laplace-l2", p, 1.0, theta * np.sqrt(2), 1.0, 1.0)
            assert float(bound) <= least + 1e-9, (theta, p)
        assert len(values) > 3


def test_the_privacy_curve_is_that_of_the_gaussian_mechanism() -> None:
    """The curve that the oracle uses is the hockey-stick divergence, computed as an integral."""
    for epsilon, mu in [(0, 0.3), (0.5, 0.3), (1, 1), (3, 1.5), (6, 2)]:
        mu = mp.mpf(mu)
        closed = oracles.normal_cdf(mu / 2 - epsilon / mu) - mp.exp(epsilon) * oracles.normal_cdf(
            -mu / 2 - epsilon / mu
        )
        assert abs(oracles.privacy_curve(epsilon, mu) - closed) < mp.mpf("1e-20")


def test_near_ties_are_not_overstated() -> None:
    """A search over many orders must not collect rounding errors as size."""
    for gap in (1e-3, 1e-6, 1e-9, 1e-12):
        for lower in (0.5, 0.3, 0.01):
            upper = lower * (1 - gap)
            for certificate in CERTIFICATES:
                exact = float(oracles.laplace(lower, upper))
                exact = float(oracles.gaussian(lower, upper)) if "lap" not in certificate else exact
                assert one(certificate, lower, upper) <= exact * (1 + 1e-9) + 1e-13


def test_order_of_the_certificates() -> None:
    lower, upper = random_bounds(3000, 4)
    found = {name: size(name, lower, upper, 1.0, 1.0) for name in CERTIFICATES}
    slack = 1e-13
    assert (found["pixeldp-gaussian"] <= found["analytic-gaussian"] + slack).all()
    assert (found["analytic-gaussian"] <= found["gaussian"] + slack).all()
    assert (found["renyi"] <= found["gaussian"] + slack).all()
    assert (found["pixeldp-laplace"] <= found["laplace"] + slack).all()
    teng = np.maximum(found["pixeldp-laplace"], -np.log1p(upper - lower))
    assert (teng <= found["laplace"] + slack).all()
    assert (teng > found["pixeldp-laplace"] + 1e-3).any()
    assert (found["laplace"] > teng + 1e-3).any()
    assert found["pixeldp-gaussian"].max() < 0.5705


@pytest.mark.parametrize("certificate", QUICK)
@given(data=st.data())
def test_monotone(certificate: str, data: st.DataObject) -> None:
    lower, upper = data.draw(probabilities), data.draw(probabilities)
    better = data.draw(st.floats(lower, 1 - 1e-9))
    smaller = data.draw(st.floats(1e-9, upper))
    scale, sensitivity = data.draw(st.floats(0.01, 100)), data.draw(st.floats(0.01, 100))
    factor = data.draw(st.floats(1, 10))

    def of(*arguments: float, **options: float) -> float:
        return float(size(certificate, *arguments, **options))

    base = of(lower, upper, scale, sensitivity)
    least = base * (1 - 1e-9) - 1e-12 * scale / sensitivity  # searches end within this
    assert of(better, upper, scale, sensitivity) >= least
    assert of(lower, smaller, scale, sensitivity) >= least
    assert of(lower, upper, scale * factor, sensitivity) >= base
    assert of(lower, upper, scale, sensitivity * factor) <= base
    assert of(lower, upper, scale, sensitivity, tau=1e-6) <= base
    assert of(lower, upper, scale, sensitivity, rho=1e-3) <= base
    assert base >= 0


@pytest.mark.parametrize("certificate", QUICK)
@given(lower=probabilities, upper=probabilities, power=st.integers(-30, 30))
def test_scale_free(certificate: str, lower: float, upper: float, power: int) -> None:
    assert size(certificate, lower, upper, 0.7, 1.3) == size(
        certificate, lower, upper, 0.7 * 2.0**power, 1.3 * 2.0**power
    )


@pytest.mark.parametrize("certificate", QUICK)
@given(lower=st.floats(0, 1), more=st.floats(0, 1))
def test_nothing_is_claimed_unless_pa_exceeds_pb(
    certificate: str, lower: float, more: float
) -> None:
    upper = min(lower + more, 1.0)
    assert one(certificate, lower, upper) == 0
    assert one(certificate, float("nan"), upper) == 0
    assert one(certificate, upper, float("nan")) == 0


def test_analytic_gaussian_has_the_same_properties() -> None:
    rng = np.random.default_rng(6)
    lower, upper = rng.random(400), rng.random(400)
    upper = np.where(rng.random(400) < 0.5, upper, lower * upper)
    base = size("analytic-gaussian", lower, upper, 1.0, 1.0)
    assert ((base > 0) == (lower > upper)).all()
    better = lower + (1 - lower) * rng.random(400) * 0.999
    assert (size("analytic-gaussian", better, upper, 1.0, 1.0) >= base).all()
    smaller = upper * rng.random(400)
    assert (size("analytic-gaussian", lower, smaller, 1.0, 1.0) >= base).all()
    assert (size("analytic-gaussian", lower, upper, 1.0, 1.0, tau=1e-6) <= base).all()
    assert (size("analytic-gaussian", lower, upper, 8.0, 4.0) == 2 * base).all()


def test_arrays_broadcast_and_keep_zeros_apart() -> None:
    lower = np.array([0.9, 0.2, 0.9])
    found = size("gaussian", lower[:, None], np.array([0.1, 0.5]), 0.5, [[1.0], [1.0], [2.0]])
    assert found.shape == (3, 2)
    assert (found[1] == [float(size("gaussian", 0.2, 0.1, 0.5, 1.0)), 0]).all()
    assert (found[2] * 2 == found[0]).all()


def test_unknown_names_raise() -> None:
    with pytest.raises(ValueError, match=r"unknown certificate 'gauss'.*known: pixeldp-gaussian"):
        size("gauss", 0.9, 0.1, 1.0, 1.0)
    with pytest.raises(ValueError, match="unknown certificate"):
        size("", 0.9, 0.1, 1.0, 1.0)
    with pytest.raises(ValueError, match="there is no interval for the certificate 'renyi'"):
        attacked("renyi", 0.5, 0.6, 0.1, 1.0, 1.0)
    with pytest.raises(ValueError, match="'uniform' noise has no construction bound"):
        construction_scale("uniform", 1.0, 1.0, 0.05, 1.0)  # type: ignore[arg-type]


def test_what_has_no_meaning_raises() -> None:
    for scale, sensitivity in [(0, 1), (-1, 1), (1, 0), (1, -1), (np.inf, 1), (np.nan, 1)]:
        with pytest.raises(ValueError, match="positive"):
            size("gaussian", 0.9, 0.1, scale, sensitivity)
    for options in ({"tau": -1e-9}, {"tau": 0.5}, {"rho": -1e-9}, {"tau": np.nan}):
        with pytest.raises(ValueError, match="tau"):
            size("gaussian", 0.9, 0.1, 1.0, 1.0, **options)


def test_mechanisms() -> None:
    for mechanism, norm in {"gaussian": "l2", "laplace": "l1"}.items():
        assert MECHANISM_NORMS[mechanism] == norm  # type: ignore[index]
        assert DEFAULT[mechanism] == mechanism  # type: ignore[index]
        assert PAPER[mechanism] == f"pixeldp-{mechanism}"  # type: ignore[index]


def test_laplace_quantile_against_40_digits() -> None:
    rng = np.random.default_rng(5)
    tails = 2.0 ** -rng.uniform(1, 50, 500)
    for p in np.concatenate([tails, 1 - tails, rng.random(500)]).tolist():
        exact = oracles.laplace_quantile(p)
        assert abs(float(laplace_quantile(p)) - exact) <= 2.0**-52 * abs(exact) + 1e-300
        x = float(exact)
        assert abs(float(laplace_cdf(x)) - oracles.laplace_cdf(x)) <= 2.0**-52 * p
    assert laplace_quantile(0.0) == -np.inf
    assert laplace_quantile(1.0) == np.inf


@given(
    lower=st.floats(0.3, 1 - 1e-6),
    share=st.floats(0, 1),
    tau=st.floats(1e-9, 0.05),
)
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_tau_costs_at_least_what_the_exact_inequality_demands(
    mechanism: str, lower: float, share: float, tau: float
) -> None:
    """At size μ the true scores must still be 2τ apart, because the sampler may hide that much."""
    upper = share * min(lower, 1 - lower)
    mu = one(mechanism, lower, upper, tau=tau)
    if mu == 0:
        return
    cdf = oracles.normal_cdf if mechanism == "gaussian" else oracles.laplace_cdf
    quantile = oracles.normal_quantile if mechanism == "gaussian" else oracles.laplace_quantile
    label = cdf(quantile(mp.mpf(lower) - tau) - mu)
    rival = cdf(quantile(mp.mpf(upper) + tau) + mu)
    assert label - rival >= 2 * tau - mp.mpf("1e-14")


def test_tau_is_a_worst_case_over_relabelled_draws() -> None:
    """The size is close to the exact inequality, and below that without the far side."""
    tau, lower, upper = 0.01, 0.9, 0.1
    exact = mp.findroot(
        lambda mu: (
            oracles.normal_cdf(oracles.normal_quantile(mp.mpf(lower) - tau) - mu)
            - oracles.normal_cdf(oracles.normal_quantile(mp.mpf(upper) + tau) + mu)
            - 2 * tau
        ),
        1,
    )
    found = one("gaussian", lower, upper, tau=tau)
    assert found <= exact
    assert found >= 0.94 * float(exact)
    assert found < one("gaussian", lower - tau, upper + tau)


def test_rho_is_deducted_before_dividing_by_the_sensitivity() -> None:
    plain = float(size("gaussian", 0.9, 0.1, 0.5, 2.0))
    assert float(size("gaussian", 0.9, 0.1, 0.5, 2.0, rho=0.1)) == pytest.approx(plain - 0.05)
    assert float(size("gaussian", 0.9, 0.1, 0.5, 2.0, rho=100)) == 0


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_attacked_by_brute_force(mechanism: str) -> None:
    """Neyman-Pearson on a fine line: what a shift can do to the best and the worst set."""
    scale, sensitivity, change = 0.5, 1.5, 0.2
    edges = np.linspace(-14, 14, 28001)
    cdf = laplace_cdf if mechanism == "laplace" else special.ndtr
    here = np.diff(cdf(edges))
    there = np.diff(cdf(edges - sensitivity * change / scale))
    order = np.argsort(there / np.maximum(here, 1e-300), kind="stable")
    mass, moved = np.cumsum(here[order]), np.cumsum(there[order])
    for lower, upper in [(0.9, 0.97), (0.5, 0.6), (0.05, 0.2)]:
        low, high = attacked(
            mechanism,
            lower,
            upper,
            change,
            scale,
            sensitivity,
        )
        assert float(low) == pytest.approx(np.interp(lower, mass, moved), abs=2e-3)
        assert float(high) == pytest.approx(1 - np.interp(1 - upper, mass, moved), abs=2e-3)


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@given(
    lower=st.floats(0.01, 0.99),
    width=st.floats(0, 0.5),
    change=st.floats(0, 3),
    tau=st.floats(0, 0.01),
    rho=st.floats(0, 0.1),
)
def test_attacked_against_40_digits(
    mechanism: str, lower: float, width: float, change: float, tau: float, rho: float
) -> None:
    upper = min(lower + width, 0.99)
    low, high = attacked(
        mechanism,
        lower,
        upper,
        change,
        0.5,
        1.5,
        tau=tau,
        rho=rho,
    )
    cdf = oracles.normal_cdf if mechanism == "gaussian" else oracles.laplace_cdf
    quantile = oracles.normal_quantile if mechanism == "gaussian" else oracles.laplace_quantile
    mu = (mp.mpf("1.5") * change + rho) / mp.mpf("0.5")
    exact_low = cdf(quantile(max(mp.mpf(lower) - tau, mp.mpf("1e-30"))) - mu) - tau
    exact_high = cdf(quantile(min(mp.mpf(upper) + tau, 1 - mp.mpf("1e-30"))) + mu) + tau
    assert abs(float(low) - max(exact_low, 0)) < 1e-13
    assert abs(float(high) - min(exact_high, 1)) < 1e-13


def test_at_the_certified_size_the_attacked_intervals_just_touch() -> None:
    for mechanism in ("gaussian", "laplace"):
        most = float(size(mechanism, 0.8, 0.1, 0.5, 1.5))
        low, _ = attacked(mechanism, 0.8, 1.0, most, 0.5, 1.5)
        _, high = attacked(mechanism, 0.0, 0.1, most, 0.5, 1.5)
        assert float(low) == pytest.approx(float(high), abs=1e-12)


def test_construction_scale() -> None:
    root = mp.sqrt(2 * mp.log(mp.mpf("1.25") / mp.mpf("0.05")))
    assert construction_scale("gaussian", 0.1, 1.0, 0.05, 1.0) == pytest.approx(0.1 * float(root))
    assert construction_scale("gaussian", 0.2, 0.5, 0.05, 3.0) == pytest.approx(1.2 * float(root))
    assert construction_scale("laplace", 0.2, 0.5, 0.0, 3.0) == pytest.approx(1.2)
    # An (ε, δ)-PixelDP model of size L has exactly this bound as its classic condition.
    sigma = construction_scale("gaussian", 0.3, 1.0, 0.01, 2.0)
    lower, upper = 0.9, 0.0
    upper = (lower - (1 + np.e) * 0.01) / np.e**2 * (1 - 1e-9)
    assert float(size("pixeldp-gaussian", lower, upper, sigma, 2.0)) >= 0.3 * (1 - 1e-6)
    for epsilon, delta in [(1.01, 0.05), (1.0, 0.0), (1.0, 1.0), (1.0, np.nan)]:
        with pytest.raises(ValueError, match="proof needs epsilon"):
            construction_scale("gaussian", 1.0, epsilon, delta, 1.0)
    for wrong in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (np.nan, 1, 1)]:
        with pytest.raises(ValueError, match="positive"):
            construction_scale("laplace", wrong[0], wrong[1], 0.05, wrong[2])
