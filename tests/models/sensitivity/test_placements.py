"""From training to a certified answer, with every placement, norm and mechanism."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.answering import answer_all, repeatable_key
from models.bundle import Architecture, read_bundle
from models.certification.names import MECHANISM_NORMS, Mechanism, Norm
from models.certification.norms import convert
from models.certification.question import Question
from models.data.datasets import DataSet, load
from models.loaded import load_model
from models.network import load_network
from models.predictor import Predictor
from models.sensitivity.modules import encoder_sensitivity
from models.training.loop import Training, train
from models.training.recipe import Recipe, find_recipe

SHAPE = (1, 8, 8)
LAWS: list[tuple[Mechanism, Norm]] = [
    ("laplace", "l1"),
    ("gaussian", "l1"),
    ("gaussian", "l2"),
    ("gaussian", "linf"),
    ("laplace", "linf"),
]
NETWORKS: dict[str, dict[str, Any]] = {
    "cnn": {"channels": [8, 8], "hidden": 16},
    "resnet": {"depth": 8, "channels": 4},
    "wide-resnet": {"depth": 10, "width": 1},
    "fast-resnet": {"channels": [4, 4, 4, 4]},
}


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", None, "train").every(4)


def recipe(network: str, placement: str, mechanism: Mechanism, norm: Norm) -> Recipe:
    return find_recipe("digits").changed(
        architecture=Architecture(name=network, arguments=NETWORKS[network]),
        placement=placement,
        mechanism=mechanism,
        norm=norm,
        scale=0.03,
        epochs=2,
    )


@pytest.mark.parametrize(
    ("network", "placement", "mechanism", "norm"),
    [
        *(("cnn", placement, *law) for placement in ("layer1", "2") for law in LAWS),
        ("resnet", "stage1", "gaussian", "l2"),
        ("wide-resnet", "stage1", "laplace", "l1"),
        ("fast-resnet", "stage1", "gaussian", "linf"),
    ],
)
def test_what_is_trained_is_certified(
    tmp_path: Path,
    digits: DataSet,
    network: str,
    placement: str,
    mechanism: Mechanism,
    norm: Norm,
) -> None:
    chosen = recipe(network, placement, mechanism, norm)
    train(chosen, digits, tmp_path)
    bundle = read_bundle(tmp_path)
    spec = bundle.manifest.sensitivity
    assert (spec.input_norm, spec.noise_norm) == (norm, MECHANISM_NORMS[mechanism])
    proven = encoder_sensitivity(load_network(bundle).encoder, SHAPE, norm, spec.noise_norm)
    assert (spec.value, spec.method) == (proven.value, proven.method)
    kept = encoder_sensitivity(torch.nn.Identity(), SHAPE, norm, spec.noise_norm).value
    assert 0.1 * kept < spec.value <= kept
    predictor = Predictor(load_model(bundle), 64, key=repeatable_key(0))
    question = Question(confidence=0.9, max_draws=192, target=None, norm=norm)
    found = dict(answer_all(predictor, digits.images[:8], question))
    sizes = [inquiry.size for inquiry in found.values()]
    assert len(sizes) == 8
    # No size can exceed what unanimous draws allow: a few scales, divided by Δ.
    scale, terms = chosen.noise_scale(kept), predictor.encode(digits.images[0]).terms
    most = max(
        float(convert(8 * scale / delta.value, delta.source, norm, terms.values))
        for delta in terms.deltas
    )
    assert 0 < max(sizes) < most
    terms = predictor.encode(digits.images[0]).terms
    assert (terms.norm, terms.sensitivity) == (norm, spec.value)
    assert 0 < terms.rho < 0.02 * terms.scale


def test_g_is_trained_as_it_is_served(digits: DataSet) -> None:
    """Its batch norms keep their statistics, so that no picture's features depend on another's."""
    training = Training(recipe("resnet", "stage1", "gaussian", "l2"), digits)
    network = training.network.train()
    assert network.classifier.training
    assert not any(module.training for module in network.encoder.modules())
    pictures = torch.rand(6, *SHAPE)
    alone = torch.cat([network.encode(picture[None]) for picture in pictures])
    torch.testing.assert_close(network.encode(pictures), alone)
