"""The Gaussian law of deviation σ, and the certificates that others have found for it."""

from collections.abc import Callable

import numpy as np
from scipy import special

from models.certification.arrays import Floats
from models.certification.laws.log_concave import pure

_STEPS = np.linspace(0, 1, 65)


def cdf(x: Floats) -> Floats:
    """Φ."""
    return np.asarray(special.ndtr(x))


def quantile(p: Floats) -> Floats:
    """Φ⁻¹."""
    return np.asarray(special.ndtri(p))


def gaussian(pa: Floats, pb: Floats) -> Floats:
    """½(Φ⁻¹(pA) − Φ⁻¹(pB)): Cohen et al. 2019, theorem 1; soft scores: Salman et al. 2019.

    By Neyman-Pearson E_x f = p gives E_x' f ≥ Φ(Φ⁻¹(p) − μ) for every f in [0, 1]. Tight:
    half-spaces attain it.
    """
    return np.asarray(0.5 * (special.ndtri(pa) - special.ndtri(pb)))


def pixeldp_gaussian(pa: Floats, pb: Floats) -> Floats:
    """max over ε in (0, 1] of ε/√(2 ln(1.25/δ)), where pA = e^{2ε}·pB + (1 + e^ε)·δ.

    Lécuyer et al. 2019, proposition 1, with the classic Gaussian mechanism (Dwork and Roth 2014,
    theorem A.1), whose proof needs ε ≤ 1. Every ε gives a true size, so if the search misses the
    maximum, the answer is only smaller. Never exceeds 0.5705.
    """

    # δ is positive only for ε below ½·ln(pA/pB); the search is over that range.
    most = np.minimum(pure(pa, pb), 1.0)[..., None]

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


def attack(certificate: str, low: Floats, high: Floats, mu: Floats) -> tuple[Floats, Floats]:
    """[Φ(Φ⁻¹(low) − μ), Φ(Φ⁻¹(high) + μ)]: what a move of μ scales can make of a score."""
    return cdf(quantile(low) - mu), cdf(quantile(high) + mu)


SHIFTS = {
    "pixeldp-gaussian": pixeldp_gaussian,
    "analytic-gaussian": analytic_gaussian,
    "renyi": renyi,
    "gaussian": gaussian,
}
