from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle import UNET, read_bundle
from models.data.datasets import DataSet
from models.evaluation.baseline import Baseline
from models.network import load_network
from models.training.recipe import NO_NOISE, RECIPES, Recipe, without_noise


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_but_a_denoisers_has_an_undefended_twin(recipe: Recipe) -> None:
    if recipe.denoiser or recipe.architecture.name == UNET:
        with pytest.raises(ValueError, match="the baseline is the bundle of the classifier behind"):
            without_noise(recipe)
        return
    twin = without_noise(recipe)
    assert twin.name == f"{recipe.name}-undefended"
    assert (twin.scale, twin.draws, twin.consistency) == (NO_NOISE, 1, None)
    same = {"architecture", "dataset", "epochs", "batch_size", "optimiser", "augmentation"}
    assert twin.model_dump(include=same) == recipe.model_dump(include=same)


def test_it_draws_no_noise_at_all(bundle: Path, undefended: Path, digits: DataSet) -> None:
    model = read_bundle(bundle).manifest
    for path in (bundle, undefended):
        baseline = Baseline(read_bundle(path), model)
        network = load_network(read_bundle(path))
        pictures = torch.from_numpy(digits.images).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            expected = network.score(network.encode(pictures)).argmax(1).numpy()
        assert (baseline.labels(digits.images) == expected).all()
        assert (baseline.labels(digits.images.astype(np.uint16) * 257) == expected).all()
        assert (expected == digits.labels).mean() > 0.7


def test_another_kind_of_model_is_refused_as_a_baseline(bundle: Path) -> None:
    model = read_bundle(bundle).manifest
    other = model.model_copy(update={"labels": ("a", "b"), "name": "letters"})
    with pytest.raises(ValueError, match=r"of letters, 2 labels of \[1, 8, 8\] pictures"):
        Baseline(read_bundle(bundle), other)
