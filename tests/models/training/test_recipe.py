import json
from typing import Any

import pytest
import torch

from models import networks
from models.bundle import AUTOENCODER, UNET
from models.certification.certificates import construction_scale
from models.training.recipe import RECIPES, Recipe, find_recipe, without_noise


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_recipes_are_found_by_name_and_survive_json(recipe: Recipe) -> None:
    assert find_recipe(recipe.name) is recipe
    document = json.dumps(recipe.model_dump(mode="json"))
    assert Recipe.model_validate_json(document) == recipe


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_no_recipe_prescribes_a_number_format_that_some_machines_lack(recipe: Recipe) -> None:
    assert recipe.precision in {None, "float32"}


SHAPES = {"mnist": (1, 28, 28), "imagenet": (3, 299, 299), "digits": (1, 8, 8)}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_network_of_a_recipe_can_be_built(recipe: Recipe) -> None:
    shape, architecture = SHAPES.get(recipe.dataset, (3, 32, 32)), recipe.architecture
    name, arguments = architecture.name, architecture.arguments
    if name == UNET:  # a denoiser by itself
        name, arguments = "denoised", {"autoencoder": {"network": UNET, **arguments}}
    if name == AUTOENCODER:
        name, arguments = "denoised", {"autoencoder": arguments}
    if name == "denoised":
        classifier = {"name": "cnn", "arguments": {"channels": [1, 1], "hidden": 1}}
        arguments["classifier"] = classifier
    g, h = networks.build(name, shape, 10, recipe.placement, arguments)
    with torch.inference_mode():
        assert h.eval()(g(torch.rand(1, *shape))).shape == (1, 10)


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'mnist'; known: mnist-cnn, .*digits"):
        find_recipe("mnist")


def test_changes_are_checked_and_leave_the_recipe_alone() -> None:
    digits = find_recipe("digits")
    assert digits.changed(epochs=3).epochs == 3
    assert digits.epochs != 3
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"epochs": 0}, "epochs: "),
        ({"seed": -1}, "seed: "),
        ({"scale": None}, "either scale or construction_bound"),
        ({"consistency": {"weight": 1.0}}, "consistency needs at least 2 draws"),
        ({"held_out": 0}, "held_out: "),
        ({"stability": 0.0}, "stability: "),
        ({"stability": 1.0, "draws": 2, "consistency": {"weight": 1.0}}, "without consistency"),
        ({"stability": 1.0, "mechanism": "split", "norm": "l1", "scale": 2.0}, "added noise"),
        ({"denoiser": {"restoration": -1.0}}, "denoiser.restoration: "),
        ({"epoch": 3}, "epoch: "),
        ({"optimiser": {"learning_rate": float("nan")}}, "optimiser.learning_rate: "),
    ]
    for change, complaint in wrong:
        with pytest.raises(ValueError, match=complaint):
            digits.changed(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"placement": "layer1"},
        {"mechanism": "split", "norm": "l1", "scale": 2.0},
        {"scale": None, "construction_bound": {"size": 0.1, "epsilon": 1.0, "delta": 0.05}},
    ],
)
def test_a_denoiser_by_itself_is_for_noise_in_the_image(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is for noise of the image, with a scale"):
        find_recipe("photo-denoiser").changed(**change)


def test_the_papers_construction_bound_gives_the_scale() -> None:
    bound = {"size": 0.1, "epsilon": 1.0, "delta": 0.05}
    recipe = find_recipe("digits").changed(scale=None, construction_bound=bound)
    expected = construction_scale("gaussian", 0.1, 1.0, 0.05, 2.0)
    assert recipe.noise_scale(2.0) == expected
    assert expected == pytest.approx(0.1 * 2 * (2 * 3.2188758) ** 0.5)
    assert recipe.changed(mechanism="laplace").noise_scale(2.0) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="either scale or construction_bound"):
        recipe.changed(scale=0.5)


def test_pictures_that_a_network_without_noise_cannot_certify_are_not_held_out() -> None:
    recipe = without_noise(find_recipe("svhn-resnet"))
    assert recipe.held_out is None
    with pytest.raises(ValueError, match="nothing is certified without noise: omit held_out"):
        recipe.changed(held_out=100)
