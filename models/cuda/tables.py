"""What the noise kernel (``noise.cu``) looks up: thresholds of 64-bit uniforms; and its law.

For a coordinate with the feature g, in units of γ, and the noise X in the same units, the kernel
must draw z = ⌊g + X + ½⌋, as :mod:`models.noise` states. It inverts the distribution function F of
X: a uniform u of 64 bits gives z ≥ k exactly if u ≥ E(k − ½ − g), where E(t) = 2⁶⁴·F(t), rounded.
So a draw is a search among thresholds, in integers; nothing is computed in floating point, and a
processor and a GPU make the same z of the same bits.

By symmetry E(t) = 2⁶⁴ − E(−t), so one function of t ≥ 0 is enough: the tail q(t) = 2⁶⁴·P(X > t).

**On the grid** g is an integer, and the noise itself is searched: every E(k − ½) is tabulated,
rounded to the nearest integer from 48 digits (``edges``, those that are neither 0 nor 2⁶⁴).

**Between grid points** g is a multiple of 1/``SUBSTEPS``, and so is every threshold's t. q is given
by a polynomial of degree 3 on each of many short segments of t (``segments``), evaluated in
integers.

*The law.* Let q' be the tabulated tail, and |q' − q| ≤ δ wherever a coordinate has a threshold, k
of them that are tabulated. P(z ≥ k) is E'/2⁶⁴ with an E' that differs by at most δ (where
thresholds that nearly coincide are out of order, a binary search finds one of them, and the true
ones are in order: the smallest and the largest of those that it may find both differ from the true
one by at most δ). Two laws on the integers whose distribution functions differ by d_k at k have a
total variation distance of at most Σ|d_k|.

- On the grid δ = ½. There are at most 2·reach + 1 thresholds, where reach is the quantile of 2⁻⁶⁵:
  this gives (reach + ½)·2⁻⁶⁴. Those that are not tabulated have tails below ½, which decrease at
  least as the laws' hazard rates say (1 per b; more than 9 per σ so far out): their sum over both
  sides is at most spread + 1. Together this is less than 2·(reach + 1)·2⁻⁶⁴, the second term of
  :meth:`models.noise.GridNoise.total_variation`, since reach ≥ 9.1·spread.
- Between grid points δ = ``ERROR`` = 256. A segment is h ≤ 2⁻¹² scales long. Taylor's remainder
  about its middle is at most 2⁶⁴·(h/2)⁴·max|F⁗|/4! ≤ 2¹²·0.56/24 < 96 for the Gaussian law (whose
  density's third derivative is at most 0.551) and 2¹²·0.51/24 < 88 for Laplace's. The value at the
  segment's start is put right, which doubles this at most. Computing the four coefficients and the
  three shifts add less than 8. Thresholds beyond the last segment have tails below 16 + ``ERROR``,
  as above. So the distance is at most (2·reach + 1 + 64·(spread + 1))·256·2⁻⁶⁴ < 2¹⁶·reach·2⁻⁶⁴:
  less than the first term of the same bound, which exceeds 40·reach·2⁻⁵³ = 81,920·reach·2⁻⁶⁴.

So τ as ``GridNoise`` states it holds for this sampler, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import count, takewhile

import mpmath as mp  # type: ignore[import-untyped]
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from models.certification.names import Mechanism
from models.noise import CELLS, SUBSTEPS, GridNoise

# The laws whose tails the tables have.
TABLED: tuple[Mechanism, ...] = ("gaussian", "laplace")
# The most by which a threshold between grid points is wrong, in units of 2⁻⁶⁴.
ERROR = 256
# The number of segments in a noise scale is between this and twice as many.
_SEGMENTS = 4096
# Binary digits of the fixed-point numbers from which segments are computed.
_DIGITS = 160
# Segments end where the tail falls below this many units, so that no rounding makes it negative.
_LEAST_TAIL = 16


@dataclass(frozen=True)
class Tables:
    """The thresholds of one law on one grid.

    Attributes:
        edges: [n] uint64, sorted: on the grid, the noise is ``lowest`` + the number of edges ≤ u.
        first: [``CELLS`` + 1] int32: the number of edges that are at most the lower end of each
            cell of 2⁴⁸ uniforms, and at last n.
        lowest: the least noise, in steps.
        bits: a segment has 2^``bits`` substeps.
        segments: [s, 4] int64: the coefficients c of q(t) = c₀ + c₁y + c₂y² + c₃y³ on each
            segment, from t = 0 on, where y in [0, 1) is the place in the segment. c₀ is a uint64.
    """

    edges: NDArray[np.uint64]
    first: NDArray[np.int32]
    lowest: int
    bits: int
    segments: NDArray[np.int64]

    def on_grid(self, uniforms: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the noise, in steps, of features on the grid."""
        return self.lowest + np.searchsorted(self.edges, uniforms, side="right")

    def tail(self, substeps: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return q(t) of t ≥ 0 in substeps."""
        segment = substeps >> self.bits
        inside = segment < len(self.segments)
        c = self.segments[np.where(inside, segment, 0)]
        x = substeps & ((1 << self.bits) - 1)
        p = c[..., 3]
        for power in (2, 1):
            p = c[..., power] + (p * x >> self.bits)
        found = c[..., 0].view(np.uint64) + (p * x >> self.bits).astype(np.uint64)
        return np.where(inside, found, np.uint64(0))

    def reaches(
        self, uniforms: NDArray[np.uint64], distance: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Say whether the noise of each uniform is at least ``distance`` substeps."""
        tail = self.tail(np.abs(distance))
        return np.where(distance < 0, uniforms >= tail, ~uniforms < tail)


@lru_cache(maxsize=8)
def make_tables(mechanism: Mechanism, scale: float, step: float) -> Tables:
    """Compute the thresholds of a law whose scale is ``scale`` on a grid of ``step``.

    Raises:
        ValueError: the law's tails are not known here.
    """
    if mechanism not in TABLED:
        raise ValueError(f"there are no tables for {mechanism!r}; known: {', '.join(TABLED)}")
    spread = Fraction(scale) / Fraction(step)
    tails = _half_steps(mechanism, spread)
    edges = np.array([*reversed(tails), *(2**64 - one for one in tails)], dtype=np.uint64)
    starts = np.arange(CELLS, dtype=np.uint64) << np.uint64(48)
    first = np.append(np.searchsorted(edges, starts, side="right"), len(edges)).astype(np.int32)
    bits = max(0, int(spread * SUBSTEPS / _SEGMENTS).bit_length() - 1)
    segments = _segments(mechanism, Fraction(2**bits) / (spread * SUBSTEPS))
    return Tables(edges, first, -len(tails), bits, segments)


def _half_steps(mechanism: Mechanism, spread: Fraction) -> list[int]:
    """Return 2⁶⁴·P(X > n + ½) to the nearest integer, for n from 0 on, down to 1."""
    tails = (_gaussian_tails if mechanism == "gaussian" else _laplace_tails)(spread)
    rounded = ((tail + (1 << (_DIGITS - 65))) >> (_DIGITS - 64) for tail in tails)
    return list(takewhile(bool, rounded))


def _gaussian_tails(spread: Fraction) -> Iterator[int]:
    with mp.workprec(_DIGITS + 32):
        for n in count():
            x = Fraction(2 * n + 1, 2) / spread
            yield int(mp.ldexp(mp.ncdf(-mp.mpf(x.numerator) / x.denominator), _DIGITS))


def _laplace_tails(spread: Fraction) -> Iterator[int]:
    tail, ratio = _exponential(-1 / (2 * spread)) >> 1, _exponential(-1 / spread)
    while True:
        yield tail
        tail = tail * ratio >> _DIGITS


def _segments(mechanism: Mechanism, h: Fraction) -> NDArray[np.int64]:
    """Return the coefficients of the tail on segments of h scales.

    The density's derivatives at the middle of a segment give its coefficients. The tail at its end
    follows from the density's integral, of which three even terms leave less than 2⁻⁹⁸; it is
    summed in integers.
    """
    tails = [1 << (_DIGITS - 1)]
    densities: list[int] = []
    for density in (_gaussian_areas if mechanism == "gaussian" else _laplace_areas)(h):
        if tails[-1] >> (_DIGITS - 64) < _LEAST_TAIL:
            break
        densities.append(density)
        tails.append(tails[-1] - density - _correction(mechanism, density, len(densities) - 1, h))
    # In units of 2⁻⁶⁴ and of segments: −q′, and the next two terms of Taylor's series.
    f = np.array([density / (1 << (_DIGITS - 64)) for density in densities])
    x, length = (np.arange(len(f)) + 0.5) * float(h), float(h)
    slope, bend = (x, x * x - 1) if mechanism == "gaussian" else (np.ones_like(x),) * 2
    second, third = f * slope * length / 2, -f * bend * length**2 / 6
    higher = [-f - second + 0.75 * third, second - 1.5 * third, third]
    half = 1 << (_DIGITS - 65)
    start = np.array([(tail + half) >> (_DIGITS - 64) for tail in tails[:-1]], np.uint64)
    return np.stack([start.view(np.int64), *(np.rint(c).astype(np.int64) for c in higher)], axis=1)


def _correction(mechanism: Mechanism, density: int, segment: int, h: Fraction) -> int:
    """Return by how much the integral over a segment exceeds h times the density at its middle.

    The even derivatives of the densities are the density times Hermite polynomials, or times 1.
    """
    length = float(h)
    square = ((segment + 0.5) * length) ** 2
    gaussian = mechanism == "gaussian"
    second, fourth = (square - 1, square * square - 6 * square + 3) if gaussian else (1.0, 1.0)
    share = length**2 * second / 24 + length**4 * fourth / 1920
    return int(share * density)


def _gaussian_areas(h: Fraction) -> Iterator[int]:
    """Yield h times the density at h/2, 3h/2, …: the ratios of neighbours are geometric."""
    with mp.workprec(_DIGITS + 32):
        height = Fraction(int(mp.ldexp(1 / mp.sqrt(2 * mp.pi), _DIGITS)), 1 << _DIGITS)
    area = int(_exponential(-h * h / 8) * height * h)
    ratio = square = _exponential(-h * h)
    while True:
        yield area
        area, ratio = area * ratio >> _DIGITS, ratio * square >> _DIGITS


def _laplace_areas(h: Fraction) -> Iterator[int]:
    area, ratio = int(_exponential(-h / 2) * h / 2), _exponential(-h)
    while True:
        yield area
        area = area * ratio >> _DIGITS


def _exponential(x: Fraction) -> int:
    """Return eˣ as a fixed-point number."""
    with mp.workprec(_DIGITS + 32):
        return int(mp.ldexp(mp.exp(mp.mpf(x.numerator) / x.denominator), _DIGITS))


def uniforms(key: bytes, number: int, coordinates: int) -> NDArray[np.uint64]:
    """Return the uniforms of a pass, by another implementation of ChaCha20.

    Args:
        key: the pass's 32 bytes.
        number: the number of the pass, its nonce.
        coordinates: how many.
    """
    nonce = bytes(4) + number.to_bytes(12, "little")
    cipher = Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(8 * coordinates)), "<u8")


def reference(
    noise: GridNoise, features: NDArray[np.int64], on_grid: bool, drawn: NDArray[np.uint64]
) -> NDArray[np.int32]:
    """Return z/γ as the kernel must draw it, in another way: from the quantile in float64.

    Args:
        noise: the law and its grid.
        features: [n] in steps if ``on_grid``, in γ/``SUBSTEPS`` otherwise.
        on_grid: which of the two.
        drawn: [n], the uniforms.
    """
    tables = make_tables(noise.mechanism, noise.scale, noise.step)
    if on_grid:
        return (features + tables.on_grid(drawn)).astype(np.int32)
    words, tails = drawn >> np.uint64(48), drawn & np.uint64(2**48 - 1)
    z = noise.settle(features / SUBSTEPS, words.astype(np.uint16), tails).astype(np.int64)
    # Float64 errs by at most one step, and only next to a threshold.
    near = [tables.reaches(drawn, k * SUBSTEPS - SUBSTEPS // 2 - features) for k in (z, z + 1)]
    return (z - 1 + near[0] + near[1]).astype(np.int32)
