"""What h sees under split noise: from tables, from the definition, and in training."""

from typing import Any

import numpy as np
import pytest
import torch

from models.certification.laws.split import LEVELS
from models.mechanisms import split
from models.mechanisms.split import UNIT, SplitNoise
from models.noise import Features, Keystream


def pictures(count: int, values: int, seed: int, draws: int) -> list[Features]:
    rng = np.random.default_rng(seed)
    return [
        Features(
            rng.integers(0, LEVELS + 1, values).astype(np.int32),
            on_grid=True,
            numbers=rng.permutation(draws)[:7],
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_tables_agree_with_the_definition(scale: float) -> None:
    rng = np.random.default_rng(0)
    noise = SplitNoise(scale, rng.integers(-(2**31), 2**31 - 1, 12))
    shown = pictures(3, 12, 1, noise.draws)
    rows = np.array([0, 1, 1, 2, 0, 2, 2, 1])
    seen = noise.draw(shown, rows)
    assert np.array_equal(seen, noise.reference(shown, rows, np.empty(0), Keystream(bytes(32))))
    assert seen.min() == 0
    assert seen.max() * UNIT < 1
    assert (seen[:, :12] * seen[:, 12:] == 0).all()


def test_each_draw_has_its_own_number_whatever_shares_the_pass() -> None:
    noise = SplitNoise(1.0, np.arange(5) * 91)
    one, other = pictures(2, 5, 2, noise.draws)
    alone = noise.draw([one], np.zeros(7, dtype=np.intp))
    together = noise.draw([other, one], np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1]))
    assert np.array_equal(together[3:], alone)
    # Padding repeats the draws of a picture.
    padded = noise.draw([one], np.zeros(9, dtype=np.intp))
    assert np.array_equal(padded[:7], alone)
    assert np.array_equal(padded[7:], alone[:2])


def test_training_shows_h_what_serving_does(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shape, scale = (3, 4, 5), 2.0
    template = split.draw_template(shape, scale)
    noise = SplitNoise(scale, template.numpy())
    numbers = np.array([0, 3, 500, 1019])
    shown = [
        Features(picture.steps, on_grid=True, numbers=numbers[[index]])
        for index, picture in enumerate(pictures(4, 60, 3, noise.draws))
    ]
    served = noise.draw(shown, np.arange(4)) * UNIT

    def drawn(_: int, size: tuple[int, ...], **__: Any) -> torch.Tensor:
        return torch.from_numpy(numbers).reshape(size)

    monkeypatch.setattr(torch, "randint", drawn)
    values = torch.from_numpy(np.stack([picture.steps for picture in shown])).float() / LEVELS
    seen = split.perturb(values.reshape(4, *shape), template, scale)
    assert seen.shape == (4, *split.seen_shape(shape))
    assert seen.reshape(4, -1).numpy() == pytest.approx(served, abs=1e-6)


def test_attacks_have_a_gradient() -> None:
    values = torch.full((2, 1, 3, 3), 0.5, requires_grad=True)
    seen = split.perturb(values, split.draw_template((1, 3, 3), 0.5), 0.5)
    (gradient,) = torch.autograd.grad(seen[:, :1].sum() - seen[:, 1:].sum(), values)
    assert (gradient > 0).all()
