"""The baseline of an evaluation: a network without noise.

Its bundle is trained like any other, by the recipe of the model it stands beside
:func:`without_noise`: the same network, data and epochs, but noise of a millionth of the pixels'
range, which is none. A baseline is used without even that; nothing is certified about it.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.bundle import Manifest, read_bundle
from models.certification.arrays import Integers
from models.evaluation.attacks import LogScores, plain_scores
from models.pixeldp import load_network
from models.training.recipe import Recipe

# A bundle states a scale above 0. This one is too small for the service to draw.
NO_NOISE = 1e-6


def without_noise(recipe: Recipe) -> Recipe:
    """Return the same network's recipe without noise, and without what noise needed.

    Raises:
        ValueError: a denoiser's recipe.
    """
    if recipe.denoiser:
        raise ValueError(
            f"recipe {recipe.name} trains a denoiser, which is nothing without noise; the baseline "
            "is the bundle of the classifier behind it"
        )
    return recipe.changed(
        name=f"{recipe.name}-undefended",
        placement="image",
        mechanism="gaussian",
        norm="l2",
        scale=NO_NOISE,
        construction_bound=None,
        draws=1,
        consistency=None,
        noise_warm_up=0,
        held_out=None,
    )


class Baseline:
    """A bundle's network without noise.

    Args:
        path: the bundle's folder.
        model: the model that it stands beside.
        device: a torch device.

    Raises:
        BundleError: the bundle cannot be trusted.
        ValueError: it has other labels or takes other pictures than ``model``.
    """

    def __init__(self, path: Path, model: Manifest, device: str = "cpu") -> None:
        bundle = read_bundle(path)
        self.manifest, self.device = bundle.manifest, device
        if self.manifest.labels != model.labels or self.manifest.input != model.input:
            raise ValueError(
                f"{path}: a baseline has the labels and the input of {model.name}, "
                f"{len(model.labels)} labels of {list(model.input.shape)} pictures; this one has "
                f"{len(self.manifest.labels)} of {list(self.manifest.input.shape)}"
            )
        self.scores: LogScores = plain_scores(load_network(bundle).to(device))

    def labels(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Integers:
        """Return the labels [N] of pictures [N, height, width, channels] of 8 or 16 bits."""
        full = float(np.iinfo(pixels.dtype).max)
        found = []
        with torch.inference_mode():
            for start in range(0, len(pixels), 256):
                part = torch.from_numpy(pixels[start : start + 256] / full).float()
                scores = self.scores(part.permute(0, 3, 1, 2).contiguous().to(self.device))
                found.append(scores.argmax(dim=1).cpu().numpy())
        return np.concatenate(found)
