"""The page shows the pixels of a file that the service decodes."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.models.images import pictures as made
from tests.models.images.pictures import noise, save

ADDRESS = "/page/picture"


def shown(client: httpx.Client, content: bytes) -> Image.Image:
    kind = {"Content-Type": "application/octet-stream"}
    response = client.post(ADDRESS, content=content, headers=kind)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "image/png"
    return Image.open(io.BytesIO(response.content))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_small_pictures_are_shown_exactly(client: httpx.Client, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    np.testing.assert_array_equal(np.asarray(shown(client, save(pixels, "TIFF"))), pixels)
    turned = shown(client, save(pixels, "TIFF", tiffinfo={274: 6}))
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(pixels, -1))


def test_of_sixteen_bits_the_upper_eight_are_shown(client: httpx.Client) -> None:
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = shown(client, made.png(pixels[..., None], 16, 0))
    np.testing.assert_array_equal(np.asarray(image), pixels >> 8)


def test_large_pictures_are_shown_smaller(client: httpx.Client) -> None:
    pixels = np.kron(noise(30, 20), np.ones((150, 150), np.uint8))
    image = shown(client, save(pixels, "PNG"))
    assert image.size == (750, 1125)
    assert abs(int(image.getpixel((0, 0))) - int(pixels[0, 0])) <= 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "status", "name"),
    [
        (b"no picture", 400, "not-a-picture"),
        (made.png_header(60_000, 60_000, 8, 0), 413, "too-many-pixels"),
        (made.png(noise(3, 3, 3).astype(np.uint16), 16, 2), 422, "cannot-certify-preprocessing"),
    ],
)
def test_what_cannot_be_shown(client: httpx.Client, content: bytes, status: int, name: str) -> None:
    content += made.chunk(b"IDAT", b"") + made.chunk(b"IEND", b"") if status == 413 else b""
    response = client.post(ADDRESS, content=content, headers={"Content-Type": "image/png"})
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{name}")
