"""torchvision's classifiers by name. torchvision is imported only when one is built."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from models.networks.foreign.torchvision_operators import declare_missing_operators
from models.networks.foreign.wrapping import normalised
from models.source_names import TORCHVISION

Shape = tuple[int, int, int]

# Weights of heads that only training uses; these networks are built without them.
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


@dataclass(frozen=True)
class Defaults:
    """What torchvision's own weights of a classifier expect: side, normalisation, and labels."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]


def find_defaults(model: str) -> Defaults:
    """Return what torchvision's default weights expect; nothing is downloaded.

    Raises:
        ValueError: there is no such classifier.
    """
    _check(model)
    from torchvision.models import get_model_weights

    weights = get_model_weights(model).DEFAULT
    how = weights.transforms()
    mean, std = tuple(how.mean), tuple(how.std)
    if model in _WITH_HEADS:
        # Their weights were trained on 2x − 1. torchvision computes that from the usual
        # normalisation by transform_input, which is off here.
        mean = std = (0.5, 0.5, 0.5)
    return Defaults(how.crop_size[0], mean, std, tuple(weights.meta["categories"]))


def build_torchvision(
    shape: Shape, labels: int, *, model: str, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """Build normalisation and the classifier, with fresh weights.

    Args:
        shape: (3, height, width) of the pictures.
        labels: how many logits it returns.
        model: the name of one of ``torchvision.models``.
        mean: of each channel.
        std: of each channel.

    Raises:
        ValueError: there is no such classifier, or it does not accept pictures of that shape.
    """
    _check(model)
    if shape[0] != 3:
        raise ValueError(f"{model} takes 3 channels, not {shape[0]}")
    from torchvision.models import get_model

    options: dict[str, Any] = {}
    if model in _WITH_HEADS:
        options = {"aux_logits": False, "transform_input": False, "init_weights": False}
    elif model.startswith(("vit_", "maxvit_")):
        if shape[1] != shape[2]:
            raise ValueError(f"{model} takes square pictures, not {shape[2]}x{shape[1]}")
        square = model.startswith("vit_")
        options = {"image_size": shape[1]} if square else {"input_size": shape[1:]}
    network: nn.Module = get_model(model, weights=None, num_classes=labels, **options)
    return normalised(network, shape, mean, std)


_WITH_HEADS = ("googlenet", "inception_v3")


def _check(model: str) -> None:
    if model not in TORCHVISION:
        known = ", ".join(sorted(TORCHVISION))
        raise ValueError(f"torchvision has no classifier {model!r}; it has: {known}")
    declare_missing_operators()
