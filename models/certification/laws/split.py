"""Split noise: sizes in L1 that hold with certainty (Levine and Feizi 2021).

Pictures have 8-bit pixels, and a change of the picture is another such picture. Draw v of N lets h
see of pixel i whether x_i > s + ½ with s = (t_i + v) mod N, and s itself; nothing of x_i if s > 254
(:mod:`models.mechanisms.split`). t is fixed.

*Theorem.* If n_A of the N draws vote for label c, and at most n_B for any other, the label with the
most votes is c for every x' with ‖x' − x‖₁ ≤ ⌊(n_A − n_B − 1)/2⌋/255, pixel values in [0, 1].

*Proof.* Let pixel i change by k_i steps of 1/255, say from x_i to x_i + k_i (the other way is the
same with the roles exchanged). x_i > s + ½ and x_i + k_i > s + ½ differ only for the k_i values
s = x_i … x_i + k_i − 1. For each s there is exactly one v in 0 … N − 1, as v ↦ (t_i + v) mod N is
one to one. So for at most k_i draws h sees anything else of pixel i, and for at most m = Σ k_i
draws it sees anything else at all. h is a function of what it sees, bit for bit; so at most m votes
differ. Each vote that differs takes at most one from c and gives at most one to another label, so
that n_c − n_i falls by at most 2m ≤ n_A − n_B − 1 for every i. What is left is at least 1. ∎

In PixelDP's terms the votes of two pictures at distance m/255 are (0, m/N)-indistinguishable, and
Lécuyer et al. 2019, proposition 1, asks for pA > pB + 2m/N: the same condition.
"""

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Floats, Integers

# Pixel values are whole multiples of 1/LEVELS.
LEVELS = 255
# λ below this would leave pixel values that no draw splits.
LEAST_SCALE = 0.5
# Above it, an answer would have more draws than verifiers count.
MOST_SCALE = 16_000
# Far above the error of a product of two floats, in draws or in steps of pixels.
NEARLY = 1e-6


def count_draws(scale: float) -> int:
    """Return N = 510·λ.

    Raises:
        ValueError: it is not whole, λ is below ½, or there are too many.
    """
    draws = 2 * LEVELS * scale
    if not LEAST_SCALE <= scale <= MOST_SCALE or abs(round(draws) - draws) > 1e-9:
        raise ValueError(
            f"split noise of scale {scale:g}: expected from {LEAST_SCALE:g} to {MOST_SCALE:,}, and "
            f"a whole number of draws, which is {2 * LEVELS} times the scale"
        )
    return round(draws)


def certified_steps(own: ArrayLike, most: ArrayLike) -> Integers:
    """Return by how many steps of 1/255 pixels may change in all: ⌊(n_A − n_B − 1)/2⌋, or 0."""
    gap = np.asarray(own, dtype=np.int64) - np.asarray(most, dtype=np.int64)
    return np.asarray(np.maximum((gap - 1) // 2, 0))


def counts(lower: ArrayLike, upper: ArrayLike, draws: int) -> tuple[Integers, Integers]:
    """Return the n_A and n_B of bounds on shares of the N draws."""
    own = np.floor(np.asarray(lower, dtype=float) * draws + NEARLY)
    most = np.ceil(np.asarray(upper, dtype=float) * draws - NEARLY)
    return own.astype(np.int64), most.astype(np.int64)


def sizes(lower: ArrayLike, upper: ArrayLike, scale: float) -> Floats:
    """Return the sizes in L1 for bounds on shares of the draws."""
    return np.asarray(certified_steps(*counts(lower, upper, count_draws(scale))) / LEVELS)
