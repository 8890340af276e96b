"""The same mathematics by other means: mpmath at 40 digits, straight from the definitions."""

from collections.abc import Callable
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]

mp.mp.dps = 40
Real = Any  # an mpf, or a float that stands for itself
ONE = mp.mpf(1)


def normal_cdf(x: Real) -> Real:
    return mp.erfc(-x / mp.sqrt(2)) / 2


def normal_quantile(p: Real) -> Real:
    p = mp.mpf(p)
    if p > mp.mpf("0.5"):
        return -normal_quantile(1 - p)
    if p > mp.mpf("1e-12"):
        return mp.sqrt(2) * mp.erfinv(2 * p - 1)
    x = -mp.sqrt(-2 * mp.log(p))
    for _ in range(8):  # Halley's method, started from the asymptotic formula of the tail
        r = (normal_cdf(x) - p) / mp.npdf(x)
        x -= r / (1 + x * r / 2)
    return x


def laplace_cdf(x: Real) -> Real:
    return mp.e**x / 2 if x <= 0 else 1 - mp.e**-x / 2


def laplace_quantile(p: Real) -> Real:
    p = mp.mpf(p)
    return mp.log(2 * p) if p <= mp.mpf("0.5") else -mp.log(2 * (1 - p))


def betting_lower(draws: int, s: Real, ss: Real, alpha: Real) -> Real:
    """The m at which the mixture of bets equals 1/α, found in log m."""
    n, s, ss = mp.mpf(draws), mp.mpf(s), mp.mpf(ss)
    if s <= 0 or ss <= 0:
        return mp.mpf(0)
    bets = [1 / (1 + mp.exp(-u)) for u in range(-5, 7)]
    weights = [mp.sqrt(c * (1 - c)) for c in bets]
    total = mp.fsum(weights)
    x1, n1 = ss / s, s * s / ss

    def excess(log_m: Real) -> Real:
        m = mp.exp(log_m)
        logs = [(n - n1) * mp.log(1 - c) + n1 * mp.log(1 - c + c * x1 / m) for c in bets]
        top = max(logs)
        mixture = mp.fsum(w / total * mp.exp(v - top) for w, v in zip(weights, logs, strict=True))
        return top + mp.log(mixture) + mp.log(alpha)

    high = mp.log(s / n)  # at the sample mean the mixture is at most 1, by Jensen's inequality
    step = ONE
    while excess(high - step) < 0:
        step *= 2
    root = mp.findroot(
        excess, (high - step, high - step / 2 if step > 1 else high), solver="illinois", tol=1e-28
    )
    return mp.exp(root)


def betting_upper(draws: int, s: Real, ss: Real, alpha: Real) -> Real:
    return 1 - betting_lower(draws, draws - mp.mpf(s), draws - 2 * mp.mpf(s) + ss, alpha)


def binomial_tail(draws: int, votes: int, p: Real) -> Real:
    """P(Bin(n, p) ≥ votes)."""
    p = mp.mpf(p)
    if votes > draws * p:
        return mp.fsum(
            mp.binomial(draws, k) * p**k * (1 - p) ** (draws - k) for k in range(votes, draws + 1)
        )
    return 1 - mp.fsum(mp.binomial(draws, k) * p**k * (1 - p) ** (draws - k) for k in range(votes))


def maximum(function: Callable[[Real], Real], low: float, high: float, grid: int = 60) -> Real:
    """The largest value of ``function`` over [low, high], to some 20 digits."""
    points = [mp.mpf(low) + (mp.mpf(high) - low) * i / grid for i in range(grid + 1)]
    values = [function(point) for point in points]
    at = max(range(grid + 1), key=lambda i: values[i])
    a, b = points[max(at - 1, 0)], points[min(at + 1, grid)]
    golden = (mp.sqrt(5) - 1) / 2
    best = values[at]
    for _ in range(50):
        left, right = b - golden * (b - a), a + golden * (b - a)
        at_left, at_right = function(left), function(right)
        best = max(best, at_left, at_right)
        a, b = (a, right) if at_left > at_right else (left, b)
    return best


def gaussian(pa: Real, pb: Real) -> Real:
    return (normal_quantile(pa) - normal_quantile(pb)) / 2


def laplace(pa: Real, pb: Real) -> Real:
    return (laplace_quantile(pa) - laplace_quantile(pb)) / 2


def laplace_l2(pa: Real, pb: Real) -> Real:
    return mp.sqrt(2 / mp.pi) * gaussian(pa, pb)


def pixeldp_laplace(pa: Real, pb: Real) -> Real:
    return mp.log(mp.mpf(pa) / pb) / 2


def teng(pa: Real, pb: Real) -> Real:
    return max(pixeldp_laplace(pa, pb), -mp.log(1 - mp.mpf(pa) + pb))


def pixeldp_gaussian(pa: Real, pb: Real) -> Real:
    pa, pb = mp.mpf(pa), mp.mpf(pb)

    def reach(epsilon: Real) -> Real:
        if epsilon <= 0:
            return mp.mpf(0)
        delta = (pa - mp.exp(2 * epsilon) * pb) / (1 + mp.exp(epsilon))
        return epsilon / mp.sqrt(2 * mp.log(mp.mpf("1.25") / delta)) if delta > 0 else mp.mpf(0)

    return maximum(reach, 0, min(ONE, pixeldp_laplace(pa, pb)))


def privacy_curve(epsilon: Real, mu: Real) -> Real:
    """δ(ε) of the Gaussian mechanism from its definition: ∫ max(0, φ(x − μ) − e^ε φ(x)) dx."""
    start = epsilon / mu + mu / 2  # where the ratio of the two densities is e^ε
    return mp.quad(
        lambda x: mp.npdf(x - mu) - mp.exp(epsilon) * mp.npdf(x), [start, start + mu + 2, mp.inf]
    )


def analytic_slack(pa: Real, pb: Real, mu: Real) -> Real:
    """max_{ε≥0} pA − e^{2ε}·pB − (1 + e^ε)·δ(ε)."""
    pa, pb, mu = mp.mpf(pa), mp.mpf(pb), mp.mpf(mu)

    def slack(epsilon: Real) -> Real:
        delta = normal_cdf(mu / 2 - epsilon / mu) - mp.exp(epsilon) * normal_cdf(
            -mu / 2 - epsilon / mu
        )
        return pa - mp.exp(2 * epsilon) * pb - (1 + mp.exp(epsilon)) * delta

    return maximum(slack, 0, 12)


def renyi(pa: Real, pb: Real) -> Real:
    pa, pb = mp.mpf(pa), mp.mpf(pb)

    def reach(log_order: Real) -> Real:
        a = 1 + mp.exp(log_order)
        mean = ((pa ** (1 - a) + pb ** (1 - a)) / 2) ** (1 / (1 - a))
        return mp.sqrt(-2 / a * mp.log(1 - pa - pb + 2 * mean))

    return maximum(reach, -36, 8, 88)
