import hashlib
import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from models.images.decoding import MOST_PIXELS, Picture, decode, over_white
from models.images.errors import CannotCertifyPicture, NotAPicture, PictureError, TooManyPixels
from tests.models.images import pictures as made
from tests.models.images.pictures import Array, noise, save, save_image

GREY, RGB = noise(5, 7), noise(5, 7, 3)
LA, RGBA = noise(5, 7, 2), noise(5, 7, 4)
GREY16 = np.random.default_rng(1).integers(0, 65536, (5, 7), dtype=np.uint16)
ONE_BIT = GREY > 127
PALETTE = noise(256, 3, seed=2)


def composited(colour: Array, alpha: Array) -> Array:
    """The oracle: floats are exact enough, as no result lies halfway."""
    value = (colour * alpha.astype(float) + 255.0 * (255 - alpha.astype(float))) / 255
    rounded: Array = np.rint(value).astype(np.uint8)
    return rounded


def check(data: bytes, expected: Array) -> Picture:
    """Assert that ``data`` decodes to ``expected`` [h, w] or [h, w, c], exactly."""
    picture = decode(data)
    expected = expected[..., None] if expected.ndim == 2 else expected
    assert (picture.height, picture.width, picture.channels) == expected.shape
    assert picture.mode == {1: "L", 3: "RGB"}[picture.channels]
    assert picture.bits == 8 * expected.dtype.itemsize
    np.testing.assert_array_equal(picture.array(), expected)
    assert picture.pixels == expected.astype(expected.dtype.newbyteorder("<")).tobytes()
    return picture


def paletted(array: Array, colours: Array = PALETTE) -> Image.Image:
    image = Image.fromarray(array).convert("P")
    image.putdata(array.ravel().tolist())
    image.putpalette(colours.ravel().tolist())
    return image


# --- every mode of every format --------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF", "PPM"])
def test_lossless_grey(form: str) -> None:
    check(save(GREY, form, **({"optimize": False} if form == "GIF" else {})), GREY)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        *(("TIFF", {"compression": c}) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits")),
    ],
)
def test_lossless_rgb(form: str, options: dict[str, Any]) -> None:
    check(save(RGB, form, **options), RGB)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_one_bit_is_grey(form: str) -> None:
    check(save(ONE_BIT, form), np.where(ONE_BIT, 255, 0).astype(np.uint8))


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF"])
def test_palette_is_rgb(form: str) -> None:
    check(save_image(paletted(GREY), form), PALETTE[GREY])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_png_depths(depth: int) -> None:
    samples = GREY[..., None] >> (8 - depth)
    check(made.png(samples, depth, 0), samples * np.uint8(255 // ((1 << depth) - 1)))
    plte = made.chunk(b"PLTE", PALETTE[: 1 << depth].tobytes())
    check(made.png(samples, depth, 3, plte), PALETTE[samples[..., 0]])


@pytest.mark.parametrize("channels", [1, 3])
def test_png_interlaced(channels: int) -> None:
    array = noise(11, 13, channels)
    check(made.png_interlaced(array), array)


def test_png_data_in_many_chunks() -> None:
    data = made.png(RGB, 8, 2)
    whole = data[data.index(b"IDAT") + 4 : -16]
    parts = b"".join(made.chunk(b"IDAT", whole[at : at + 3]) for at in range(0, len(whole), 3))
    check(made.png_header(7, 5, 8, 2) + parts + made.chunk(b"IEND", b""), RGB)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 40, "progressive": True, "comment": b"hello"},
        {"quality": 95, "subsampling": 0, "icc_profile": bytes(70_000)},
        {"quality": 95, "keep_rgb": True},
        {"quality": 75, "restart_marker_blocks": 1, "dpi": (300, 300)},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_as_pillow_reads_the_whole_file(options: dict[str, Any], channels: int) -> None:
    data = save(noise(37, 29, channels).squeeze(), "JPEG", **options)
    check(data, np.asarray(Image.open(io.BytesIO(data))))


def test_jpeg_adobe_colours_are_kept() -> None:
    data = save(noise(16, 16, 3), "JPEG", keep_rgb=True, quality=100, subsampling=0)
    assert np.abs(decode(data).array().astype(int) - noise(16, 16, 3)).max() <= 3


def test_jpeg_colours_that_only_the_adobe_marker_states() -> None:
    data = save(noise(16, 16, 3), "JPEG", keep_rgb=True, quality=100, subsampling=0)
    frame, scan = data.index(b"\xff\xc0") + 10, data.index(b"\xff\xda") + 5
    numbered = bytearray(data)
    for index in range(3):  # components named R, G, B state their colours themselves
        numbered[frame + 3 * index] = numbered[scan + 2 * index] = index + 1
    adobe = made.segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")
    marked = bytes(numbered[:2]) + adobe + bytes(numbered[2:])
    check(marked, np.asarray(Image.open(io.BytesIO(data))))


def test_jpeg_of_several_pictures_is_the_first() -> None:
    first, second = Image.fromarray(noise(16, 24, 3)), Image.fromarray(noise(8, 8, 3, seed=5))
    data = save_image(first, "MPO", save_all=True, append_images=[second])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "MPO"
    check(data, np.asarray(Image.open(io.BytesIO(save_image(first, "JPEG")))))


def test_lossy_webp() -> None:
    data = save(noise(20, 30, 3), "WEBP", quality=80)
    check(data, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_tiff(order: str) -> None:
    pixels = GREY16.astype(order + "u2").tobytes()
    check(made.tiff_strip(pixels, 7, 5, {258: (3, [16])}, order), GREY16)
    deflated: made.Tags = {258: (3, [16]), 259: (3, [8])}
    check(made.tiff_strip(zlib.compress(pixels), 7, 5, deflated, order), GREY16)
    image = Image.frombytes("I;16", (7, 5), GREY16.astype("<u2").tobytes())
    check(save_image(image, "TIFF", compression="tiff_lzw"), GREY16)


def test_sixteen_bit_png_and_pgm() -> None:
    check(made.png(GREY16[..., None], 16, 0), GREY16)
    check(b"P5 7 5 65535\n" + GREY16.astype(">u2").tobytes(), GREY16)
    # All 65536 values survive.
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    check(made.png(every[..., None], 16, 0), every)
    check(b"P5 256 256 65535\n" + every.astype(">u2").tobytes(), every)


@pytest.mark.parametrize(
    "header", [b"P5 7 5 255\n", b"P5\t7\n#c\n5\r255 ", b"P5#a\n#b\n  7 5 #c\n\n255\n"]
)
def test_pgm_headers(header: bytes) -> None:
    check(header + GREY.tobytes(), GREY)


def test_tiff_strips_and_tiles() -> None:
    array = noise(40, 50)
    check(made.tiff_tiled(array, 16), array)
    check(made.tiff_tiled(array, 32), array)
    data = save(array, "TIFF", compression="tiff_lzw", tiffinfo={278: 7})
    check(data, array)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {254: (4, [0]), 255: (3, [1]), 280: (3, [0]), 281: (3, [255])},
        {284: (3, [2])},
        {278: (4, [2**32 - 1])},
        {278: (3, [2]), 273: (4, [0, 14, 28])},
    ],
)
def test_tiff_by_old_programs(more: made.Tags) -> None:
    tags: made.Tags = {256: (3, [7]), 257: (3, [5]), 258: (3, [8]), 262: (3, [1]), 273: (4, [0])}
    tags |= more
    start = made.tiff_start(tags)
    tags[273] = (4, [start + offset for offset in tags[273][1]])
    check(made.tiff(tags, GREY.tobytes()), GREY)
    with pytest.raises(NotAPicture, match="truncated"):
        decode(made.tiff(tags, GREY.tobytes()[:-1]))


