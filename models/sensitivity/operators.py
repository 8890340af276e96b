"""Proven bounds on the norms of linear maps and convolutions. numpy only.

The norm of A from p to q is Δ(p,q) = max ‖Ax‖_q over ‖x‖_p ≤ 1. With d inputs and n outputs:

* Δ(1,q) = the largest q-norm of a column: ‖Ax‖_q ≤ Σ|x_j|·‖column j‖_q, attained at a unit vector.
* Δ(∞,∞) = the largest L1 norm of a row: Hölder, attained at the signs of that row.
* Δ(2,2) = the largest singular value, and ≤ √(Δ(1,1)·Δ(∞,∞)) (Schur).
* Δ(∞,2) ≤ √d·Δ(2,2) since ‖x‖₂ ≤ √d·‖x‖∞, and ≤ √Σ‖row‖₁² since |(Ax)_i| ≤ ‖row i‖₁·‖x‖∞.
* Δ(∞,1) ≤ Σ‖row‖₁ likewise, and ≤ √n·Δ(∞,2) since ‖y‖₁ ≤ √n·‖y‖₂.

Everything is computed in float64 on entries scaled to at most 1, so that no square overflows or
vanishes, and multiplied by 1 + 10⁻¹⁰: far more than the rounding of these sums, transforms and
eigenvalues (a modest multiple of the number of terms × 2⁻⁵³).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import cos, pi, prod, sqrt

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Floats, Integers, Numbers
from models.certification.names import Norm
from models.certification.norms import check_norm

Size = tuple[int, int]

MARGIN = 1 + 1e-10
PAIRS: tuple[tuple[Norm, Norm], ...] = (
    ("l1", "l1"),
    ("l1", "l2"),
    ("l2", "l2"),
    ("linf", "linf"),
    ("linf", "l2"),
    ("linf", "l1"),
)

# Frequencies per tap of an axis that is too long to be taken whole: the bound is then at most
# 1/cos(π/64) = 1.0012 above the supremum on that axis.
_GRID_PER_TAP = 32
# Up to this many rows or columns of a convolution on a small map, its matrix is decomposed: the
# bound by frequencies, which knows nothing of the border, is up to twice as large there.
_MOST_DECOMPOSED = 256
# Complex numbers held at once while going through the frequencies (32 MiB).
_CHUNK = 2**21


@dataclass(frozen=True)
class Sensitivity:
    """A proven bound ``value`` ≥ Δ(p,q), and in ``method`` how it was found."""

    value: float
    method: str


class LinearMap(ABC):
    """A linear map with ``inputs`` and ``outputs`` values; the bounds of this module's head.

    ``scale`` is the largest absolute entry; the methods below speak of the map divided by it.
    """

    inputs: int
    outputs: int
    scale: float

    @abstractmethod
    def _columns(self, norm: Norm) -> Floats:
        """L1 or L2 norm of every column, in any shape."""

    @abstractmethod
    def _rows(self) -> Floats:
        """L1 norm of every row, in any shape."""

    @abstractmethod
    def _bound_spectrum(self) -> tuple[float, str]:
        """Bound the largest singular value; also the method."""

    @cached_property
    def _spectrum(self) -> tuple[float, str]:
        return self._bound_spectrum()

    def sensitivity(self, p: Norm, q: Norm) -> Sensitivity:
        """Bound Δ(p,q).

        Raises:
            ValueError: (p, q) is none of ``PAIRS``.
        """
        check_norm(p)
        check_norm(q)
        if (p, q) not in PAIRS:
            known = ", ".join(f"({a}, {b})" for a, b in PAIRS)
            raise ValueError(f"no bound on a linear map from {p} to {q}; known: {known}")
        value, method = self._bound(p, q) if self.scale else (0.0, "zero map")
        return Sensitivity(value * self.scale * MARGIN, method)

    def _bound(self, p: Norm, q: Norm) -> tuple[float, str]:
        if p == "l1":
            return float(self._columns(q).max()), f"exact column {q} norms"
        if p == "l2":
            norms = float(self._columns("l1").max()) * float(self._rows().max())
            return min(self._spectrum, (sqrt(norms), "root of column × row l1 norms"))
        rows = self._rows()
        if q == "linf":
            return float(rows.max()), "exact row l1 norms"
        spectrum, method = self._spectrum
        bounds = [
            (sqrt(float((rows * rows).sum())), "root of the summed squares of row l1 norms"),
            (sqrt(self.inputs) * spectrum, f"√inputs × {method}"),
        ]
        if q == "l1":
            root = sqrt(self.outputs)
            bounds = [(root * value, f"√outputs × {how}") for value, how in bounds]
            bounds.append((float(rows.sum()), "sum of row l1 norms"))
        return min(bounds)


class Matrix(LinearMap):
    """A dense matrix [outputs, inputs]; all but Δ(∞,2) and Δ(∞,1) are exact.

    Raises:
        ValueError: not a matrix of finite numbers.
    """

    def __init__(self, matrix: ArrayLike) -> None:
        entries = _entries(matrix, 2, "a matrix", "[outputs, inputs]")
        self.outputs, self.inputs = entries.shape
        self.scale = float(np.abs(entries).max())
        self._matrix = entries / (self.scale or 1.0)

    def _columns(self, norm: Norm) -> Floats:
        return np.asarray(np.linalg.norm(self._matrix, 1 if norm == "l1" else 2, axis=0))

    def _rows(self) -> Floats:
        return np.asarray(np.abs(self._matrix).sum(axis=1))

    def _bound_spectrum(self) -> tuple[float, str]:
        return sqrt(_largest_eigenvalue(_gram(self._matrix[None]))), "largest singular value"


class Convolution(LinearMap):
    """A convolution as ``torch.nn.Conv2d`` computes it, with zero padding or none.

    ``kernel`` is [outputs' channels, inputs' channels / groups, height, width]; the other options
    are pairs (rows, columns) or one number for both. The picture has ``input_size`` (height,
    width). Columns and rows of the matrix are counted exactly, borders included, so that Δ(1,q) and
    Δ(∞,∞) are exact.

    Raises:
        ValueError: a kernel that is not finite, or options that do not fit it or leave no output.
    """

    def __init__(
        self,
        kernel: ArrayLike,
        *,
        input_size: Size,
        stride: int | Size = 1,
        padding: int | Size = 0,
        dilation: int | Size = 1,
        groups: int = 1,
    ) -> None:
        entries = _entries(kernel, 4, "a kernel", "[outputs, inputs / groups, height, width]")
        if groups < 1 or entries.shape[0] % groups:
            raise ValueError(
                f"{entries.shape[0]} output channels do not divide into {groups} groups"
            )
        self.stride, self.dilation = _two(stride, "stride", 1), _two(dilation, "dilation", 1)
        self.input_size = _two(input_size, "input_size", 1)
        reads = [
            _reads(*axis)
            for axis in zip(
                self.input_size,
                entries.shape[2:],
                self.stride,
                _two(padding, "padding", 0),
                self.dilation,
                strict=True,
            )
        ]
        self._reads = reads[0], reads[1]
        self.output_size = len(reads[0]), len(reads[1])
        self.inputs = entries.shape[1] * groups * prod(self.input_size)
        self.outputs = entries.shape[0] * prod(self.output_size)
        self.scale = float(np.abs(entries).max())
        # [groups, outputs, inputs, height, width]
        self._kernel = (entries / (self.scale or 1.0)).reshape(groups, -1, *entries.shape[1:])

    def _columns(self, norm: Norm) -> Floats:
        """[groups, inputs, height, width]: per input channel and pixel, over the taps it meets.

        Which taps a pixel meets depends on its stride phase, and near the border on where it is.
        """
        taps = np.abs(self._kernel) if norm == "l1" else self._kernel**2
        meets = [
            _meets(reads, size) for reads, size in zip(self._reads, self.input_size, strict=True)
        ]
        norms: Floats = meets[0] @ taps.sum(axis=1) @ meets[1].T
        return norms if norm == "l1" else np.sqrt(norms)

    def _rows(self) -> Floats:
        """[groups, outputs, height, width]: over the taps that fall on the picture."""
        inside = [
            ((reads >= 0) & (reads < size)).astype(float)
            for reads, size in zip(self._reads, self.input_size, strict=True)
        ]
        return np.asarray(inside[0] @ np.abs(self._kernel).sum(axis=2) @ inside[1].T)

    def _bound_spectrum(self) -> tuple[float, str]:
        """The matrix's own largest singular value where it is small, else by the symbol's."""
        groups, outputs, inputs = self._kernel.shape[:3]
        size = (outputs * prod(self.output_size), inputs * prod(self.input_size))
        if min(size) <= _MOST_DECOMPOSED and groups * prod(size) <= _CHUNK:
            return sqrt(_largest_eigenvalue(_gram(self._dense()))), "largest singular value"
        return self._bound_symbol()

    def _dense(self) -> Floats:
        """[groups, outputs × height × width, inputs × height × width]: the matrix itself."""
        rows, columns = (
            (reads.T[..., None] == np.arange(size)).astype(float)
            for reads, size in zip(self._reads, self.input_size, strict=True)
        )
        matrix = np.einsum("gocab,aih,bjw->goijchw", self._kernel, rows, columns, optimize=True)
        groups, outputs = self._kernel.shape[:2]
        return np.asarray(matrix.reshape(groups, outputs * prod(self.output_size), -1))

    def _bound_symbol(self) -> tuple[float, str]:
        """Bound the largest singular value by the symbol's on a grid of frequencies.

        **Polyphase.** Split the zero-padded picture into its stride phases. An axis then reads
        y_i = Σ_j P_j x_{i+j}, j < m = ⌈taps/stride⌉ (dilation: zeros inserted between the taps),
        with the phases as further input channels; splitting and padding keep every L2 norm.

        **Axis taken whole**, N ≥ outputs + m − 1: the positions i + j differ modulo N, so the map
        is a submatrix of the circular convolution of length N. The Fourier transform turns that
        into the blocks P̂(θ) = Σ_j P_j e^{ijθ} at θ = 2πk/N: Δ(2,2) ≤ max σ(P̂(θ)) on the grid.

        **Long axis**: the map is a submatrix of the convolution on all integers, so Δ(2,2) ≤ sup
        σ(P̂(θ)) over all θ. Take θ* and v where it is attained: f(θ) = ‖P̂(θ)v‖² is a trigonometric
        polynomial of degree m − 1 with 0 ≤ f ≤ M = f(θ*). M. Riesz: where T, of degree m − 1, takes
        its largest absolute value at θ*, T(θ) ≥ T(θ*)·cos((m−1)(θ−θ*)) up to the cosine's first
        minimum. Applied to f − M/2, whose absolute value is at most M/2: f(θ) ≥ M·cos²((m−1)(θ−θ*)/
        2). Some point of the grid is within π/N, hence sup σ ≤ grid maximum / cos(π(m−1)/2N). This
        is the factor of Ehlich and Zeller (1964), 1/√cos(π(m−1)/N), sharpened for f ≥ 0.

        The axes are treated one after the other, each with the other held at the point found. The
        kernel is real, so P̂(−θ) is the conjugate of P̂(θ) and half the grid is enough. Groups do
        not mix: their norms' maximum.
        """
        phases = _polyphase(self._kernel, self.stride, self.dilation)
        taps = phases.shape[3:]
        (rows, factor), (columns, column_factor) = (
            _grid(m, n) for m, n in zip(taps, self.output_size, strict=True)
        )
        factor *= column_factor
        half = np.fft.rfft(phases, columns, axis=-1)
        step = max(1, _CHUNK // (prod(phases.shape[:3]) * rows))
        largest = 0.0
        for start in range(0, half.shape[-1], step):
            symbol = np.fft.fft(half[..., start : start + step], rows, axis=3)
            blocks = np.moveaxis(symbol, (1, 2), (-2, -1)).reshape(-1, *phases.shape[1:3])
            largest = _largest_eigenvalue(_gram(blocks), largest)
        grid = f"symbol on {rows}x{columns} frequencies"
        method = grid if factor == 1 else f"{grid} with Ehlich-Zeller factor {factor:.6f}"
        return factor * sqrt(largest), method


def _entries(values: ArrayLike, axes: int, what: str, layout: str) -> Floats:
    entries = np.asarray(values, dtype=np.float64)
    if entries.ndim != axes or not entries.size:
        raise ValueError(f"expected {what} {layout}, got shape {list(entries.shape)}")
    if not np.isfinite(entries).all():
        raise ValueError(f"{what} with NaN or infinite entries has no sensitivity")
    return entries


def _two(value: int | Size, name: str, least: int) -> Size:
    rows, columns = (value, value) if isinstance(value, int) else value
    if min(rows, columns) < least:
        raise ValueError(f"{name} must be at least {least} on each axis, got {rows} and {columns}")
    return rows, columns


def _reads(size: int, taps: int, stride: int, padding: int, dilation: int) -> Integers:
    """[outputs, taps] of one axis: the pixel that each tap reads; a zero if outside the picture."""
    span = dilation * (taps - 1) + 1
    outputs = (size + 2 * padding - span) // stride + 1
    if outputs < 1:
        raise ValueError(
            f"a kernel that spans {span} pixels does not fit into {size} with padding {padding}"
        )
    return stride * np.arange(outputs)[:, None] + dilation * np.arange(taps) - padding


def _meets(reads: Integers, size: int) -> Floats:
    """[size, taps] of one axis: 1 where some output reads that pixel through that tap."""
    meets = np.zeros((size, reads.shape[1]))
    output, tap = np.nonzero((reads >= 0) & (reads < size))
    meets[reads[output, tap], tap] = 1.0
    return meets


def _polyphase(kernel: Floats, stride: Size, dilation: Size) -> Floats:
    """Turn [g, o, c, height, width] into [g, o, c × phases, m rows, m columns] of stride 1."""
    groups, outputs, inputs, *taps = kernel.shape
    m = [-(-(d * (k - 1) + 1) // s) for k, s, d in zip(taps, stride, dilation, strict=True)]
    spread = np.zeros((groups, outputs, inputs, m[0] * stride[0], m[1] * stride[1]))
    rows, columns = (slice(0, d * (k - 1) + 1, d) for k, d in zip(taps, dilation, strict=True))
    spread[..., rows, columns] = kernel
    split = spread.reshape(groups, outputs, inputs, m[0], stride[0], m[1], stride[1])
    return split.transpose(0, 1, 2, 4, 6, 3, 5).reshape(groups, outputs, -1, *m)


def _grid(m: int, outputs: int) -> tuple[int, float]:
    """How many frequencies to take on an axis, and the factor that covers those between them."""
    if m == 1:  # the symbol is constant
        return 1, 1.0
    whole = outputs + m - 1
    if whole <= _GRID_PER_TAP * m:
        return whole, 1.0
    points = _GRID_PER_TAP * m
    return points, 1 / cos(pi * (m - 1) / (2 * points))


def _gram(blocks: Numbers) -> Numbers:
    """The smaller of MMᴴ and MᴴM for each M of [blocks, rows, columns]."""
    other = blocks.conj().swapaxes(-1, -2)
    gram: Numbers = blocks @ other if blocks.shape[1] <= blocks.shape[2] else other @ blocks
    return gram


def _largest_eigenvalue(grams: Numbers, known: float = 0.0) -> float:
    """The largest eigenvalue of any of these positive semidefinite matrices, at least ``known``.

    For the largest of one matrix, (Σλ¹⁶/Σλ¹²)^(1/4) ≤ λ ≤ (Σλ¹⁶)^(1/16); only matrices whose upper
    limit reaches the best lower limit are decomposed. As λ is the matrix's own norm, its relative
    error is that of the eigenvalue solver, and its root's is half of it.
    """
    if len(grams) > 1:
        fourth = np.linalg.matrix_power(grams, 4)
        eighth = fourth @ fourth
        sum16 = (eighth * eighth.conj()).real.sum(axis=(1, 2))
        sum12 = (eighth * fourth.conj()).real.sum(axis=(1, 2))
        some = sum12 > 0
        lower = ((sum16[some] / sum12[some]) ** 0.25).max(initial=known)
        grams = grams[sum16 ** (1 / 16) * (1 + 1e-9) >= lower]
    return float(np.linalg.eigvalsh(grams)[:, -1].max(initial=known))
