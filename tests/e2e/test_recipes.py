"""Recipes for data and networks that are too large for most tests, from training to an answer.

The data have the form of the real sets and are noise, and a training is a single step. What is
tried is that every part takes what the part before it has made.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from models.bundle import read_bundle
from service.cli.main import main
from tests.e2e.conftest import PLAIN, Start

pytestmark = pytest.mark.slow

Captured = pytest.CaptureFixture[str]
# Inception's smallest input.
INCEPTION_SIDE = 75


def generate(
    root: Path, dataset: str, labels: Sequence[str], side: int = 32, channels: int = 3
) -> None:
    """Write a data set, four pictures in each part."""
    rng = np.random.default_rng(0)
    (root / dataset).mkdir(parents=True)
    for split in ("train", "test"):
        images = rng.integers(0, 256, (4, side, side, channels), dtype=np.uint8)
        file = root / dataset / f"{split}.npz"
        np.savez(file, images=images, labels=np.arange(4), names=np.array(labels))


def evaluate_and_ask(
    start: Start, bundle: Path, data: list[str], side: int, labels: int, capsys: Captured
) -> None:
    """Evaluate a bundle on a picture, serve it, and ask it about another."""
    capsys.readouterr()
    few = ["--every", "4", "--draws", "64", "--pass-size", "8"]
    way = ["--provider", "pytorch", "--precision", "float32"]
    assert main(["evaluate", str(bundle), *data, *few, *way, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["pictures"], figures["draws"]) == (1, 64)
    service = start(bundle, environment={**PLAIN, "PIXELDP_PASS_SIZE": "8"})
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 90)).save(stream, "PNG")
    reply = httpx.post(
        f"{service.address}/predict?max_draws=64&timeout_ms=600000&scores=3",
        content=stream.getvalue(),
        headers={"Content-Type": "image/png"},
        timeout=600,
    )
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert answer["draws"] == 64
    assert 0 <= answer["label"]["index"] < labels
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("recipe", "dataset", "labels", "weights"),
    [
        ("svhn-resnet", "svhn", 10, 1e5),
        ("cifar100-resnet", "cifar100", 100, 2e6),
        ("cifar10-wide", "cifar10", 10, 36e6),  # Wide ResNet 28-10
    ],
)
def test_a_recipe_leads_to_answers(
    start: Start,
    tmp_path: Path,
    capsys: Captured,
    recipe: str,
    dataset: str,
    labels: int,
    weights: float,
) -> None:
    generate(tmp_path, dataset, [f"label {index}" for index in range(labels)])
    root, out = ["--root", str(tmp_path)], tmp_path / "run"
    few = ["--epochs", "1", "--held-out", "1", "--precision", "float32", "--no-int8"]
    assert main(["train", recipe, *root, *few, "--out", str(out)]) == 0
    manifest = read_bundle(out).manifest
    assert (manifest.name, len(manifest.labels)) == (recipe, labels)
    assert (out / "weights.safetensors").stat().st_size > 4 * weights
    evaluate_and_ask(start, out, ["--data", dataset, *root], 32, labels, capsys)


def test_inception_behind_an_autoencoder_leads_to_answers(
    start: Start, tmp_path: Path, capsys: Captured
) -> None:
    classifier, out = tmp_path / "inception", tmp_path / "run"
    shape = ["--input", f"3x{INCEPTION_SIDE}x{INCEPTION_SIDE}", "--scale", "0.25"]
    assert main(["import", "inception_v3", "--out", str(classifier), *shape, "--draws", "64"]) == 0
    generate(tmp_path, "imagenet", read_bundle(classifier).manifest.labels, INCEPTION_SIDE)
    data = ["--data", str(tmp_path / "imagenet" / "train.npz")]
    few = ["--epochs", "1", "--held-out", "1", "--precision", "float32", "--no-int8"]
    recipe = ["imagenet-autoencoder", "--denoiser", str(classifier), *data, *few]
    assert main(["train", *recipe, "--out", str(out)]) == 0
    architecture = read_bundle(out).manifest.architecture
    assert architecture.name == "denoised"
    assert "inception_v3" in json.dumps(architecture.arguments)
    evaluate_and_ask(start, out, data, INCEPTION_SIDE, 1000, capsys)


@pytest.mark.parametrize(
    ("dataset", "side", "channels", "norm", "recipes"),
    [
        (
            "mnist",
            28,
            1,
            "l2",
            # Lécuyer et al., without a defence, Madry et al., Li et al., Rakin et al., Pinot et
            # al., and in place of Wong and Kolter intervals.
            [
                ["mnist-cnn"],
                ["mnist-cnn", "--undefended"],
                ["mnist-madry"],
                ["mnist-stability"],
                ["mnist-cnn-learned"],
                ["mnist-cnn", "--mechanism", "generalised-normal", "--norm", "l1", "--scale", "1"],
                ["mnist-linf"],
            ],
        ),
        ("cifar10", 32, 3, "linf", [["cifar10-linf"], ["cifar10-madry"]]),
    ],
)
def test_every_baseline_can_be_compared(
    tmp_path: Path,
    capsys: Captured,
    dataset: str,
    side: int,
    channels: int,
    norm: str,
    recipes: list[list[str]],
) -> None:
    generate(tmp_path, dataset, [f"label {index}" for index in range(10)], side, channels)
    root, few = ["--root", str(tmp_path)], ["--epochs", "1", "--precision", "float32", "--no-int8"]
    subjects = []
    for number, recipe in enumerate(recipes):
        out = tmp_path / str(number)
        assert main(["train", *recipe, *root, *few, "--out", str(out)]) == 0
        subjects.append(f"{number}={out}")
    capsys.readouterr()
    options = ["--data", dataset, *root, "--draws", "64", "--norm", norm, "--pass-size", "32"]
    attack = ["--attack", "pgd,carlini-wagner", "--attack-steps", "2", "--attack-draws", "2"]
    sizes = ["--radii", "0.01,0.5", "--thresholds", "0.05,0.1", "--json"]
    assert main(["compare", *subjects, *options, *attack, *sizes]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found] == [str(number) for number in range(len(recipes))]
    for one, recipe in zip(found, recipes, strict=True):
        assert one["certifies"] == ("madry" not in recipe[0] and "--undefended" not in recipe)
        assert [len(attack["accuracies"]) for attack in one["attacks"]] == [3, 3]
        robust = 2 if one["certifies"] else 0
        assert len(one["attacks"][0]["accuracies"][0]["robust"]) == robust
