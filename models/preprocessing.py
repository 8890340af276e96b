"""From the pixels of a picture as sent to a model's input, by linear maps of known norm.

Preprocessing belongs to g: a certificate is about the pixels as sent, so its Δ enters the size. All
steps are linear and done in float64, without rounding to bytes: colours, then a separable resize
(triangle filter, widened when the picture shrinks, as Pillow and torchvision do with antialiasing)
so that the picture covers the model's input, then a crop of the centre.

The exact map is the one with the float64 coefficients that are stored here. The error of evaluating
it in float64 is bounded by :meth:`Preprocessing.error`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from models.certification.arrays import Floats, Numbers
from models.certification.names import NORMS, Norm
from models.certification.norms import check_norm
from models.certification.rounding import round_up

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

CHANNELS = {"L": 1, "RGB": 3}
DEPTHS = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}
GREYSCALE = np.array([[0.299, 0.587, 0.114]])
GREY_TO_RGB = np.ones((3, 1))
LARGEST_MAGNIFICATION = 64
# A resize is a matrix with as many columns: a file of a few bytes can state a very long side.
LARGEST_SIDE = 16_384

MARGIN = 1 + 1e-10
# A Δ that is stated and multiplied by another is rounded to this many digits, so that the product
# has every digit of it.
DIGITS = 12
# Above this many rows and columns, √(‖A‖₁‖A‖∞) replaces the largest singular value, which would
# take longer than a request should wait. For a resize it is up to 7 % larger.
_LARGEST_DECOMPOSED = 1024
# Values of the picture that are converted to float64 at a time (16 MiB).
_CHUNK = 2**21


class CannotCertify(ValueError):  # noqa: N818 - an answer of the service, not a fault
    """No preprocessing with a proven sensitivity turns this picture into the model's input."""


