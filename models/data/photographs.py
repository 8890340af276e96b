"""Photographs without labels, of any size, of which random squares are shown.

They are kept in memory: a training sees each many times, and decoding takes longer than a step.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.certification.arrays import Integers
from models.data.labelled import DataSet, DataSetError, FilePictures, as_array, read_one
from models.images.folders import find_pictures

# Each photograph is kept with its shorter side at most this long.
SHORTER = 320


class Photographs(FilePictures):
    """Random squares of photographs, as an array [N, side, side, 3] of uint8.

    A square has a random place, and a random size from ``side`` to twice that, as far as the
    photograph reaches; it is scaled to ``side``. PyTorch's generator decides.

    Args:
        files: of the photographs.
        side: of the squares.
        pixels: of the photographs, if they have been read.
    """

    def __init__(
        self, files: Sequence[Path], side: int, pixels: Sequence[NDArray[np.uint8]] | None = None
    ) -> None:
        super().__init__(files, side)
        self.pixels = [_read(file, side) for file in files] if pixels is None else pixels

    def __getitem__(self, which: int | slice | Integers) -> NDArray[np.uint8]:
        if isinstance(which, int | np.integer):
            return self._square(self.pixels[which])
        return np.stack([self._square(self.pixels[one]) for one in np.arange(len(self))[which]])

    def take(self, which: Integers, axis: Literal[0]) -> "Photographs":
        """Return some of the photographs; the only axis is 0."""
        files, pixels = [self.files[one] for one in which], [self.pixels[one] for one in which]
        return Photographs(files, self.side, pixels)

    def _square(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        import torch  # here, so that wrong options are reported without waiting for it

        height, width = pixels.shape[:2]
        size, top, left = torch.rand(3, dtype=torch.float64).tolist()
        side = int(self.side + size * (min(height, width, 2 * self.side) - self.side))
        top, left = int(top * (height - side + 1)), int(left * (width - side + 1))
        square = Image.fromarray(pixels[top : top + side, left : left + side])
        return np.asarray(square.resize((self.side, self.side), Image.Resampling.BILINEAR))


def load_photographs(folder: Path, side: int) -> DataSet:
    """Load the photographs in a folder and its subfolders, with one label for all.

    Args:
        folder: of picture files.
        side: of the squares that are shown.

    Raises:
        DataSetError: there are none, or one is too small or cannot be read.
    """
    if not folder.is_dir():
        raise DataSetError(f"{folder}: expected a folder of photographs")
    found = find_pictures(folder)
    if not found.pictures:
        raise DataSetError(f"{folder}: no picture files here")
    pictures = Photographs(found.pictures, side)
    labels = np.zeros(len(pictures), dtype=np.int64)
    return DataSet(as_array(pictures), labels, ("photograph",), tuple(found.others))


def _read(file: Path, side: int) -> NDArray[np.uint8]:
    pixels = read_one(file).array()
    height, width = pixels.shape[:2]
    if min(height, width) < side:
        raise DataSetError(f"{file}: is {width}x{height}; expected at least {side} pixels a side")
    picture = Image.fromarray(np.broadcast_to(pixels, (height, width, 3)))
    scale = min(1.0, max(SHORTER, side) / min(height, width))
    size = max(side, round(scale * width)), max(side, round(scale * height))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR) if scale < 1 else picture)
