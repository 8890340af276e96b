"""Networks of Cohen et al. 2019 (github.com/locuslab/smoothing), on which later papers build.

They normalise after the noise, as here, and have three architectures: ``resnet50`` is
torchvision's, and ``cifar_resnet20`` and ``cifar_resnet110`` are the networks of
:func:`models.networks.resnet.build_resnet` with other names for their tensors.
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from models.networks.foreign.wrapping import normalised
from models.networks.resnet import build_resnet

Shape = tuple[int, int, int]

# (the module's name there, within a block if it is in one): its name within ours.
_STEM = {"conv1": "stem.0", "bn1": "stem.1", "fc": "head.2"}
_BLOCK = {
    "conv1": "branch.0",
    "bn1": "branch.1",
    "conv2": "branch.3",
    "bn2": "branch.4",
    "downsample.0": "shortcut.0",
    "downsample.1": "shortcut.1",
}
_NAME = re.compile(
    r"(?P<prefix>(?:\w+\.)*?)(?:layer(?P<stage>[123])\.(?P<block>\d+)\.(?P<inner>conv[12]|bn[12]|"
    r"downsample\.[01])|(?P<outer>conv1|bn1|fc))\.(?P<tensor>\w+)"
)


def build_cifar_resnet(
    shape: Shape, labels: int, *, depth: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """Build normalisation and a ResNet of ``depth`` 6n + 2, with fresh weights."""
    return normalised(build_resnet(shape, labels, depth=depth), shape, mean, std)


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a ``cifar_resnet`` the names that :func:`build_resnet` has for them.

    Names that are not of such a network, and prefixes such as ``1.module.``, stay as they are.
    """
    return {_ours(name): tensor for name, tensor in tensors.items()}


def _ours(name: str) -> str:
    found = _NAME.fullmatch(name)
    if found is None:
        return name
    prefix, tensor = found["prefix"], found["tensor"]
    if found["outer"]:
        return f"{prefix}{_STEM[found['outer']]}.{tensor}"
    # Each block here is followed by its ReLU, which counts as a module.
    return (
        f"{prefix}stage{found['stage']}.{2 * int(found['block'])}.{_BLOCK[found['inner']]}.{tensor}"
    )
