"""What a worker gets of a picture: its pixels, or, where that is less, the model's input.

Preprocessing belongs to g and is a linear map in float64 (``models.preprocessing``). Which process
evaluates it changes nothing: a large picture is made small where it was decoded, so that neither
the front nor a worker ever holds its pixels, and no pass waits for it.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import numpy as np

from models.certification.names import NORMS, Norm
from models.images import Limits, PictureShape, decode, to_png
from models.preprocessing import Preprocessing, plan

FLOAT = np.dtype("<f8")
# What decoding takes at most; WebP takes the most.
BYTES_A_PIXEL = 20


@dataclass(frozen=True)
class Task:
    """What a picture is wanted for.

    Attributes:
        max_pixels: that are decoded.
        shape: (channels, height, width) that the model takes.
        side: to show the picture instead: its sides are less than twice as long.
    """

    max_pixels: int
    shape: tuple[int, int, int] = (1, 1, 1)
    side: int | None = None


@dataclass(frozen=True)
class Reduced(PictureShape):
    """A decoded picture, as small as it can be sent.

    Attributes:
        width: of the picture as sent.
        height: of the picture as sent.
        mode: of the picture as sent.
        bits: of each value of the picture as sent.
        sensitivities: Δ(p,q) of the preprocessing, as far as they take long to find: p, q, value.
        prepared: whether ``content`` is the model's input already.
        content: the pixels as ``Picture`` has them, or else little-endian float64 values of
            [channels, height, width] as ``Preprocessing.apply`` returns them; a PNG file to show.
    """

    sensitivities: list[tuple[Norm, Norm, float]]
    prepared: bool
    content: bytes

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content and the picture's shape, in hexadecimal."""
        return self.digest_with(self.content)

    def plan(self, shape: tuple[int, int, int]) -> Preprocessing:
        """Return its preprocessing for a model that takes ``shape``."""
        preparation = plan(self.width, self.height, self.mode, self.bits, shape)
        preparation.known.update({(p, q): value for p, q, value in self.sensitivities})
        return preparation


def reduce_file(data: bytes, task: Task, sensitivities: bool = True) -> Reduced:
    """Decode a picture file and make it as small as it can be.

    Args:
        data: the file.
        task: what it is wanted for.
        sensitivities: whether to find those of its preprocessing.

    Raises:
        PictureError: there is no picture in it that could be answered about.
        CannotCertify: no preprocessing with a bound leads to the model's input.
        MemoryError: there is too little memory for it.
    """
    picture = decode(data, Limits(task.max_pixels))
    if task.side is not None:
        shown = to_png(picture, task.side)
        return Reduced(picture.width, picture.height, picture.mode, picture.bits, [], False, shown)
    preparation = plan(picture.width, picture.height, picture.mode, picture.bits, task.shape)
    content, prepared = picture.pixels, False
    if preparation.steps and FLOAT.itemsize * prod(task.shape) < len(content):
        content, prepared = preparation.apply(picture.array()).astype(FLOAT).tobytes(), True
    return Reduced(
        width=picture.width,
        height=picture.height,
        mode=picture.mode,
        bits=picture.bits,
        sensitivities=_sensitivities(preparation) if sensitivities else [],
        prepared=prepared,
        content=content,
    )


def _sensitivities(preparation: Preprocessing) -> list[tuple[Norm, Norm, float]]:
    """Find every Δ(p,q) that the preprocessing has."""
    return [(p, q, preparation.sensitivity(p, q)) for p, q in product(NORMS, NORMS)]
