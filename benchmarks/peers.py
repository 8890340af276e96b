"""Present practice: Cohen's procedure as a loop, and ART's (LitServe has its own module).

Each uses the same network, pictures, η and threads as the service, and float32, its default.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor, nn

from models.bundle import read_bundle
from models.certification.bounds import clopper_pearson_lower
from models.network import load_network

SELECTION = 100
# Draws in a forward pass of the loop; Cohen et al. use 400 to 1,000.
CHUNK = 400


def cohen(
    classifier: nn.Module, pictures: Tensor, n: int, scale: float, confidence: float
) -> list[tuple[int, float]]:
    """CERTIFY of Cohen et al. 2019 for pictures [batch, c, h, w]: (label, size), −1 to abstain.

    100 draws select the label, n certify it by Clopper-Pearson; pB = 1 − pA.
    """
    with torch.inference_mode():
        selected = _count(classifier, pictures, SELECTION, scale).argmax(1)
        counts = _count(classifier, pictures, n, scale)
    answers = []
    for label, row in zip(selected.tolist(), counts, strict=True):
        lower = float(clopper_pearson_lower(n, row[label].item(), 1 - confidence))
        size = scale * float(special.ndtri(lower))
        answers.append((label, size) if lower > 0.5 else (-1, 0.0))
    return answers


def _count(classifier: nn.Module, pictures: Tensor, n: int, scale: float) -> Tensor:
    """Count votes of n draws for each picture: [batch, K]."""
    counts: Tensor | int = 0
    for start in range(0, n, CHUNK):
        draws = min(CHUNK, n - start)
        repeated = pictures.repeat_interleave(draws, 0)
        logits = classifier(repeated + scale * torch.randn_like(repeated))
        votes = nn.functional.one_hot(logits.argmax(1), logits.shape[1])
        counts = counts + votes.reshape(len(pictures), draws, -1).sum(1)
    assert isinstance(counts, Tensor)
    return counts


def load_classifier(bundle: Path) -> tuple[nn.Module, float]:
    """Return h of a bundle with its noise in the image, and σ."""
    network = load_network(read_bundle(bundle))
    if not isinstance(network.encoder, nn.Identity):
        raise ValueError("the peers add noise to the image; use a bundle that does, too")
    return network.classifier, network.scale


def art_certify(
    classifier: nn.Module, scale: float, pictures: NDArray[np.float32], n: int, confidence: float
) -> None:
    """Run ART's randomized smoothing over the pictures, one by one, as ART does."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    smoothing = PyTorchRandomizedSmoothing(
        model=classifier,
        loss=nn.CrossEntropyLoss(),
        input_shape=pictures.shape[1:],
        nb_classes=10,
        clip_values=None,
        channels_first=True,
        sample_size=SELECTION,
        scale=scale,
        alpha=1 - confidence,
        device_type="cpu",
    )
    smoothing.certify(x=pictures, n=n, batch_size=CHUNK)
