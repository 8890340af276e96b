"""int8 rounds exactly as described, and serves only if its cost is on record."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.bundle import ZOO, Int8Certified, Int8Record, Int8Spec, Range
from models.calibration import calibrate
from models.converted import Converted, ranges_of
from models.data.datasets import DataSet
from models.evaluation.pairs import find_scales
from models.execution import Execution, ProviderError, ways
from models.images.folders import read_picture
from models.loaded import LoadedModel, load_model
from models.predictor import Predictor

ROWS = 16


def uint8_steps(values: Tensor, limits: tuple[float, float]) -> Tensor:
    """Values as rounded: 255 equal steps over the range."""
    low, high = limits
    if low < 0:
        high = max(high, -low * 127 / 128)
        low = -high * 128 / 127
    step = (high - low) / 255
    return torch.round(values.clamp(low, high) / step) * step


def int7_steps(weights: Tensor) -> Tensor:
    """Weights as rounded: -63 to 63 steps in each output channel."""
    flat = weights.flatten(1).abs().amax(1).clamp_min(1e-30)
    step = (flat / 63).reshape(-1, *[1] * (weights.dim() - 1))
    return torch.round(weights / step) * step


def by_hand(network: nn.Sequential, pictures: Tensor, ranges: dict[str, Range]) -> Tensor:
    """Run a network in float64 with all factors rounded as described."""
    limits = iter(ranges.values())
    values = pictures.double()
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rounded = copy_with(layer, int7_steps(layer.weight.double()))
            values = rounded(uint8_steps(values, next(limits)))
        else:
            values = layer(values)
    return values


def copy_with(layer: nn.Conv2d | nn.Linear, weight: Tensor) -> Callable[[Tensor], Tensor]:
    bias = None if layer.bias is None else layer.bias.double()
    if isinstance(layer, nn.Linear):
        return lambda values: nn.functional.linear(values, weight, bias)
    stride, padding, groups = layer.stride, layer.padding, layer.groups
    return lambda values: nn.functional.conv2d(values, weight, bias, stride, padding, 1, groups)


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 5)),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 7),
    ),
    "pooled": lambda: nn.Sequential(
        nn.Conv2d(2, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 8, 3, padding=1, groups=4),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    ),
}


def pictures(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(ROWS, 2, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("beyond", [1.0, 3.0], ids=["within", "clipped"])
def test_int8_is_the_rounding_that_is_described(name: str, beyond: float) -> None:
    torch.manual_seed(2)
    network = NETWORKS[name]().eval()
    ranges = dict(ranges_of(network, [pictures()]))
    found = Converted(network, ranges=ranges)(pictures(beyond))
    with torch.inference_mode():
        wanted = by_hand(network, pictures(beyond), ranges)
        plain = network(pictures(beyond)).double()
    # A value halfway between two steps may go either way, depending on the order of an earlier sum.
    off = (found.double() - wanted).abs().amax(1)
    assert off.median() < 1e-5 * wanted.abs().max()
    assert (off < 0.1 * (plain - wanted).abs().max()).float().mean() > 0.8
    assert (plain - wanted).abs().max() > 1e-3 * wanted.abs().max(), "nothing was rounded"


def test_no_sum_saturates() -> None:
    """The largest possible products, in pairs of equal sign, would not fit into 16 bits."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(256, 32, bias=False), nn.ReLU(), nn.Linear(32, 2)
    )
    nn.init.ones_(network[1].weight)
    white = torch.ones(ROWS, 1, 16, 16)
    ranges = {"mm": (0.0, 1.0), "addmm": (0.0, 256.0)}
    assert ranges_of(network, [white]).keys() == ranges.keys()
    found = Converted(network, ranges=ranges)(white)
    with torch.inference_mode():
        wanted = by_hand(network, white, ranges)
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-3)


def scaled(name: str) -> LoadedModel:
    """A shipped model with scales from its own samples."""
    model = load_model(ZOO / name)
    files = sorted((ZOO / name / "samples").iterdir())
    images = np.stack([read_picture(file).array() for file in files])
    data = DataSet(images, np.zeros(len(images), dtype=np.int64), model.manifest.labels)
    return with_int8(model, find_scales(model, data, 0))


def with_int8(model: LoadedModel, spec: Int8Spec | None) -> LoadedModel:
    manifest = model.manifest.model_copy(update={"int8": spec})
    return replace(model, bundle=replace(model.bundle, manifest=manifest))


@pytest.mark.parametrize("name", ["mnist-cnn", "mnist-cnn-l1", "cifar10-resnet"])
def test_rows_are_independent_in_the_long_form(name: str) -> None:
    predictor = Predictor(scaled(name), 8, "cpu", "int8", provider="openvino")
    predictor.try_rows(alone=8)
    predictor.pass_size = 64
    predictor.try_rows()
    assert predictor.execution == Execution("openvino", "int8", 64, compiled=False)


