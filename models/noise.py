"""The noise of a served model: exact on a grid, and unpredictable.

Adding float noise to float features breaks certificates: which sums can occur at all depends on the
features, and a classifier can read that (Jin et al. 2022; Voráček and Hein 2023). Here the sum is
rounded to a grid of step γ *as a real number would be*,

    z = γ·round((g + noise)/γ),   noise drawn from the law itself,

so that z is a function of the real sum g + noise, and everything that the certificate says about
that sum holds for z. The integers z/γ stay far below 2²⁴, and so are exact in float32.

How it is drawn: for each coordinate, a uniform number of 64 bits selects the noise by its quantile
function. The first 16 bits leave an interval of the noise. If both ends of it round to the same
grid point, that is z, by a table look-up and an integer sum. Otherwise (in a few per cent of cases)
48 more bits and the quantile function in float64 decide. The bits are the keystream of AES-256 in
counter mode under a key that is drawn from the operating system for every pass and never stored:
anybody who can tell it from true randomness has broken AES.

A discrete law is drawn in the same way: its steps k are k + U rounded, U uniform on ±½, and the
quantile function is that of k + U. Its features are on the grid, so that z is their sum with k.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from models.certification.arrays import Floats
from models.certification.laws import LAWS
from models.certification.laws.split import LEVELS
from models.certification.names import ADDITIVE, MECHANISM_NORMS, Mechanism, Norm

# Features are stored in units of 1/SUBSTEPS of a grid step. 4112 = 16·257: with γ = 1/255 both
# depths of pictures are exact, since 1/65535 = γ/257.
SUBSTEPS = 4112
PIXEL_STEP = 1 / LEVELS
# Between these ratios of scale to step, every integer below fits its type.
FINEST, COARSEST = 2048.0, 1.0
CELLS = 2**16
UNSURE = np.int16(-(2**15))

Key = Callable[[], bytes]


def system_key() -> bytes:
    """Return 32 bytes from the operating system's entropy."""
    return os.urandom(32)


