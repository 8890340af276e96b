"""The service decodes the same pixels that the application holds."""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.images.decoding import decode
from pixeldp_client._pictures import encode


def values(*shape: int, kind: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape, dtype=kind)


@pytest.mark.parametrize(
    "array",
    [
        values(5, 7),
        values(5, 7, 1),
        values(5, 7, 3),
        values(5, 7, kind="uint16"),
        values(5, 7, kind="uint16").astype(">u2"),
        values(10, 14)[::2, ::-2],
        values(7, 5, 3).swapaxes(0, 1),
        np.asfortranarray(values(5, 7, 3)),
    ],
)
def test_arrays(array: np.ndarray) -> None:
    picture = decode(encode(array))
    assert (picture.array() == array.reshape(picture.array().shape)).all()
    assert picture.bits == 8 * array.itemsize


@pytest.mark.parametrize(
    "array",
    [
        values(5, 7).astype(float),
        values(5, 7) > 100,
        values(5, 7, 4),
        values(5, 7, 2),
        values(5, 7, 3, kind="uint16"),
        values(5, 7).astype(np.int64),
        values(2, 5, 7, 3),
        values(5),
        np.zeros((0, 7), np.uint8),
    ],
)
def test_arrays_that_are_not_pictures(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"not a picture|has no pixels"):
        encode(array)


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "I;16"])
def test_pillow_images(mode: str) -> None:
    kind = "uint16" if mode == "I;16" else "uint8"
    image = Image.fromarray(values(5, 7, *[3] * (mode == "RGB"), kind=kind))
    image = image.convert(mode)
    picture = decode(encode(image)).array()
    exact = np.asarray(image)
    if mode == "1":
        exact = exact * 255
    assert (picture == exact.reshape(picture.shape)).all()


def test_transparency_is_left_to_the_service() -> None:
    image = Image.fromarray(values(5, 7, 4), "RGBA")
    file = io.BytesIO()
    image.save(file, "PNG")
    assert decode(encode(image)).digest == decode(file.getvalue()).digest


STALE = {
    "1": [0, 255, (0, 0, 0), "no colour"],
    "L": [100, (100, 100, 100), b"\0"],
    "RGB": [(10, 20, 30), 10, b"\0"],
    "I;16": [1000],
    "LA": [100],
    "RGBA": [(10, 20, 30), 3],
}


@pytest.mark.parametrize(
    ("mode", "transparency"), [(mode, value) for mode, kinds in STALE.items() for value in kinds]
)
def test_a_transparent_colour_beside_the_pixels_is_not_applied(
    mode: str, transparency: Any
) -> None:
    colours = {"RGB": (10, 20, 30), "RGBA": (10, 20, 30, 255), "LA": (100, 255), "I;16": 1000}
    plain = Image.new(mode, (4, 3), colours.get(mode, 0 if mode == "1" else 100))
    expected = decode(encode(plain)).pixels
    assert any(expected) == (mode != "1")
    plain.info["transparency"] = transparency
    assert decode(encode(plain)).pixels == expected


def test_a_transparent_colour_left_by_a_conversion_is_not_applied() -> None:
    paletted = Image.fromarray(values(5, 7) // 64).convert("P")
    paletted.info["transparency"] = 0
    image = paletted.convert("RGB")
    assert "transparency" in image.info, "Pillow carries it over"
    assert (decode(encode(image)).array() == np.asarray(image)).all()


def test_a_palettes_transparency_is_applied() -> None:
    image = Image.fromarray(values(5, 7) // 64).convert("P")
    for transparency in (2, bytes([255, 0, 128, 7])):
        image.info["transparency"] = transparency
        assert decode(encode(image)).digest == decode(encode(image.convert("RGBA"))).digest
    image.info["transparency"] = (1, 2, 3)
    assert (decode(encode(image)).array() == np.asarray(image.convert("RGB"))).all()


def test_open_files_are_read_from_their_position(tmp_path: Path, seven: bytes) -> None:
    (tmp_path / "a.png").write_bytes(seven)
    assert encode(io.BytesIO(seven)) == seven
    with (tmp_path / "a.png").open("rb") as file:
        assert encode(file) == seven
    with (tmp_path / "a.png").open("rb", buffering=0) as file:
        assert encode(file) == seven
    with tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(b"head" + seven)
        with pytest.raises(ValueError, match=r"nothing left to read; call seek\(0\)"):
            encode(spooled)
        spooled.seek(4)
        assert encode(spooled) == seven
    with pytest.raises(TypeError, match="open it in binary mode"):
        encode(io.StringIO("text"))  # type: ignore[arg-type]


def test_an_orientation_beside_the_pixels_is_not_applied() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values(5, 7)).save(file, "PNG", exif=exif)
    image = Image.open(file)
    assert decode(file.getvalue()).width == 5
    assert (decode(encode(image)).array()[..., 0] == np.asarray(image)).all()


@pytest.mark.parametrize("mode", ["CMYK", "F", "HSV", "YCbCr", "LAB", "I"])
def test_modes_that_no_file_format_stores_exactly(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode} has no exact form"):
        encode(Image.new(mode, (3, 3)))


@pytest.mark.parametrize("image", [None, 7, 1.5, ["7.png"], object()])
def test_input_that_is_not_a_picture(image: Any) -> None:
    with pytest.raises(TypeError, match="a picture must be"):
        encode(image)


def test_a_path_that_does_not_exist() -> None:
    with pytest.raises(FileNotFoundError):
        encode("no/such/file.png")
