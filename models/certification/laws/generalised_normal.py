"""The generalised normal law of shape β = 3 and scale s: a density ∝ exp(−|x/s|^β).

β = 1 is the Laplace law, 2 a Gaussian one, and the uniform law is the limit of large β. 3 lies
between: at equal variance it certifies more than Laplace noise in L1 for pA below 0.94, as uniform
noise does, and gives up less above. The deviation is 0.611·s.

The density is symmetric, and log-concave for every β ≥ 1, so that the theorem of
:mod:`models.certification.laws.log_concave` holds (Pinot et al. 2019 ask for such laws). |X/s|^β
has the gamma law of shape 1/β, so that F(−x) = Q(1/β, x^β)/2 with the regularised upper incomplete
gamma function Q.
"""

import numpy as np
from scipy import special

from models.certification.arrays import Floats
from models.certification.laws import log_concave

SHAPE = 3.0


def cdf(x: Floats) -> Floats:
    """F."""
    x = np.asarray(x, dtype=float)
    tail = special.gammaincc(1 / SHAPE, np.abs(x) ** SHAPE) / 2
    return np.asarray(np.where(x <= 0, tail, 1 - tail))


def quantile(p: Floats) -> Floats:
    """F⁻¹."""
    p = np.asarray(p, dtype=float)
    tail = np.minimum(p, 1 - p)
    distance = special.gammainccinv(1 / SHAPE, 2 * tail) ** (1 / SHAPE)
    return np.asarray(np.where(p <= 0.5, -distance, distance))


def generalised_normal(pa: Floats, pb: Floats) -> Floats:
    """½(F⁻¹(pA) − F⁻¹(pB))."""
    return log_concave.shift(quantile, pa, pb)


def pixeldp_generalised_normal(pa: Floats, pb: Floats) -> Floats:
    """The paper's condition, by total variation."""
    return log_concave.by_total_variation(quantile, pa, pb)


def attack(certificate: str, low: Floats, high: Floats, mu: Floats) -> tuple[Floats, Floats]:
    """What a move of μ scales can make of an expected score in [low, high]."""
    return log_concave.attack(cdf, quantile, low, high, mu)


SHIFTS = {
    "generalised-normal": generalised_normal,
    "pixeldp-generalised-normal": pixeldp_generalised_normal,
}
