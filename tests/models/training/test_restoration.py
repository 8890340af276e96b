"""A denoiser by itself: trained on photographs, kept as a bundle of its own, put in front."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from models.bundle import DENOISER, WEIGHTS, BundleError, Manifest, read_bundle
from models.certification.question import Question
from models.data.labelled import DataSet, DataSetError
from models.data.photographs import load_photographs
from models.denoiser import Denoiser, DenoiserManifest, read_denoiser
from models.importing.bundling import Noise, Wanted, import_classifier
from models.importing.sources import find_source
from models.importing.tuning import import_tuned, tuning_recipe
from models.loaded import load_model
from models.network import load_network, load_weights
from models.networks.autoencoder import build_front
from models.networks.foreign.python import ALLOWED
from models.source_names import ImportFailedError
from models.training import loop
from models.training.checks import TrainingError, check_start
from models.training.denoising import DenoiserTraining
from models.training.loop import train
from models.training.recipe import Recipe, find_recipe
from models.training.restoration import RestorationTraining
from tests.models.importing import classifiers
from tests.models.training.test_loop import interrupted_after

SMALL = {"channels": [8, 12], "blocks": [1, 1]}


def recipe(name: str = "photo-denoiser", **changes: Any) -> Recipe:
    chosen = find_recipe(name)
    spec = {**chosen.architecture.model_dump(), "arguments": SMALL}
    if name != "photo-denoiser":
        spec["arguments"] = {**chosen.architecture.arguments, **SMALL}
    fast = {**chosen.optimiser.model_dump(), "learning_rate": 1e-2}
    usual = {"epochs": 8, "optimiser": fast, "batch_size": 8, "held_out": 1, "precision": "float32"}
    return chosen.changed(**{"architecture": spec, **usual, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of soft patches, one of them upright."""
    out = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for index, size in enumerate([(60, 48), (48, 70), (50, 50)]):
        patches = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).save(out / f"{index}.png")
    return out


@pytest.fixture(scope="module")
def photographs(folder: Path) -> DataSet:
    return load_photographs(folder, 32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photographs: DataSet) -> Path:
    out = tmp_path_factory.mktemp("denoiser") / "bundle"
    train(recipe(), photographs, out, begin=RestorationTraining)
    return out


@pytest.fixture(autouse=True)
def _allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, classifiers.__name__)


def bring(
    out: Path, noise: Noise | Denoiser, side: int = 33, photographs: Path | None = None
) -> Any:
    """Import a classifier with random weights; with photographs, tune the denoiser to it."""
    source = find_source(f"{classifiers.__name__}:of_any_size", None)
    wanted = Wanted(shape=(3, side, side), labels=("cat", "dog"))
    asked = (out, np.zeros((side, side, 3), np.uint8), Question(0.95, 64, None, "l2"))
    if photographs is None:
        return import_classifier(source, wanted, noise, *asked)
    assert isinstance(noise, Denoiser)
    quick = tuning_recipe(noise).changed(epochs=1, held_out=1, batch_size=2)
    return import_tuned(source, wanted, noise, *asked, photographs=photographs, recipe=quick)


def test_squares_are_parts_of_the_photographs(folder: Path) -> None:
    Image.fromarray(np.full((40, 64, 3), (10, 200, 30), np.uint8)).save(folder / "green.png")
    try:
        data = load_photographs(folder, 32)
    finally:
        (folder / "green.png").unlink()
    assert len(data) == 4
    assert data.shape == (3, 32, 32)
    images = data.images[np.array([3, 0, 0])]
    assert images.shape == (3, 32, 32, 3)
    assert (images[0] == (10, 200, 30)).all()
    assert (images[1] != images[2]).any(), "each time another square"
    torch.manual_seed(0)
    again = [data.images[1:3]]
    torch.manual_seed(0)
    again.append(data.images[1:3])
    assert (again[0] == again[1]).all()


def test_folders_without_photographs_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataSetError, match="expected a folder of photographs"):
        load_photographs(tmp_path / "none", 32)
    with pytest.raises(DataSetError, match="no picture files here"):
        load_photographs(tmp_path, 32)
    with pytest.raises(DataSetError, match=r"0\.png: is 60x48; expected at least 64 pixels a side"):
        load_photographs(folder, 64)


def test_it_removes_noise(trained: Path, photographs: DataSet) -> None:
    denoiser = read_denoiser(trained)
    manifest = denoiser.manifest
    assert (manifest.kind, manifest.channels, manifest.noise.scale) == ("denoiser", 3, 0.25)
    held = manifest.training["held_out"]
    assert held["pictures"] == 1
    assert held["psnr"] > 14, "with its noise the picture has 13 dB"
    front = build_front((3, 32, 32), network=manifest.architecture.name, **SMALL)
    load_weights(denoiser, front)
    pictures = torch.from_numpy(photographs.images[:]).permute(0, 3, 1, 2).float() / 255
    noisy = pictures + 0.25 * torch.randn(pictures.shape)
    with torch.inference_mode():
        left = (front(noisy) - pictures).square().mean()
    assert left < 0.8 * 0.25**2


