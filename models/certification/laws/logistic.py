"""The logistic law of scale s: F(x) = 1/(1 + e^{−x/s}), of deviation π/√3·s.

Its density F(1 − F) is log-concave and symmetric, so that the theorem of
:mod:`models.certification.laws.log_concave` holds, with F⁻¹(p) = ln(p/(1 − p)). |(ln F')'| =
|1 − 2F| ≤ 1, so the density changes by at most e^θ when it moves by θ scales: ε-PixelDP.
"""

import numpy as np
from scipy import special

from models.certification.arrays import Floats
from models.certification.laws import log_concave


def cdf(x: Floats) -> Floats:
    """F."""
    return np.asarray(special.expit(x))


def quantile(p: Floats) -> Floats:
    """F⁻¹(p) = ln(p/(1 − p))."""
    return np.asarray(special.logit(p))


def logistic(pa: Floats, pb: Floats) -> Floats:
    """½(F⁻¹(pA) − F⁻¹(pB))."""
    return log_concave.shift(quantile, pa, pb)


def attack(certificate: str, low: Floats, high: Floats, mu: Floats) -> tuple[Floats, Floats]:
    """What a move of μ scales can make of an expected score in [low, high]."""
    return log_concave.attack(cdf, quantile, low, high, mu)


SHIFTS = {"logistic": logistic, "pixeldp-logistic": log_concave.pure}
