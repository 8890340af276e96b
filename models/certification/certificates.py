"""From bounds to the certified size.

Each certificate takes a lower bound pA on E y_c and an upper bound pB on max_{i≠c} E y_i, both true
at once, and returns how far the mean of the noise may move, in units of its scale (σ for Gaussian,
b for Laplace), before another label's expected score could reach that of c: a number μ such that
the label is the same for every x' with Δ‖x' − x‖ ≤ μ·scale. μ is 0 where pA ≤ pB: then nothing is
claimed, not even the label.

Why they hold for soft scores, for any h and any g of sensitivity Δ: a change of size L moves the
mean of z by at most ΔL in the noise's norm, and each certificate bounds what that does to the
expectation of *every* function with values in [0, 1]; it is applied to y_c and to each y_i.
"""

from collections.abc import Callable
from math import pi, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from models.certification.arrays import Floats
from models.certification.laws import split
from models.certification.names import (
    ADDITIVE,
    CERTIFICATES,
    MECHANISM_NORMS,
    Certificate,
    Mechanism,
    Norm,
)

# The tight certificates that answers use, by the norm in which they need g's sensitivity, the
# mechanism's own first; and the paper's own condition, which is shown beside them.
DEFAULTS: dict[Mechanism, dict[Norm, Certificate]] = {
    "gaussian": {"l2": "gaussian"},
    "laplace": {"l1": "laplace", "l2": "laplace-l2"},
    "split": {"l1": "split"},
}
DEFAULT: dict[Mechanism, Certificate] = {
    mechanism: DEFAULTS[mechanism][norm] for mechanism, norm in MECHANISM_NORMS.items()
}
PAPER: dict[Mechanism, Certificate] = {
    "gaussian": "pixeldp-gaussian",
    "laplace": "pixeldp-laplace",
    # (0, δ)-PixelDP, whose condition is the same: see ``models.certification.laws.split``.
    "split": "split",
}

# For one coordinate of Laplace noise of scale 1: see ``laplace_l2``.
LAPLACE_SLOPE = sqrt(pi / 2)

_STEPS = np.linspace(0, 1, 65)


def laplace_cdf(x: ArrayLike) -> Floats:
    """F, the distribution function of the standard Laplace law."""
    x = np.asarray(x, dtype=float)
    tail = 0.5 * np.exp(-np.abs(x))
    return np.asarray(np.where(x <= 0, tail, 1 - tail))


def laplace_quantile(p: ArrayLike) -> Floats:
    """F⁻¹(p) = ln 2p for p ≤ ½ and −ln 2(1−p) above."""
    p = np.asarray(p, dtype=float)
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(p <= 0.5, np.log(2 * p), -np.log(2 * (1 - p))))


def gaussian(pa: Floats, pb: Floats) -> Floats:
    """½(Φ⁻¹(pA) − Φ⁻¹(pB)): Cohen et al. 2019, theorem 1; soft scores: Salman et al. 2019.

    By Neyman-Pearson E_x f = p gives E_x' f ≥ Φ(Φ⁻¹(p) − μ) for every f in [0, 1]. Tight:
    half-spaces attain it.
    """
    return np.asarray(0.5 * (special.ndtri(pa) - special.ndtri(pb)))


def laplace(pa: Floats, pb: Floats) -> Floats:
    """½(F⁻¹(pA) − F⁻¹(pB)).

    One-dimensional Neyman-Pearson per coordinate: a shift of θ in one coordinate leaves at least
    G_θ(p) = F(F⁻¹(p) − θ). G_θ is convex in p, so by Jensen it bounds the whole expectation, and
    G_s∘G_t = G_{s+t}, so along a path of coordinate steps the shifts add up to ‖x' − x‖₁. Never
    below Teng et al. 2020, max{½ ln(pA/pB), −ln(1 − pA + pB)}.
    """
    return np.asarray(0.5 * (laplace_quantile(pa) - laplace_quantile(pb)))