def test_a_resumed_training_ends_like_one_without_interruption(
    tmp_path: Path, photographs: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(epochs=3)
    whole = train(chosen, photographs, tmp_path / "whole", begin=RestorationTraining)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", interrupted_after(1))
        with pytest.raises(KeyboardInterrupt):
            train(chosen, photographs, tmp_path / "parts", begin=RestorationTraining)
    parts = train(chosen, photographs, tmp_path / "parts", begin=RestorationTraining, resume=True)
    assert isinstance(whole, DenoiserManifest)
    assert whole.training["held_out"] == parts.training["held_out"]
    one, two = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_it_is_put_in_front_of_a_classifier_without_training(
    tmp_path: Path, trained: Path, photographs: DataSet
) -> None:
    denoiser = read_denoiser(trained)
    imported = bring(tmp_path / "out", denoiser)
    manifest = imported.bundle.manifest
    assert manifest.noise == denoiser.manifest.noise
    assert (manifest.rows, manifest.sensitivity.value) == ("operator", 1.0)
    assert manifest.training["denoiser"]["digest"] == denoiser.digest
    network = load_model(tmp_path / "out").network
    front = build_front((3, 33, 33), network="unet", **SMALL)
    load_weights(denoiser, front)
    pictures = torch.rand(2, 3, 33, 33)
    with torch.inference_mode():
        behind = network.classifier.get_submodule("classifier")(front(pictures))
        torch.testing.assert_close(network.score(network.encode(pictures)), behind)


@pytest.mark.slow
def test_it_is_tuned_to_a_classifier(tmp_path: Path, trained: Path, folder: Path) -> None:
    start = read_denoiser(trained)
    imported = bring(tmp_path / "tuned", start, 32, folder)
    tuned = read_bundle(tmp_path / "tuned")
    assert imported.bundle == tuned
    assert tuned.manifest.training["recipe"]["start"] == start.manifest.weights.sha256
    assert "imported" in tuned.manifest.training["classifier"]["training"]
    before = load_file(trained / WEIGHTS)
    after = load_network(tuned).classifier.get_submodule("autoencoder")
    moved = [(before[name] - value).abs().max() for name, value in after.state_dict().items()]
    assert 0 < max(moved) < 0.1, "a little away from where it began"


@pytest.mark.slow
def test_the_noise_may_come_after_its_first_layer(
    tmp_path: Path, trained: Path, folder: Path
) -> None:
    denoiser, side = read_denoiser(trained), 32
    plain = bring(tmp_path / "plain", Noise(scale=0.25), side).bundle
    tuned = recipe("photo-first-layer", epochs=1, batch_size=2)
    check_start(tuned, denoiser)
    begin = partial(DenoiserTraining, classifier=plain, start=denoiser)
    manifest = train(tuned, load_photographs(folder, side), tmp_path / "tuned", begin=begin)
    assert isinstance(manifest, Manifest)
    assert manifest.noise.placement == "layer1"
    assert 0 < manifest.sensitivity.value <= 1
    network = load_model(tmp_path / "tuned").network
    assert network.encode(torch.rand(1, 3, side, side)).shape == (1, 12, side // 2, side // 2)
    before = load_file(trained / WEIGHTS)
    after = network.classifier.get_submodule("autoencoder.1").state_dict()
    assert {f"0.{name}" for name in after} == before.keys()
    moved = [(before[f"0.{name}"] - value).abs().max() for name, value in after.items()]
    assert 0 < max(moved) < 0.1, "a little away from where it began"


def test_what_does_not_fit_is_refused(tmp_path: Path, trained: Path) -> None:
    denoiser = read_denoiser(trained)
    with pytest.raises(ImportFailedError, match="at least 32 pixels a side, but the classifier"):
        bring(tmp_path / "out", denoiser, side=31)
    with pytest.raises(TrainingError, match=r"for gaussian noise of 0\.25.*give --scale 0\.25"):
        check_start(recipe("photo-tuned", scale=0.5), denoiser)
    with pytest.raises(TrainingError, match="does not train the network of"):
        check_start(find_recipe("photo-tuned"), denoiser)
    with pytest.raises(TrainingError, match="holds a finished bundle"):
        bring(trained, denoiser, 32, trained)
    with pytest.raises(BundleError, match="this is a denoiser, which answers nothing alone"):
        read_bundle(trained)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / DENOISER).write_bytes((trained / DENOISER).read_bytes())
    (damaged / WEIGHTS).write_bytes((trained / WEIGHTS).read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="sha256"):
        read_denoiser(damaged)
