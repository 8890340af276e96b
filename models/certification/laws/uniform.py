"""The uniform law on ±λ: F(x) = (1 + x/λ)/2 inside, of deviation λ/√3.

Its density is log-concave and symmetric, so that the theorem of
:mod:`models.certification.laws.log_concave` holds, with F⁻¹(p) = 2p − 1: μ = pA − pB (Yang et al.
2020, theorem 8). It cannot exceed λ: at equal variance it is ahead of Laplace for pA below about
0.94, if pB = 1 − pA, and behind it above.

It is the paper's condition, too: the densities of two uniform laws differ by θ/2λ in total
variation, a vector's by at most Σ|θ_i|/2λ, which is (0, δ)-PixelDP with δ = μ/2 in scales; Lécuyer
et al. 2019, proposition 1, then asks for pA > pB + 2δ.
"""

import numpy as np

from models.certification.arrays import Floats
from models.certification.laws import log_concave


def cdf(x: Floats) -> Floats:
    """F."""
    return np.asarray(np.clip((1 + np.asarray(x, dtype=float)) / 2, 0.0, 1.0))


def quantile(p: Floats) -> Floats:
    """F⁻¹(p) = 2p − 1."""
    return np.asarray(2 * np.asarray(p, dtype=float) - 1)


def uniform(pa: Floats, pb: Floats) -> Floats:
    """½(F⁻¹(pA) − F⁻¹(pB)) = pA − pB."""
    return np.asarray(pa - pb)


def attack(certificate: str, low: Floats, high: Floats, mu: Floats) -> tuple[Floats, Floats]:
    """What a move of μ scales can make of an expected score in [low, high]."""
    return log_concave.attack(cdf, quantile, low, high, mu)


SHIFTS = {"uniform": uniform}
