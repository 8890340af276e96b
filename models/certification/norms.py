"""Norms of a change of the picture, and the conversion of sizes between norms.

A change δ has ``values`` = height × width × channels entries, each with |δ_i| ≤ 1 because pixel
values lie in [0, 1]. ``size`` in norm p certifies every δ with ‖δ‖_p ≤ size; the converted size in
norm r is a T such that ‖δ‖_r ≤ T implies ‖δ‖_p ≤ size.
"""

from math import floor, sqrt

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Floats
from models.certification.names import NORMS, Norm


def check_norm(norm: str) -> Norm:
    """Return ``norm`` if it is known; an unknown one is an error, never a default."""
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
    return norm


def convert(size: ArrayLike, source: Norm, target: Norm, values: ArrayLike) -> Floats:
    """Convert a certified ``size`` from norm ``source`` to norm ``target``.

    Args:
        size: certified sizes, any shape, in pixel values scaled to [0, 1].
        source: the norm of ``size``.
        target: the norm of the result.
        values: the number of values of the picture as sent (height × width × channels).

    Returns:
        The sizes in ``target``. From L2 to L1: L up to 1, and ⌊L²⌋ + √(L² − ⌊L²⌋) above. For ‖δ‖₂²
        is convex, so that among the δ with ‖δ‖₁ ≤ T and |δ_i| ≤ 1 it is largest at a corner: ⌊T⌋
        entries of ±1 and one of T − ⌊T⌋, where it is ⌊T⌋ + (T − ⌊T⌋)². That grows in T, and is L²
        at the T above. Otherwise by the constants of norm equivalence in ``values`` dimensions.

    Raises:
        ValueError: an unknown norm.
    """
    check_norm(source)
    check_norm(target)
    size = np.asarray(size, dtype=float)
    values = np.asarray(values, dtype=float)
    match source, target:
        case ("l1", "l2"):  # ‖δ‖₁ ≤ √d ‖δ‖₂
            return np.asarray(size / np.sqrt(values))
        case ("l1", "linf"):  # ‖δ‖₁ ≤ d ‖δ‖∞
            return np.asarray(size / values)
        case ("l2", "l1"):
            square = size * size
            whole = np.floor(square)
            return np.asarray(np.where(size > 1, whole + np.sqrt(square - whole), size))
        case ("l2", "linf"):  # ‖δ‖₂ ≤ √d ‖δ‖∞
            return np.asarray(size / np.sqrt(values))
        case _:  # the same norm, or from L∞: ‖δ‖∞ ≤ ‖δ‖₂ ≤ ‖δ‖₁
            return np.asarray(size + 0.0)


def required(target: float, source: Norm, norm: Norm, values: int) -> float:
    """Return the size in ``source`` whose conversion to ``norm`` is ``target``.

    The inverse of :func:`convert`, up to rounding, and so the largest size in ``source`` of a
    change of size ``target`` in ``norm``. Used to plan how many draws a target takes, and to bound
    attacks of that size. Never used to decide whether a target is met.
    """
    check_norm(source)
    check_norm(norm)
    match source, norm:
        case ("l1", "l2") | ("l2", "linf"):
            return target * sqrt(values)
        case ("l1", "linf"):
            return target * values
        case ("l2", "l1"):
            whole = floor(target)
            return sqrt(whole + (target - whole) ** 2) if target > 1 else target
        case _:
            return target
