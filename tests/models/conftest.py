from pathlib import Path

import pytest

from models.data.datasets import DataSet, load
from models.training.loop import train
from models.training.recipe import find_recipe, without_noise


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that classifies most digits correctly and certifies some."""
    folder = tmp_path_factory.mktemp("bundles") / "digits"
    train(find_recipe("digits").changed(epochs=8), load("digits", None, "train"), folder)
    return folder


@pytest.fixture(scope="package")
def undefended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, trained without noise."""
    folder = tmp_path_factory.mktemp("bundles") / "undefended"
    recipe = without_noise(find_recipe("digits")).changed(epochs=8)
    train(recipe, load("digits", None, "train"), folder)
    return folder


@pytest.fixture(scope="package")
def digits() -> DataSet:
    return load("digits", None, "test").every(5)