def test_tiff_white_is_zero() -> None:
    check(made.tiff_strip(GREY.tobytes(), 7, 5, {262: (3, [0])}), 255 - GREY)


def test_tiff_extra_channel_without_meaning() -> None:
    more: made.Tags = {258: (3, [8] * 4), 262: (3, [2]), 277: (3, [4]), 338: (3, [0])}
    check(made.tiff_strip(RGBA.tobytes(), 7, 5, more), RGBA[..., :3])


def test_bmp_top_down_and_five_six_five() -> None:
    rows = np.concatenate([RGB[..., ::-1].reshape(5, 21), np.zeros((5, 3), np.uint8)], axis=1)
    check(made.bmp(rows.tobytes(), 7, -5, 24), RGB)
    check(made.bmp(rows[::-1].tobytes(), 7, 5, 24), RGB)
    packed = np.array([[0xF800, 0x07E0], [0x001F, 0xFFFF]], "<u2")
    data = made.bmp(packed[::-1].tobytes(), 2, 2, 16, 0xF800, 0x7E0, 0x1F, 0, method=3)
    expected = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    check(data, expected)


# --- alpha -----------------------------------------------------------------------------------

EVERY_VALUE, EVERY_ALPHA = np.mgrid[0:256, 0:256].astype(np.uint8)


def test_every_value_with_every_alpha() -> None:
    expected = composited(EVERY_VALUE, EVERY_ALPHA)
    colour = EVERY_VALUE[..., None]
    np.testing.assert_array_equal(over_white(colour, EVERY_ALPHA[..., None])[..., 0], expected)
    la = np.stack([EVERY_VALUE, EVERY_ALPHA], axis=2)
    check(made.png(la, 8, 4), expected)
    check(save(la, "TIFF"), expected)
    rgba = np.stack([EVERY_VALUE, 255 - EVERY_VALUE, EVERY_VALUE.T, EVERY_ALPHA], axis=2)
    wanted = composited(rgba[..., :3], rgba[..., 3:])
    check(save(rgba, "PNG"), wanted)
    check(save(rgba, "TIFF", compression="tiff_lzw"), wanted)
    check(save(rgba, "WEBP", lossless=True, exact=True), wanted)
    bgra = rgba[::-1][..., [2, 1, 0, 3]].tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    check(made.bmp(bgra, 256, 256, 32, *masks, method=3), wanted)