def test_scales_are_reproducible() -> None:
    assert scaled("mnist-cnn").manifest.int8 == scaled("mnist-cnn").manifest.int8


def test_scales_of_another_network_are_refused() -> None:
    model = with_int8(load_model(ZOO / "mnist-cnn"), scaled("cifar10-resnet").manifest.int8)
    with pytest.raises(ProviderError, match="not those of this network: pixeldp evaluate --write"):
        Predictor(model, 8, "cpu", "int8", provider="openvino").try_rows()
    assert calibrate(model, "cpu", "float32", 8)[1].precision == "float32"


def test_without_scales_there_is_no_int8() -> None:
    model = with_int8(load_model(ZOO / "mnist-cnn"), None)
    with pytest.raises(ProviderError, match="no scales for int8: pixeldp evaluate --write"):
        calibrate(model, "cpu", "int8", 8)
    with pytest.raises(ProviderError, match="PyTorch does not run networks in int8"):
        calibrate(model, "cpu", "int8", 8, "pytorch")


def test_scales_that_round_everything_away_are_refused() -> None:
    model = scaled("mnist-cnn")
    spec = model.manifest.int8
    assert spec is not None
    coarse = dict.fromkeys(spec.ranges, (0.0, 10000.0))
    spoilt = with_int8(model, Int8Spec(ranges=coarse))
    with pytest.raises(ProviderError, match="logits in int8 are off"):
        Predictor(spoilt, 8, "cpu", "int8", provider="openvino").try_rows()


def record(pictures: int = 500, lost: float = 0.0, share: float = 0.8) -> Int8Record:
    at = [
        Int8Certified(radius=0.25, float32=share, int8=share + 0.01),
        Int8Certified(radius=0.5, float32=share, int8=share - lost),
    ]
    return Int8Record(
        pictures=pictures,
        norm="l2",
        max_draws=1000,
        confidence=0.999,
        certified=tuple(at),
        labels_differ=0.01,
    )


@pytest.mark.parametrize(
    ("found", "serves"),
    [
        pytest.param(None, False, id="none"),
        pytest.param(record(), True, id="nothing lost", marks=pytest.mark.slow),
        pytest.param(record(lost=0.005), True, id="half a point lost"),
        pytest.param(record(lost=0.0051), False, id="more lost"),
        pytest.param(record(pictures=499), False, id="few pictures", marks=pytest.mark.slow),
        pytest.param(record(share=0.005, lost=0.005), False, id="all lost", marks=pytest.mark.slow),
        pytest.param(record(share=0.0), False, id="nothing to lose", marks=pytest.mark.slow),
    ],
)
def test_int8_serves_where_its_cost_is_on_record(
    found: Int8Record | None, serves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is by far the fastest in this test's measurements."""
    measured = {"int8": 3000.0}
    monkeypatch.setattr(
        Predictor, "measure", lambda self, seconds: measured.get(self.precision, 1000.0)
    )
    spec = scaled("mnist-cnn").manifest.int8
    assert spec is not None
    model = with_int8(load_model(ZOO / "mnist-cnn"), spec.model_copy(update={"record": found}))
    way = calibrate(model, "cpu", None, 64)[1]
    assert (way.precision == "int8") == serves
    assert calibrate(model, "cpu", None, 64, None, int8=False)[1].precision != "int8"
    told = calibrate(model, "cpu", "int8", 64)[1]
    assert (told.provider, told.precision) == ("openvino", "int8")


def test_which_ways_can_be_chosen() -> None:
    def formats(**asked: Any) -> set[str]:
        options = {"provider": None, "precision": None, "int8": False, **asked}
        return {precision for _, precision in ways("cpu", **options)}

    assert formats() == {"float32", "bfloat16"}
    assert formats(int8=True) == {"float32", "bfloat16", "int8"}
    assert formats(precision="int8") == {"int8"}
    assert formats(provider="openvino", int8=True) == {"float32", "bfloat16", "int8"}
    assert formats(provider="pytorch", int8=True) == {"float32", "bfloat16"}


@pytest.mark.parametrize("limits", [(0.5, 1.0), (-np.inf, 1.0), (np.nan, 1.0)], ids=str)
def test_invalid_ranges_are_refused(limits: Range) -> None:
    with pytest.raises(ValueError, match="ranges"):
        Int8Spec(ranges={"conv": limits})
    with pytest.raises(ValueError, match="from at most 0 to above 0"):
        Int8Spec(ranges={"conv": (-1.0, 0.0)})


def test_a_bundle_keeps_the_scales(tmp_path: Path) -> None:
    spec = Int8Spec(ranges={"conv": (-0.1, 1 / 3)}, record=record())
    assert Int8Spec.model_validate_json(spec.model_dump_json()) == spec
