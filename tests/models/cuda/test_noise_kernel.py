"""The noise kernel's own source on the processor, against another ChaCha20 and the reference."""

import shutil

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.cuda.tables import make_tables, reference, uniforms
from models.noise import PIXEL_STEP, Features, GridNoise
from tests.models.cuda.host import BFLOAT16, FLOAT32, Host, build
from tests.models.cuda.test_tables import GRIDS, IDS

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> object:
    if shutil.which("g++") is None:
        pytest.fail("these tests need g++")
    return build(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module", params=GRIDS, ids=IDS)
def grid(request: pytest.FixtureRequest) -> GridNoise:
    return GridNoise(*request.param)


def host(library: object, grid: GridNoise) -> Host:
    tables = make_tables(grid.mechanism, grid.scale, grid.step)
    return Host(library, tables, grid.low, grid.high, grid.step)  # type: ignore[arg-type]


def make_features(grid: GridNoise, width: int) -> list[Features]:
    """Pictures on the grid and between, with values that a network's features may have."""
    rng = np.random.default_rng(width)
    most = int(grid._largest * 4112)
    on_grid = [rng.integers(256, size=width), np.resize([0, 255], width)]
    between = [rng.integers(-most, most + 1, size=width), np.resize([-most, most, 0], width)]
    return [Features(one.astype(np.int32), on_grid=True) for one in on_grid] + [
        Features(one.astype(np.int32), on_grid=False) for one in between
    ]


def expected(
    grid: GridNoise, pictures: list[Features], rows: NDArray[np.intp], drawn: NDArray[np.uint64]
) -> NDArray[np.int32]:
    each = drawn.reshape(len(rows), -1)
    made = np.zeros(each.shape, np.int32)
    for index, picture in enumerate(pictures):
        own = each[rows == index]
        features = np.tile(picture.steps.astype(np.int64), len(own))
        found = reference(grid, features, picture.on_grid, own.ravel())
        made[rows == index] = found.reshape(own.shape)
    return made


@pytest.mark.parametrize("width", [1, 7, 8, 784, 3072, 1001])
def test_every_coordinate_is_that_of_the_reference(
    library: object, grid: GridNoise, width: int
) -> None:
    pictures = make_features(grid, width)
    rows = np.random.default_rng(1).integers(4, size=max(3, 40_000 // width))
    kernel = host(library, grid)
    for number in (0, 1, 2):
        drawn = uniforms(KEY, number, len(rows) * width)
        found = kernel.draw(pictures, rows, KEY)
        assert np.array_equal(found, expected(grid, pictures, rows, drawn))
        # The key and the nonce are told as they were, and the nonce is never used again.
        assert kernel.told[:8].tobytes() == KEY
        assert kernel.told[8:].view(np.uint64)[0] == number
        assert kernel.number[0] == number + 1


def test_a_nonce_beyond_32_bits(library: object) -> None:
    grid = GridNoise("gaussian", 0.5, PIXEL_STEP, 1.0)
    kernel, pictures = host(library, grid), make_features(grid, 100)
    rows = np.array([0, 3, 1])
    kernel.number[0] = 2**32 + 5
    drawn = uniforms(KEY, 2**32 + 5, 300)
    found = kernel.draw(pictures, rows, KEY)
    assert np.array_equal(found, expected(grid, pictures, rows, drawn))


def test_what_h_is_given_is_the_product_with_the_step_in_its_format(library: object) -> None:
    grid = GridNoise("gaussian", 0.37, 0.37 / 64, 256 * 0.37)
    for width in (3, 64):
        pictures = make_features(grid, width)
        rows = np.arange(4 * 50) % 4
        steps = torch.from_numpy(expected(grid, pictures, rows, uniforms(KEY, 0, 200 * width)))
        exact = steps.to(torch.float32).mul_(grid.step)
        single = host(library, grid).draw(pictures, rows, KEY, FLOAT32)
        assert np.array_equal(single, exact.numpy())
        half = host(library, grid).draw(pictures, rows, KEY, BFLOAT16)
        assert np.array_equal(half, exact.to(torch.bfloat16).view(torch.uint16).numpy())


def test_rare_uniforms_are_drawn_as_the_reference_draws_them(library: object) -> None:
    """Cells of both tails, of the median, and those that thresholds divide: by their frequency."""
    grid = GridNoise("laplace", 1.0, 1.0, 4.0)
    kernel = host(library, grid)
    pictures, rows = make_features(grid, 3000), np.resize([0, 1, 2, 3], 400)
    drawn = uniforms(KEY, 0, 400 * 3000)
    cells = (drawn >> np.uint64(48)).astype(int)
    # The keystream reaches the outermost cells, where a search has the most steps.
    assert {0, 1, 32767, 32768, 65534, 65535} <= set(cells.tolist())
    assert np.array_equal(kernel.draw(pictures, rows, KEY), expected(grid, pictures, rows, drawn))