def bmp_with(header: int, bits: int, method: int, masks: tuple[int, ...], pixels: Array) -> bytes:
    """A BMP of one row of coded ``pixels`` after a header of V3, V4 or V5."""
    fields = (header, len(pixels), 1, 1, bits, method, 0, 0, 0, 0, 0, *masks)
    info = struct.pack("<IiiHHIIiiII4I", *fields).ljust(header, b"\0")
    content = pixels.tobytes()
    start = 14 + header
    return b"BM" + struct.pack("<IHHI", start + len(content), 0, 0, start) + info + content


@pytest.mark.parametrize("header", [56, 108, 124])
@pytest.mark.parametrize("colours", [(0, 0, 0), (0xFF0000, 0xFF00, 0xFF)])
@pytest.mark.parametrize("method", [0, 3])
def test_bmp_alpha_mask_is_applied(header: int, colours: tuple[int, ...], method: int) -> None:
    bgra = noise(9, 4, seed=4)
    data = bmp_with(header, 32, method, (*colours, 0xFF000000), bgra)
    if method == 3 and not any(colours):
        with pytest.raises(NotAPicture, match="leave no colour"):
            decode(data)
    else:
        check(data, composited(bgra[:, 2::-1], bgra[:, 3:])[None])


@pytest.mark.parametrize("method", [0, 3])
def test_bmp_without_an_alpha_mask_is_opaque(method: int) -> None:
    bgra = noise(9, 4, seed=4)
    masks = (0xFF0000, 0xFF00, 0xFF, 0)
    check(bmp_with(124, 32, method, masks, bgra), bgra[None, :, 2::-1])
    # Some programs write the mask whatever the depth; 24 bits have no place for it.
    bgr = noise(8, 3, seed=5)
    check(bmp_with(124, 24, 0, (*masks[:3], 0xFF000000), bgr), bgr[None, :, ::-1])


