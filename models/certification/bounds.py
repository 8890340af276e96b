"""From tallies to bounds on an expected score.

Every function takes n draws of a score in [0, 1], independent given the past and with the same
mean, through the sums S = Σx and SS = Σx², and returns a one-sided bound that is wrong with
probability at most α. Arguments broadcast against each other. ``sums`` and ``squares`` are in units
of 1/``denominator`` and 1/``denominator``² (see :mod:`models.certification.tally`); integers stay
integers until no cancellation can hurt.

``betting`` holds at all n at once, under any stopping rule. The others hold at one n that was fixed
before the first draw.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from models.certification.arrays import Floats
from models.certification.names import BOUNDS, Bound

# The mixture of bets: c = sigmoid(u), u = −5 … 6, weights proportional to √(c(1−c)).
BETS = special.expit(np.arange(-5.0, 7.0))
LOG_KEEP = np.log1p(-BETS)
_WEIGHTS = np.sqrt(BETS * (1 - BETS))
LOG_WEIGHTS = np.log(_WEIGHTS / _WEIGHTS.sum())
# Below this a lower bound is stated as 0: its steps would leave the range of floating point.
_LEAST = 1e-200

SERVING_STEPS = 3
CONVERGED_STEPS = 16

# With more, the rounding of float64 is no longer far below the width of an interval.
MOST_DRAWS = 10**9

# The counts of votes whose bounds are computed together.
_TOGETHER = 64


def betting_lower(
    draws: ArrayLike,
    sums: ArrayLike,
    squares: ArrayLike,
    alpha: ArrayLike,
    *,
    denominator: int = 1,
    steps: int = SERVING_STEPS,
) -> Floats:
    """Lower bound by two-moment betting; holds at all n at once with probability ≥ 1 − α.

    For a bet c in (0, 1) and a mean of at most m, ∏(1 + c(x_i − m)/m) is a non-negative
    supermartingale; so is the mixture over the bets, and by Ville's inequality it ever reaches 1/α
    with probability at most α (Waudby-Smith and Ramdas 2024). Given only n, S and SS its logarithm
    is at least n0·ln(1−c) + n1·ln(1−c+c·x1/m) with x1 = SS/S, n1 = S²/SS, n0 = n − n1: the
    quadratic Hermite interpolant of the logarithm at 0, x1, x1 lies below it, because its third
    derivative is positive. For votes (SS = S) this is exact.

    The bound is the root in m of the mixture = 1/α. Its logarithm is decreasing and convex in m, so
    Newton's method, started at the best single bet's root, stays below the root: every iterate is
    itself a valid bound.

    Args:
        draws: n.
        sums: S in units of 1/``denominator``.
        squares: SS in units of 1/``denominator``².
        alpha: one-sided error probability.
        denominator: the unit of the sums.
        steps: Newton steps; ``CONVERGED_STEPS`` gives all digits.

    Returns:
        The bounds, in [0, 1].
    """
    n = np.asarray(draws, dtype=float)
    s = np.asarray(sums) / denominator
    ss = np.asarray(squares) / denominator / denominator
    goal = -np.log(np.asarray(alpha, dtype=float))
    some = (s > 0) & (ss > 0)
    s, ss = np.where(some, s, 1.0), np.where(some, ss, 1.0)
    x1 = ss / s
    n1 = s / ss * s
    n0 = np.maximum(n - n1, 0.0)
    constant = LOG_WEIGHTS + n0[..., None] * LOG_KEEP
    with np.errstate(over="ignore"):
        needed = np.expm1((goal[..., None] - constant) / n1[..., None])
    m = (BETS * x1[..., None] / (needed + BETS)).max(axis=-1)
    positive = m > _LEAST
    for _ in range(steps):
        safe = np.where(positive, m, 1.0)
        ratio = BETS * (x1 / safe)[..., None]
        inside = 1 - BETS + ratio
        logs = constant + n1[..., None] * np.log(inside)
        top = logs.max(axis=-1, keepdims=True)
        shares = np.exp(logs - top)
        total = shares.sum(axis=-1)
        value = top[..., 0] + np.log(total) - goal
        slope = n1 / safe * ((shares * ratio / inside).sum(axis=-1) / total)
        m = np.where(positive, m + np.maximum(value, 0.0) / slope, 0.0)
    return np.where(some, np.clip(m, 0.0, 1.0), 0.0)


def vote_lower(draws: int, votes: int, alpha: float) -> float:
    """Return what :func:`betting_lower` returns for votes; counts seen before cost nothing."""
    return _vote_lowers(draws, votes // _TOGETHER, alpha)[votes % _TOGETHER]


@lru_cache(2**12)
def _vote_lowers(draws: int, block: int, alpha: float) -> list[float]:
    """Return the bounds for a block of adjacent counts, which cost little more than one."""
    votes = np.arange(block * _TOGETHER, (block + 1) * _TOGETHER)
    lower: list[float] = betting_lower(draws, votes, votes, alpha).tolist()
    return lower


def vote_upper(draws: int, votes: int, alpha: float) -> float:
    """Return what :func:`betting_upper` returns for votes."""
    return 1 - vote_lower(draws, draws - votes, alpha)


def betting_upper(
    draws: ArrayLike,
    sums: ArrayLike,
    squares: ArrayLike,
    alpha: ArrayLike,
    *,
    denominator: int = 1,
    steps: int = SERVING_STEPS,
) -> Floats:
    """Upper bound by two-moment betting: 1 minus the lower bound on the mean of 1 − x.

    Arguments as for :func:`betting_lower`. The complement's sums, n − S and n − 2S + SS, are
    computed from the given integers, before any division.
    """
    draws, sums, squares = np.asarray(draws), np.asarray(sums), np.asarray(squares)
    rest = draws * denominator - sums
    rest_squares = draws * denominator**2 - 2 * denominator * sums + squares
    return 1 - betting_lower(draws, rest, rest_squares, alpha, denominator=denominator, steps=steps)


def clopper_pearson_lower(draws: ArrayLike, votes: ArrayLike, alpha: ArrayLike) -> Floats:
    """Exact lower bound for votes at one fixed n (Clopper and Pearson 1934)."""
    n, k = np.asarray(draws, dtype=float), np.asarray(votes, dtype=float)
    a = np.asarray(alpha, dtype=float)
    bound = special.betaincinv(np.maximum(k, 1), n - np.maximum(k, 1) + 1, a)
    return np.where(k > 0, bound, 0.0)


@lru_cache(2**14)
def fixed_lower(draws: int, votes: int, alpha: float) -> float:
    """Return what :func:`clopper_pearson_lower` returns for one count."""
    return float(clopper_pearson_lower(draws, votes, alpha))


def clopper_pearson_upper(draws: ArrayLike, votes: ArrayLike, alpha: ArrayLike) -> Floats:
    """Exact upper bound for votes at one fixed n (Clopper and Pearson 1934)."""
    draws = np.asarray(draws)
    return 1 - clopper_pearson_lower(draws, draws - np.asarray(votes), alpha)


def hoeffding_radius(draws: ArrayLike, alpha: ArrayLike) -> Floats:
    """Half-width √(ln(1/α)/2n) of Hoeffding's bound (1963) at one fixed n."""
    n = np.asarray(draws, dtype=float)
    return np.asarray(np.sqrt(-np.log(alpha) / (2 * n)))


