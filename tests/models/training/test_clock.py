"""A training that follows the clock: it ends in time, and rates and noise have run their course."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.data.datasets import load
from models.training import loop
from models.training.loop import Training, train
from models.training.recipe import Recipe, find_recipe

TICK = 0.01


class Clock:
    """A clock that goes on by ``TICK`` whenever anybody looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += TICK
        return self.now

    def process_time(self) -> float:
        return self.now


def watched(recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train; return learning rates and scales of the noise of all steps, and the record."""
    rates: list[float] = []
    scales: list[float] = []
    step = Training._step

    def note(self: Any, batch: torch.Tensor, number: int) -> Any:
        rates.append(self._optimiser.param_groups[0]["lr"])
        scales.append(self._scale(number))
        return step(self, batch, number)

    monkeypatch.setattr(Training, "_step", note)
    monkeypatch.setattr(loop, "time", Clock())
    manifest = train(recipe, load("digits", None, "train"), out)
    return rates, scales, manifest.training


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_rates_and_noise_follow_the_clock(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = find_recipe("digits").changed(
        precision="float32", seconds=seconds, epochs=10, noise_warm_up=5
    )
    rates, scales, record = watched(recipe, tmp_path / "out", monkeypatch)
    assert seconds / (8 * TICK) < len(rates) < seconds / TICK
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(recipe.optimiser.learning_rate, rel=0.05)
    assert rates[-1] < max(rates) / 20
    # The noise has grown after half of the time.
    assert scales[0] < scales[-1] / 5
    full = scales.index(max(scales)) / len(scales)
    assert 0.4 < full < 0.6
    assert seconds <= record["seconds"] < 1.3 * seconds
    assert record["recipe"]["seconds"] == seconds


def test_a_training_by_the_clock_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = find_recipe("digits").changed(precision="float32", seconds=2.0)
    written: list[int] = []
    write = loop.write_checkpoint

    def interrupt(*arguments: Any) -> None:
        write(*arguments)
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "write_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        watched(recipe, tmp_path / "out", monkeypatch)
    monkeypatch.undo()
    monkeypatch.setattr(loop, "time", Clock())
    data = load("digits", None, "train")
    record = train(recipe, data, tmp_path / "out", resume=True).training
    assert 2.0 <= record["seconds"] < 2.6