@pytest.mark.parametrize(
    ("bits", "method", "masks", "alpha"),
    [
        (16, 0, (0x7C00, 0x3E0, 0x1F, 0x8000), 255),
        (16, 3, (0x7C00, 0x3E0, 0x1F, 0x8000), 255),
        (32, 0, (0, 0, 0, 0x3FC00000), 255),
        (32, 0, (0, 0, 0, 0xFF000000), 0),
        (32, 3, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 0),
    ],
)
def test_ambiguous_bmp_alpha_is_refused(
    bits: int, method: int, masks: tuple[int, ...], alpha: int
) -> None:
    bgra = noise(8, bits // 8, seed=4)
    bgra[:, -1] = alpha
    with pytest.raises(CannotCertifyPicture, match=r"the BMP file has .*alpha"):
        decode(bmp_with(124, bits, method, masks, bgra))


def test_palette_with_alpha() -> None:
    alpha = noise(256, seed=3)
    data = save_image(paletted(GREY), "PNG", transparency=alpha.tobytes())
    check(data, composited(PALETTE, alpha[:, None])[GREY])
    # There are fewer alphas than colours: the rest are opaque.
    alpha[10:] = 255
    data = save_image(paletted(GREY % 20), "PNG", transparency=alpha[:10].tobytes())
    check(data, composited(PALETTE, alpha[:, None])[GREY % 20])


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_transparent_palette_entry(form: str) -> None:
    index = int(GREY[2, 3])
    colours = PALETTE.copy()
    data = save_image(paletted(GREY), form, transparency=index)
    colours[index] = 255
    check(data, colours[GREY])


def test_transparent_grey_of_a_gif() -> None:
    index = int(GREY[2, 3])
    data = save(GREY, "GIF", transparency=index, optimize=False)
    check(data, np.where(index == GREY, 255, GREY).astype(np.uint8))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_of_a_png(depth: int) -> None:
    samples = GREY16[..., None] >> (16 - depth)
    key = int(samples[2, 3, 0])
    data = made.png(samples, depth, 0, made.chunk(b"tRNS", key.to_bytes(2, "big")))
    full = 65535 if depth == 16 else 255
    pixels = np.where(samples == key, full, samples * (full // ((1 << depth) - 1)))
    check(data, pixels.astype(np.uint16 if depth == 16 else np.uint8))


def test_transparent_colour_of_a_png() -> None:
    array, colour = RGB.copy(), RGB[2, 3]
    array[0, 0] = colour
    for channel in range(3):  # differs in one channel: not transparent
        array[4, channel] = colour ^ (np.arange(3) == channel)
    key = colour.astype(">u2").tobytes()
    expected = array.copy()
    expected[0, 0] = expected[2, 3] = 255
    check(made.png(array, 8, 2, made.chunk(b"tRNS", key)), expected)


# --- orientation -----------------------------------------------------------------------------


def seen(array: Array, orientation: int) -> Array:
    """The oracle, from the definition: where each pixel's coded row and column are."""
    height, width = array.shape[:2]
    y, x = np.indices((width, height) if orientation > 4 else (height, width))
    row, column = {
        1: (y, x),
        2: (y, width - 1 - x),
        3: (height - 1 - y, width - 1 - x),
        4: (height - 1 - y, x),
        5: (x, y),
        6: (height - 1 - x, y),
        7: (height - 1 - x, width - 1 - y),
        8: (x, width - 1 - y),
    }[orientation]
    turned: Array = array[row, column]
    return turned


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation(orientation: int, order: str) -> None:
    block = made.exif(orientation, order)
    check(made.png(RGB, 8, 2, made.chunk(b"eXIf", block)), seen(RGB, orientation))
    check(made.png(RGB, 8, 2, after=made.chunk(b"eXIf", block)), seen(RGB, orientation))
    check(made.png(GREY16[..., None], 16, 0, made.chunk(b"eXIf", block)), seen(GREY16, orientation))
    check(save(RGB, "WEBP", lossless=True, exif=block), seen(RGB, orientation))
    coded = save(RGB, "JPEG", quality=95)
    plain = decode(coded).array()
    marked = coded[:2] + made.segment(0xE1, b"Exif\0\0" + block) + coded[2:]
    check(marked, seen(plain, orientation))
    more: made.Tags = {made.ORIENTATION: (3, [orientation])}
    check(made.tiff_strip(GREY.tobytes(), 7, 5, more, order), seen(GREY, orientation))
    # The oracle agrees with Pillow.
    with Image.open(io.BytesIO(marked)) as image:
        np.testing.assert_array_equal(ImageOps.exif_transpose(image), seen(plain, orientation))


@pytest.mark.parametrize(
    "block",
    [b"", b"II", b"garbage that is long enough", made.exif(9), made.exif(6)[:-8], b"II*\0\xff" * 9],
)
def test_broken_exif_is_ignored(block: bytes) -> None:
    check(made.png(RGB, 8, 2, made.chunk(b"eXIf", block)), RGB)


def test_xmp_is_ignored() -> None:
    xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
    check(save(RGB, "WEBP", lossless=True, xmp=xmp), RGB)
    check(made.tiff_strip(GREY.tobytes(), 7, 5, {700: (1, list(xmp))}), GREY)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty body"),
        (b" \n", "white space"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n<HTML>", "HTML"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04abc", "ZIP"),
        (b'{"image": ""}', "JSON"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"data:image/png;base64,iVBOR", "data: URL"),
        (b"iVBORw0KGgoAAAANSUhEUg", "base64"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"P3 1 1 255 1 2 3\n", "plain-text"),
        (b"II+\0\x08\0\0\0", "BigTIFF"),
        (noise(300).tobytes(), "no known kind"),
    ],
)
def test_files_that_are_not_pictures_are_named(data: bytes, found: str) -> None:
    with pytest.raises(NotAPicture, match=f"(?s){found}.*Accepted are PNG, JPEG"):
        decode(data)


def test_formats_that_pillow_would_read_are_refused() -> None:
    for form in ("TGA", "PCX", "ICO", "SGI", "JPEG2000", "DDS", "MSP", "XBM", "SPIDER"):
        array = ONE_BIT if form in ("MSP", "XBM") else GREY
        image = Image.fromarray(array)
        data = save_image(image.convert("F") if form == "SPIDER" else image, form)
        with pytest.raises(NotAPicture):
            decode(data)


STILLS = [Image.fromarray(noise(6, 6, 3, seed=seed)) for seed in range(3)]
CMYK = Image.new("CMYK", (4, 4), (1, 2, 3, 4))
FLOATS = Image.new("F", (4, 4), 0.5)
INTEGERS = Image.new("I", (4, 4), 70_000)
LAB = Image.new("LAB", (4, 4))
PLANES: made.Tags = {258: (3, [8] * 3), 262: (3, [2]), 277: (3, [3]), 284: (3, [2])}
PREMULTIPLIED: made.Tags = {258: (3, [8] * 4), 262: (3, [2]), 277: (3, [4]), 338: (3, [1])}
DEEP_PALETTE: made.Tags = {262: (3, [3]), 320: (3, [257 * 7, 256 * 9 + 1, 12345] * 256)}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        *(
            (save_image(STILLS[0], form, save_all=True, append_images=STILLS[1:]), "several")
            for form in ("GIF", "PNG", "WEBP", "TIFF")
        ),
        (made.tiff_strip(GREY.tobytes(), 7, 5, {}, following=8), "several"),
        (made.png(noise(4, 4, 3).astype(np.uint16), 16, 2), "16 bits"),
        (made.png(noise(4, 4, 2).astype(np.uint16), 16, 4), "16 bits"),
        (made.png(noise(4, 4, 4).astype(np.uint16), 16, 6), "16 bits"),
        (b"P6 1 1 65535\n\1\2\3\4\5\6", "16 bits"),
        (made.tiff_strip(bytes(96), 4, 4, PLANES | {258: (3, [16] * 3), 284: (3, [1])}), "16 bits"),
        (made.tiff_strip(GREY.tobytes(), 7, 5, DEEP_PALETTE), "16 bits"),
        (b"P5 1 1 100\n\1", "rescale"),
        (b"P5 1 1 1023\n\1\1", "rescale"),
        (save_image(CMYK, "JPEG"), "CMYK"),
        (save_image(CMYK, "TIFF"), "photometric interpretation 5"),
        (save_image(LAB, "TIFF"), "photometric interpretation 8"),
        (save_image(FLOATS, "TIFF"), "samples of 32 bits"),
        (save_image(INTEGERS, "TIFF"), "samples of 32 bits"),
        (save(RGB, "TIFF", compression="jpeg"), "photometric interpretation|method 7"),
        (save(GREY, "TIFF", compression="jpeg"), "method 7"),
        (save(ONE_BIT, "TIFF", compression="group4"), "method 4"),
        (made.tiff_strip(RGB.tobytes(), 7, 5, PLANES), "interleaved"),
        (made.tiff_strip(RGBA.tobytes(), 7, 5, PREMULTIPLIED), "unassociated"),
        (made.tiff_strip(bytes(70), 7, 5, {258: (3, [12])}), "12 bits"),
        (made.tiff_strip(bytes(70), 7, 5, {258: (3, [16]), 262: (3, [0])}), "interpretation 0"),
        (made.tiff_strip(bytes(70), 7, 5, {258: (3, [16]), 339: (3, [2])}), "unsigned"),
        (made.tiff_strip(bytes(35), 7, 5, {266: (3, [2])}), "TIFF"),
    ],
)
def test_pictures_that_cannot_be_certified(data: bytes, found: str) -> None:
    with pytest.raises(CannotCertifyPicture, match=found) as caught:
        decode(data)
    assert str(caught.value).count(". ") == 1  # first what was found, then what to do
    assert not isinstance(caught.value, NotAPicture)


