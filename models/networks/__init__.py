"""Networks by name. Each is built whole, then divided where noise is added: g before, h after."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from models.bundle import DENOISED as DENOISED
from models.networks.autoencoder import build_front, prepend
from models.networks.cnn import build_cnn, build_strided_cnn
from models.networks.foreign.cohen import build_cifar_resnet
from models.networks.foreign.exported import build_exported
from models.networks.foreign.python import build_python
from models.networks.foreign.torchvision import build_torchvision
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
# Classifiers that were made elsewhere.
IMPORTED: dict[str, Callable[..., nn.Sequential]] = {
    "cifar-resnet": build_cifar_resnet,
    "exported": build_exported,
    "python": build_python,
    "torchvision": build_torchvision,
}


def build(
    name: str,
    shape: Shape,
    labels: int,
    placement: str,
    arguments: Mapping[str, Any],
    program: bytes | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Build the network ``name`` with fresh weights.

    Args:
        name: a key of ``NETWORKS`` or ``IMPORTED``, or ``denoised``: an autoencoder, with the
            arguments ``autoencoder``, in front of the network ``classifier``, a name and arguments.
        shape: (channels, height, width) of the pictures.
        labels: the number of labels; h returns that many logits for each row.
        placement: where the noise is added, as in :func:`models.networks.placement.divide`.
        arguments: the network's own options.
        program: of ``exported``.

    Returns:
        g and h. g of ``image`` is ``nn.Identity``.

    Raises:
        ValueError: the name or placement is unknown, or the arguments do not fit.
    """
    return divide(_whole(name, shape, labels, arguments, program), placement)


def _whole(
    name: str, shape: Shape, labels: int, arguments: Mapping[str, Any], program: bytes | None
) -> nn.Sequential:
    builders = {**NETWORKS, **IMPORTED}
    try:
        if name == DENOISED:
            return _denoised(shape, labels, program, **arguments)
        if name not in builders:
            known = ", ".join(sorted([*builders, DENOISED]))
            raise ValueError(f"unknown network {name!r}; known: {known}")
        given = {"program": program} if name == "exported" else {}
        return builders[name](shape, labels, **given, **arguments)
    except (TypeError, KeyError) as error:
        raise ValueError(f"arguments of {name}: {error}") from None


def _denoised(
    shape: Shape,
    labels: int,
    program: bytes | None,
    *,
    autoencoder: Mapping[str, Any],
    classifier: Mapping[str, Any],
) -> nn.Sequential:
    whole = _whole(classifier["name"], shape, labels, classifier["arguments"], program)
    return prepend(build_front(shape, **autoencoder), whole)
