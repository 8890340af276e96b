"""Interval bounds: sizes in L∞ that hold with certainty, without noise (Gowal et al. 2018).

Pictures have 8-bit pixels, and a change of the picture is another such picture. h is asked for
boxes: of a picture x and a radius ε it sees the centre and the radius of
[max(x_i − ε, 0), min(x_i + ε, 1)] for every pixel i (:mod:`models.mechanisms.interval`), and votes
for label c only if its bounds prove that it gives c to every picture in that box
(:mod:`models.networks.interval`); otherwise it votes for none. The box of radius 0 has one picture,
and h votes for that picture's label.

*Theorem.* If h votes for c on the box of radius ε > 0 around x, then it votes for c on the box of
radius 0 around every x' with ‖x' − x‖∞ ≤ ε, pixel values in [0, 1].

*Proof.* Such an x' lies in the box, because its pixel values are in [0, 1]; what h proves holds for
each picture there, as h computes its label, rounding included. ∎

Nothing is estimated, so there is nothing to be wrong about: confidence 1. In PixelDP's terms the
scores of pictures in the box are (0, 0)-indistinguishable, and Lécuyer et al. 2019, proposition 1,
asks for pA > pB: the same condition.

Radii are whole multiples of 1/UNITS, so that all that h sees are integers. UNITS is a multiple of
255, for pixels, and of 1000, for sizes as people write them.
"""

from math import floor

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Floats

UNITS = 51_000
LEVELS = 255
# A picture has at most this many boxes, in rounds (``models.certification.interval``).
ROUND, ROUNDS = 16, 4
BOXES = ROUND * ROUNDS


def largest_radius(scale: float) -> int:
    """Return the largest radius that is tried, in units of 1/UNITS: the scale, rounded down.

    Raises:
        ValueError: no radius is left, or it is above 1.
    """
    units = floor(scale * UNITS * (1 + 1e-12))
    if not 1 <= units <= UNITS:
        raise ValueError(
            f"boxes of radius {scale:g}: expected a scale of at most 1 in pixel values, and at "
            f"least {1 / UNITS:.6f}"
        )
    return units


def sizes(lower: ArrayLike, upper: ArrayLike, scale: float) -> Floats:
    """Return the largest size there can be, where pA > pB: a proof gives the label everything."""
    most = largest_radius(scale) / UNITS
    return np.asarray(np.where(np.asarray(lower) > np.asarray(upper), most, 0.0))
