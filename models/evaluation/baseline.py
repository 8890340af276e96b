"""The baseline of an evaluation: a network without noise.

Its bundle is trained like any other, by the recipe of the model with which it is compared, but
without noise (:func:`models.training.recipe.without_noise`): the same network, data and epochs, but
noise of a millionth of the pixels' range, which has no effect. A baseline is used without even that
noise, and nothing is certified about it.
"""

import time

import numpy as np
import torch

from models.bundle import Bundle, Manifest
from models.certification.arrays import Integers
from models.evaluation.asked import check_baseline
from models.evaluation.attacks import LogScores, plain_scores
from models.evaluation.figures import Answers
from models.network import load_network
from models.preprocessing import Pixels


class Baseline:
    """A bundle's network without noise.

    Args:
        bundle: its bundle.
        model: the model with which it is compared.
        device: a torch device.

    Raises:
        BundleError: the bundle cannot be trusted.
        ValueError: its labels or its input are not those of ``model``.
    """

    def __init__(self, bundle: Bundle, model: Manifest, device: str = "cpu") -> None:
        check_baseline(bundle, model)
        self.manifest, self.device = bundle.manifest, device
        self.about = {"model": bundle.digest, "baseline": True, "device": device}
        self._scores: LogScores = plain_scores(load_network(bundle).to(device))

    def scores(self, draws: int) -> tuple[LogScores, int]:
        """Return its scores, which have no noise to average over, and 1."""
        return self._scores, 1

    def answer(self, pixels: Pixels, doing: str, seed: int | None = None) -> Answers:
        """Answer pictures without certifying anything: all sizes are 0."""
        began = time.perf_counter()
        leaders = self.labels(pixels)
        each = (time.perf_counter() - began) / len(pixels)
        return Answers(leaders, np.zeros(len(pixels)), np.full(len(pixels), each), 0)

    def labels(self, pixels: Pixels) -> Integers:
        """Return the labels [N] of pictures [N, height, width, channels] of 8 or 16 bits."""
        full = float(np.iinfo(pixels.dtype).max)
        found = []
        with torch.inference_mode():
            for start in range(0, len(pixels), 256):
                part = torch.from_numpy(pixels[start : start + 256] / full).float()
                scores = self._scores(part.permute(0, 3, 1, 2).contiguous().to(self.device))
                found.append(scores.argmax(dim=1).cpu().numpy())
        return np.concatenate(found)