def jpeg_claiming(width: int, height: int, precision: int = 8) -> bytes:
    data = bytearray(save(noise(8, 8), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 4 : at + 9] = bytes([precision, *height.to_bytes(2), *width.to_bytes(2)])
    return bytes(data)


def test_jpeg_of_twelve_bits() -> None:
    with pytest.raises(CannotCertifyPicture, match="12 bits a channel"):
        decode(jpeg_claiming(8, 8, 12))


def test_tiff_palettes_of_both_conventions() -> None:
    for factor in (256, 257):
        colours = (PALETTE.T.astype(int) * factor).ravel().tolist()
        more: made.Tags = {262: (3, [3]), 320: (3, colours)}
        check(made.tiff_strip(GREY.tobytes(), 7, 5, more), PALETTE[GREY])


def twice(data: bytes, marker: bytes) -> bytes:
    """A JPEG with a segment repeated."""
    start = data.index(marker)
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
    return data[:end] + data[start:]


PNG = made.png(RGB, 8, 2)
IDAT = PNG.index(b"IDAT") - 4


STRIPS_AND_TILES: made.Tags = {tag: (3, [16]) for tag in (322, 323, 324)}
STRIPS_AND_TILES[325] = (3, [256])


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (made.png_header(0, 5, 8, 2) + PNG[33:], "without pixels"),
        (PNG[:-12], "truncated PNG"),
        (PNG[:-1], "truncated PNG"),
        (PNG[:8] + PNG[33:], "does not begin with its one header"),
        (PNG[:33] + PNG[8:], "does not begin with its one header"),
        (PNG[:29] + b"\0\0\0\0" + PNG[33:], "IHDR' has a wrong checksum"),
        (PNG[:-16] + b"\0\0\0\0" + PNG[-12:], "IDAT' has a wrong checksum"),
        (PNG[:IDAT] + made.chunk(b"CgBI", b"1234") + PNG[IDAT:], "unknown critical chunk b'CgBI'"),
        (PNG[:IDAT] + PNG[-12:], "broken or truncated PNG"),
        (PNG[:IDAT] + made.chunk(b"IDAT", b"zlib?") + PNG[-12:], "broken or truncated PNG"),
        (made.png(noise(4, 4, 3), 8, 3), "broken or truncated PNG"),
        (save(RGB, "JPEG")[:-2], "truncated JPEG"),
        (b"\xff\xd8\xff\xd9", "truncated JPEG"),
        (twice(save(RGB, "JPEG"), b"\xff\xc0"), "two frame headers"),
        (save(RGB, "GIF")[:-2], "broken or truncated GIF"),
        (b"GIF89a\1\0\1\0\0\0\0;", "broken or truncated GIF|without pixels"),
        (save(RGB, "WEBP")[:-1], "truncated WebP"),
        (save(RGB, "BMP")[:-4], "truncated BMP"),
        (save(RGB, "PPM")[:-1], "truncated PNM"),
        (b"P5 #" + b"c" * 2000 + b"\n1 1 255 a", "P5 file whose header"),
        (b"P5 0 5 255\n", "without pixels"),
        (made.bmp(bytes([0, 1]), 4, 4, 8, method=1), "compression 1"),
        (made.tiff_strip(GREY.tobytes()[:-1], 7, 5, {279: (4, [35])}), "truncated TIFF"),
        (made.tiff_strip(GREY.tobytes(), 7, 5, {278: (3, [2])}), "truncated TIFF"),
        (made.tiff_strip(GREY.tobytes(), 7, 5, {278: (3, [0])}), "make no sense"),
        (made.tiff_strip(GREY.tobytes(), 7, 5, {322: (3, [16])}), "make no sense"),
        (made.tiff_strip(bytes(256), 7, 5, STRIPS_AND_TILES), "make no sense"),
        (made.riff([made.vp8x(16, 16), made.vp8l(32, 32)]), "broken or truncated WebP"),
    ],
)
def test_broken_files(data: bytes, found: str) -> None:
    with pytest.raises(NotAPicture, match=found):
        decode(data)


