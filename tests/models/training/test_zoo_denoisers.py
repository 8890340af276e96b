"""The denoisers of the zoo: small, by a recipe, and only with the terms of use of their data."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from models.bundle import CARD, DENOISER, ZOO
from models.denoiser import read_denoiser
from models.network import load_weights
from models.networks.autoencoder import build_front
from models.training.recipe import Recipe, find_recipe

NAMES = sorted(path.parent.name for path in ZOO.glob(f"*/{DENOISER}"))
SAMPLES = Path(__file__).parents[3] / "examples" / "imagenet" / "samples"


def test_the_zoo_has_one() -> None:
    assert NAMES == ["photo-denoiser"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_was_trained_by_the_recipe_of_its_name(name: str) -> None:
    denoiser = read_denoiser(ZOO / name)
    assert sum(file.stat().st_size for file in denoiser.path.iterdir()) <= 8_000_000
    manifest, recipe = denoiser.manifest, find_recipe(name)
    recorded = Recipe.model_validate(manifest.training["recipe"])
    free = {"precision": recipe.precision, "seconds": recipe.seconds, "epochs": recipe.epochs}
    assert recorded.changed(**free) == recipe
    assert (manifest.name, manifest.noise.scale) == (name, recipe.scale)
    assert manifest.architecture == recipe.architecture


@pytest.mark.parametrize("name", NAMES)
def test_its_card_says_how_to_make_it_and_what_the_data_allow(name: str) -> None:
    card = (ZOO / name / CARD).read_text(encoding="utf-8")
    assert f"pixeldp train {name} " in card
    _, _, terms = card.partition("## Data and terms of use\n")
    assert "non-commercial research and educational purposes" in terms.partition("## ")[0]
    training = read_denoiser(ZOO / name).manifest.training
    assert f"{training['held_out']['psnr']:.1f} dB" in card


@pytest.mark.parametrize("name", NAMES)
def test_it_removes_noise_from_photographs(name: str) -> None:
    denoiser = read_denoiser(ZOO / name)
    manifest = denoiser.manifest
    front = build_front(
        (3, 32, 32), network=manifest.architecture.name, **manifest.architecture.arguments
    )
    load_weights(denoiser, front)
    torch.manual_seed(0)
    for file in sorted(SAMPLES.iterdir()):
        with Image.open(file) as opened:
            small = opened.convert("RGB").resize((150, 100))
        flat = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
        picture = flat.reshape(1, 100, 150, 3).permute(0, 3, 1, 2) / 255
        noisy = picture + manifest.noise.scale * torch.randn(picture.shape)
        with torch.inference_mode():
            left = (front(noisy) - picture).square().mean()
        # A tenth of the variance is 10 dB more than the noisy picture has.
        assert left < 0.15 * manifest.noise.scale**2, file.name
