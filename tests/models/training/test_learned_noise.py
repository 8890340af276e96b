"""Learned noise: what folding does, what stays certified, and what it is refused for."""

from pathlib import Path

import pytest
import torch
from torch import nn

from models.bundle import read_bundle
from models.data.datasets import DataSet, load
from models.network import load_proven
from models.training.learned_noise import NoiseShape
from models.training.loop import train
from models.training.recipe import Recipe, find_recipe


@pytest.fixture(scope="module")
def few() -> DataSet:
    digits = load("digits", None, "train")
    return DataSet(digits.images[:370], digits.labels[:370], digits.names)


def recipe(learned: bool) -> Recipe:
    return find_recipe("digits").changed(placement="layer1", learned_noise=learned, epochs=2)


@pytest.mark.parametrize(
    "encoder",
    [
        nn.Conv2d(1, 5, 3, padding=1),
        nn.Conv2d(1, 5, 3, bias=False),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 5)),
    ],
    ids=["convolution", "without bias", "linear"],
)
def test_folding_changes_no_features(encoder: nn.Module) -> None:
    shape = NoiseShape(encoder)
    pictures = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        before = encoder(pictures)
        shape.logarithms.copy_(torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0]))
        shared = shape.apply(before)
        shape.fold_()
        torch.testing.assert_close(encoder(pictures), shared)
        assert not torch.allclose(shared, before)
        assert torch.equal(shape.apply(shared), shared)


def test_the_shares_are_learned_and_the_certificate_stays(tmp_path: Path, few: DataSet) -> None:
    kernels = {}
    for name, learned in (("learned", True), ("twin", False)):
        train(recipe(learned), few, tmp_path / name)
        bundle = read_bundle(tmp_path / name)
        network, proven = load_proven(bundle)
        assert bundle.manifest.noise.scale == 0.25
        assert 0.9 < proven["l2", "l2"].value <= bundle.manifest.sensitivity.value <= 1
        assert not any("logarithms" in key for key in network.state_dict())
        assert isinstance(network.encoder, nn.Conv2d)
        kernels[name] = network.encoder.weight.flatten(1).norm(dim=1)
    # From the same start, in a few steps, the channels came to share the noise otherwise.
    ratio = kernels["learned"] / kernels["twin"]
    assert (ratio / ratio.mean() - 1).abs().max() > 0.002


def test_it_is_refused_where_it_cannot_pay_or_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="in the image certificates count its least share"):
        find_recipe("digits").changed(learned_noise=True)
    with pytest.raises(ValueError, match="right before it, not ReLU"):
        NoiseShape(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
