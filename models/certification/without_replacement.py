"""Bounds on how many of N have a property, from draws without replacement."""

from functools import lru_cache

import numpy as np
from scipy.special import gammaln

# The hypergeometric tails are computed with a relative error far below this.
_SLACK = 1e-6


@lru_cache(2**16)
def least_count(total: int, draws: int, found: int, chance: float) -> int:
    """Return a lower bound on how many of ``total`` have a property that ``found`` draws have.

    ``draws`` of them were drawn without replacement, each set of that size with equal probability.
    The bound is the least n for which P(X ≥ found) > ``chance``, with X hypergeometric: all smaller
    n are rejected by a test of that level. P(X ≥ found) grows with n, so if n is the truth and is
    rejected, so is the largest n that is ever rejected, and the bound is too high with probability
    at most ``chance``. Without a chance to be wrong, what was found is all that is known.

    Args:
        total: N.
        draws: how many were drawn.
        found: how many of these have the property.
        chance: of a bound that is too high; 0 for certainty.
    """
    if not 0 <= found <= draws <= total:
        raise ValueError(f"{found} of {draws} draws of {total} is impossible")
    low, high = found, total - (draws - found)
    if not (chance and found):
        return low
    while low < high:
        middle = (low + high) // 2
        if _tail(total, draws, found, middle) > chance * (1 - _SLACK):
            high = middle
        else:
            low = middle + 1
    return low


def most_count(total: int, draws: int, found: int, chance: float) -> int:
    """Return the upper bound: ``total`` less the least number of those without the property."""
    return total - least_count(total, draws, draws - found, chance)


def _tail(total: int, draws: int, found: int, count: int) -> float:
    """P(X ≥ ``found``) if ``count`` of ``total`` have the property."""
    k = np.arange(found, min(draws, count) + 1)
    logs = _choose(count, k) + _choose(total - count, draws - k) - _choose(total, np.array([draws]))
    return float(np.exp(logs).sum())


def _choose(of: int, k: "np.ndarray[tuple[int], np.dtype[np.int_]]") -> "np.ndarray":
    """ln of the binomial coefficient, −∞ where it is 0."""
    inside = (k >= 0) & (k <= of)
    kept = np.where(inside, k, 0)
    logs = gammaln(of + 1) - gammaln(kept + 1) - gammaln(of - kept + 1)
    return np.where(inside, logs, -np.inf)
