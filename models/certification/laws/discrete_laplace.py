"""The discrete Laplace law of scale b: P(k) ∝ q^|k| for k steps of 1/255, with q = e^{−1/(255·b)}.

Also the two-sided geometric law (Ghosh, Roughgarden and Sundararajan 2012). Its probabilities are
log-concave and symmetric, so that the theorem about grids of
:mod:`models.certification.laws.log_concave` holds (Pinot et al. 2019 ask for such laws). The sums
over the grid are geometric: P(k > n) = q^{n+1}/(1 + q) for n ≥ 0, and P(0) = (1 − q)/(1 + q). The
variance is 2q/(1 − q)² steps², a little less than that of Laplace noise of the same scale.

P(k) changes by at most the factor e^θ when the law moves by θ scales: ε-PixelDP.

Arguments x and results are in scales, as for every law; ``scale`` is b in pixel values.
"""

import numpy as np
from scipy import special

from models.certification.arrays import Floats
from models.certification.laws import log_concave
from models.certification.laws.split import LEVELS

# Below this, floats lose digits. A rival's bound may be taken as larger than it is.
_LEAST = 1e-300


def cdf(x: Floats, scale: float) -> Floats:
    """F: the sum up to a step, and linear within each."""
    spread = LEVELS * scale
    q, centre = np.exp(-1 / spread), np.tanh(0.5 / spread)
    x = np.asarray(x, dtype=float)
    # All that is farther out has the probability 0 in floats.
    steps = np.minimum(np.abs(x) * spread, 800 * spread + 1)
    whole = np.maximum(np.floor(steps - 0.5), 0.0)
    beyond = np.exp(-(whole + 1) / spread) / (1 + q)
    outside = beyond * (1 + (steps - 0.5 - whole) * np.expm1(-1 / spread))
    tail = np.where(steps <= 0.5, 0.5 - steps * centre, outside)
    return np.asarray(np.where(x <= 0, tail, 1 - tail))


def quantile(p: Floats, scale: float) -> Floats:
    """F⁻¹."""
    spread = LEVELS * scale
    first, centre = max(special.expit(-1 / spread), _LEAST), np.tanh(0.5 / spread)
    p = np.asarray(p, dtype=float)
    tail = np.minimum(p, 1 - p)
    kept = np.clip(tail, _LEAST, first)
    whole = np.floor(spread * (np.log(first) - np.log(kept)))
    part = (1 - kept / (first * np.exp(-whole / spread))) / -np.expm1(-1 / spread)
    steps = np.where(tail < first, 0.5 + whole + part, (0.5 - tail) / centre)
    distance = np.where(tail > 0, steps, np.inf) / spread
    return np.asarray(np.where(p <= 0.5, -distance, distance))


def discrete_laplace(pa: Floats, pb: Floats, scale: float) -> Floats:
    """The largest whole number of steps, in scales, below ½(F⁻¹(pA) − F⁻¹(pB))."""
    return log_concave.whole_shift(quantile, pa, pb, scale)


def pixeldp_discrete_laplace(pa: Floats, pb: Floats, scale: float) -> Floats:
    """½ ln(pA/pB)."""
    return log_concave.pure(pa, pb)


def attack(
    certificate: str, low: Floats, high: Floats, mu: Floats, scale: float
) -> tuple[Floats, Floats]:
    """What a move by the whole steps within μ scales can make of a score in [low, high]."""
    low = np.where(np.asarray(low) < _LEAST, 0.0, low)
    moved = log_concave.whole_steps(mu, scale)
    return cdf(quantile(low, scale) - moved, scale), cdf(quantile(high, scale) + moved, scale)


SHIFTS = {
    "discrete-laplace": discrete_laplace,
    "pixeldp-discrete-laplace": pixeldp_discrete_laplace,
}
