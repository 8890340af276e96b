"""Picture files made in memory, byte by byte where Pillow cannot write them."""

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
ORIENTATION = 0x0112


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixel values, so that a wrong orientation or channel is noticed."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(array: Array, form: str, **options: Any) -> bytes:
    """Encode [h, w], [h, w, 2], [h, w, 3] or [h, w, 4] with Pillow."""
    return save_image(Image.fromarray(array), form, **options)


def save_image(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def exif(orientation: int, order: str = "<") -> bytes:
    """An EXIF block of one entry, without the JPEG prefix."""
    return tiff({ORIENTATION: (3, [orientation])}, order=order)


# --- PNG ---

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, depth: int, colour: int, interlace: int = 0) -> bytes:
    body = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return PNG + chunk(b"IHDR", body)


def png(samples: Array, depth: int, colour: int, extra: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of ``samples`` [h, w, c] as they are, with chunks before and after the pixels."""
    height, width, _ = samples.shape
    header = png_header(width, height, depth, colour)
    data = zlib.compress(_png_rows(samples, depth))
    return header + extra + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


def png_interlaced(samples: Array) -> bytes:
    """An 8-bit PNG of [h, w, 1] or [h, w, 3], interlaced by Adam7."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in (*passes, (1, 0, 2, 1))]
    data = b"".join(_png_rows(part, 8) for part in parts if part.size)
    height, width, channels = samples.shape
    header = png_header(width, height, 8, 0 if channels == 1 else 2, interlace=1)
    return header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _png_rows(samples: Array, depth: int) -> bytes:
    if depth == 16:
        rows = samples.astype(">u2").reshape(len(samples), -1).view(np.uint8)
    else:
        shifts = np.arange(depth - 1, -1, -1)
        bits = (samples.reshape(len(samples), -1, 1) >> shifts) & 1
        rows = np.packbits(bits.reshape(len(samples), -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in rows)


def png_repaired(data: bytes) -> bytes:
    """The same chunks with correct checksums, as far as chunks can be recognised."""
    parts, position = [data[:8]], 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            break
        parts.append(chunk(kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return b"".join(parts) + data[position:]


# --- TIFF ---

Tags = dict[int, tuple[int, Sequence[int]]]


def tiff(tags: Tags, payload: bytes = b"", order: str = "<", following: int = 0) -> bytes:
    """A TIFF of ``tags`` {tag: (type, values)}, then ``payload`` at :func:`tiff_start`."""
    body, outside = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(numbers)}{'_BxHI'[kind]}", *numbers)
        if len(value) > 4:
            at = 8 + 2 + 12 * len(tags) + 4 + len(outside)
            outside += value + bytes(len(value) % 2)
            value = struct.pack(order + "I", at)
        body += struct.pack(order + "HHI", tag, kind, len(numbers)) + value.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "IH", 8, len(tags))
    return head + body + struct.pack(order + "I", following) + outside + payload


def tiff_start(tags: Tags) -> int:
    """The offset at which the payload of :func:`tiff` begins."""
    return len(tiff(tags))


def tiff_strip(
    pixels: bytes, width: int, height: int, more: Tags, order: str = "<", **options: int
) -> bytes:
    """A TIFF of one strip; ``more`` tags override."""
    tags: Tags = {256: (3, [width]), 257: (3, [height]), 258: (3, [8]), 262: (3, [1])}
    tags |= {273: (4, [0]), 279: (4, [len(pixels)])} | more
    tags[273] = (4, [tiff_start(tags)])
    return tiff(tags, pixels, order, **options)


def tiff_tiled(array: NDArray[np.uint8], side: int) -> bytes:
    """An uncompressed greyscale TIFF of ``side`` × ``side`` tiles."""
    height, width = array.shape
    down, across = -(-height // side), -(-width // side)
    padded = np.zeros((down * side, across * side), np.uint8)
    padded[:height, :width] = array
    tiles = padded.reshape(down, side, across, side).swapaxes(1, 2)
    count = down * across
    tags: Tags = {256: (3, [width]), 257: (3, [height]), 258: (3, [8]), 262: (3, [1])}
    tags |= {322: (3, [side]), 323: (3, [side]), 325: (4, [side * side] * count)}
    start = tiff_start(tags | {324: (4, [0] * count)})
    tags[324] = (4, [start + side * side * index for index in range(count)])
    return tiff(tags, tiles.tobytes())


# --- the others ---


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def riff(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A WebP file of these chunks."""
    body = b"".join(
        kind + struct.pack("<I", len(part)) + part + bytes(len(part) % 2) for kind, part in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + sides


def vp8l(width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(20)


def bmp(pixels: bytes, width: int, height: int, bits: int, *masks: int, method: int = 0) -> bytes:
    """A BMP with the 108-byte header; ``masks`` for red, green, blue and alpha."""
    info = struct.pack("<IiiHHIIiiII", 108, width, height, 1, bits, method, 0, 0, 0, 0, 0)
    info += struct.pack("<4I", *(masks or (0, 0, 0, 0))) + bytes(52)
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + info + pixels
