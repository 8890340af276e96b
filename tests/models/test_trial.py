"""The trial detects, on the h that serves, whatever makes h more than a function of one row."""

import copy
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.bundle import ZOO, BundleError
from models.calibration import calibrate
from models.loaded import load_model
from models.predictor import Predictor
from models.trial import RowsError, codes, try_rows

ROWS, VALUES = 24, 6


class Written(nn.Module):
    """h as a function, with a buffer that it may change."""

    def __init__(self, function: Callable[["Written", Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("state", torch.zeros(VALUES))
        self.plain = torch.zeros(1)
        self.calls = 0

    def forward(self, noisy: Tensor) -> Tensor:
        """Return logits."""
        return self.function(self, noisy)


def trial(network: nn.Module, alone: int = 0, rows: int = ROWS) -> None:
    noisy = torch.randn(rows, VALUES, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        try_rows(network, noisy, network, alone)


def pairwise(one: int, other: int) -> Callable[[Written, Tensor], Tensor]:
    """Only row ``one`` depends on another row, ``other``."""

    def function(_: Written, noisy: Tensor) -> Tensor:
        out = noisy.clone()
        out[one] += 1e-6 * noisy[other]
        return out

    return function


def interleaved(_: Written, noisy: Tensor) -> Tensor:
    groups = noisy.reshape(-1, 2, VALUES)
    return (groups - groups.mean(0)).reshape(-1, VALUES)


def opposite(_: Written, noisy: Tensor) -> Tensor:
    return noisy + noisy.roll(len(noisy) // 2, 0)


def above_eight(_: Written, noisy: Tensor) -> Tensor:
    return noisy - noisy.mean(0) if len(noisy) > 8 else noisy


def quantised(_: Written, noisy: Tensor) -> Tensor:
    scale = noisy.abs().max() / 127
    return (noisy / scale).round() * scale


MIXING = {
    "interleaved": interleaved,
    "opposite": opposite,
    "above eight": above_eight,
    "quantised": quantised,
    "roll": lambda _, x: x.roll(1, 0),
    "mean": lambda _, x: x - 1e-6 * x.mean(0),
    "softmax": lambda _, x: x.softmax(0),
    "cumsum": lambda _, x: x.cumsum(0),
    "batch norm": lambda _, x: nn.functional.batch_norm(x, None, None, training=True),
    "place": lambda _, x: x + 1e-6 * torch.arange(len(x))[:, None],
    "attention": lambda _, x: nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])[
        0
    ],
    "copy": lambda _, x: x[torch.arange(len(x)) // 2],
}


@pytest.mark.parametrize("name", MIXING)
def test_rows_that_affect_each_other_are_found(name: str) -> None:
    with pytest.raises(RowsError, match=r"look at each other|depends on its place"):
        trial(Written(MIXING[name]))


def fixed_noise(_: Written, noisy: Tensor) -> Tensor:
    return noisy + torch.randn(noisy.shape, generator=torch.Generator().manual_seed(0))


def first_alone(_: Written, noisy: Tensor) -> Tensor:
    out = noisy.clone()
    out[0] = -out[0]
    return out


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (MIXING["place"], "as if the device rounded rows by their place.*unset MKL_CBWR"),
        (lambda _, x: x + torch.arange(len(x))[:, None], "up to 23, which .* numbers the rows"),
        (fixed_noise, "noise of the whole pass to them; remove that"),
        (lambda _, x: x / torch.arange(len(x))[:, None].sign(), "up to inf, .* one of them diff"),
        (first_alone, "treats one of them differently"),
    ],
)
def test_what_depends_on_the_place_is_advised_on(
    function: Callable[[Written, Tensor], Tensor], advice: str
) -> None:
    """Rounding needs another remedy than code that looks at the place."""
    with pytest.raises(RowsError, match="depends on its place in the pass.*" + advice):
        trial(Written(function))


@pytest.mark.parametrize("rows", [2, 3, 8, pytest.param(31, marks=pytest.mark.slow)])
def test_every_ordered_pair_of_rows_is_covered(rows: int) -> None:
    for one in range(rows):
        for other in range(rows):
            if one != other:
                with pytest.raises(RowsError):
                    trial(Written(pairwise(one, other)), rows=rows)
    trial(Written(lambda _, x: x.relu()), alone=rows, rows=rows)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 100, 256, 512])
def test_codes_distinguish_all_rows_in_few_passes(rows: int) -> None:
    kept = torch.stack(codes(rows)) if rows > 1 else torch.zeros(0, 1, dtype=torch.bool)
    assert len(kept) <= 2 * int(np.ceil(np.log2(rows)))
    covered = (kept[:, :, None] & ~kept[:, None, :]).any(0)
    assert torch.equal(covered | torch.eye(rows, dtype=torch.bool), torch.ones(rows, rows) > 0)