class Keystream:
    """Uniform bits of one pass."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> NDArray[np.uint16]:
        """Return ``count`` words of 16 uniform bits."""
        return np.frombuffer(self._encryptor.update(bytes(2 * count)), dtype=np.uint16)

    def tails(self, count: int) -> NDArray[np.uint64]:
        """Return ``count`` numbers of 48 uniform bits."""
        whole = np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype=np.uint64)
        return whole >> np.uint64(16)


def random_order(count: int, key: bytes) -> NDArray[np.intp]:
    """Return 0 … ``count`` − 1 in an order that ``key``, 32 fresh secret bytes, determines.

    Each number gets 96 uniform bits, and the numbers are sorted by them: all orders are equally
    likely, unless two have the same bits, which for 10⁵ numbers has a probability below 2⁻⁶².
    """
    stream = Keystream(key)
    return np.lexsort([stream.tails(count), stream.tails(count)])


@dataclass(frozen=True, eq=False)
class Features:
    """g of one picture, [values] int32.

    On the grid (``on_grid``) in steps of γ, otherwise in steps of γ/``SUBSTEPS``. For noise with
    finitely many draws, ``numbers`` has those of the picture's draws in a pass, in their order. A
    picture with ``views`` has no noise: h sees views of it, which that returns by their numbers,
    [n, m] in steps of γ. Two pictures are two, even if they look the same: a device keeps each for
    as long as it is in flight.
    """

    steps: NDArray[np.int32]
    on_grid: bool
    numbers: NDArray[np.intp] | None = None
    views: Callable[[NDArray[np.intp]], NDArray[np.int32]] | None = None

    def seen(self, rows: int) -> NDArray[np.int32]:
        """Return the views for so many rows of a pass, [rows, m]: all again where they end."""
        assert self.views is not None
        numbers = np.zeros(1, np.intp) if self.numbers is None else self.numbers
        return self.views(numbers[:rows])[np.arange(rows) % len(numbers)]

    @property
    def substeps(self) -> NDArray[np.int32]:
        """The features in γ/``SUBSTEPS``."""
        return self.steps * np.int32(SUBSTEPS) if self.on_grid else self.steps


def snap_to_bytes(g: Floats) -> Features:
    """Round pixel values to 8 bits."""
    return Features(np.rint(np.clip(g.ravel(), 0, 1) * LEVELS).astype(np.int32), on_grid=True)


class GridNoise:
    """Noise of one law on one grid.

    Args:
        mechanism: a law of added noise.
        scale: σ or b, in units of g's output.
        step: γ, the grid's step in the same units.
        largest: features are clipped to ±``largest`` (same units). Clipping is 1-Lipschitz in every
            norm, so it makes no certificate smaller.

    Attributes:
        on_grid: [``CELLS``] int16, for features on the grid: the noise, in steps, that 16 bits
            select; ``UNSURE`` where they do not decide.
        low, high: [``CELLS``] int32, for features between grid points: the ends of the interval of
            noise that 16 bits leave, in γ/``SUBSTEPS``.

    Raises:
        ValueError: an unknown mechanism, a grid that is too fine or too coarse for the scale or
            too fine for ``largest``, or another grid than that of pixels for a discrete law.
    """

    def __init__(self, mechanism: Mechanism, scale: float, step: float, largest: float) -> None:
        if mechanism not in ADDITIVE:
            raise ValueError(f"unknown mechanism {mechanism!r}; known: {', '.join(ADDITIVE)}")
        spread = scale / step
        if not COARSEST <= spread <= FINEST or not largest / step <= 2**15:
            raise ValueError(
                f"a grid of step {step} does not suit noise of scale {scale} on features up to "
                f"{largest}: scale/step must lie in [{COARSEST:g}, {FINEST:g}] and largest/step "
                f"must not exceed {2**15}"
            )
        self._discrete = LAWS[mechanism].discrete
        if self._discrete and step != PIXEL_STEP:
            raise ValueError(
                f"{mechanism} noise is on the grid of pixels, not on one of step {step}"
            )
        self.mechanism, self.scale, self.step = mechanism, scale, step
        self._spread, self._largest = spread, largest / step
        # The edges of the 16-bit cells, in grid steps; the outermost are infinite. A small margin,
        # far wider than the error of the quantiles, keeps the tables right: a cell that ends this
        # close to a boundary is decided by more bits.
        index = np.arange(CELLS + 1)
        below, above = self._quantiles(np.minimum(index, CELLS - index) / CELLS)
        edges = np.where(index < CELLS // 2, below, above)
        hair = 2.0**-30 * spread
        low, high = edges[:-1] - hair, edges[1:] + hair
        same = np.floor(low + 0.5) == np.floor(high + 0.5)
        self.on_grid = np.where(same, np.floor(low + 0.5), UNSURE).astype(np.int16)
        # Off the grid the ends are rounded outward to whole substeps. The infinite ends are cut so
        # far out that an interval with one never counts as decided.
        cut = 2.0**27
        self.low = np.floor(np.maximum(low * SUBSTEPS, -cut)).astype(np.int32)
        self.high = np.ceil(np.minimum(high * SUBSTEPS, cut)).astype(np.int32)

    def _quantiles(self, tail: Floats) -> tuple[Floats, Floats]:
        """Return the quantiles, in grid steps, of ``tail`` ≤ ½ and of 1 − ``tail``."""
        below, above = LAWS[self.mechanism].quantiles(tail, self.scale)
        return below * self._spread, above * self._spread

    def total_variation(self, values: int) -> float:
        """τ: the drawn law's distance from that of γ·round((g + noise)/γ), over all coordinates.

        A coordinate differs only if the error of the computed (g + noise)/γ + ½ crosses an integer.
        In units of 2⁻⁵³ the error is at most 3 for each grid step up to ``largest`` (the features'
        division and the two sums) and 14 for each up to the outermost quantile of 64-bit uniforms
        (8 of the quantile function, which the tests hold against 40 digits, or exact sums where
        the law is discrete, and 1 each of its argument, of the scale, of scaling and of the two
        sums). A real sum lies within ``error`` of
        a half-integer with probability at most 2·error·(1 + 1/spread), since its density is
        unimodal; twice that is used. 64-bit uniforms instead of real ones add at most 2⁻⁶⁴ for each
        distinguishable value of the noise.
        """
        reach = float(np.abs(self._quantiles(np.array(2.0**-65))).max())
        error = (3 * self._largest + 14 * reach) * 2.0**-53
        return values * (4 * error * (1 + 1 / self._spread) + 2 * (reach + 1) * 2.0**-64)

    def snap(self, g: Floats) -> Features:
        """Put the output of g, in float64, onto the fine grid (γ/``SUBSTEPS``).

        For a discrete law, onto the grid of pixels: 8-bit values stay as they are.

        Raises:
            ValueError: g is not finite.
        """
        if not np.isfinite(g).all():
            raise ValueError("the network's output before the noise is not finite")
        if self._discrete:
            return snap_to_bytes(g)
        inside = np.clip(g.ravel() / self.step, -self._largest, self._largest)
        return Features(np.rint(inside * SUBSTEPS).astype(np.int32), on_grid=False)

    def quiet(self, features: Features) -> NDArray[np.int32]:
        """Return z/γ of features without noise: the nearest grid points, [m]."""
        return (features.substeps + np.int32(SUBSTEPS // 2)) // np.int32(SUBSTEPS)

    def snapping(self, values: int, norm: Norm | None = None) -> float:
        """The part of ρ that :meth:`snap` adds over ``values`` coordinates, in ``norm``.

        The default is the mechanism's own norm.

        Each of two pictures moves by at most half a fine step per coordinate, so their distance
        changes by at most γ/``SUBSTEPS`` per coordinate: √m times as much in L2, and m times in L1.
        Dividing in float64 adds less than 2⁻²³ of a fine step even at the largest features.
        """
        fine = self.step / SUBSTEPS * (1 + 2.0**-23)
        grown: dict[Norm, float] = {"l1": values, "l2": values**0.5, "linf": 1}
        return fine * grown[norm or MECHANISM_NORMS[self.mechanism]]

    def draw(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes
    ) -> NDArray[np.int32]:
        """Draw the noisy features of one pass.

        Args:
            pictures: the features of the pictures in this pass, all of the same length m.
            rows: [draws], the picture of each draw.
            key: 32 fresh secret bytes.

        Returns:
            [draws, m]: z/γ, exact integers.
        """
        if any(picture.views for picture in pictures):
            return self._draw_beside(pictures, rows, key)
        stream = Keystream(key)
        words = stream.words(len(rows) * len(pictures[0].steps))
        fine, unit, z, unsure = self._select(pictures, rows, words)
        start = fine[unsure] / unit
        z[unsure] = self.settle(start, words[unsure], stream.tails(len(unsure)))
        return z.reshape(len(rows), -1)

    def _draw_beside(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes
    ) -> NDArray[np.int32]:
        """Do what :meth:`draw` does, if some of the pictures have views."""
        z = np.empty((len(rows), len(pictures[0].steps)), dtype=np.int32)
        noisy = np.array([picture.views is None for picture in pictures])[rows]
        if noisy.any():
            plain = [replace(picture, views=None) for picture in pictures]
            z[noisy] = self.draw(plain, rows[noisy], key)
        for index, picture in enumerate(pictures):
            if picture.views:
                own = np.flatnonzero(rows == index)
                z[own] = picture.seen(len(own))
        return z

    def reference(
        self,
        pictures: Sequence[Features],
        rows: NDArray[np.intp],
        words: NDArray[np.uint16],
        more: Keystream,
    ) -> NDArray[np.int32]:
        """Return the noisy features of a pass, each by its quantile, whatever the tables say.

        Args:
            pictures, rows: as for :meth:`draw`.
            words: [draws · m], the first 16 bits of each coordinate.
            more: the bits of those that ``words`` do not decide.

        Returns:
            [draws, m]: z/γ.
        """
        fine, unit, _, unsure = self._select(pictures, rows, words)
        tails = np.zeros(len(words), dtype=np.uint64)
        tails[unsure] = more.tails(len(unsure))
        return self.settle(fine / unit, words, tails).reshape(len(rows), -1)

    def _select(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], words: NDArray[np.uint16]
    ) -> tuple[NDArray[np.int32], int, NDArray[np.int32], NDArray[np.intp]]:
        """Select the noise by 16 bits per coordinate.

        Returns:
            The features of each coordinate; how many of their units a grid step has; z/γ; and where
            that is not decided.
        """
        if all(picture.on_grid for picture in pictures):
            fine = np.stack([picture.steps for picture in pictures])[rows].ravel()
            noise = self.on_grid.take(words)
            return fine, 1, fine + noise, np.flatnonzero(noise == UNSURE)
        if self._discrete:
            raise ValueError(f"{self.mechanism} noise is for features on the grid of pixels")
        fine = np.stack([picture.substeps for picture in pictures])[rows].ravel()
        centred = fine + np.int32(SUBSTEPS // 2)
        z = (centred + self.high.take(words)) // SUBSTEPS
        unsure = np.flatnonzero((centred + self.low.take(words)) // SUBSTEPS != z)
        return fine, SUBSTEPS, z, unsure

    def settle(
        self, start: Floats, words: NDArray[np.uint16], tails: NDArray[np.uint64]
    ) -> NDArray[np.int32]:
        """Draw the coordinates that their first 16 bits did not decide.

        Args:
            start: [n], their features in steps of γ.
            words: [n], their first 16 bits.
            tails: [n], 48 more bits for each.

        Returns:
            [n]: z/γ, exact integers.
        """
        # All 64 bits, folded to the tail below ½, so that no precision is lost.
        bits = words.astype(np.uint64) << np.uint64(48) | tails
        upper = bits >> np.uint64(63) == 1
        tail = (np.where(upper, ~bits, bits).astype(float) + 0.5) * 2.0**-64
        below, above = self._quantiles(tail)
        return np.floor(start + np.where(upper, above, below) + 0.5).astype(np.int32)
