"""The exponential law of scale b: noise is never negative, F(x) = 1 − e^{−x/b}, of deviation b.

The law is not symmetric: up and down are different moves, and a move leaves the law's support.

*Theorem.* If E_x f = p for some f with values in [0, 1], a change of g(x) by at most μ (in scales)
in L1 leaves

    E_x' f ≥ G(p) = max(0, min(1 − e^μ·(1 − p), e^{−μ}·p)),

and no better bound holds.

*Proof.* Say that the coordinates that move up move by a in all, and the others by b down, a + b ≤
μ. z has the density e^{−Σ(z_i − g_i)} where every z_i ≥ g_i, and none elsewhere. Where both laws
have a density, that of x' is e^{a − b} times that of x. Only x reaches the places with some z_i <
g'_i for an i that moved up, of probability 1 − e^{−a}; only x' reaches those with some z_i < g_i
for an i that moved down. So the ratio takes three values, and by Neyman and Pearson the f with
E_x f = p that is worst afterwards is 1 where only x reaches, as far as p suffices, 0 where only x'
reaches, and anything of the right mass elsewhere:

    E_x' f ≥ e^{a − b}·max(0, p − (1 − e^{−a})) = max(0, e^{−b}·(1 − e^a·(1 − p))).

That holds for any number of coordinates that move both ways at once, and is attained. It falls in a
and, where it is positive, in b, so that a + b = μ is worst; there e^{−b} − e^{μ − 2b}·(1 − p) first
grows and then falls in b, so that it is least at an end: all up, or all down. ∎

*Size.* For two labels at once the worst attack is one attack. A single one of (a, b) leaves
E_x' y_c − E_x' y_i ≥ e^{−b}·(2 − e^a·(1 − pA + pB)) − 1, by the same f for y_c and 1 − y_i, which
is positive for all a + b < ln(1 + pA − pB): the label stays so far, and one coordinate attains it.
But an answer also states the interval that attacks can reach for each label by itself, [G(low),
1 − G(1 − high)], whose ends different attacks may reach: up for the one, down for the other. These
clear each other only up to the smaller of that and of where 1 − e^μ·(1 − pA) and e^{−μ}·pA meet
what moves down and up make of pB,

    μ = min{ln(1 + pA − pB), ½ln((1 − pB)/(1 − pA)), ½ln(pA/pB)}.

Where pB = 1 − pA the first is the least, so that nothing is lost; it is less only where both are
small. At most ln 2, however certain the label: noise that is never negative betrays a move down.
"""

import numpy as np

from models.certification.arrays import Floats


def cdf(x: Floats) -> Floats:
    """F."""
    return np.asarray(-np.expm1(-np.maximum(np.asarray(x, dtype=float), 0.0)))


def quantile(p: Floats) -> Floats:
    """F⁻¹(p) = −ln(1 − p)."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log1p(-np.asarray(p, dtype=float)))


def upper_quantile(tail: Floats) -> Floats:
    """F⁻¹(1 − tail) = −ln(tail)."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(np.asarray(tail, dtype=float)))


def exponential(pa: Floats, pb: Floats) -> Floats:
    """The μ up to which G(pA) ≥ 1 − G(1 − pB)."""
    with np.errstate(divide="ignore"):
        ends = np.minimum(np.log((1 - pb) / (1 - pa)), np.log(pa / pb)) / 2
        return np.asarray(np.minimum(np.log1p(pa - pb), ends))


def pixeldp_exponential(pa: Floats, pb: Floats) -> Floats:
    """−ln(1 − (pA − pB)/2): Lécuyer et al. 2019, proposition 1 with ε = 0.

    A move of μ up has a total variation of 1 − e^{−μ}, whatever ε: (0, δ)-PixelDP with δ = 1 −
    e^{−μ}; the proposition asks for pA > pB + 2δ.
    """
    return np.asarray(-np.log1p(-(pa - pb) / 2))


def attack(certificate: str, low: Floats, high: Floats, mu: Floats) -> tuple[Floats, Floats]:
    """[G(low), 1 − G(1 − high)]: what a move of μ scales can make of a score."""
    with np.errstate(divide="ignore"):
        up_low = -np.expm1(np.minimum(mu + np.log1p(-low), 0.0))
        up_high = np.exp(np.minimum(mu + np.log(high), 0.0))
    shrunk = np.exp(-np.asarray(mu))
    return np.minimum(up_low, shrunk * low), np.maximum(up_high, 1 - shrunk * (1 - high))


SHIFTS = {"exponential": exponential, "pixeldp-exponential": pixeldp_exponential}
