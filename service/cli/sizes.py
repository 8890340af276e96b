"""Sizes as people read them."""

from decimal import ROUND_FLOOR, Context

DIGITS = 4


def shown(size: float) -> str:
    """Write a size with at most four significant digits, never above it: what is said of it holds.

    Numbers that need no more digits are written as they are: 0.6, although its float is below.
    """
    nearest = f"{size:.{DIGITS}g}"
    if float(nearest) <= size:
        return nearest
    below = Context(prec=DIGITS, rounding=ROUND_FLOOR).create_decimal_from_float(size)
    return f"{float(below):.{DIGITS}g}"
