"""From a picture file to pixels."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images.errors import (
    CannotCertifyPicture,
    NotAPicture,
    PictureError,
    TooManyPixels,
)
from models.images.files import Form, Still, find_form

# Above this, Pillow itself warns, through the process-wide warning filters.
MOST_PIXELS = 89_478_485
# For the 24-megapixel pictures of most cameras. Decoding takes up to 13 bytes per pixel, or 20 for
# WebP: here 325 or 500 MB, times the number of pictures that are decoded at once.
USUAL_PIXELS = 25_000_000

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class PictureShape:
    """A picture without its pixels: its size, and the kind of its values."""

    width: int
    height: int
    mode: Literal["L", "RGB"]
    bits: Literal[8, 16]

    @property
    def channels(self) -> int:
        """1 for ``L``, 3 for ``RGB``."""
        return len(self.mode)

    @property
    def values(self) -> int:
        """The number of pixel values: the dimension d of the norms."""
        return self.width * self.height * self.channels

    def digest_with(self, content: bytes) -> str:
        """SHA-256 of ``content`` and this shape, in hexadecimal."""
        shape = f"{self.width} {self.height} {self.mode} {self.bits}\n"
        digest = hashlib.sha256(shape.encode())
        digest.update(content)
        return digest.hexdigest()


@dataclass(frozen=True)
class Picture(PictureShape):
    """A decoded picture.

    ``pixels`` is row-major and interleaved, [height, width, channels]; bytes when ``bits`` is 8,
    little-endian uint16 when it is 16 (then ``mode`` is ``L``). Full scale is 2^bits − 1.
    """

    pixels: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the pixels and their shape, in hexadecimal: equal for equal pictures only."""
        return self.digest_with(self.pixels)

    def array(self) -> Pixels:
        """Return a read-only view of the pixels, [height, width, channels], uint8 or uint16."""
        flat = np.frombuffer(self.pixels, dtype="u1" if self.bits == 8 else "<u2")
        return flat.reshape(self.height, self.width, self.channels)


@dataclass(frozen=True)
class Size:
    """What a file's structure says about its picture, before anything is decoded.

    ``scans`` is the number of passes over the pixels: several in a progressive JPEG.
    """

    width: int
    height: int
    scans: int

    @property
    def pixels(self) -> int:
        """Width × height."""
        return self.width * self.height

    @property
    def work(self) -> int:
        """The number of pixels that decoding processes, over all scans."""
        return self.pixels * self.scans


def measure(data: bytes, max_pixels: int = USUAL_PIXELS) -> Size:
    """Return a picture's size, in time and memory proportional to the number of bytes.

    Raises:
        PictureError: as :func:`decode`, if the structure already shows it.
    """
    form = find_form(data)
    with _broken(form):
        still = _read(form, data, max_pixels)
        return Size(still.width, still.height, still.scans)


def decode(data: bytes, max_pixels: int = USUAL_PIXELS) -> Picture:
    """Decode a picture file. The same bytes always give the same pixels.

    Raises:
        PictureError: one of its three kinds; never anything else, whatever the bytes.
        MemoryError: there is too little memory, which says nothing about the bytes.
    """
    form = find_form(data)
    with _broken(form):
        still = _read(form, data, max_pixels)
        array = _oriented(_unpack(form, still), still.orientation)
        height, width, channels = array.shape
        bits: Literal[8, 16] = 8 if array.dtype == np.uint8 else 16
        return Picture(width, height, "L" if channels == 1 else "RGB", bits, array.tobytes())


@contextmanager
def _broken(form: Form) -> Iterator[None]:
    """Turn whatever a stranger's bytes cause into the errors that the caller expects."""
    try:
        yield
    except (PictureError, MemoryError):
        raise
    # Pillow signals a broken file by whichever exception its parser stumbles over: OSError,
    # SyntaxError, ValueError, struct.error and more. In any case these bytes gave no picture; the
    # cause stays attached.
    except Exception as error:
        reason = f"a broken or truncated {form.name} file ({error or type(error).__name__})"
        raise NotAPicture(reason) from error


def to_png(picture: Picture, side: int) -> bytes:
    """Return a PNG of 8-bit pixels for viewing, averaged until no side is twice ``side``."""
    pixels = picture.array()
    if picture.bits == 16:
        pixels = (pixels >> 8).astype(np.uint8)
    image = Image.fromarray(pixels.squeeze(2) if picture.channels == 1 else pixels)
    factor = max(picture.width, picture.height) // side
    file = io.BytesIO()
    (image.reduce(factor) if factor > 1 else image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _read(form: Form, data: bytes, max_pixels: int) -> Still:
    """Read a file's structure, and check the number of its pixels."""
    still = form.read(data)
    pixels = still.width * still.height
    if pixels == 0:
        raise NotAPicture(f"a {form.name} file without pixels")
    if pixels > max_pixels:
        raise TooManyPixels(pixels, max_pixels)
    return still


def _unpack(form: Form, still: Still) -> Pixels:
    """Decode to [height, width, channels] as coded: before its orientation is applied."""
    image = form.plugin(io.BytesIO(still.content))
    if image.size != (still.width, still.height):
        raise NotAPicture(f"a {form.name} file that states two sizes")
    image.load()
    key = still.transparent
    match image.mode:
        case "1":
            array: NDArray[Any] = np.asarray(image).astype(np.uint8) * np.uint8(255)
        case "L" | "RGB":
            array = np.asarray(image)
        case "P":
            key, opaque = None, "transparency" not in image.info
            array = np.asarray(image.convert("RGB" if opaque else "RGBA"))
        case "LA" | "RGBA":
            array = np.asarray(image)
        case "I;16" | "I;16B" | "I":  # I is how Pillow holds a 16-bit PGM
            array = np.asarray(image).astype("<u2")
        case mode:
            reason = f"its pixels are coded as {mode}"
            raise CannotCertifyPicture(reason, "Convert it to greyscale or RGB.")
    array = array.reshape(still.height, still.width, -1)
    if array.shape[2] in (2, 4):
        return over_white(array[..., :-1], array[..., -1:])
    if key is not None:
        clear = np.ones(array.shape[:2], dtype=bool)
        for channel, value in enumerate(key):
            clear &= array[..., channel] == value
        array = array.copy()
        array[clear] = np.iinfo(array.dtype).max
    return array


def over_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite ``colour`` [h, w, c] over white by ``alpha`` [h, w, 1], rounded to nearest."""
    result = np.empty_like(colour)
    # Row by row in blocks: the products need 16 bits (at most 255·255 + 127 < 2¹⁶).
    for start in range(0, len(colour), 64):
        rows = slice(start, start + 64)
        missing = (255 - colour[rows]).astype(np.uint16) * alpha[rows]
        result[rows] = 255 - (missing + 127) // 255
    return result


def _oriented(array: Pixels, orientation: int) -> Pixels:
    """Rotate and mirror [height, width, channels] as EXIF's ``orientation`` says.

    2 to 8 are the mirrored and rotated cases; 1 and undefined numbers leave it as coded.
    """
    match orientation:
        case 2:
            return array[:, ::-1]
        case 3:
            return array[::-1, ::-1]
        case 4:
            return array[::-1]
        case 5:
            return array.swapaxes(0, 1)
        case 6:
            return np.rot90(array, -1)
        case 7:
            return array[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return np.rot90(array)
        case _:
            return array