def empirical_bernstein_radius(
    draws: ArrayLike,
    sums: ArrayLike,
    squares: ArrayLike,
    alpha: ArrayLike,
    *,
    denominator: int = 1,
) -> Floats:
    """Half-width √(2V·ln(2/α)/n) + 7·ln(2/α)/(3(n−1)) at one fixed n ≥ 2.

    V is the sample variance (Maurer and Pontil 2009, theorem 4; the paper's choice), computed from
    n·SS − S² in the given integers.
    """
    n = np.asarray(draws, dtype=float)
    s, ss = np.asarray(sums) / denominator, np.asarray(squares) / denominator / denominator
    variance = np.maximum(ss - s * (s / n), 0.0) / (n - 1)
    log = np.log(2 / np.asarray(alpha, dtype=float))
    return np.asarray(np.sqrt(2 * variance * log / n) + 7 * log / (3 * (n - 1)))


def bounds(
    method: Bound,
    draws: int,
    sums: ArrayLike,
    squares: ArrayLike,
    alpha: ArrayLike,
    *,
    denominator: int = 1,
    steps: int = SERVING_STEPS,
) -> tuple[Floats, Floats]:
    """Return the lower and the upper bound by the named method, each one-sided at ``alpha``.

    Clipped to [0, 1]. See the functions above for the arguments.

    Raises:
        ValueError: an unknown method, more than ``MOST_DRAWS`` draws, or Clopper-Pearson for scores
            that are not votes.
    """
    if draws > MOST_DRAWS:
        raise ValueError(f"draws is {draws:,}: bounds are computed for up to {MOST_DRAWS:,}")
    sums, squares = np.asarray(sums), np.asarray(squares)
    lower: Floats
    upper: Floats
    if method == "betting":
        two: tuple[Callable[..., Floats], ...] = (betting_lower, betting_upper)
        lower, upper = (
            one(draws, sums, squares, alpha, denominator=denominator, steps=steps) for one in two
        )
    elif method == "clopper-pearson":
        if denominator != 1 or np.any(sums != squares):
            raise ValueError("clopper-pearson bounds votes only: every score must be 0 or 1")
        lower = clopper_pearson_lower(draws, sums, alpha)
        upper = clopper_pearson_upper(draws, sums, alpha)
    elif method in ("hoeffding", "empirical-bernstein"):
        mean = sums / denominator / draws
        radius = (
            hoeffding_radius(draws, alpha)
            if method == "hoeffding"
            else empirical_bernstein_radius(draws, sums, squares, alpha, denominator=denominator)
        )
        lower, upper = mean - radius, mean + radius
    else:
        raise ValueError(f"unknown bound {method!r}; known: {', '.join(BOUNDS)}")
    return np.clip(lower, 0.0, 1.0), np.clip(upper, 0.0, 1.0)
