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
"""

from collections.abc import Callable

import numpy as np

from models.certification.arrays import Floats

Function = Callable[[Floats], Floats]


def shift(quantile: Function, pa: Floats, pb: Floats) -> Floats:
    """½(F⁻¹(pA) − F⁻¹(pB))."""
    return np.asarray(0.5 * (quantile(pa) - quantile(pb)))


def attack(
    cdf: Function, quantile: Function, low: Floats, high: Floats, mu: Floats
) -> tuple[Floats, Floats]:
    """[F(F⁻¹(low) − μ), F(F⁻¹(high) + μ)]."""
    return cdf(quantile(low) - mu), cdf(quantile(high) + mu)


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