@dataclass(frozen=True)
class Preprocessing:
    """The map from a ``width`` × ``height`` picture to an input of shape ``shape``.

    ``resized`` is the (height, width) of the whole picture after the resize; its centre is kept.
    ``known`` has every Δ(p,q) that another process has computed, because that takes long for large
    pictures. Made by :func:`plan`.
    """

    width: int
    height: int
    mode: str
    bits: int
    shape: tuple[int, int, int]
    resized: tuple[int, int]
    known: dict[tuple[Norm, Norm], float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps in words; sizes are width x height."""
        steps = []
        if CHANNELS[self.mode] != self.shape[0]:
            steps.append("greyscale" if self.mode == "RGB" else "grey to RGB")
        height, width = self.resized
        if self.resized != (self.height, self.width):
            steps.append(f"resize {self.width}x{self.height} to {width}x{height}")
        if self.resized != self.shape[1:]:
            steps.append(f"crop to {self.shape[2]}x{self.shape[1]}")
        return tuple(steps)

    @property
    def values(self) -> int:
        """The number of values of the picture as sent."""
        return self.width * self.height * CHANNELS[self.mode]

    @property
    def on_grid(self) -> bool:
        """Whether every value of the result is k/255 for an integer k."""
        return self.bits == 8 and not self.steps

    @property
    def selects(self) -> bool:
        """Whether the result is some of the picture's own 8-bit values, at most cropped."""
        same = CHANNELS[self.mode] == self.shape[0]
        return self.bits == 8 and same and self.resized == (self.height, self.width)

    def sensitivity(self, p: Norm, q: Norm) -> float:
        """Bound Δ(p,q).

        The map is a Kronecker product (colours ⊗ rows ⊗ columns). Apply it one axis at a time:
        for p ≤ q Minkowski's inequality lets an axis's norm act on all lines along it at once, so
        Δ(p,q) of the product is the product of the Δ(p,q). For p > q the bounds of :func:`_norm`
        are sums over the matrix's rows or columns, and such sums multiply, too, as the L1 norm of
        a row of the product is the product of the rows' L1 norms. The crop drops rows of the
        resize's matrices. The clip at the end moves no two values apart. Rounded up to
        ``DIGITS`` digits.

        Raises:
            ValueError: an unknown norm.
        """
        check_norm(p)
        check_norm(q)
        if (p, q) in self.known:
            return self.known[p, q]
        value = prod(_resize_norm(*axis, p, q) for axis in self._axes())
        value *= _colours_norm(CHANNELS[self.mode], self.shape[0], p, q)
        return value if value == 1 else round_up(value * MARGIN, DIGITS)

    def apply(self, pixels: Pixels) -> Floats:
        """Return the model's input [channels, height, width], values in [0, 1].

        Args:
            pixels: [height, width, channels], uint8 or uint16 as ``bits`` says.

        Raises:
            ValueError: the pixels do not have the planned shape or type.
        """
        expected = (self.height, self.width, CHANNELS[self.mode])
        if pixels.shape != expected or pixels.dtype != DEPTHS[self.bits]:
            raise ValueError(
                f"expected {DEPTHS[self.bits]} pixels of shape {list(expected)} (height, width, "
                f"channels), got {pixels.dtype} of {list(pixels.shape)}"
            )
        if not self.steps:
            scaled = self._scaled(pixels).reshape(pixels.shape)
            return np.ascontiguousarray(scaled.transpose(2, 0, 1))
        rows, columns = (_resize_matrix(*axis) for axis in self._axes())
        tall = _weigh(rows, pixels, self._scaled).reshape(len(rows), self.width, -1)
        turned = np.ascontiguousarray(tall.swapaxes(0, 1)).reshape(self.width, -1)
        wide = _weigh(columns, turned, np.asarray).reshape(len(columns), len(rows), -1)
        # The clip belongs to the map (its Δ is 1 in every norm): weights that sum to a little more
        # than 1 by rounding must not carry a value past 1. The broadcast is grey to RGB.
        result = np.clip(wide.transpose(2, 1, 0), 0.0, 1.0)
        return np.ascontiguousarray(np.broadcast_to(result, self.shape))

    def error(self, norm: Norm) -> float:
        """Bound the rounding error of :meth:`apply` over the whole result, in ``norm``.

        A value goes through one division, a sum of at most 3 products for greyscale and one of h
        and of w products in the resize, for a picture of h rows and w columns. A sum of n products
        errs, in any order and with fused or separate operations, by at most n·u/(1 − n·u) of the
        sum of their absolute values (u = 2⁻⁵³; Higham 2002, section 3.1). Weights are positive and
        sum to 1 but for rounding, so that sum is at most 1 but for rounding, and t terms in all
        err by less than 2t·u = t·2⁻⁵². Over m values that is at most √m times as much in L2 and m
        times in L1. Clipping moves no two numbers apart.

        0 on the grid of 8-bit pixels, where k/255 stands for the integer k.
        """
        check_norm(norm)
        if self.on_grid:
            return 0.0
        terms = 1 + (self.height + self.width + 3 if self.steps else 0)
        values = prod(self.shape)
        return terms * 2.0**-52 * {"l1": values, "l2": sqrt(values), "linf": 1.0}[norm]

    def _scaled(self, pixels: Pixels) -> Floats:
        """[rows, width · channels] in [0, 1], with no more channels than the model has."""
        scaled: Floats = np.divide(pixels, 2**self.bits - 1, dtype=np.float64)
        if self.mode == "RGB" and self.shape[0] == 1:
            scaled = scaled @ GREYSCALE.T
        return scaled.reshape(len(pixels), -1)

    def _axes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        return (
            (self.height, self.resized[0], self.shape[1]),
            (self.width, self.resized[1], self.shape[2]),
        )


@lru_cache(maxsize=1024)
def plan(
    width: int, height: int, mode: str, bits: int, shape: tuple[int, int, int]
) -> Preprocessing:
    """Plan how a picture becomes the input of a model.

    Greyscale (.299, .587, .114) or grey to RGB where the channels differ; then a resize by the
    larger of the two sides' ratios, so that the picture covers the input, and a crop of the centre
    if more is left. A picture of the model's own size and mode is not changed.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        mode: ``L`` or ``RGB``.
        bits: 8 or 16, per value.
        shape: (channels, height, width) of the model's input.

    Raises:
        CannotCertify: there is no step for this mode, depth or size.
    """
    if mode not in CHANNELS:
        raise CannotCertify(f"pictures of mode {mode!r} are not accepted; expected L or RGB")
    if bits not in DEPTHS:
        raise CannotCertify(f"pictures of {bits} bits per value are not accepted; expected 8 or 16")
    channels, *wanted = shape
    if channels not in CHANNELS.values() or min(wanted) < 1:
        raise CannotCertify(
            f"the model takes {shape} (channels, height, width); pictures have 1 or 3 channels"
        )
    if width < 1 or height < 1:
        raise CannotCertify(f"a picture of {width}x{height} has no pixels")
    if max(width, height) > LARGEST_SIDE:
        raise CannotCertify(
            f"a picture of {width}x{height} has a side of more than {LARGEST_SIDE:,} pixels; "
            "send it smaller"
        )
    resized = _cover((height, width), (wanted[0], wanted[1]))
    if resized[0] > LARGEST_MAGNIFICATION * height or resized[1] > LARGEST_MAGNIFICATION * width:
        raise CannotCertify(
            f"a picture of {width}x{height} would have to be enlarged more than "
            f"{LARGEST_MAGNIFICATION} times to cover {wanted[1]}x{wanted[0]}; send a larger one"
        )
    return Preprocessing(width, height, mode, bits, shape, resized)


def _cover(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the picture scaled by the larger ratio, the other side to the nearest."""
    height, width = size
    if wanted[0] * width >= wanted[1] * height:  # the height needs the larger ratio
        return wanted[0], (2 * width * wanted[0] + height) // (2 * height)
    return (2 * height * wanted[1] + width) // (2 * width), wanted[1]


def _weigh(matrix: Floats, lines: Numbers, prepare: Callable[[Numbers], Floats]) -> Floats:
    """Return ``matrix`` @ ``lines``, [kept, m], without the products by zeros.

    A row of a resize weighs few neighbouring lines: of a picture with 4,000 lines one in a hundred,
    where 224 remain.

    Args:
        matrix: [kept, n], with weights ≥ 0 that are adjacent.
        lines: [n, …].
        prepare: turns some lines into as many of m numbers.
    """
    step = max(1, _CHUNK // prod(lines.shape[1:]))
    if len(lines) <= step:
        lines, prepare = prepare(lines), np.asarray
    used = matrix > 0
    firsts, ends = used.argmax(axis=1), matrix.shape[1] - used[:, ::-1].argmax(axis=1)
    results = []
    for weights, first, end in zip(matrix, firsts.tolist(), ends.tolist(), strict=True):
        parts = [slice(start, min(start + step, end)) for start in range(first, end, step)]
        some = [weights[part] @ prepare(lines[part]) for part in parts]
        results.append(some[0] if len(some) == 1 else np.sum(some, axis=0))
    return np.array(results)


@lru_cache(maxsize=8)
def _resize_matrix(size: int, resized: int, kept: int) -> Floats:
    """[kept, size]: the resize of one axis to ``resized``, of which the centre is ``kept``.

    Output i lies at c = (i + ½)·size/resized of the input; the pixel with centre j + ½ weighs
    max(0, 1 − |j + ½ − c|/max(1, size/resized)), divided by the sum of the weights inside.
    """
    if size == resized:
        matrix = np.eye(kept, size, k=(size - kept) // 2)
    else:
        ratio = size / resized
        outputs = np.arange(kept) + (resized - kept) // 2
        distances = (np.arange(size) + 0.5) - ((outputs + 0.5) * ratio)[:, None]
        matrix = np.maximum(0.0, 1 - np.abs(distances) / max(1.0, ratio))
        matrix /= matrix.sum(axis=1, keepdims=True)
    matrix.flags.writeable = False
    return matrix


@lru_cache(maxsize=4096)
def _resize_norm(size: int, resized: int, kept: int, p: Norm, q: Norm) -> float:
    """Δ(p,q) of :func:`_resize_matrix`; for p ≤ q exactly 1 if pixels are only selected."""
    if size == resized and NORMS.index(p) <= NORMS.index(q):
        return 1.0
    return _norm(_resize_matrix(size, resized, kept), p, q)


@lru_cache
def _colours_norm(sent: int, taken: int, p: Norm, q: Norm) -> float:
    """Δ(p,q) of the step from the channels sent to those taken; if it is none, 1 for p ≤ q."""
    if sent != taken:
        return _norm(GREYSCALE if sent > taken else GREY_TO_RGB, p, q)
    return 1.0 if NORMS.index(p) <= NORMS.index(q) else _norm(np.eye(sent), p, q)


def _norm(matrix: Floats, p: Norm, q: Norm) -> float:
    """Bound Δ(p,q) of a matrix.

    For p ≤ q it is exact, except for (2,2) of a large one. Otherwise, as |(Ax)_i| ≤ ‖row i‖₁·‖x‖∞,
    it is at most Σ‖row‖₁ for (∞,1) and √Σ‖row‖₁² for (∞,2); and √Σ‖column‖₁² for (2,1), which is
    the norm from L∞ to L2 of the transpose.
    """
    orders = {"l1": 1, "l2": 2, "linf": np.inf}
    rows, columns = (np.abs(matrix).sum(axis=axis) for axis in (1, 0))
    match p, q:
        case ("linf", "l1"):
            return float(rows.sum())
        case ("linf", "l2"):
            return sqrt(float((rows * rows).sum()))
        case ("l2", "l1"):
            return sqrt(float((columns * columns).sum()))
        case ("l2", "l2") if min(matrix.shape) > _LARGEST_DECOMPOSED:
            return sqrt(float(rows.max() * columns.max()))  # Schur
        case ("l1", _):  # the largest column
            return float(np.linalg.norm(matrix, orders[q], axis=0).max())
        case ("l2", "linf"):  # Cauchy-Schwarz on each row
            return float(np.linalg.norm(matrix, 2, axis=1).max())
        case _:
            return float(np.linalg.norm(matrix, orders[p]))
