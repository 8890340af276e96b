"""Networks by name. Each is built as two parts: g, before the noise, and h, after it."""

from collections.abc import Callable
from typing import Any

from torch import nn

from models.networks.cnn import build_cnn, build_strided_cnn

Shape = tuple[int, int, int]
Builder = Callable[..., tuple[nn.Module, nn.Module]]

NETWORKS: dict[str, Builder] = {"cnn": build_cnn, "strided-cnn": build_strided_cnn}


def build(
    name: str, shape: Shape, labels: int, placement: str, arguments: dict[str, Any]
) -> tuple[nn.Module, nn.Module]:
    """Build the network ``name`` with fresh weights.

    Args:
        name: a key of ``NETWORKS``.
        shape: (channels, height, width) of the pictures.
        labels: how many labels there are; h returns that many logits a row.
        placement: where the noise goes: ``image`` or ``layer1``.
        arguments: the network's own options.

    Returns:
        g and h. g of ``image`` is ``nn.Identity``.

    Raises:
        ValueError: an unknown name or placement, or arguments that do not fit.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(sorted(NETWORKS))}")
    try:
        return NETWORKS[name](shape, labels, placement, **arguments)
    except TypeError as error:
        raise ValueError(f"arguments of {name}: {error}") from None
