"""From a picture file to the parts of it that make its pixels.

A reader for each format walks the file's outer structure, refuses files that cannot be answered,
and passes on a file with only these parts.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable
from enum import IntEnum
from math import ceil
from typing import NamedTuple

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from models.images.errors import CannotCertifyPicture, NotAPicture

# Chunks, segments, strips or tiles. An honest picture of 25 megapixels has some ten thousand.
MOST_PARTS = 65_536
# A progressive JPEG has about ten. Each scan visits every pixel, however few bytes it has, so a
# small file with many thousand scans would keep a core busy for minutes.
MOST_SCANS = 100


class Still(NamedTuple):
    """One picture: its size as coded, and a file with only the parts that make its pixels.

    ``transparent`` is the decoded grey or RGB value that stands for transparency; ``scans`` is the
    number of passes over the pixels.
    """

    width: int
    height: int
    content: bytes
    orientation: int = 1
    transparent: tuple[int, ...] | None = None
    scans: int = 1


class Form(NamedTuple):
    """A file format: how it begins, who reads its structure, and who decodes the rest."""

    name: str
    begins: re.Pattern[bytes]
    read: Callable[[bytes], Still]
    plugin: Callable[[io.BytesIO], ImageFile]


def _truncated(name: str) -> NotAPicture:
    return NotAPicture(f"a truncated {name} file")


def _several(name: str) -> CannotCertifyPicture:
    return CannotCertifyPicture(
        f"the {name} file holds several frames or pages", "Send the one that is meant."
    )


def _sixteen_bits(name: str) -> CannotCertifyPicture:
    return CannotCertifyPicture(
        f"the {name} file has 16 bits a channel and colour or alpha, and only greyscale is read "
        "at 16 bits",
        "Convert it to 8 bits, or to greyscale without alpha.",
    )


def _read_png(data: bytes) -> Still:
    """Keep the critical chunks and a palette's tRNS; every chunk's checksum must be right."""
    view, position, parts = memoryview(data), 8, 0
    kept, orientation, transparent = [view[:8]], 1, None
    width, height, depth, colour = 0, 0, 0, 0
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise _truncated("PNG")
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk = view[position : position + 12 + length]
        position, parts = position + 12 + length, parts + 1
        body = chunk[8:-4]
        if position > len(data):
            raise _truncated("PNG")
        if parts > MOST_PARTS:
            raise NotAPicture(f"a PNG file of more than {MOST_PARTS} chunks")
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
            raise NotAPicture(f"a PNG file whose chunk {kind!r} has a wrong checksum")
        if (kind == b"IHDR") != (parts == 1):
            raise NotAPicture("a PNG file that does not begin with its one header")
        match kind:
            case b"IHDR":
                width, height, depth, colour = struct.unpack_from(">IIBB", body)
                if depth == 16 and colour != 0:
                    raise _sixteen_bits("PNG")
            case b"fdAT":
                raise _several("PNG")
            case b"eXIf":
                orientation = _orientation(bytes(body))
            case b"tRNS" if colour in (0, 2):
                # Pillow would compare the coded sample with a pixel that is spread over 0 … 255.
                spread = 255 // ((1 << depth) - 1) if depth < 8 else 1
                samples = struct.unpack(">H" if colour == 0 else ">HHH", body)
                transparent = tuple(spread * sample for sample in samples)
            case b"IDAT" | b"IEND" | b"PLTE" | b"tRNS":
                pass
            case _ if not kind[0] & 0x20:
                raise NotAPicture(f"a PNG file with the unknown critical chunk {kind!r}")
        if kind in (b"IHDR", b"IDAT", b"IEND") or (colour == 3 and kind in (b"PLTE", b"tRNS")):
            kept.append(chunk)
    return Still(width, height, b"".join(kept), orientation, transparent)


# A marker; within coded data 0xFF is followed by 0x00 or a restart, elsewhere by fill bytes.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # without DHT, JPG and DAC
_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # APP and comments; JFIF and Adobe state the colours


def _read_jpeg(data: bytes) -> Still:
    """Keep the first picture without metadata: up to its end marker, which must be there."""
    kept, parts, scans, body = [data[:2]], 0, 0, 0
    width, height, position, orientation = 0, 0, 2, 1
    while marker := _JPEG_MARKER.search(data, position):
        kind, position, parts = marker[1][0], marker.end(), parts + 1
        if kind == _EOI:
            break
        if parts > MOST_PARTS:
            raise NotAPicture(f"a JPEG file of more than {MOST_PARTS} segments")
        if kind in (_SOI, _TEM):
            continue
        start, end = position, position + struct.unpack_from(">H", data, position)[0]
        segment, position = data[start - 2 : end], end
        if end > len(data):
            raise _truncated("JPEG")
        if kind in _FRAMES:
            if width:
                raise NotAPicture("a JPEG file with two frame headers")
            precision, height, width = struct.unpack_from(">BHH", data, start + 2)
            if precision != 8:
                reason = f"the JPEG file has {precision} bits a channel, and only 8 are read"
                raise CannotCertifyPicture(reason, "Convert it to 8 bits.")
        elif kind == _SOS:
            scans, body = scans + 1, body or start - 2
            if scans > MOST_SCANS:
                raise NotAPicture(f"a JPEG file of more than {MOST_SCANS} scans")
        elif kind == 0xE1 and data.startswith(b"Exif\0\0", start + 2) and orientation == 1:
            orientation = _orientation(segment[10:])
        if not body and kind not in _METADATA:
            kept.append(segment)
    else:
        raise _truncated("JPEG")
    if not width or not body:
        raise _truncated("JPEG")
    content = b"".join([*kept, data[body:position]])
    return Still(width, height, content, orientation, scans=scans)


def _read_webp(data: bytes) -> Still:
    """Find size, frames and orientation; drop what follows the RIFF container."""
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise _truncated("WebP")
    match data[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L":
            (packed,) = struct.unpack_from("<I", data, 21)
            width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        case _:
            width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", data, 26))
    orientation, frames, parts, position = 1, 0, 0, 12
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, position)
        frames, parts = frames + (kind == b"ANMF"), parts + 1
        if frames > 1:
            raise _several("WebP")
        if parts > MOST_PARTS:
            raise NotAPicture(f"a WebP file of more than {MOST_PARTS} chunks")
        if kind == b"EXIF":
            orientation = _orientation(
                data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
            )
        position += 8 + length + length % 2
    return Still(width, height, data[:end], orientation)


# Headers with masks that say where red, green, blue and alpha are; that of 64 bytes is OS/2's.
_BMP_MASKED = (56, 108, 124)
_BMP_MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def _read_bmp(data: bytes) -> Still:
    """Find the size; only uncompressed pixels are passed on, and their alpha, if any, is declared.

    Browsers respect the alpha mask of a picture without bit fields, too; Pillow does not. Chromium
    puts pictures on the clipboard in this form.
    """
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return Still(width, height, data)
    width, height = struct.unpack_from("<Ii", data, 18)
    bits, compression = struct.unpack_from("<HI", data, 28)
    if compression not in (0, 3):
        raise NotAPicture(f"a BMP file of compression {compression}, and only 0 and 3 are read")
    if compression == 3 and not any(data[54:66]):
        raise NotAPicture("a BMP file whose masks leave no colour")
    if size in _BMP_MASKED:
        masks = struct.unpack_from("<4I", data, 54)
        if bits == 16 and masks[3] & 0xFFFF:
            raise _alpha_of_bmp("has 16 bits a pixel with alpha among them")
        if bits == 32 and masks[3] and compression == 0:
            masks = (*_BMP_MASKS[:3], masks[3])
            data = b"".join(
                [
                    data[:30],
                    struct.pack("<I", 3),
                    data[34:54],
                    struct.pack("<4I", *masks),
                    data[70:],
                ]
            )
        if bits == 32 and masks[3]:
            _check_alpha_of_bmp(data, width * abs(height), masks[3])
    return Still(width, abs(height), data)


def _check_alpha_of_bmp(data: bytes, pixels: int, mask: int) -> None:
    """Refuse a mask that is not one byte, and alpha that some viewers ignore."""
    masks = {0xFF << 8 * byte: byte for byte in range(4)}
    if mask not in masks:
        raise _alpha_of_bmp(f"has the alpha mask 0x{mask:08x}")
    (start,) = struct.unpack_from("<I", data, 10)
    alpha = data[start + masks[mask] :: 4][:pixels]
    if not alpha.strip(b"\0"):
        raise _alpha_of_bmp("has an alpha of 0 everywhere, which some viewers show as opaque")


def _alpha_of_bmp(found: str) -> CannotCertifyPicture:
    return CannotCertifyPicture(f"the BMP file {found}", "Convert it to PNG.")


def _read_gif(data: bytes) -> Still:
    """Keep the screen, the palette and the one frame with what controls it."""

    def after_blocks(position: int) -> int:
        while length := data[position]:
            position += 1 + length
        return position + 1

    def table(flags: int) -> int:
        return 6 << (flags & 7) if flags & 0x80 else 0

    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = start = 13 + table(flags)
    control, frame, transparent, parts = b"", b"", None, 0
    # Some writers omit the trailer; a frame that ends is complete without it.
    while position < len(data) and data[position] != 0x3B:
        parts += 1
        if parts > MOST_PARTS:
            raise NotAPicture(f"a GIF file of more than {MOST_PARTS} blocks")
        if data[position] == 0x21:
            end = after_blocks(position + 2)
            if data[position + 1] == 0xF9 and not frame:
                control = data[position:end]
                transparent = (control[6],) if control[3] & 1 else None
        elif data[position] == 0x2C:
            if frame:
                raise _several("GIF")
            left, top, across, down, flags = struct.unpack_from("<4HB", data, position + 1)
            end = after_blocks(position + 11 + table(flags))
            frame = data[position:end]
            # A frame that reaches beyond the screen enlarges it, in Pillow as in browsers.
            width, height = max(width, left + across), max(height, top + down)
        else:
            raise NotAPicture(f"a GIF file with the unknown block 0x{data[position]:02x}")
        position = end
    content = b"".join([data[:start], control, frame, b";"])
    return Still(width, height, content, transparent=transparent)


_GAP = rb"(?:\s|#[^\r\n]*[\r\n])++"
_PBM_HEADER = re.compile(rb"P4" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})\s")
_PNM_HEADER = re.compile(rb"P[56]" + (_GAP + rb"(\d{1,9})") * 3 + rb"\s")


def _read_pnm(data: bytes) -> Still:
    """Rewrite the header without comments; the largest value must be that of 8 or 16 bits."""
    kind = data[:2]
    header = (_PBM_HEADER if kind == b"P4" else _PNM_HEADER).match(data[:1024])
    if header is None:
        raise NotAPicture(f"a {kind.decode()} file whose header cannot be read")
    width, height, *largest = (int(number) for number in header.groups())
    if largest == [65535] and kind == b"P6":
        raise _sixteen_bits("PPM")
    if largest not in ([], [255], [65535]):
        raise CannotCertifyPicture(
            f"its largest value is {largest[0]}, and reading it would rescale and round it",
            "Rescale it to 255, or a greyscale picture to 65535.",
        )
    plain = b" ".join([kind, *header.groups()]) + b"\n"
    return Still(width, height, plain + data[header.end() :])


class _Tag(IntEnum):
    """The TIFF tags that make the pixels, and the orientation."""

    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
    STRIPS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_SIZES = 273, 274, 277, 278, 279
    PLANAR, PREDICTOR, COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT = 284, 317, 320, 322, 323
    TILES, TILE_SIZES, EXTRA_SAMPLES, SAMPLE_FORMAT = 324, 325, 338, 339


# Those that decide about pixels.
_PIXELS = frozenset(_Tag) - {_Tag.ORIENTATION}


class _Directory:
    """The first directory of a TIFF file, which is also how EXIF is stored."""

    def __init__(self, data: bytes) -> None:
        self.data, self.order = data, "<" if data.startswith(b"II*\0") else ">"
        (start,) = struct.unpack_from(self.order + "I", data, 4)
        (count,) = struct.unpack_from(self.order + "H", data, start)
        self.entries: dict[int, bytes] = {}
        for position in range(start + 2, start + 2 + 12 * count, 12):
            (tag,) = struct.unpack_from(self.order + "H", data, position)
            # If a tag is given twice, Pillow and libtiff may use different ones.
            if tag in _PIXELS and tag in self.entries:
                raise NotAPicture(f"a TIFF file with tag {tag} given twice")
            self.entries[tag] = data[position : position + 12]
        self.next = data[start + 2 + 12 * count : start + 6 + 12 * count]

    def layout(self, tag: int) -> tuple[str, bytes, int]:
        """Return how the tag's integers are packed, the bytes that hold them, and their offset."""
        _, kind, count, position = struct.unpack(self.order + "HHII", self.entries[tag])
        code = {3: "H", 4: "I"}.get(kind)
        if code is None or not 0 < count <= 4 * MOST_PARTS:
            raise NotAPicture(f"a TIFF file whose tag {tag} has {count} values of type {kind}")
        layout = f"{self.order}{count}{code}"
        if struct.calcsize(layout) <= 4:
            return layout, self.entries[tag], 8
        return layout, self.data, position

    def values(self, tag: int, *default: int) -> tuple[int, ...]:
        """Return the tag's integers, or the default if the file has no such tag."""
        return struct.unpack_from(*self.layout(tag)) if tag in self.entries else default

    def value(self, tag: int, *default: int) -> int:
        """Return the tag's one integer."""
        (value,) = self.values(tag, *default)
        return value

    def alone(self) -> bytes:
        """Return the file with a directory of only the tags that make the pixels."""
        kept = [tag for tag in sorted(self.entries) if tag in _PIXELS]
        if sum(struct.calcsize(self.layout(tag)[0]) for tag in kept) > len(self.data):
            raise _truncated("TIFF")
        start = len(self.data) + len(self.data) % 2
        return b"".join(
            [
                *(self.data[:4], struct.pack(self.order + "I", start), self.data[8:]),
                *(bytes(start - len(self.data)), struct.pack(self.order + "H", len(kept))),
                *(*(self.entries[tag] for tag in kept), bytes(4)),
            ]
        )