def shaken(state: Tensor) -> Tensor:
    return torch.randn_like(state)


def same_seed_inside(_: Written, noisy: Tensor) -> Tensor:
    """Draws random numbers and restores the generator."""
    with torch.random.fork_rng():
        return noisy + torch.rand(1)


def counted(network: Written, noisy: Tensor) -> Tensor:
    network.calls += 1
    return noisy + network.calls


CHANCE: dict[str, Callable[[Written, Tensor], Tensor]] = {
    "torch": lambda _, x: x + torch.rand(1),
    "put back": same_seed_inside,
    "numpy": lambda _, x: x + np.random.rand(),
    "random": lambda _, x: x + random.random(),
    "the system": lambda _, x: x + int.from_bytes(os.urandom(2)),
    "dropout": lambda _, x: nn.functional.dropout(x, 0.5, training=True),
    "memory": counted,
}


@pytest.mark.parametrize("name", CHANCE)
def test_an_h_that_draws_numbers_is_found(name: str) -> None:
    with pytest.raises(RowsError, match="different logits for the same noisy picture"):
        trial(Written(CHANCE[name]))


def registered(network: Written, noisy: Tensor) -> Tensor:
    network.state.add_(1)
    return noisy


def unregistered(network: Written, noisy: Tensor) -> Tensor:
    network.plain.add_(1)
    return noisy


@pytest.mark.parametrize("function", [registered, unregistered])
def test_an_h_that_changes_its_state_is_found(
    function: Callable[[Written, Tensor], Tensor],
) -> None:
    with pytest.raises(RowsError, match="changes its own weights or buffers"):
        trial(Written(function))


def test_an_h_that_fails_beside_odd_pictures_is_found() -> None:
    def failing(_: Written, noisy: Tensor) -> Tensor:
        if noisy.isnan().any():
            raise KeyError("nan")
        return noisy

    with pytest.raises(RowsError, match=r"fails on some pictures \(KeyError"):
        trial(Written(failing))


@pytest.mark.parametrize("labels", [2, 3, 10])
def test_layers_with_few_outputs_round_alike_at_every_place(labels: int) -> None:
    """Intel's MKL sums some rows of such a layer in another order, unless it is told not to."""
    generator = torch.Generator().manual_seed(0)
    for rows in (2, 7, 32) * 5:
        with torch.inference_mode():
            layer = nn.Linear(64, labels)
            layer.weight.normal_(generator=generator)
            try_rows(layer, torch.randn(rows, 64, generator=generator), layer)


def test_the_trial_changes_neither_generators_nor_pictures() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    noisy = torch.zeros(4, VALUES)
    network = nn.ReLU(inplace=True)
    try_rows(network, noisy - 1, network)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


@pytest.mark.parametrize("name", ["mnist-cnn", "cifar10-resnet"])
def test_the_shipped_models_pass_in_the_long_form(name: str) -> None:
    predictor = Predictor(load_model(ZOO / name), 8)
    predictor.try_rows(alone=8)
    assert predictor.trial_seconds > 0


class Mixing(nn.Module):
    """A network that mixes rows in passes of more than ``rows``."""

    def __init__(self, network: nn.Module, rows: int) -> None:
        super().__init__()
        self.network, self.rows = network, rows

    def forward(self, noisy: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.network(noisy)
        return logits - logits.mean(0) if len(noisy) > self.rows else logits


@pytest.mark.slow
def test_what_mixes_rows_does_not_serve_at_that_pass_size() -> None:
    model = load_model(ZOO / "mnist-cnn")
    network = copy.deepcopy(model.network)
    network.classifier = Mixing(network.classifier, 16)
    mixing = copy.copy(model)
    object.__setattr__(mixing, "network", network)
    predictor, calibration = calibrate(mixing, "cpu", "float32", None)
    assert predictor.pass_size == calibration.pass_size <= 16
    with pytest.raises(BundleError, match=r"model\.json: architecture: .*look at each other"):
        calibrate(mixing, "cpu", "float32", 64)
    network.classifier.rows = 0
    with pytest.raises(BundleError, match="look at each other"):
        calibrate(mixing, "cpu", None, None)


def test_a_bundle_whose_network_mixes_rows_is_not_evaluated(tmp_path: Path) -> None:
    predictor = Predictor(load_model(ZOO / "mnist-cnn"), 8)
    predictor.resident.network = Mixing(predictor.resident.network, 0)
    with pytest.raises(RowsError, match="look at each other"):
        predictor.try_rows()
