"""Rounding that never claims more than was proven: sizes and lower bounds down, upper bounds up."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Floats

DIGITS = 6

# Beyond these, squares and quotients could overflow float64: no bundle has such a scale, no
# question has a target above, and no verifier accepts them.
LEAST_NUMBER, MOST_NUMBER = 1e-50, 1e50

# The formulas behind a size are computed in float64 with a relative error far below these.
RELATIVE_SLACK = 1e-9
ABSOLUTE_SLACK = 1e-12


@lru_cache(2**14)
def round_down(value: float, digits: int = DIGITS) -> float:
    """Round down to ``digits`` significant digits."""
    return float(Context(prec=digits, rounding=ROUND_FLOOR).create_decimal_from_float(value))


@lru_cache(2**14)
def round_up(value: float, digits: int = DIGITS) -> float:
    """Round up to ``digits`` significant digits."""
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal_from_float(value))


def round_down_steps(steps: int, levels: int) -> float:
    """Round ``steps``/``levels`` down: 153/255 is 0.6, but the nearest float is below that."""
    exact = Context(prec=DIGITS, rounding=ROUND_FLOOR)
    return float(exact.divide(Decimal(steps), Decimal(levels)))


def reduce_size(size: ArrayLike, unit: float = 1.0) -> Floats:
    """Subtract more than the error that the computation of a size can have; never below 0.

    Args:
        size: sizes (scale·μ − ρ)/Δ, before they are converted to another norm: from L2 to L1 an
            error grows.
        unit: scale/Δ. If pA is close to pB, μ is a difference with an error of about 10⁻¹⁵, which
            is multiplied by this.
    """
    reduced = np.asarray(size) * (1 - RELATIVE_SLACK) - ABSOLUTE_SLACK * max(1.0, unit)
    return np.asarray(np.maximum(reduced, 0.0))
