"""Pictures that nobody sends by accident, made in memory, and how each must be answered."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.models.images import pictures as made


class Hostile(NamedTuple):
    """A file, and the problem that it must get; None if it must be answered."""

    content: bytes
    problem: str | None


GREY, RGB = made.noise(28, 28), made.noise(28, 28, 3)
PNG = made.png(GREY[..., None], 8, 0)
JPEG = made.save(RGB, "JPEG")
IEND = made.chunk(b"IEND", b"")
SCRIPT = b"<script>alert(1)</script>"


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    return made.save_image(image, form, **options)


def _frames(form: str) -> bytes:
    frames = [Image.fromarray(made.noise(28, 28, seed=i)) for i in range(3)]
    return _saved(frames[0], form, save_all=True, append_images=frames[1:])


def _palette() -> bytes:
    return _saved(Image.fromarray(RGB).quantize(16), "PNG")


def _turned() -> bytes:
    return made.save(made.noise(20, 28), "JPEG", exif=b"Exif\0\0" + made.exif(6))


def _nan() -> bytes:
    values = np.full((28, 28), np.nan, dtype=np.float32)
    return _saved(Image.fromarray(values), "TIFF")


def _inflating(megabytes: int) -> bytes:
    """28 × 28 according to its header; its data goes on without end."""
    squeeze = zlib.compressobj(9)
    data = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(megabytes)) + squeeze.flush()
    return made.png_header(28, 28, 8, 0) + made.chunk(b"IDAT", data) + IEND


def _long_text(size: int) -> bytes:
    return PNG[:33] + made.chunk(b"tEXt", b"a\0" + bytes(size)) + PNG[33:]


def _wrong_length(length: int) -> bytes:
    """A PNG whose data chunk states a wrong length."""
    at = PNG.index(b"IDAT") - 4
    return PNG[:at] + struct.pack(">I", length) + PNG[at + 4 :]


def _cmyk() -> bytes:
    return _saved(Image.new("CMYK", (28, 28), (9, 9, 9, 9)), "JPEG")


def _deep(channels: int) -> bytes:
    shape = (28, 28, channels)
    values = np.random.default_rng(1).integers(0, 2**16, shape, dtype=np.uint16)
    return made.png(values, 16, {1: 0, 3: 2}[channels])


def _bmp(width: int, height: int) -> bytes:
    return made.bmp(bytes(64), width, height, 24)


def corpus() -> dict[str, Hostile]:
    """Return every file by its name."""
    no, pixels, cannot = "not-a-picture", "too-many-pixels", "cannot-certify-preprocessing"
    forms = {form: made.save(RGB, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}
    forms["PPM"] = made.save(RGB, "PPM")
    files = {
        f"truncated {form.lower()}": Hostile(content[: len(content) * 2 // 3], no)
        for form, content in forms.items()
    }
    files |= {
        "empty": Hostile(b"", no),
        "one byte": Hostile(b"\x89", no),
        "zeros": Hostile(bytes(10_000), no),
        "html": Hostile(b"<!doctype html>" + SCRIPT, no),
        "svg that includes a file": Hostile(
            b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', no
        ),
        "xml bomb": Hostile(b'<!DOCTYPE a [<!ENTITY a "' + b"a" * 99 + b'">]><a>&a;&a;</a>', no),
        "postscript": Hostile(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n", no),
        "pdf": Hostile(b"%PDF-1.7\n1 0 obj\n<< /URI (http://127.0.0.1/) >>\n", no),
        "address": Hostile(b"http://169.254.169.254/latest/meta-data/", no),
        "pickle": Hostile(b"\x80\x04\x95\x1c\0\0\0\0\0\0\0\x8c\x02os\x8c\x06system\x93.", no),
        "elf": Hostile(b"\x7fELF\x02\x01\x01" + bytes(200), no),
        # Two formats in one file: only the picture counts, and only if it comes first.
        "png and zip": Hostile(PNG + b"PK\x03\x04" + bytes(100), None),
        "png and script": Hostile(PNG + SCRIPT, None),
        "jpeg with a script for a comment": Hostile(
            JPEG[:2] + made.segment(0xFE, SCRIPT) + JPEG[2:], None
        ),
        "gif and script": Hostile(b"GIF89a/*" + SCRIPT, no),
        "pdf and png": Hostile(b"%PDF-1.7\n" + PNG, no),
        "bmp and mz": Hostile(b"MZ" + forms["BMP"], no),
        # More pixels than bytes.
        "png bomb": Hostile(made.png_header(60_000, 60_000, 8, 2) + PNG[33:], pixels),
        "png of the largest sides": Hostile(
            made.png_header(2**31 - 1, 2**31 - 1, 8, 0) + PNG[33:], pixels
        ),
        "webp bomb": Hostile(
            made.riff([made.vp8x(16_384, 16_384), made.vp8l(16_384, 16_384)]), pixels
        ),
        "bmp bomb": Hostile(_bmp(60_000, 60_000), pixels),
        "ppm bomb": Hostile(b"P6 60000 60000 255\n123", pixels),
        "gif bomb": Hostile(b"GIF89a\xff\xff\xff\xff\0\0\0," + bytes(4) + b"\xff" * 4 + b"\0", no),
        "data that inflates to 64 MB": Hostile(_inflating(64), None),
        "giant header": Hostile(_long_text(4 << 20), None),
        "header of a thousand parts": Hostile(
            PNG[:33] + 1000 * made.chunk(b"tEXt", b"a\0b") + PNG[33:], None
        ),
        "header of countless parts": Hostile(
            PNG[:33] + 70_000 * made.chunk(b"tEXt", b"") + PNG[33:], no
        ),
        "long thin": Hostile(_saved(Image.new("L", (1_000_000, 1)), "PNG"), cannot),
        # Unusual files, honest or not.
        "cmyk": Hostile(_cmyk(), cannot),
        "16 bits grey": Hostile(_deep(1), None),
        "16 bits rgb": Hostile(_deep(3), cannot),
        "palette": Hostile(_palette(), None),
        "animated gif": Hostile(_frames("GIF"), cannot),
        "animated png": Hostile(_frames("PNG"), cannot),
        "animated webp": Hostile(_frames("WEBP"), cannot),
        "pages": Hostile(_frames("TIFF"), cannot),
        "turned by exif": Hostile(_turned(), None),
        "float with nan": Hostile(_nan(), cannot),
        # What is stated is not true.
        "zero width": Hostile(made.png_header(0, 28, 8, 0) + PNG[33:], no),
        "zero height": Hostile(made.png_header(28, 0, 8, 0) + PNG[33:], no),
        "zero pixels": Hostile(b"P5 0 0 255\n", no),
        "negative sides": Hostile(_bmp(-28, 28), pixels),
        "chunk longer than the file": Hostile(_wrong_length(2**31 - 1), no),
        "chunk of the largest length": Hostile(_wrong_length(2**32 - 1), no),
        "chunk shorter than it is": Hostile(_wrong_length(1), no),
        # Well-formed: missing pixels are black, as in every viewer.
        "fewer rows than stated": Hostile(
            made.png_header(28, 28, 8, 0) + made.chunk(b"IDAT", zlib.compress(bytes(29))) + IEND,
            None,
        ),
        "wrong checksum": Hostile(PNG[:-13] + b"\0" + PNG[-12:], no),
        "two headers": Hostile(PNG[:33] + PNG[8:33] + PNG[33:], no),
        "header of another format": Hostile(b"\xff\xd8\xff" + PNG[3:], no),
        "jpeg without tables": Hostile(JPEG[:2] + JPEG[JPEG.index(b"\xff\xc0") :], no),
    }
    return files


def valid() -> dict[str, bytes]:
    """Return a small sound picture of each format, to be damaged."""
    files = {
        form.lower(): made.save(made.noise(9, 7, 3), form)
        for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
    }
    grey = made.noise(9, 7)
    files |= {
        "pgm": made.save(grey, "PPM"),
        "grey png": made.png(grey[..., None], 8, 0),
        "16-bit png": made.png(grey[..., None].astype(np.uint16) * 257, 16, 0),
        "interlaced png": made.png_interlaced(made.noise(9, 7, 1)),
        "progressive jpeg": made.save(made.noise(9, 7, 3), "JPEG", progressive=True),
        "turned jpeg": made.save(made.noise(9, 7, 3), "JPEG", exif=b"Exif\0\0" + made.exif(8)),
        "lossless webp": made.save(made.noise(9, 7, 4), "WEBP", lossless=True),
        "tiff lzw": made.save(made.noise(9, 7, 3), "TIFF", compression="tiff_lzw"),
        "tiff deflate": made.save(made.noise(9, 7, 3), "TIFF", compression="tiff_adobe_deflate"),
        "tiff tiled": made.tiff_tiled(made.noise(9, 7), 16),
    }
    stream = io.BytesIO()
    Image.fromarray(made.noise(9, 7, 3)).quantize(8).save(stream, "PNG", transparency=0)
    files["palette png"] = stream.getvalue()
    return files