def test_tiff_tag_given_twice() -> None:
    data = made.tiff_strip(GREY.tobytes(), 7, 5, {})
    data = data.replace(b"\x01\x01\x03\0", b"\x00\x01\x03\0")  # the height becomes a second width
    with pytest.raises(NotAPicture, match="tag 256 given twice"):
        decode(data)


def test_tiff_tags_that_overlap() -> None:
    ones: made.Tags = {320: (3, [1] * 500), 339: (3, [1] * 500)}
    data = bytearray(made.tiff_strip(GREY.tobytes(), 7, 5, ones))
    check(bytes(data), GREY)
    # Both claim 900 of the 1,000 numbers, which is more than the file holds: Pillow would warn.
    first, second = (data.index(struct.pack("<HHI", tag, 3, 500)) for tag in ones)
    data[first + 4 : first + 8] = struct.pack("<I", 900)
    data[second + 4 : second + 12] = data[first + 4 : first + 12]
    with pytest.raises(NotAPicture, match="a truncated TIFF"):
        decode(bytes(data))


# --- limits ----------------------------------------------------------------------------------


def test_the_limit_is_inclusive() -> None:
    assert decode(PNG, max_pixels=35).values == 105
    with pytest.raises(TooManyPixels, match=r"35 pixels.*at most 34") as caught:
        decode(PNG, max_pixels=34)
    assert (caught.value.pixels, caught.value.limit) == (35, 34)


def test_pillow_would_not_warn_below_the_largest_limit() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MOST_PIXELS <= Image.MAX_IMAGE_PIXELS


def tiff_claiming(**tags: int) -> bytes:
    more: made.Tags = {int(name.removeprefix("t")): (4, [value]) for name, value in tags.items()}
    return made.tiff_strip(bytes(64), 7, 5, more)


BOMBS = {
    "png header": made.png_header(60_000, 60_000, 8, 2) + PNG[33:],
    "png header of the largest numbers": made.png_header(2**31 - 1, 2**31 - 1, 8, 2) + PNG[33:],
    "jpeg header": jpeg_claiming(65_500, 65_500),
    "gif screen": b"GIF89a" + b"\xff" * 4 + save(GREY, "GIF")[10:],
    "gif frame": b"GIF89a\1\0\1\0\0\0\0," + bytes(4) + b"\xff" * 4 + b"\0\x02\x01\x44\0;",
    "webp canvas": made.riff([made.vp8x(16_384, 16_384), made.vp8l(16_384, 16_384)]),
    "webp": made.riff([made.vp8l(16_384, 16_384)]),
    "lossy webp": made.riff([(b"VP8 ", b"\x10\0\0\x9d\1\x2a\xff\x3f\xff\x3f" + bytes(20))]),
    "bmp header": made.bmp(b"", 60_000, 60_000, 24),
    "bmp header, top down": made.bmp(b"", 60_000, -60_000, 1),
    "tiff header": tiff_claiming(t256=60_000, t257=60_000),
    "ppm header": b"P6 60000 60000 255\n123",
}
# Small pictures whose decoding would take much memory.
ONE_HUGE_TILE: made.Tags = {
    **{256: (3, [16]), 257: (3, [16]), 258: (3, [8]), 259: (3, [8]), 262: (3, [1])},
    **{322: (4, [8192]), 323: (4, [8192]), 324: (4, [0]), 325: (4, [0])},
}
TILE = zlib.compress(bytes(8192 * 8192), 1)
ONE_HUGE_TILE |= {324: (4, [made.tiff_start(ONE_HUGE_TILE)]), 325: (4, [len(TILE)])}
MANY_STRIPS: made.Tags = {257: (4, [300_000]), 278: (3, [1]), 279: (3, [1] * 300_000)}
TEXT = made.chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 24), 9))
TRAPS = {
    "tiff tile": made.tiff(ONE_HUGE_TILE, TILE),
    "tiff strips": made.tiff_strip(b"", 1, 300_000, MANY_STRIPS),
    "webp frame": made.riff([made.vp8x(16, 16), made.vp8l(16_384, 16_384)]),
    "bmp palette": made.bmp(b"", 1, 1, 8)[:46] + b"\xff" * 4 + made.bmp(b"", 1, 1, 8)[50:],
}
HARMLESS = {"png text": PNG[:33] + 100 * TEXT + PNG[33:-12] + 100 * TEXT + PNG[-12:]}

