"""A classifier that never saw noise becomes a certified one."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.answering import answer_all
from models.bundle import Bundle, Manifest, read_bundle
from models.certification.question import Question
from models.data.datasets import DataSet, load
from models.importing.bundling import Imported, Noise, Wanted, import_classifier
from models.importing.sources import find_source
from models.loaded import load_model
from models.network import load_network
from models.networks.foreign.python import ALLOWED
from models.predictor import Predictor
from models.source_names import ImportFailedError
from models.training import loop
from models.training.checks import TrainingError
from models.training.denoising import DenoiserTraining
from models.training.loop import train
from models.training.recipe import Recipe, find_recipe, without_noise
from tests.models.importing import classifiers
from tests.models.training.test_loop import interrupted_after

QUESTION = Question(0.95, 128, None, "l2")


def train_denoiser(
    recipe: Recipe, data: DataSet, classifier: Bundle, out: Path, resume: bool = False
) -> Manifest:
    begin = partial(DenoiserTraining, classifier=classifier)
    return train(recipe, data, out, begin=begin, resume=resume)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", None, "train")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, digits: DataSet) -> Path:
    """A classifier without noise."""
    out = tmp_path_factory.mktemp("plain") / "bundle"
    train(without_noise(find_recipe("digits")).changed(epochs=15), digits, out)
    return out


@pytest.fixture(scope="module")
def denoised(tmp_path_factory: pytest.TempPathFactory, digits: DataSet, plain: Path) -> Path:
    out = tmp_path_factory.mktemp("denoised") / "bundle"
    train_denoiser(find_recipe("digits-denoiser"), digits, read_bundle(plain), out)
    return out


def certified(bundle: Path, size: float) -> float:
    """The share of test pictures whose right label is certified at ``size``."""
    data = load("digits", None, "test").every(2)
    predictor = Predictor(load_model(bundle), 256)
    return sum(
        inquiry.size >= size and inquiry.total.leader == data.labels[index]
        for index, inquiry in answer_all(predictor, data.images, QUESTION)
    ) / len(data)


@pytest.fixture
def weights(tmp_path: Path, plain: Path) -> Path:
    """Only the classifier's weights, as its authors have them."""
    state = load_file(plain / "weights.safetensors")
    file = tmp_path / "digits.safetensors"
    save_file({name.removeprefix("classifier."): value for name, value in state.items()}, file)
    return file


def bring(out: Path, weights: Path, noise: Any) -> Imported:
    source = find_source(f"{classifiers.__name__}:digits_cnn", weights)
    pixels = load("digits", None, "test").images[0]
    return import_classifier(source, Wanted(shape=(1, 8, 8)), noise, out, pixels, QUESTION)


@pytest.mark.slow
def test_a_denoiser_makes_a_classifier_without_noise_servable(
    tmp_path: Path, weights: Path, denoised: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED, classifiers.__name__)
    bring(tmp_path / "without", weights, Noise(scale=0.5))
    bring(tmp_path / "with", weights, read_bundle(denoised))
    without, with_ = (certified(tmp_path / name, 0.25) for name in ("without", "with"))
    assert with_ > without + 0.1
    assert certified(denoised, 0.25) == pytest.approx(with_, abs=0.1)
    manifest = read_bundle(tmp_path / "with").manifest
    assert manifest.noise == read_bundle(denoised).manifest.noise
    assert manifest.training["denoiser"]["digest"] == read_bundle(denoised).digest


def test_the_classifier_is_left_as_it_was(plain: Path, denoised: Path) -> None:
    before = load_network(read_bundle(plain)).classifier
    network = load_network(read_bundle(denoised))
    after = network.classifier.get_submodule("classifier.network")
    for (name, one), (other, two) in zip(
        before.state_dict().items(), after.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(one, two)
    bundle = read_bundle(denoised)
    assert bundle.manifest.training["classifier"]["digest"] == read_bundle(plain).digest
    recipe = bundle.manifest.training["recipe"]
    assert recipe["denoiser"]["classifier"] == read_bundle(plain).digest
    assert bundle.manifest.training["held_out"]["pictures"] == 50
    assert bundle.manifest.training["held_out"]["accuracy"] > 0.7


def test_noise_after_its_first_layer_keeps_the_sensitivity(
    tmp_path: Path, digits: DataSet, plain: Path
) -> None:
    """A resumed training ends like one without interruption."""
    recipe = find_recipe("digits-denoiser").changed(
        epochs=2,
        held_out=10,
        placement="layer1",
        architecture={"name": "autoencoder", "arguments": {"channels": [4], "strides": [2]}},
        denoiser={"restoration": 1.0},
        scale=None,
        construction_bound={"size": 0.1, "epsilon": 1.0, "delta": 0.05},
    )
    few = DataSet(digits.images[:210], digits.labels[:210], digits.names)
    classifier = read_bundle(plain)
    manifest = train_denoiser(recipe, few, classifier, tmp_path / "whole")
    assert manifest.sensitivity.value <= 1
    assert manifest.noise.scale == pytest.approx(0.1 * (2 * 3.2188758) ** 0.5)
    assert manifest.noise.placement == "layer1"
    load_network(read_bundle(tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", interrupted_after(1))
        with pytest.raises(KeyboardInterrupt):
            train_denoiser(recipe, few, classifier, tmp_path / "parts")
    train_denoiser(recipe, few, classifier, tmp_path / "parts", resume=True)
    whole, parts = ((tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_combinations_that_do_not_match_are_refused(
    tmp_path: Path, digits: DataSet, plain: Path, denoised: Path, weights: Path
) -> None:
    recipe, bundle = find_recipe("digits-denoiser"), read_bundle(plain)
    with pytest.raises(TrainingError, match="name the classifier behind it"):
        train(recipe, digits, tmp_path / "out")
    with pytest.raises(TrainingError, match="recipe digits trains a whole network"):
        train_denoiser(find_recipe("digits"), digits, bundle, tmp_path / "out")
    with pytest.raises(TrainingError, match="or a denoiser"):
        train_denoiser(recipe, digits, read_bundle(denoised), tmp_path / "out")
    wide = DataSet(digits.images.repeat(2, axis=2), digits.labels, digits.names)
    with pytest.raises(TrainingError, match=r"pictures are \[1, 8, 16\], but .* takes \[1, 8, 8\]"):
        train_denoiser(recipe, wide, bundle, tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ALLOWED, classifiers.__name__)
        with pytest.raises(ImportFailedError, match="holds no denoiser"):
            bring(tmp_path / "out", weights, bundle)
    assert not (tmp_path / "out").exists()
