"""Networks by name. Each is built whole and divided where the noise goes: g before it, h after."""

from collections.abc import Callable
from typing import Any

from torch import nn

from models.networks.cnn import build_cnn, build_strided_cnn
from models.networks.placement import divide
from models.networks.resnet import build_fast_resnet, build_resnet, build_wide_resnet

Shape = tuple[int, int, int]

NETWORKS: dict[str, Callable[..., nn.Sequential]] = {
    "cnn": build_cnn,
    "fast-resnet": build_fast_resnet,
    "resnet": build_resnet,
    "strided-cnn": build_strided_cnn,
    "wide-resnet": build_wide_resnet,
}


def build(
    name: str, shape: Shape, labels: int, placement: str, arguments: dict[str, Any]
) -> tuple[nn.Module, nn.Module]:
    """Build the network ``name`` with fresh weights.

    Args:
        name: a key of ``NETWORKS``.
        shape: (channels, height, width) of the pictures.
        labels: how many labels there are; h returns that many logits a row.
        placement: where the noise goes, as in :func:`models.networks.placement.divide`.
        arguments: the network's own options.

    Returns:
        g and h. g of ``image`` is ``nn.Identity``.

    Raises:
        ValueError: an unknown name or placement, or arguments that do not fit.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(sorted(NETWORKS))}")
    try:
        network = NETWORKS[name](shape, labels, **arguments)
    except TypeError as error:
        raise ValueError(f"arguments of {name}: {error}") from None
    return divide(network, placement)