# (photometric interpretation, bits of each sample, extra samples). Grey: 0 is white or 1 is
# black; 2 is RGB, 3 a palette. An extra sample of sort 2 is alpha, of sort 0 nothing to show.
_TIFF_LAYOUTS = {
    *((grey, (bits,), ()) for grey in (0, 1) for bits in (1, 2, 4, 8)),
    *((3, (bits,), ()) for bits in (1, 2, 4, 8)),
    (1, (16,), ()),
    (1, (8, 8), (2,)),
    (2, (8, 8, 8), ()),
    (2, (8, 8, 8, 8), ()),
    (2, (8, 8, 8, 8), (0,)),
    (2, (8, 8, 8, 8), (2,)),
}
_TIFF_COMPRESSIONS = {1, 5, 8, 32773, 32946}


def _read_tiff(data: bytes) -> Still:
    """Keep one directory with the tags that make the pixels, after checking their values."""
    tags = _Directory(data)
    if tags.next != bytes(4):
        raise _several("TIFF")
    width, height = tags.value(_Tag.WIDTH), tags.value(_Tag.HEIGHT)
    samples = tags.value(_Tag.SAMPLES, 1)
    bits = tags.values(_Tag.BITS, 1)
    bits = bits * samples if len(bits) == 1 and samples <= 4 else bits
    layout = tags.value(_Tag.PHOTOMETRIC), bits, tags.values(_Tag.EXTRA_SAMPLES)
    if layout[0] == 2 and bits[0] == 16:
        raise _sixteen_bits("TIFF")
    if (
        layout not in _TIFF_LAYOUTS
        or samples != len(bits)
        or {*tags.values(_Tag.SAMPLE_FORMAT, 1)} != {1}
        or tags.value(_Tag.FILL_ORDER, 1) != 1
        or (samples > 1 and tags.value(_Tag.PLANAR, 1) != 1)
        or tags.value(_Tag.PREDICTOR, 1) not in (1, 2)
    ):
        raise CannotCertifyPicture(
            f"the TIFF file has photometric interpretation {layout[0]} with samples of "
            f"{', '.join(map(str, bits))} bits and extra samples {layout[2]}, and only unsigned "
            "grey, RGB, RGBA with unassociated alpha, and palettes are read, interleaved",
            "Convert it to PNG.",
        )
    if (compression := tags.value(_Tag.COMPRESSION, 1)) not in _TIFF_COMPRESSIONS:
        reason = f"the TIFF file is compressed by method {compression}"
        raise CannotCertifyPicture(reason, "Use none, LZW, Deflate or PackBits.")
    if layout[0] == 3:
        colours = tags.values(_Tag.COLOUR_MAP)
        if len(colours) != 3 << bits[0]:
            raise NotAPicture("a TIFF file whose palette has the wrong length")
        if any(colour % 257 for colour in colours) and any(colour % 256 for colour in colours):
            raise _sixteen_bits("TIFF")
    _check_tiff_parts(tags, width, height, ceil(width * sum(bits) / 8) if compression == 1 else 0)
    return Still(width, height, tags.alone(), _orientation(data))


