"""What a worker receives of a picture: its pixels or, if that is smaller, the model's input.

Preprocessing belongs to g and is a linear map in float64 (``models.preprocessing``). It does not
matter which process evaluates it: a large picture is reduced where it was decoded, so that neither
the front nor a worker ever holds its pixels, and no pass waits for it.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import numpy as np

from models.certification.names import NORMS, Norm
from models.images.decoding import Picture, PictureShape, decode, to_png
from models.preprocessing import Preprocessing, plan

FLOAT = np.dtype("<f8")
# The most memory for decoding; WebP needs the most.
BYTES_A_PIXEL = 20


@dataclass(frozen=True)
class Task:
    """What to make of a picture.

    Attributes:
        max_pixels: the most pixels that are decoded.
        shape: (channels, height, width) of the model's input.
        side: to show the picture instead: its sides will be less than twice as long.
    """

    max_pixels: int
    shape: tuple[int, int, int] = (1, 1, 1)
    side: int | None = None


@dataclass(frozen=True)
class Reduced(PictureShape):
    """A decoded picture in its smallest form for a worker.

    Attributes:
        width: of the picture as sent.
        height: of the picture as sent.
        mode: of the picture as sent.
        bits: of each value of the picture as sent.
        sensitivities: Δ(p,q) of the preprocessing, which take long to compute: p, q, value. There
            are none if a picture has the model's own size and mode.
        prepared: whether ``content`` is already the model's input.
        content: the pixels as in ``Picture``, or else little-endian float64 values of [channels,
            height, width] as ``Preprocessing.apply`` returns them; a PNG file to show.
    """

    sensitivities: list[tuple[Norm, Norm, float]]
    prepared: bool
    content: bytes

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content and the picture's shape, in hexadecimal."""
        return self.digest_with(self.content)

    def plan(self, shape: tuple[int, int, int]) -> Preprocessing:
        """Return its preprocessing for a model with the input ``shape``."""
        preparation = plan(self.width, self.height, self.mode, self.bits, shape)
        preparation.known.update({(p, q): value for p, q, value in self.sensitivities})
        return preparation


def reduce_file(data: bytes, task: Task, sensitivities: bool = True) -> Reduced:
    """Decode a picture file, and reduce it to the smallest form for a worker.

    Args:
        data: the file.
        task: what to make of it.
        sensitivities: whether to compute those of its preprocessing.

    Raises:
        PictureError: it is not a picture that can be answered.
        CannotCertify: no preprocessing with a bound leads to the model's input.
        MemoryError: there is too little memory for it.
    """
    return reduce_picture(decode(data, task.max_pixels), task, sensitivities)


def reduce_picture(picture: Picture, task: Task, sensitivities: bool = True) -> Reduced:
    """Reduce a decoded picture to the smallest form for a worker; see :func:`reduce_file`."""
    form = picture.width, picture.height, picture.mode, picture.bits
    if task.side is not None:
        return Reduced(*form, [], False, to_png(picture, task.side))
    preparation = plan(*form, task.shape)
    content, prepared = picture.pixels, False
    if preparation.steps and FLOAT.itemsize * prod(task.shape) < len(content):
        content, prepared = preparation.apply(picture.array()).astype(FLOAT).tobytes(), True
    pairs = product(NORMS, NORMS) if sensitivities and preparation.steps else ()
    known = [(p, q, preparation.sensitivity(p, q)) for p, q in pairs]
    return Reduced(*form, known, prepared, content)
