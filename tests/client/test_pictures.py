"""What an application holds and what the service decodes are the same pixels."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.images import decode
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
def test_arrays_that_are_no_pictures(array: np.ndarray) -> None:
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


def test_an_orientation_beside_the_pixels_is_not_applied() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values(5, 7)).save(file, "PNG", exif=exif)
    image = Image.open(file)
    assert decode(file.getvalue()).width == 5
    assert (decode(encode(image)).array()[..., 0] == np.asarray(image)).all()


@pytest.mark.parametrize("mode", ["CMYK", "F", "HSV", "YCbCr", "LAB", "I"])
def test_modes_that_no_file_holds_exactly(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode} has no exact form"):
        encode(Image.new(mode, (3, 3)))


@pytest.mark.parametrize("image", [None, 7, 1.5, ["7.png"], object()])
def test_what_is_no_picture(image: Any) -> None:
    with pytest.raises(TypeError, match="a picture must be"):
        encode(image)


def test_a_path_that_leads_nowhere() -> None:
    with pytest.raises(FileNotFoundError):
        encode("no/such/file.png")
