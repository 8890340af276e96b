"""Split noise (Levine and Feizi 2021): what h sees of a picture in each of N draws.

Pixels have 8 bits. Each pixel i has a number t_i, fixed in the bundle. Draw v = 0 … N − 1 splits
the values of pixel i at s + ½, in steps of 1/255, with s = (t_i + v) mod N. h sees the split, and
on which side of it the pixel lies; nothing if the split is above all values. N = 510·λ, so that for
λ above ½ only some of the pixels are split within their range.

The two channels that h has for each of the picture's are:

    (½ + split/2, 0)        if the pixel is above its split,
    (0, ½ + (1 − split)/2)  if it is below,
    (0, 0)                  if the split is above 1.

So they are a function of s, and of whether the pixel is above the split, and of nothing else; the
proof of the certificate (``models.certification.laws.split``) needs no more. Like the padding of
convolutions, 0 stands for what is not known. They are whole multiples of 1/1020, formed from
integers by a table, so that no rounding tells two pictures apart that they do not tell apart.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.certification.laws.split import LEVELS, count_draws
from models.mechanisms.of_bytes import OfBytes
from models.noise import Features, Keystream

# The values that h sees are whole multiples of this.
UNIT = 1 / (4 * LEVELS)


def seen_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the shape of what h sees of a picture of ``shape`` (channels, height, width)."""
    channels, height, width = shape
    return 2 * channels, height, width


def tables(draws: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return what h sees by s = 0 … ``draws`` − 1, in units of ``UNIT``: above, and below."""
    split = np.arange(draws, dtype=np.int32)
    inside = split < LEVELS
    above = np.where(inside, 2 * LEVELS + 2 * split + 1, 0)
    below = np.where(inside, 4 * LEVELS - 2 * split - 1, 0)
    return above.astype(np.int32), below.astype(np.int32)


def draw_template(shape: tuple[int, ...], scale: float) -> Tensor:
    """Draw t for pictures of ``shape``, int32, by PyTorch's generator: any t is as good."""
    return torch.randint(count_draws(scale), shape, dtype=torch.int32)


def perturb(pictures: Tensor, template: Tensor, scale: float) -> Tensor:
    """Return what h sees in one random draw of each picture, for training.

    Args:
        pictures: [batch, channels, height, width], pixel values in [0, 1].
        template: t, [channels, height, width].
        scale: λ; while the noise grows, any number up to it.

    Returns:
        [batch, 2 × channels, height, width], the channels of pixels above their splits first.
    """
    draws = max(int(2 * LEVELS * scale), 1)
    offsets = torch.randint(draws, (len(pictures), 1, 1, 1), device=pictures.device)
    split = (template.to(pictures.device) + offsets) % draws
    place = (split + 0.5) / LEVELS
    inside = place < 1
    above = (pictures > place).to(pictures.dtype)
    if pictures.requires_grad:
        # For attacks: the share of splits that are below a pixel grows with it by 1/2λ.
        above = above + (pictures - pictures.detach()) / (2 * scale)
    seen = [above * (0.5 + place / 2), (1 - above) * (1 - place / 2)]
    return torch.cat([part * inside for part in seen], dim=1)


class SplitNoise(OfBytes):
    """The draws of served models: what h sees, by the number of the draw.

    Args:
        scale: λ.
        template: [values] integers t.

    Attributes:
        draws: N.
        step: the unit of what h sees.
    """

    def __init__(self, scale: float, template: NDArray[np.integer]) -> None:
        self.draws, self.step = count_draws(scale), UNIT
        self._template = (template.ravel().astype(np.int64) % self.draws).astype(np.int32)
        # By t + v, which is below 2N.
        self._split = np.tile(np.arange(self.draws, dtype=np.int32), 2)
        self._above, self._below = (np.tile(table, 2) for table in tables(self.draws))

    def draw(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes = b""
    ) -> NDArray[np.int32]:
        """Return what h sees in one pass, in units of ``step``.

        Args:
            pictures: pixels as integers from 0 to 255, all of the same length m, with the numbers
                of their draws; those without have evenly spaced ones.
            rows: [draws], the picture of each draw.
            key: nothing here is random.

        Returns:
            [draws, 2m]: the pixels above their splits first.
        """
        pixels = np.stack([picture.steps for picture in pictures])[rows]
        index = self._template + self._numbers(pictures, rows)[:, None]
        above = pixels > self._split.take(index)
        seen = np.concatenate([self._above.take(index), self._below.take(index)], axis=1)
        half = pixels.shape[1]
        seen[:, :half] *= above
        seen[:, half:] *= ~above
        return seen

    def reference(
        self,
        pictures: Sequence[Features],
        rows: NDArray[np.intp],
        words: NDArray[np.uint16],
        more: Keystream,
    ) -> NDArray[np.int32]:
        """Return the same by the definition, whatever the tables say; nothing here is random."""
        pixels = np.stack([picture.steps for picture in pictures])[rows]
        split = (self._template + self._numbers(pictures, rows)[:, None]) % self.draws
        inside, twice = split < LEVELS, 2 * split + 1
        above = np.where(inside & (pixels > split), 2 * LEVELS + twice, 0)
        below = np.where(inside & (pixels <= split), 4 * LEVELS - twice, 0)
        return np.concatenate([above, below], axis=1)

    def _numbers(self, pictures: Sequence[Features], rows: NDArray[np.intp]) -> NDArray[np.int32]:
        """Return v of each draw: those of a picture in their order, again where they end."""
        numbers = np.empty(len(rows), dtype=np.int32)
        for index, picture in enumerate(pictures):
            own = np.flatnonzero(rows == index)
            every = np.arange(len(own))
            if picture.numbers is None:
                numbers[own] = every * self.draws // max(len(own), 1)
            else:
                numbers[own] = picture.numbers[every % len(picture.numbers)]
        return numbers
