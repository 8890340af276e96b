"""The Laplace law of scale b, of deviation √2·b."""

from math import pi, sqrt

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Floats
from models.certification.laws import gaussian, log_concave

# For one coordinate of Laplace noise of scale 1: see ``laplace_l2``.
SLOPE = sqrt(pi / 2)


def cdf(x: ArrayLike) -> Floats:
    """F, the distribution function of the standard Laplace law."""
    x = np.asarray(x, dtype=float)
    tail = 0.5 * np.exp(-np.abs(x))
    return np.asarray(np.where(x <= 0, tail, 1 - tail))


def quantile(p: ArrayLike) -> Floats:
    """F⁻¹(p) = ln 2p for p ≤ ½ and −ln 2(1−p) above."""
    p = np.asarray(p, dtype=float)
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(p <= 0.5, np.log(2 * p), -np.log(2 * (1 - p))))


def laplace(pa: Floats, pb: Floats) -> Floats:
    """½(F⁻¹(pA) − F⁻¹(pB)).

    One-dimensional Neyman-Pearson per coordinate: a shift of θ in one coordinate leaves at least
    G_θ(p) = F(F⁻¹(p) − θ). G_θ is convex in p, so by Jensen it bounds the whole expectation, and
    G_s∘G_t = G_{s+t}, so along a path of coordinate steps the shifts add up to ‖x' − x‖₁. Never
    below Teng et al. 2020, max{½ ln(pA/pB), −ln(1 − pA + pB)}.
    """
    return log_concave.shift(quantile, pa, pb)


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
    return np.asarray(gaussian.gaussian(pa, pb) / SLOPE)


def attack(certificate: str, low: Floats, high: Floats, mu: Floats) -> tuple[Floats, Floats]:
    """What a move of μ scales can make of an expected score in [low, high]."""
    if certificate == "laplace-l2":
        return gaussian.attack("gaussian", low, high, SLOPE * mu)
    return log_concave.attack(cdf, quantile, low, high, mu)


SHIFTS = {"laplace": laplace, "laplace-l2": laplace_l2, "pixeldp-laplace": log_concave.pure}
