"""One theorem for every law with a symmetric, log-concave density, in L1.

Noise coordinates are independent with distribution function F, of scale 1.

*Theorem.* If E_x f = p for some f with values in [0, 1], a change of g(x) by at most μ in L1 leaves
E_x' f ≥ G_μ(p), where G_θ(p) = F(F⁻¹(p) − θ). So with pA and pB as always, the label stays up to
μ = ½(F⁻¹(pA) − F⁻¹(pB)). Tight: in one coordinate half-lines attain it.

*Proof.* One coordinate that moves by θ > 0: F' log-concave means that F'(z − θ)/F'(z) grows with z,
so by Neyman and Pearson the f with E f = p that has the smallest expectation afterwards is that of
a half-line, f = 1 for z ≤ F⁻¹(p), and that expectation is G_θ(p). By symmetry the same holds for a
move of −θ. G_θ is convex in p, because its derivative F'(F⁻¹(p) − θ)/F'(F⁻¹(p)) grows with p, for
the same reason. G_s∘G_t = G_{s+t}, and G_θ falls with θ. Now move one coordinate after another, by
θ_1, θ_2, …: given all other coordinates, the expectation over the one that moves obeys the bound,
and by Jensen's inequality its mean over the others obeys it, too. Together p becomes at least
G_{Σ|θ_i|}(p), and Σ|θ_i| ≤ μ. Apply it to f = y_c and to f = 1 − y_i: with F(−x) = 1 − F(x), the
second says E_x' y_i ≤ F(F⁻¹(pB) + μ). ∎

Where F' has bounded support the ratio above is 0/0 outside and F⁻¹ has finite ends: mass that a
move takes out of the support is lost first, as the half-line has it. (Laplace: Teng et al. 2020;
uniform: Yang et al. 2020, "Randomized smoothing of all shapes and sizes", theorem 8; other laws:
Pinot et al. 2019 ask for them.)

*On a grid.* Noise coordinates are independent whole numbers k of steps of 1/255, of symmetric and
log-concave probabilities: P(k + 1)/P(k) falls with k. g(x) and g(x') are on the grid as well, so
that every coordinate moves by whole steps. Let F be P(k ≤ j) at j + ½, and linear between these:
the distribution function of k + U, where U is uniform on ±½ and independent. Then the theorem holds
for every whole number m of steps in place of μ. So the label stays up to the largest m with

    2m < F⁻¹(pA) − F⁻¹(pB).

*Proof.* k is k + U rounded, so whatever h makes of k it makes of k + U. The density of k + U is
F'(z) = P(k) within ½ of k. A move by θ whole steps keeps the cells, and within each of them
F'(z − θ)/F'(z) = P(k − θ)/P(k), which grows with k by log-concavity. The proof above uses no more
than that, and no moves but whole ones. It ends at E_x' y_c ≥ F(F⁻¹(pA) − m) > F(F⁻¹(pB) + m) ≥
E_x' y_i. ∎

It is Neyman and Pearson's bound by sums over the grid: F⁻¹(p) has the whole steps that the test
takes, and the share with which it takes the last one. One coordinate attains it. No continuous F⁻¹
enters, nor is anything lost to rounding: steps are integers, so that ρ = 0.

In L2 nothing like this is known for discrete noise. For a Gaussian law it follows from the density
of a vector, which is the same in all directions; on a grid it is not (Canonne, Kamath and Steinke
2020 prove concentrated privacy instead, a weaker bound). A discrete Gaussian law in L1 would have
the theorem above; but Gaussian noise, rounded to the same grid, has the same size in L2, of which
a size in L1 is never less.
"""

from collections.abc import Callable

import numpy as np

from models.certification.arrays import Floats
from models.certification.laws.split import LEVELS

Function = Callable[[Floats], Floats]
Scaled = Callable[[Floats, float], Floats]
# Far above the error of a quantile in steps, and of a move.
_SLACK, _NEARLY = 1e-9, 1e-6


def shift(quantile: Function, pa: Floats, pb: Floats) -> Floats:
    """½(F⁻¹(pA) − F⁻¹(pB))."""
    return np.asarray(0.5 * (quantile(pa) - quantile(pb)))


def attack(
    cdf: Function, quantile: Function, low: Floats, high: Floats, mu: Floats
) -> tuple[Floats, Floats]:
    """[F(F⁻¹(low) − μ), F(F⁻¹(high) + μ)]."""
    return cdf(quantile(low) - mu), cdf(quantile(high) + mu)


def whole_shift(quantile: Scaled, pa: Floats, pb: Floats, scale: float) -> Floats:
    """The largest whole number of steps, in scales, below ½(F⁻¹(pA) − F⁻¹(pB))."""
    spread = LEVELS * scale
    apart = (quantile(pa, scale) - quantile(pb, scale)) * spread
    certain = apart * (1 - _SLACK) - _SLACK
    return np.asarray(np.maximum(np.floor(certain / 2), 0.0) / spread)


def whole_steps(mu: Floats, scale: float) -> Floats:
    """The whole steps within μ scales, in scales."""
    spread = LEVELS * scale
    return np.asarray(np.floor(np.asarray(mu) * spread + _NEARLY) / spread)


def pure(pa: Floats, pb: Floats) -> Floats:
    """½ ln(pA/pB): Lécuyer et al. 2019, proposition 1 with ε = μ and δ = 0.

    For laws whose density changes by at most the factor e^θ when it moves by θ scales.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(0.5 * np.log(pa / pb))


def by_total_variation(quantile: Function, pa: Floats, pb: Floats) -> Floats:
    """2·F⁻¹(½ + (pA − pB)/4): Lécuyer et al. 2019, proposition 1 with ε = 0.

    By the theorem a move of μ changes every expectation by at most max_p p − G_μ(p) = 2F(μ/2) − 1,
    which is (0, δ)-PixelDP with that δ; the proposition then asks for pA > pB + 2δ.
    """
    return np.asarray(2 * quantile(0.5 + (pa - pb) / 4))
