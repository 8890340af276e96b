"""The noise kernel's own source on the processor, compared with another ChaCha20."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.cuda.passes import Laid
from models.cuda.tables import make_tables, reference, uniforms
from models.noise import PIXEL_STEP, Features, GridNoise
from tests.models.cuda.host import HostCard
from tests.models.cuda.test_tables import GRIDS, IDS

KEY = bytes(range(32))


@pytest.fixture(scope="module", params=GRIDS, ids=IDS)
def grid(request: pytest.FixtureRequest) -> GridNoise:
    return GridNoise(*request.param)


class Kernel:
    """The kernel's own source on the processor."""

    def __init__(self, grid: GridNoise) -> None:
        self.card = HostCard()
        self.laid = Laid(self.card, grid, make_tables(grid.mechanism, grid.scale, grid.step))
        self.number = torch.zeros(1, dtype=torch.int64)
        self.told = torch.zeros(40, dtype=torch.uint8)

    def draw(
        self,
        pictures: list[Features],
        rows: NDArray[np.intp],
        kind: torch.dtype = torch.int32,
    ) -> NDArray[Any]:
        """Draw a pass with KEY, [rows, m]."""
        held = [one.steps.astype(np.uint8) if one.on_grid else one.steps for one in pictures]
        at = [a.ctypes.data + (not one.on_grid) for a, one in zip(held, pictures, strict=True)]
        addresses = np.array([at[row] for row in rows], np.uint64).view(np.uint8)
        given = torch.from_numpy(np.concatenate([np.frombuffer(KEY, np.uint8), addresses]))
        width = len(pictures[0].steps)
        out = torch.zeros(len(rows) * width, dtype=kind)
        self.card.draw(self.laid.drawing(given, self.number, self.told, out, width))
        self.card.end_pass(self.number.data_ptr())
        return (
            out.view(torch.uint16 if kind == torch.bfloat16 else kind)
            .numpy()
            .reshape(len(rows), width)
        )


def make_features(grid: GridNoise, width: int) -> list[Features]:
    """Pictures on and off the grid, with values that a network's features may have."""
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
def test_every_coordinate_is_that_of_the_reference(grid: GridNoise, width: int) -> None:
    pictures = make_features(grid, width)
    rows = np.random.default_rng(1).integers(4, size=max(3, 40_000 // width))
    kernel = Kernel(grid)
    for number in (0, 1, 2):
        drawn = uniforms(KEY, number, len(rows) * width)
        found = kernel.draw(pictures, rows)
        assert np.array_equal(found, expected(grid, pictures, rows, drawn))
        # The key and the nonce are returned unchanged, and the nonce is never used again.
        assert kernel.told[:32].numpy().tobytes() == KEY
        assert kernel.told[32:].view(torch.int64).item() == number
        assert kernel.number[0] == number + 1


def test_a_nonce_beyond_32_bits() -> None:
    grid = GridNoise("gaussian", 0.5, PIXEL_STEP, 1.0)
    kernel, pictures = Kernel(grid), make_features(grid, 100)
    rows = np.array([0, 3, 1])
    kernel.number[0] = 2**32 + 5
    drawn = uniforms(KEY, 2**32 + 5, 300)
    found = kernel.draw(pictures, rows)
    assert np.array_equal(found, expected(grid, pictures, rows, drawn))


def test_h_is_given_the_product_with_the_step_in_its_format() -> None:
    grid = GridNoise("gaussian", 0.37, 0.37 / 64, 256 * 0.37)
    for width in (3, 64):
        pictures = make_features(grid, width)
        rows = np.arange(4 * 50) % 4
        steps = torch.from_numpy(expected(grid, pictures, rows, uniforms(KEY, 0, 200 * width)))
        exact = steps.to(torch.float32).mul_(grid.step)
        single = Kernel(grid).draw(pictures, rows, torch.float32)
        assert np.array_equal(single, exact.numpy())
        half = Kernel(grid).draw(pictures, rows, torch.bfloat16)
        assert np.array_equal(half, exact.to(torch.bfloat16).view(torch.uint16).numpy())


def test_rare_uniforms_are_drawn_as_the_reference_draws_them() -> None:
    """Cells of both tails and the median, and cells that thresholds divide, by their frequency."""
    grid = GridNoise("laplace", 1.0, 1.0, 4.0)
    kernel = Kernel(grid)
    pictures, rows = make_features(grid, 3000), np.resize([0, 1, 2, 3], 400)
    drawn = uniforms(KEY, 0, 400 * 3000)
    cells = (drawn >> np.uint64(48)).astype(int)
    # The keystream reaches the outermost cells, where a search takes the most steps.
    assert {0, 1, 32767, 32768, 65534, 65535} <= set(cells.tolist())
    assert np.array_equal(kernel.draw(pictures, rows), expected(grid, pictures, rows, drawn))
