"""What h sees of a picture by intervals: from its definition, and in training."""

import numpy as np
import pytest
import torch

from models.certification.laws.interval import UNITS
from models.mechanisms.interval import WHOLE, Boxes, enclose
from models.noise import Features, Keystream


def pictures(count: int, values: int) -> list[Features]:
    rng = np.random.default_rng(0)
    return [
        Features(
            rng.integers(0, 256, values).astype(np.int32),
            on_grid=True,
            numbers=rng.integers(0, UNITS + 1, 5),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("scale", [1.0, 0.12, 1 / UNITS])
def test_boxes_agree_with_their_definition(scale: float) -> None:
    boxes, shown = Boxes(scale), pictures(3, 12)
    rows = np.array([0, 1, 1, 2, 0, 2, 2, 1])
    seen = boxes.draw(shown, rows)
    assert np.array_equal(seen, boxes.reference(shown, rows, np.empty(0), Keystream(bytes(32))))
    seen = seen.astype(np.int64)
    lower, upper = (seen[:, :12] - seen[:, 12:]) // 2, (seen[:, :12] + seen[:, 12:]) // 2
    assert (lower >= 0).all()
    assert (upper <= UNITS).all()
    pixels = np.stack([one.steps for one in shown])[rows] * 200
    assert (lower <= pixels).all()
    assert (pixels <= upper).all()
    # The third box of picture 1 is that of row 7.
    radius = shown[1].numbers[2]
    assert np.array_equal(upper[7], np.minimum(pixels[7] + radius, UNITS))
    assert np.array_equal(lower[7], np.maximum(pixels[7] - radius, 0))


def test_a_box_has_every_picture_that_is_no_further_away_and_no_other() -> None:
    """Pixels are bytes: a change of j/255 is inside from the radius of 200·j on, and not before."""
    step = UNITS // 255
    for radius, inside in ((step * 3, 3), (step * 3 - 1, 2), (0, 0)):
        shown = Features(np.array([100], dtype=np.int32), on_grid=True, numbers=np.array([radius]))
        middle, reach = Boxes(1.0).draw([shown], np.zeros(1, dtype=np.intp))[0].tolist()
        within = [byte for byte in range(256) if abs(2 * step * byte - middle) <= reach]
        assert within == list(range(100 - inside, 101 + inside))


def test_training_shows_h_what_serving_does() -> None:
    shown = pictures(4, 60)
    values = (
        torch.from_numpy(np.stack([one.steps for one in shown])).float().reshape(4, 3, 4, 5) / 255
    )
    for radius in (0.0, 0.1):
        served = Boxes(0.1).draw(
            [Features(one.steps, True, np.array([round(radius * UNITS)])) for one in shown],
            np.arange(4),
        )
        trained = enclose(values, radius).flatten(1)
        assert np.allclose(served / WHOLE, trained.numpy(), atol=1e-7)
