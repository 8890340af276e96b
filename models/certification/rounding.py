"""Rounding that never claims more than was proven: sizes and lower bounds down, upper bounds up."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

DIGITS = 6

# The formulas behind a size are computed in float64 with a relative error far below these.
RELATIVE_SLACK = 1e-9
ABSOLUTE_SLACK = 1e-12

_DOWN = Context(prec=DIGITS, rounding=ROUND_FLOOR)
_UP = Context(prec=DIGITS, rounding=ROUND_CEILING)


def round_down(value: float) -> float:
    """Round down to six significant digits."""
    return float(_DOWN.create_decimal(Decimal(value)))


def round_up(value: float) -> float:
    """Round up to six significant digits."""
    return float(_UP.create_decimal(Decimal(value)))


def round_size(value: float) -> float:
    """Round a size down, after taking off more than its computation could have erred.

    Never negative: what cannot be certified has size 0.
    """
    reduced = value * (1 - RELATIVE_SLACK) - ABSOLUTE_SLACK
    return round_down(reduced) if reduced > 0 else 0.0