def _check_tiff_parts(tags: _Directory, width: int, height: int, row: int) -> None:
    """Refuse strips or tiles that are not all there, lie outside, or are far too large.

    Args:
        tags: of the picture.
        width: its own.
        height: its own.
        row: bytes of a row; 0 if compressed. Old writers state no sizes of such strips.
    """
    if _Tag.TILES in tags.entries:
        across, down = tags.value(_Tag.TILE_WIDTH), tags.value(_Tag.TILE_HEIGHT)
        starts, sizes = tags.values(_Tag.TILES), tags.values(_Tag.TILE_SIZES)
        # A decoder holds a whole tile, however small the picture that it belongs to.
        sound = across % 16 == 0 == down % 16 and across * down <= max(width * height, 1 << 20)
        sound &= _Tag.STRIPS not in tags.entries
    else:
        across, down = width, tags.value(_Tag.ROWS_PER_STRIP, height)
        starts = tags.values(_Tag.STRIPS)
        # As many as there are starts, which the file bounds; its height may be a lie.
        rows = [min(down, height - number * down) for number in range(len(starts))] if row else []
        sizes = tags.values(_Tag.STRIP_SIZES, *(row * count for count in rows))
        sound = _Tag.TILE_WIDTH not in tags.entries
    if not (sound and across and down):
        raise NotAPicture("a TIFF file whose strips or tiles make no sense")
    expected = ceil(width / across) * ceil(height / down)
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    if len(starts) != expected or len(starts) > MOST_PARTS or max(ends) > len(tags.data):
        raise _truncated("TIFF")