def laplace_l2(pa: Floats, pb: Floats) -> Floats:
    """√(2/π)·½(Φ⁻¹(pA) − Φ⁻¹(pB)): for Laplace noise and a bound on how far g moves in L2.

    T = Φ⁻¹∘F has slope F′/φ(T). Below 0 F′ = F, so that the slope is Φ(T)/φ(T) = (1 − Φ(u))/φ(u)
    at u = −T ≥ 0: Mills' ratio, which decreases in u from √(π/2) at u = 0. F and Φ are symmetric,
    so the slope is at most √(π/2) everywhere. What a coordinate that moved by θ (in scales b)
    leaves of p is at least G_θ(p) = F(F⁻¹(p) − |θ|) = Φ(T(F⁻¹(p) − |θ|)) ≥ Φ(Φ⁻¹(p) − √(π/2)·|θ|):
    no worse than a Gaussian of deviation 1 that moved by √(π/2)·|θ|. By Blackwell's theorem the
    pair of laws, before and after, is then what some random map makes of that pair of Gaussians
    (Dong, Roth and Su 2022, theorem 2); coordinates are independent, so such maps, one each, make
    z of a Gaussian vector that moved by √(π/2)·‖θ‖₂ (their corollary 3.3), and Neyman-Pearson for
    Gaussians bounds every f of z.
    """
    return np.asarray(gaussian(pa, pb) / LAPLACE_SLOPE)