MEASURE = """
import json, resource, sys, time
from pathlib import Path
from models.images.decoding import decode
from models.images.errors import PictureError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

results = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    before, start = peak(), time.perf_counter()
    try:
        outcome = type(decode(data)).__name__
    except PictureError as error:
        outcome = type(error).__name__
    results[path.name] = outcome, time.perf_counter() - start, peak() - before
print(json.dumps(results))
"""


def test_bombs_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    # All white, 20,000 × 20,000 at one bit: 50 MB of rows in some 50 kB, and 400 MB once decoded.
    rows = zlib.compress((b"\0" + b"\xff" * 2500) * 20_000)
    real = made.png_header(20_000, 20_000, 1, 0) + made.chunk(b"IDAT", rows)
    bombs = BOMBS | {"png": real + made.chunk(b"IEND", b"")}
    for name, data in (bombs | TRAPS | HARMLESS).items():
        (tmp_path / name).write_bytes(data)
    # In a separate process: only the peak of a fresh one shows allocations in Pillow's C code.
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stderr == ""
    results = json.loads(done.stdout)
    expected = dict.fromkeys(bombs, "TooManyPixels") | dict.fromkeys(TRAPS, "NotAPicture")
    expected |= dict.fromkeys(HARMLESS, "Picture")
    assert {name: outcome for name, (outcome, _, _) in results.items()} == expected
    for name, (_, seconds, megabytes) in results.items():
        assert seconds < 0.5, name
        assert megabytes < 16, name


JPEG = save(noise(16, 16), "JPEG")
PROGRESSIVE = save(noise(16, 16), "JPEG", progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (PNG[:33] + 70_000 * made.chunk(b"teXt", b"") + PNG[33:], "chunks"),
        (JPEG[:2] + 70_000 * made.segment(0xE1, b"Exif\0\0ab") + JPEG[2:], "segments"),
        (PROGRESSIVE[:-2] + 200 * LAST_SCAN + PROGRESSIVE[-2:], "100 scans"),
        (save(RGB, "GIF")[:-1] + 70_000 * b"!\xfe\1a\0" + b";", "blocks"),
        (made.riff([made.vp8x(1, 1), *([(b"JUNK", b"")] * 70_000)]), "chunks"),
    ],
)
def test_files_with_countless_parts(data: bytes, found: str) -> None:
    with pytest.raises(NotAPicture, match=f"more than.*{found}"):
        decode(data)


# --- hostile bytes ---------------------------------------------------------------------------

SMALL = noise(4, 3, 3)
EXIF = made.exif(6)
CORPUS = {
    "png": made.png(SMALL, 8, 2, made.chunk(b"eXIf", EXIF)),
    "png palette": save_image(paletted(SMALL[..., 0] % 8), "PNG", transparency=b"\0\x80\xff"),
    "png grey 16": made.png(GREY16[:3, :3, None], 16, 0, made.chunk(b"tRNS", b"\1\2")),
    "png interlaced": made.png_interlaced(SMALL),
    "jpeg": save(SMALL, "JPEG", exif=b"Exif\0\0" + EXIF),
    "jpeg progressive": save(SMALL, "JPEG", progressive=True),
    "webp": save(SMALL, "WEBP", lossless=True, exif=EXIF),
    "webp alpha": save(noise(4, 3, 4), "WEBP", quality=50),
    "bmp": save(SMALL, "BMP"),
    "bmp palette": save_image(paletted(SMALL[..., 0] % 4, PALETTE[:4]), "BMP"),
    "gif": save_image(paletted(SMALL[..., 0] % 4, PALETTE[:4]), "GIF", transparency=1),
    "tiff": made.tiff_strip(SMALL.tobytes(), 3, 4, {**PLANES, 284: (3, [1]), 274: (3, [8])}),
    "tiff big-endian": made.tiff_strip(GREY16.tobytes(), 7, 5, {258: (3, [16])}, ">"),
    "tiff lzw": save(SMALL, "TIFF", compression="tiff_lzw"),
    "tiff deflate": save(noise(9, 9), "TIFF", compression="tiff_adobe_deflate"),
    "tiff packbits": save(ONE_BIT, "TIFF", compression="packbits"),
    "tiff tiled": made.tiff_tiled(noise(5, 17), 16),
    "pbm": save(ONE_BIT, "PPM"),
    "pgm": save(GREY, "PPM"),
    "pgm 16": b"P5 #c\n7 5 65535\n" + GREY16.tobytes(),
    "ppm": save(SMALL, "PPM"),
}
POLLUTER = made.png(noise(64, 64, 3), 8, 2)
each_file = pytest.mark.parametrize("name", CORPUS)


