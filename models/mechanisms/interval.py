"""What h sees of a picture by intervals: the centre and the radius of a box around it.

Pixels are integers from 0 to 255, and radii whole multiples k of 1/51000; 200 of these are a step
of 1/255. With lower = max(200·x − k, 0) and upper = min(200·x + k, 51000), h sees lower + upper,
twice the centre, and upper − lower, twice the radius: integers, without rounding.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.certification.laws.interval import LEVELS, UNITS, largest_radius
from models.mechanisms.of_bytes import OfBytes
from models.noise import Features, Keystream

# What h sees of pixel value 1 at its centre.
WHOLE = 2 * UNITS


def seen_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the shape of what h sees of a picture of ``shape`` (channels, height, width)."""
    channels, height, width = shape
    return 2 * channels, height, width


def enclose(pictures: Tensor, radius: float) -> Tensor:
    """Return centres and radii of boxes, for training.

    Args:
        pictures: [batch, channels, height, width], pixel values in [0, 1].
        radius: in pixel values.

    Returns:
        [batch, 2 × channels, height, width], the centres first, in pixel values.
    """
    lower, upper = (pictures - radius).clamp_min(0), (pictures + radius).clamp_max(1)
    return torch.cat([(lower + upper) / 2, (upper - lower) / 2], dim=1)


class Boxes(OfBytes):
    """The boxes of served models, by their radii.

    Args:
        scale: the largest radius, in pixel values.

    Attributes:
        largest: the same in units of 1/51000.
        step: the unit of what h sees; its network has pixels' scale in its first layer.
    """

    step = 1.0

    def __init__(self, scale: float) -> None:
        self.largest = largest_radius(scale)

    def draw(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes = b""
    ) -> NDArray[np.int32]:
        """Return what h sees in one pass.

        Args:
            pictures: pixels as integers from 0 to 255, all of the same length m, with the radii of
                their boxes; those without have evenly spaced ones.
            rows: [boxes], the picture of each box.
            key: nothing here is random.

        Returns:
            [boxes, 2m]: twice the centres first, then twice the radii.
        """
        pixels = np.stack([picture.steps for picture in pictures])[rows] * (UNITS // LEVELS)
        radii = self._radii(pictures, rows)[:, None]
        lower, upper = np.maximum(pixels - radii, 0), np.minimum(pixels + radii, UNITS)
        return np.concatenate([lower + upper, upper - lower], axis=1)

    def reference(
        self,
        pictures: Sequence[Features],
        rows: NDArray[np.intp],
        words: NDArray[np.uint16],
        more: Keystream,
    ) -> NDArray[np.int32]:
        """Return the same from what is beyond 0 and 1; nothing here is random."""
        pixels = np.stack([picture.steps for picture in pictures])[rows] * (UNITS // LEVELS)
        radii = self._radii(pictures, rows)[:, None]
        below, above = np.maximum(radii - pixels, 0), np.maximum(pixels + radii - UNITS, 0)
        return np.concatenate([2 * pixels + below - above, 2 * radii - below - above], axis=1)

    def _radii(self, pictures: Sequence[Features], rows: NDArray[np.intp]) -> NDArray[np.int32]:
        """Return the radius of each box: those of a picture in their order, again at their end."""
        radii = np.empty(len(rows), dtype=np.int32)
        for index, picture in enumerate(pictures):
            own = np.flatnonzero(rows == index)
            every = np.arange(len(own))
            if picture.numbers is None:
                radii[own] = every * self.largest // max(len(own) - 1, 1)
            else:
                radii[own] = picture.numbers[every % len(picture.numbers)]
        return radii