def pixeldp_laplace(pa: Floats, pb: Floats) -> Floats:
    """½ ln(pA/pB): Lécuyer et al. 2019, proposition 1 with ε = ΔL/b and δ = 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(0.5 * np.log(pa / pb))


def pixeldp_gaussian(pa: Floats, pb: Floats) -> Floats:
    """max over ε in (0, 1] of ε/√(2 ln(1.25/δ)), where pA = e^{2ε}·pB + (1 + e^ε)·δ.

    Lécuyer et al. 2019, proposition 1, with the classic Gaussian mechanism (Dwork and Roth 2014,
    theorem A.1), whose proof needs ε ≤ 1. Every ε gives a true size, so if the search misses the
    maximum, the answer is only smaller. Never exceeds 0.5705.
    """

    # δ is positive only for ε below ½·ln(pA/pB); the search is over that range.
    most = np.minimum(pixeldp_laplace(pa, pb), 1.0)[..., None]

    def reach(share: Floats) -> Floats:
        epsilon = share * most
        delta = (pa[..., None] - np.exp(2 * epsilon) * pb[..., None]) / (1 + np.exp(epsilon))
        log = np.log(1.25 / np.where(delta > 0, delta, 1.0))
        return np.where(delta > 0, epsilon / np.sqrt(2 * log), 0.0)

    return _largest(reach, 0.0, 1.0)


def analytic_gaussian(pa: Floats, pb: Floats) -> Floats:
    """Largest μ with max_{ε≥0} pA − e^{2ε}·pB − (1 + e^ε)·δ(ε, μ) ≥ 0 (Balle and Wang 2018).

    δ(ε, μ) = Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ) is the exact privacy curve of the Gaussian mechanism.
    The slack decreases in μ, so bisection keeps a μ that is certified.
    """

    def certified(mu: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        wide = mu[..., None]

        def slack(epsilon: Floats) -> Floats:
            delta = special.ndtr(wide / 2 - epsilon / wide) - np.exp(
                epsilon + special.log_ndtr(-wide / 2 - epsilon / wide)
            )
            grown = np.exp(epsilon)
            return pa[..., None] - grown**2 * pb[..., None] - (1 + grown) * delta

        return _largest(slack, 0.0, 12.0) >= 0

    low, high = np.zeros_like(pa), np.full_like(pa, 40.0)
    for _ in range(60):
        middle = (low + high) / 2
        held = certified(middle)
        low, high = np.where(held, middle, low), np.where(held, high, middle)
    return low


def renyi(pa: Floats, pb: Floats) -> Floats:
    """sup_{a>1} √(−(2/a)·ln(1 − pA − pB + 2·((pA^{1−a} + pB^{1−a})/2)^{1/(1−a)})).

    Li et al. 2019, theorem 1 (Rényi divergence of two Gaussians). Needs pA + pB ≤ 1, as holds when
    the scores of a draw sum to at most 1.
    """
    # pB = 0 makes the power mean 0; the smallest positive number has the same limit.
    safe = np.maximum(pb, 1e-300)[..., None]
    wide = pa[..., None]
    # The power mean is √(pA·pB)·cosh(t)^{−1/(a−1)} with t = (a−1)·ln(pA/pB)/2, and the formula's
    # 1 − pA − pB + 2·√(pA·pB) is 1 − (√pA − √pB)². So nothing cancels where pA is close to pB, and
    # a search over many orders finds the maximum rather than the luckiest rounding error.
    distance = np.log(wide) - np.log(safe)
    middle = np.sqrt(wide) * np.sqrt(safe)
    apart = ((wide - safe) / (np.sqrt(wide) + np.sqrt(safe))) ** 2

    def reach(log_order: Floats) -> Floats:
        above = np.exp(log_order)
        t = above * distance / 2
        log_cosh = t + np.log1p(np.expm1(-2 * t) / 2)
        missing = apart - 2 * middle * np.expm1(-log_cosh / above)
        log = np.log1p(-np.minimum(missing, 1 - 2.0**-53))
        return np.asarray(np.sqrt(np.maximum(-2 / (1 + above) * log, 0.0)))

    return _largest(reach, -32.0, 14.0)


def _largest(function: Callable[[Floats], Floats], low: float, high: float) -> Floats:
    """Maximise ``function`` over its last axis, from ``low`` to ``high``.

    A grid covers the interval, then the two cells around its best point, and so on: six rounds
    reach 10⁻⁹ of the interval, and near a smooth maximum the error of the value is the square of
    that.
    """
    start, end = np.array([low]), np.array([high])
    top = -np.inf
    for _ in range(6):
        grid = start + (end - start) * _STEPS
        values = function(grid)
        best = values.argmax(axis=-1)[..., None]
        step = (end - start) * _STEPS[1]
        centre = start + (end - start) * _STEPS[best]
        start, end = np.maximum(centre - step, low), np.minimum(centre + step, high)
        top = np.maximum(top, values.max(axis=-1))
    return np.asarray(top)


_SHIFTS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "pixeldp-laplace": pixeldp_laplace,
    "pixeldp-gaussian": pixeldp_gaussian,
    "analytic-gaussian": analytic_gaussian,
    "renyi": renyi,
    "gaussian": gaussian,
    "laplace": laplace,
    "laplace-l2": laplace_l2,
}


def size(
    certificate: str,
    lower: ArrayLike,
    upper: ArrayLike,
    scale: ArrayLike,
    sensitivity: ArrayLike,
    *,
    tau: ArrayLike = 0.0,
    rho: ArrayLike = 0.0,
) -> Floats:
    """Return the certified size L = (scale·μ − ρ)/Δ, in the norm of Δ's input.

    The one place where noise scale and sensitivity are divided.

    Args:
        certificate: one of ``CERTIFICATES``.
        lower: pA, lower bounds on the label's expected score.
        upper: pB, upper bounds on every rival's.
        scale: σ or b, in units of g's output.
        sensitivity: Δ of g, preprocessing included, to the norm that the certificate needs: L1 for
            ``laplace`` and ``pixeldp-laplace``, L2 for all others.
        tau: as for :func:`shifts`.
        rho: bound on how much more than Δ‖x' − x‖ two computed outputs of g can differ.

    Returns:
        Sizes ≥ 0 of the broadcast shape; 0 where pA ≤ pB.

    Raises:
        ValueError: an unknown certificate, or a scale or sensitivity that is not positive.
    """
    scale, sensitivity = np.asarray(scale, dtype=float), np.asarray(sensitivity, dtype=float)
    rho = np.asarray(rho, dtype=float)
    if not (np.all(scale > 0) and np.all(sensitivity > 0) and np.all(np.isfinite(scale))):
        raise ValueError("scale and sensitivity must be positive and finite")
    if certificate == "split":
        if not (np.all(sensitivity == 1) and np.all(rho == 0) and np.all(np.asarray(tau) == 0)):
            raise ValueError("split noise needs a sensitivity of 1, and tau and rho of 0")
        return split.sizes(lower, upper, float(scale))
    if not np.all(rho >= 0):
        raise ValueError("rho must not be negative and tau must lie in [0, 0.5)")
    mu = shifts(certificate, lower, upper, tau)
    return np.asarray(np.maximum((scale * mu - rho) / sensitivity, 0.0))


def shifts(certificate: str, lower: ArrayLike, upper: ArrayLike, tau: ArrayLike = 0.0) -> Floats:
    """Return μ: by how many noise scales the noise's mean may move; 0 where pA ≤ pB.

    Args:
        certificate: one of ``CERTIFICATES``.
        lower: pA, lower bounds on the label's expected score.
        upper: pB, upper bounds on every rival's.
        tau: bound on the total variation distance between the noise that was drawn and the law.

    τ enters by post-processing: under the true law the scores differ by at most τ, at x and at x'.
    Relabel each draw as the rival i with probability 2τ. This mixture has pA' = (1−2τ)(pA−τ) and
    pB' = (1−2τ)(pB+τ) + 2τ, and wherever its label is certified, the unmixed scores differ by at
    least 2τ/(1−2τ) ≥ 2τ at x', more than the sampler can hide.

    Raises:
        ValueError: an unknown certificate, or τ outside [0, 0.5).
    """
    if certificate not in _SHIFTS:
        raise ValueError(f"unknown certificate {certificate!r}; known: {', '.join(CERTIFICATES)}")
    shift = _SHIFTS[certificate]
    tau = np.asarray(tau, dtype=float)
    if not (np.all(tau >= 0) and np.all(tau < 0.5)):
        raise ValueError("tau must lie in [0, 0.5)")
    pa = (1 - 2 * tau) * (np.asarray(lower, dtype=float) - tau)
    pb = (1 - 2 * tau) * (np.asarray(upper, dtype=float) + tau) + 2 * tau
    pa, pb = np.broadcast_arrays(np.clip(pa, 0.0, 1.0), np.clip(pb, 0.0, 1.0))
    claims = pa > pb
    return np.where(claims, shift(np.where(claims, pa, 0.5), np.where(claims, pb, 0.5)), 0.0)


def shift(certificate: Certificate, lower: float, upper: float, tau: float) -> float:
    """Return what :func:`shifts` returns for one pair of bounds, at a tenth of the cost."""
    pa = min(max((1 - 2 * tau) * (lower - tau), 0.0), 1.0)
    pb = min(max((1 - 2 * tau) * (upper + tau) + 2 * tau, 0.0), 1.0)
    return float(_SHIFTS[certificate](np.asarray(pa), np.asarray(pb))) if pa > pb else 0.0


def attacked(
    certificate: str,
    lower: ArrayLike,
    upper: ArrayLike,
    change: ArrayLike,
    scale: float,
    sensitivity: float,
    *,
    tau: float = 0.0,
    rho: float = 0.0,
) -> tuple[Floats, Floats]:
    """Return the interval that an attacker can reach for a label's expected score.

    The paper's Figure 1b, by a tight certificate: [G(G⁻¹(lower) − μ), G(G⁻¹(upper) + μ)] with
    μ = (Δ·change + ρ)/scale; G = Φ for ``gaussian``, F for ``laplace``, and for ``laplace-l2`` Φ
    with √(π/2)·μ. Widened by τ before and after.

    Args:
        certificate: one of ``DEFAULTS``.
        lower: lower bounds on expected scores at the picture.
        upper: upper bounds on them.
        change: size T of the attack in the norm of Δ's input.
        scale: σ or b.
        sensitivity: Δ.
        tau: as for :func:`size`.
        rho: as for :func:`size`.

    Raises:
        ValueError: any other certificate.
    """
    mu = (sensitivity * np.asarray(change, dtype=float) + rho) / scale
    low = np.clip(np.asarray(lower, dtype=float) - tau, 0.0, 1.0)
    high = np.clip(np.asarray(upper, dtype=float) + tau, 0.0, 1.0)
    if certificate == "laplace":
        low = laplace_cdf(laplace_quantile(low) - mu)
        high = laplace_cdf(laplace_quantile(high) + mu)
    elif certificate in ("gaussian", "laplace-l2"):
        mu = mu if certificate == "gaussian" else LAPLACE_SLOPE * mu
        low, high = special.ndtr(special.ndtri(low) - mu), special.ndtr(special.ndtri(high) + mu)
    else:
        known = ", ".join(name for norms in DEFAULTS.values() for name in norms.values())
        raise ValueError(
            f"there is no interval for the certificate {certificate!r}; known: {known}"
        )
    return np.clip(low - tau, 0.0, 1.0), np.clip(high + tau, 0.0, 1.0)


def construction_scale(
    mechanism: Mechanism, size: float, epsilon: float, delta: float, sensitivity: float
) -> float:
    """Return the noise scale of the paper's construction bound: (ε, δ)-PixelDP to ``size``.

    √(2 ln(1.25/δ))·Δ·L/ε for Gaussian with ε ≤ 1 (Lécuyer et al. 2019, §III-B), Δ·L/ε for Laplace.

    Raises:
        ValueError: an unknown mechanism, or ε and δ that the proof does not cover.
    """
    if not (size > 0 and epsilon > 0 and sensitivity > 0):
        raise ValueError("size, epsilon and sensitivity must be positive")
    if mechanism == "laplace":
        return sensitivity * size / epsilon
    if mechanism != "gaussian":
        raise ValueError(f"unknown mechanism {mechanism!r}; known: {', '.join(ADDITIVE)}")
    if epsilon > 1 or not 0 < delta < 1:
        raise ValueError("the Gaussian mechanism's proof needs epsilon <= 1 and 0 < delta < 1")
    return float(np.sqrt(2 * np.log(1.25 / delta)) * sensitivity * size / epsilon)