def _orientation(exif: bytes) -> int:
    """Return the EXIF orientation. Where EXIF is broken it has no say: 1, which is upright."""
    try:
        return _Directory(exif).value(_Tag.ORIENTATION, 1)
    except (struct.error, ValueError):
        return 1


def _begins(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


_FORMS = (
    Form("PNG", _begins(rb"\x89PNG\r\n\x1a\n"), _read_png, PngImageFile),
    Form("JPEG", _begins(rb"\xff\xd8\xff"), _read_jpeg, JpegImageFile),
    Form("WebP", _begins(rb"RIFF....WEBPVP8[ LX]"), _read_webp, WebPImageFile),
    Form("GIF", _begins(rb"GIF8[79]a"), _read_gif, GifImageFile),
    Form("BMP", _begins(rb"BM"), _read_bmp, BmpImageFile),
    Form("TIFF", _begins(rb"II\*\0|MM\0\*"), _read_tiff, TiffImageFile),
    Form("PNM", _begins(rb"P[4-6]\s|P[4-6]#"), _read_pnm, PpmImageFile),
)

# How many bytes tell what a file is.
BEGINNING = 256
_OTHERS = (
    ("white space only", rb"\s*$"),
    ("a data: URL", rb"\s*data:"),
    ("base64 text", rb"iVBORw0KGgo|/9j/|R0lGOD|UklGR|SUkqA|TU0AK"),
    ("an HTML page", rb"\s*(?i:<!doctype html|<html)"),
    ("SVG or other XML", rb"\s*(?i:<\?xml|<svg)"),
    ("JSON", rb"\s*[\[{]"),
    ("a PDF", rb"%PDF-"),
    ("a ZIP archive", rb"PK\x03\x04"),
    ("what macOS keeps beside a file (AppleDouble)", rb"\0\x05\x16\x07"),
    ("gzip", rb"\x1f\x8b"),
    ("an AVIF or HEIC picture, or a video", rb"....ftyp"),
    ("a JPEG XL picture", rb"\xff\x0a|\0\0\0\x0cJXL "),
    ("a JPEG 2000 picture", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("an icon file", rb"\0\0[\x01\x02]\0"),
    ("a Photoshop file", rb"8BPS"),
    ("a BigTIFF file", rb"II\+\0|MM\0\+"),
    ("a plain-text PBM, PGM or PPM", rb"P[1-3]\s"),
)


def find_form(data: bytes) -> Form:
    """Tell the format by how the bytes begin; a file is only ever read as that one."""
    for form in _FORMS:
        if form.begins.match(data):
            return form
    if not data:
        raise NotAPicture("an empty body")
    for name, pattern in _OTHERS:
        if re.match(pattern, data[:BEGINNING], re.DOTALL):
            raise NotAPicture(name)
    raise NotAPicture("bytes of no known kind")


def seems_picture(beginning: bytes) -> bool:
    """Whether a file with this beginning, of ``BEGINNING`` bytes or all, is of a format read here.

    Magic numbers of two bytes do not tell: text may begin with BM as well.
    """
    return any(form.begins.match(beginning) and form.name not in ("BMP", "PNM") for form in _FORMS)
