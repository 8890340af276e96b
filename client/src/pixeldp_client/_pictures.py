"""From an application's pictures to the bytes of a file with exactly the same pixels.

The certificate is about the pixels that the service decodes, so nothing here converts, scales or
rounds a pixel: an image without an exact form is refused.
"""

import io
import sys
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    import numpy
    import PIL.Image

    Image: TypeAlias = (
        str
        | PathLike[str]
        | bytes
        | bytearray
        | memoryview
        | IO[bytes]
        | PIL.Image.Image
        | numpy.ndarray[Any, Any]
    )
else:
    Image = Any

# Modes that PNG stores exactly. Pillow would convert other modes, or refuse them.
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")


def encode(image: "Image") -> bytes:
    """Return the bytes of a picture file.

    Args:
        image: a path; the bytes of a file; a file opened in binary mode, read from its position;
            a Pillow image, whose pixels are sent as they are (its EXIF orientation and transparent
            colour are not applied; the transparency of a palette is); or an array
            of uint8 [height, width] (grey) or [height, width, 3] (RGB), or of uint16 [height,
            width].

    Raises:
        OSError: the file cannot be read.
        TypeError: not one of these.
        ValueError: a file with nothing left to read, or an image of a mode or an array of a shape
            that has no exact form.
    """
    if isinstance(image, str | PathLike):
        return Path(image).read_bytes()
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    # A caller with such an object has imported its package; others need not install it.
    numpy, pillow = sys.modules.get("numpy"), sys.modules.get("PIL.Image")
    if numpy and isinstance(image, numpy.ndarray):
        return _from_array(image)
    if pillow and isinstance(image, pillow.Image):
        return _from_pillow(cast("PIL.Image.Image", image))
    if callable(read := getattr(image, "read", None)):
        return _from_file(read())
    expected = "a path, bytes, a file opened in binary mode, a Pillow image or a numpy array"
    raise TypeError(f"a picture must be {expected}, not {type(image).__name__}")


def _from_file(content: object) -> bytes:
    """Check the content that a file object returned."""
    if not isinstance(content, bytes | bytearray | memoryview):
        kind = type(content).__name__
        raise TypeError(
            f"the file's read() returned {kind}, not bytes; open it in binary mode ('rb')"
        )
    if not content:
        raise ValueError("the file has nothing left to read; call seek(0) on it first")
    return bytes(content)


def _from_pillow(image: "PIL.Image.Image") -> bytes:
    if image.mode not in _MODES:
        raise ValueError(
            f"an image of mode {image.mode} has no exact form as a file; convert it yourself, for "
            "example by image.convert('RGB')"
        )
    # Other attributes describe the file that the image came from: a colour that was transparent
    # there may now be any pixel's. Only in a palette is transparency part of the colours.
    options = {"transparency": None}
    if image.mode == "P" and isinstance(image.info.get("transparency"), int | bytes):
        options.clear()
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, **options)
    return file.getvalue()


def _from_array(array: "numpy.ndarray[Any, Any]") -> bytes:
    """Write PGM or PPM: a header, and then the same values (big-endian if 16 bits)."""
    kind, shape = array.dtype.name, array.shape
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    grey = len(shape) == 2 and kind in ("uint8", "uint16")
    rgb = len(shape) == 3 and shape[2] == 3 and kind == "uint8"
    if not (grey or rgb):
        raise ValueError(
            f"an array of {kind} {list(array.shape)} is not a picture; expected uint8 [height, "
            "width] or [height, width, 3], or uint16 [height, width]"
        )
    if 0 in shape:
        raise ValueError(f"an array of shape {list(array.shape)} has no pixels")
    largest = 255 if kind == "uint8" else 65535
    header = f"P{5 if grey else 6}\n{shape[1]} {shape[0]}\n{largest}\n"
    values = array if kind == "uint8" else array.astype(">u2")
    return header.encode() + values.tobytes()
