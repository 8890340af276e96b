"""Checkpoints of Cohen et al. 2019 (github.com/locuslab/smoothing) and papers that use its code.

Its ``train.py`` saves ``{"epoch", "arch", "state_dict", "optimizer"}``. The state dict lacks the
normalisation, whose mean and std are constants of the code; if a file has them, they are used.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from models.importing.files import read_checkpoint
from models.networks.foreign.cohen import rename
from models.networks.foreign.torchvision import find_defaults
from models.source_names import ImportFailedError

Shape = tuple[int, int, int]

# code/datasets.py there: of the pictures' values in [0, 1].
_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_CIFAR10_LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_DEPTHS = {"cifar_resnet20": 20, "cifar_resnet110": 110}
_KNOWN = ("resnet50", *_DEPTHS)
# The constants of NormalizeLayer and InputCenterLayer, if somebody has registered them.
_CONSTANT = re.compile(r"(?:\w+\.)*(means|sds)")


@dataclass(frozen=True)
class Checkpoint:
    """A classifier of a checkpoint, described as :class:`models.importing.sources.Source` is."""

    arch: str
    network: str
    arguments: dict[str, Any]
    shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]
    tensors: dict[str, Tensor]


def read_cohen(file: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ImportFailedError: it is not such a checkpoint, or has another architecture.
    """
    arch, tensors = read_checkpoint(file)
    if arch not in _KNOWN:
        raise ImportFailedError(
            f"{file}: its architecture is {arch!r:.60}; expected {', '.join(_KNOWN[:-1])} or "
            f"{_KNOWN[-1]} (save other networks by torch.export and import the .pt2 file)"
        )
    constants = {
        found[1]: tuple(tensors.pop(name).flatten().tolist())
        for name in list(tensors)
        if (found := _CONSTANT.fullmatch(name))
    }
    arguments: dict[str, Any]
    if arch == "resnet50":
        known = find_defaults(arch)
        network, arguments = "torchvision", {"model": arch}
        shape, mean, std = (3, known.size, known.size), known.mean, known.std
        labels = known.labels
    else:
        network, arguments = "cifar-resnet", {"depth": _DEPTHS[arch]}
        shape, mean, std = (3, 32, 32), _CIFAR10_MEAN, _CIFAR10_STD
        labels = _CIFAR10_LABELS
        tensors = rename(tensors)
    if "means" in constants:  # InputCenterLayer has no sds: it only subtracts the mean
        mean, std = constants["means"], constants.get("sds", (1.0,) * shape[0])
    return Checkpoint(arch, network, arguments, shape, mean, std, _names(labels, tensors), tensors)


def _names(labels: tuple[str, ...], tensors: dict[str, Tensor]) -> tuple[str, ...]:
    """Return the data set's labels, or numbers if the last layer has another number of them."""
    last = [tensor for name, tensor in tensors.items() if name.endswith(("fc.bias", "head.2.bias"))]
    count = len(last[0]) if last else len(labels)
    return labels if count == len(labels) else tuple(map(str, range(count)))
