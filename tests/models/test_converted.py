"""OpenVINO runs exactly the network, in float32 and row by row, or does not run it at all."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.bundle import ZOO, BundleError
from models.calibration import calibrate
from models.converted import Converted, check_likeness, has_bfloat16
from models.execution import Execution, ProviderError
from models.loaded import LoadedModel, load_model
from models.predictor import Predictor
from models.trial import RowsError

MODELS = ["mnist-cnn", "mnist-cnn-l1", "cifar10-resnet"]


def by_openvino(model: LoadedModel, rows: int) -> Predictor:
    return Predictor(model, rows, provider="openvino")


def with_network(change: nn.Module) -> LoadedModel:
    """A shipped model with ``change`` after its network."""
    model = load_model(ZOO / "mnist-cnn")
    network = copy.deepcopy(model.network)
    network.classifier = nn.Sequential(network.classifier, change)
    changed = copy.copy(model)
    object.__setattr__(changed, "network", network)
    return changed


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_models_pass_in_the_long_form(name: str) -> None:
    predictor = by_openvino(load_model(ZOO / name), 8)
    predictor.try_rows(alone=8)
    assert predictor.execution == Execution("openvino", "float32", 8, compiled=False)
    predictor.pass_size = 64
    predictor.try_rows()


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_same_network(name: str) -> None:
    """Even if passes become smaller and larger again; no pass changes the logits of another."""
    model = load_model(ZOO / name)
    converted, eager = by_openvino(model, 64), Predictor(model, 64)
    seen: list[tuple[Tensor, Tensor]] = []
    for rows in (64, 8, 64):
        noisy = torch.randn(rows, *model.feature_shape)
        found = converted.logits(noisy)
        check_likeness(found, eager.logits(noisy))
        seen.append((found, found.clone()))
    assert all(torch.equal(kept, was) for kept, was in seen)


@pytest.mark.parametrize("name", MODELS)
def test_in_bfloat16_it_is_the_same_network_or_refused(name: str) -> None:
    """It is refused by processors without bfloat16, and where the environment hides it."""
    model = load_model(ZOO / name)
    predictor = Predictor(model, 8, precision="bfloat16", provider="openvino")
    noisy = torch.randn(8, *model.feature_shape)
    try:
        predictor.try_rows(alone=8)
    except ProviderError:
        assert not has_bfloat16()
        return
    found, exact = predictor.logits(noisy), Predictor(model, 8).logits(noisy)
    check_likeness(found, exact, "bfloat16")
    with pytest.raises(ProviderError, match="off by"):  # it is not float32
        check_likeness(found, exact)


def test_a_conversion_that_differs_is_refused() -> None:
    logits = torch.linspace(-4, 4, 30).reshape(3, 10)
    check_likeness(logits * (1 + 1e-5), logits)
    for wrong in (logits.bfloat16().float(), logits.flip(1), logits * torch.nan):
        with pytest.raises(ProviderError, match="off by"):
            check_likeness(wrong, logits)
    check_likeness(logits.bfloat16().float(), logits, "bfloat16")
    for wrong in (logits * 1.3, logits.flip(1), logits * torch.nan):
        with pytest.raises(ProviderError, match="off by"):
            check_likeness(wrong, logits, "bfloat16")


def test_the_two_sizes_used_last_are_not_converted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    build = Converted._build

    def note(self: Converted, shape: tuple[int, ...]) -> Any:
        built.append(shape[0])
        return build(self, shape)

    monkeypatch.setattr(Converted, "_build", note)
    model = load_model(ZOO / "mnist-cnn")
    large = by_openvino(model, 16)
    small = large.resized(8)
    for one in (large, small, large, small):
        one.logits(torch.zeros(one.pass_size, *model.feature_shape))
    assert built == [16, 8]
    large.resized(4).logits(torch.zeros(4, *model.feature_shape))
    small.logits(torch.zeros(8, *model.feature_shape))
    assert built == [16, 8, 4], "the one used longest ago went"
    large.logits(torch.zeros(16, *model.feature_shape))
    assert built == [16, 8, 4, 16]


class Mixing(nn.Module):
    """Mixes the rows."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return logits less their mean over the pass."""
        return logits - logits.mean(0)


class Looking(nn.Module):
    """Lets Python look at a value."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return logits, or others if the first is above 0."""
        return logits if logits[0, 0] > 0 else -logits


class Random(nn.Module):
    """Adds random numbers."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return logits with noise."""
        return logits + torch.rand_like(logits)


def test_networks_that_mix_rows_do_not_serve() -> None:
    with pytest.raises(RowsError, match="look at each other"):
        by_openvino(with_network(Mixing()), 8).try_rows()


@pytest.mark.parametrize("change", [Looking(), Random()], ids=["value", "chance"])
def test_what_cannot_be_converted_runs_on_pytorch_or_not_at_all(change: nn.Module) -> None:
    """A conversion of random numbers may succeed, but its results differ."""
    model = with_network(change)
    with pytest.raises(ProviderError):
        by_openvino(model, 8).try_rows()
    with pytest.raises((ProviderError, BundleError)):
        calibrate(model, "cpu", "float32", 8, "openvino")


def test_a_network_may_write_into_its_own_intermediate_results() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
    pictures = torch.randn(8, 1, 4, 4)
    with torch.inference_mode():
        check_likeness(Converted(network)(pictures), network(pictures))


@pytest.mark.slow
def test_no_telemetry_is_sent(tmp_path: Path) -> None:
    """OpenVINO has a module that reports imports and conversions; it must never be imported."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\n"
        "from models.converted import Converted\n"
        "Converted(torch.nn.Linear(4, 2))(torch.zeros(8, 4))\n"
        "assert 'openvino' in sys.modules\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script],
        env={"PYTHONPATH": str(root), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["script.py"]