def survives(data: bytes) -> bool:
    """Assert that ``data`` gives a sound picture or is refused; return which."""
    picture, cause = None, None
    try:
        picture = decode(data, max_pixels=1_000_000)
    except PictureError as error:
        cause = error.__cause__
    # Warnings are errors here. A server's filters would ignore them and the bytes might pass, so
    # the readers must leave Pillow nothing to warn about.
    assert not isinstance(cause, Warning), cause
    if picture is None:
        return False
    assert len(picture.pixels) == picture.values * picture.bits // 8
    assert picture.array().shape == (picture.height, picture.width, picture.channels)
    # Nothing is read from memory that an earlier picture left behind.
    decode(POLLUTER)
    assert decode(data) == picture
    return True


@each_file
def test_corpus_is_sound(name: str) -> None:
    assert survives(CORPUS[name])


@each_file
def test_truncation_at_every_byte(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = CORPUS[name]
    passed = [end for end in range(len(data)) if survives(data[:end])]
    # Only padding after the pixels may be missing.
    assert all(decode(data[:end]) == decode(data) for end in passed)
    # Only libtiff writes a line about each damaged strip, which cannot be prevented.
    assert capfd.readouterr().err == "" or name.startswith("tiff")


@each_file
def test_random_damage(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(list(name.encode()))
    data = CORPUS[name]
    outcomes = set()
    for _ in range(250):
        damaged = bytearray(data)
        for _ in range(random.integers(1, 4)):
            damaged[random.integers(len(data))] = random.integers(256)
        if random.random() < 0.2:
            start, end = sorted(random.integers(len(data), size=2))
            damaged[start:end] = b""
        outcomes.add(survives(bytes(damaged)))
        if name.startswith("png"):  # otherwise no damage would get past the checksums
            outcomes.add(survives(made.png_repaired(bytes(damaged))))
    assert outcomes == {True, False}
    assert capfd.readouterr().err == "" or name.startswith("tiff")


def test_gif_without_its_trailer() -> None:
    assert CORPUS["gif"].endswith(b"\0;")
    assert decode(CORPUS["gif"][:-1]) == decode(CORPUS["gif"])


def test_pixels_left_out_are_zero() -> None:
    short = made.png_header(7, 6, 8, 2) + PNG[33:]
    check(short, np.concatenate([RGB, np.zeros((1, 7, 3), np.uint8)]))
    assert survives(short)
    # A 1 × 1 frame in the corner of a 3 × 4 screen: clear code, pixel 1, end.
    screen = b"GIF89a\3\0\4\0\x80\0\0" + bytes([10, 20, 30, 40, 50, 60])
    gif = screen + b"," + bytes(4) + b"\1\0\1\0\0\2\2\x4c\1\0;"
    expected = np.tile(np.array([10, 20, 30], np.uint8), (4, 3, 1))
    expected[0, 0] = 40, 50, 60
    check(gif, expected)
    assert survives(gif)


def test_garbage_after_the_signature() -> None:
    random = np.random.default_rng(7)
    magic = [b"", b"BM", b"P5 ", b"P6 9 9 255 ", b"GIF89a", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]
    magic += [b"\xff\xd8\xff", made.PNG, b"RIFF\x40\0\0\0WEBPVP8 ", b"RIFF\x40\0\0\0WEBPVP8X"]
    for start in magic:
        for _ in range(30):
            survives(start + random.bytes(int(random.integers(120))))


def test_polyglots_are_only_their_picture() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.txt", "x" * 100)
    for trailer in (archive.getvalue(), b"<html><script>alert(1)</script>", PNG, CORPUS["gif"]):
        for name in ("png", "jpeg", "webp", "gif", "bmp", "pgm", "tiff"):
            assert decode(CORPUS[name] + trailer) == decode(CORPUS[name])
    html = b"<html><script>alert('hello')</script>"
    html = b"!\xfe" + bytes([len(html)]) + html + b"\0"
    gif = CORPUS["gif"]
    start = 13 + (6 << (gif[10] & 7))
    assert decode(gif[:start] + html + gif[start:]) == decode(gif)


# --- the picture -----------------------------------------------------------------------------


def test_picture() -> None:
    picture = decode(PNG)
    assert (picture.width, picture.height, picture.mode, picture.bits) == (7, 5, "RGB", 8)
    assert (picture.channels, picture.values) == (3, 105)
    assert picture.digest == hashlib.sha256(b"7 5 RGB 8\n" + RGB.tobytes()).hexdigest()
    assert "pixels" not in repr(picture)
    assert not picture.array().flags.writeable
    with pytest.raises(FrozenInstanceError):
        picture.width = 8  # type: ignore[misc]


def test_digests_differ_by_shape_and_depth() -> None:
    pixels = bytes(range(12))
    shapes = [(12, 1, "L", 8), (6, 2, "L", 8), (2, 6, "L", 8), (4, 1, "RGB", 8), (6, 1, "L", 16)]
    digests = {Picture(w, h, mode, bits, pixels).digest for w, h, mode, bits in shapes}  # type: ignore[arg-type]
    assert len(digests) == len(shapes)


def test_threads_decode_alike() -> None:
    files = [*CORPUS.values(), save(noise(200, 300, 3), "JPEG"), save(noise(90, 80, 4), "WEBP")]
    alone = [decode(data).digest for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data).digest, files * 8))
    assert together == alone * 8
