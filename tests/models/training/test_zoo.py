import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from models.bundle import MANIFEST, ZOO, Bundle, locate, read_bundle
from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.evaluation.evaluate import Evaluation
from models.family import check_members, read_family
from models.loaded import load_model
from models.predictor import Predictor
from models.training.recipe import Recipe, find_recipe

NAMES = sorted(path.name for path in ZOO.iterdir() if (path / MANIFEST).exists())
# What each model must reach on every tenth test picture: accuracy, and certified accuracy by size.
ASKED = {
    "mnist-cnn": (0.98, {0.5: 0.95, 1.0: 0.85}),
    "mnist-cnn-025": (0.98, {0.25: 0.97, 0.5: 0.95}),
    "mnist-cnn-100": (0.94, {0.5: 0.87, 1.0: 0.75, 1.5: 0.55}),
    "mnist-cnn-l1": (0.97, {0.5: 0.94, 1.0: 0.88}),
    "mnist-split": (0.97, {0.5: 0.96, 1.0: 0.94, 1.5: 0.91}),
    "mnist-linf": (0.97, {0.05: 0.96, 0.1: 0.94}),
    "cifar10-split": (0.53, {0.5: 0.49, 1.0: 0.44, 2.0: 0.37}),
    "cifar10-resnet-012": (0.83, {0.14: 0.72, 0.25: 0.62}),
    "cifar10-resnet": (0.75, {0.25: 0.58, 0.5: 0.4}),
    "cifar10-resnet-050": (0.63, {0.5: 0.45, 0.75: 0.37, 1.0: 0.28}),
}


@pytest.fixture(scope="module")
def mnist() -> Bundle:
    return read_bundle(ZOO / "mnist-cnn")


def test_the_zoo_has_exactly_these_models() -> None:
    assert sorted(ASKED) == NAMES


def test_its_families_have_members_that_fit_together() -> None:
    for file in ZOO.glob("*.family.json"):
        family = read_family(file)
        check_members(file, [read_bundle(folder) for folder in family.folders])
        assert locate(Path(file.name)) == file
    assert sum(file.stat().st_size for file in ZOO.rglob("*") if file.is_file()) <= 40_000_000


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_was_trained_with_the_recipe_of_its_name(name: str) -> None:
    bundle = read_bundle(ZOO / name)
    assert sum(file.stat().st_size for file in bundle.path.iterdir()) <= 8_000_000
    manifest, recipe = bundle.manifest, find_recipe(name)
    assert manifest.name == name
    recorded = Recipe.model_validate(manifest.training["recipe"])
    assert recorded.changed(precision=recipe.precision, start=None) == recipe
    assert (
        manifest.training["data"]["pictures"]
        == {"mnist": 60_000, "cifar10": 50_000}[recipe.dataset]
    )
    assert (manifest.noise.mechanism, manifest.noise.scale) == (recipe.mechanism, recipe.scale)


@pytest.mark.parametrize("name", NAMES)
def test_it_reaches_its_required_figures(name: str) -> None:
    manifest = read_bundle(ZOO / name).manifest
    evaluation = Evaluation.model_validate(manifest.evaluation)
    draws = manifest.noise.draws
    asked = (1000, 0.999) if draws is None else (draws, 1)
    assert evaluation.pictures == 1000
    assert (evaluation.max_draws, evaluation.confidence) == asked
    accuracy, sizes = ASKED[name]
    certified = {at.radius: at.accuracy for at in evaluation.certified}
    assert evaluation.accuracy >= accuracy
    assert all(certified[size] >= share for size, share in sizes.items())


@pytest.mark.parametrize("name", NAMES)
def test_its_card_says_how_to_make_it_and_has_the_recorded_figures(name: str) -> None:
    bundle = read_bundle(ZOO / name)
    data = find_recipe(name).dataset
    precision = bundle.manifest.training["recipe"]["precision"]
    assert f"pixeldp train {name} --precision {precision} --root " in bundle.card
    assert f"pixeldp evaluate models/zoo/{name} --data {data} --root " in bundle.card
    begun = re.findall(rf"pixeldp train {name} .*--start (\S+)", bundle.card)
    weights = [read_bundle(ZOO / start).manifest.weights.sha256 for start in begun]
    assert [bundle.manifest.training["recipe"].get("start")] == (weights or [None])
    evaluation = Evaluation.model_validate(bundle.manifest.evaluation)
    assert f"{evaluation.accuracy:.1%}" in bundle.card
    for at in evaluation.certified:
        assert f"{at.accuracy:.1%}" in bundle.card


@pytest.mark.parametrize(
    ("digit", "strokes"),
    [
        (1, [[(14, 4), (14, 23)]]),
        (4, [[(9, 5), (8, 14), (19, 14)], [(18, 5), (18, 23)]]),
        (7, [[(8, 6), (19, 6), (12, 23)]]),
    ],
)
def test_it_certifies_a_drawn_digit(
    mnist: Bundle, digit: int, strokes: list[list[tuple[int, int]]]
) -> None:
    picture = Image.new("L", (28, 28))
    for stroke in strokes:
        ImageDraw.Draw(picture).line(stroke, fill=255, width=3, joint="curve")
    predictor = Predictor(load_model(mnist), 256)
    encoded = predictor.encode(np.asarray(picture)[..., None])
    question = Question(confidence=0.999, max_draws=512, target=None, norm="l2")
    inquiry = Inquiry(question, encoded.terms, 10, mnist.manifest.scoring)
    while not inquiry.stopped:
        inquiry.add(predictor.run([encoded.features], np.zeros(256, dtype=np.intp)))
    assert inquiry.label == digit
    assert inquiry.size > 0.3
