"""Labelled pictures, in memory or in files."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.certification.arrays import Integers
from models.images.decoding import MOST_PIXELS, Picture
from models.images.folders import PictureFileError, read_picture


class DataSetError(ValueError):
    """A data set cannot be read: says what was expected where, and what to do."""


def read_one(file: Path) -> Picture:
    """Read a picture of 8 bits.

    Raises:
        DataSetError: it cannot be read, or has more bits.
    """
    try:
        picture = read_picture(file, MOST_PIXELS)
    except (PictureFileError, OSError) as error:
        raise DataSetError(str(error)) from None
    if picture.bits != 8:
        raise DataSetError(f"{file}: has {picture.bits} bits a pixel; save it with 8")
    return picture


class FilePictures:
    """Pictures that are read when they are used, as an array [N, side, side, 3] of uint8.

    Each is scaled so that its shorter side is ``side``, and cropped to its centre.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, files: Sequence[Path], side: int) -> None:
        self.files, self.side = files, side
        self.shape = (len(files), side, side, 3)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, which: int | slice | Integers) -> NDArray[np.uint8]:
        if isinstance(which, int | np.integer):
            return self._read(self.files[which])
        numbers = np.arange(len(self))[which]
        with ThreadPoolExecutor() as readers:  # decoding releases the interpreter lock
            pictures = list(readers.map(self._read, [self.files[number] for number in numbers]))
        return np.stack(pictures) if pictures else np.empty((0, *self.shape[1:]), np.uint8)

    def take(self, which: Integers, axis: Literal[0]) -> "FilePictures":
        """Return some of the pictures, which are not yet read; the only axis is 0."""
        return FilePictures([self.files[number] for number in which], self.side)

    def _read(self, file: Path) -> NDArray[np.uint8]:
        pixels = read_one(file).array()
        upright = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
        return np.asarray(ImageOps.fit(upright, (self.side, self.side), Image.Resampling.BILINEAR))


@dataclass(frozen=True, eq=False)
class DataSet:
    """Labelled pictures of one size.

    Attributes:
        images: uint8 [N, height, width, channels]; :class:`FilePictures` behaves like one.
        labels: int64 [N], each an index into ``names``.
        names: the labels' names.
        passed_over: files beside the pictures that are left out.
    """

    images: NDArray[np.uint8]
    labels: Integers
    names: tuple[str, ...]
    passed_over: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of each picture."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width

    def every(self, step: int) -> "DataSet":
        """Return every ``step``-th picture, from the first."""
        return self._some(np.arange(0, len(self), step))

    def apart(self, count: int) -> "tuple[DataSet, DataSet]":
        """Split ``count`` pictures off, evenly spread: return the others, and these.

        Raises:
            DataSetError: there are not that many to spare.
        """
        self.check_spare(count)
        held = np.arange(count) * len(self) // count
        rest = np.setdiff1d(np.arange(len(self)), held)
        return self._some(rest), self._some(held)

    def check_spare(self, count: int) -> None:
        """Make sure that ``count`` pictures can be held back.

        Raises:
            DataSetError: there are not that many to spare.
        """
        if not 0 < count < len(self):
            raise DataSetError(f"cannot hold {count} of {len(self)} pictures back")

    def digest(self) -> str:
        """Return the SHA-256 of shape, pixels and labels, in hexadecimal.

        For pictures in files, their names are hashed instead of their pixels.
        """
        digest = hashlib.sha256(repr(self.images.shape).encode())
        if isinstance(self.images, FilePictures):
            digest.update("\n".join(file.name for file in self.images.files).encode())
        else:
            digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    def _some(self, which: Integers) -> "DataSet":
        return DataSet(self.images.take(which, axis=0), self.labels[which], self.names)


def as_array(pictures: FilePictures) -> NDArray[np.uint8]:
    """Type ``pictures`` as an array: they have the members of one that this project uses."""
    return cast(NDArray[np.uint8], pictures)
