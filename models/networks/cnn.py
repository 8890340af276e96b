"""Convolutional networks for small pictures.

``cnn`` is the network of the paper (Lécuyer et al. 2019, Table I, for MNIST and SVHN): two strided
5×5 convolutions and one hidden fully connected layer.

``strided-cnn`` halves the picture twice in the same way, and continues with residual 3×3
convolutions at a quarter of its size, where a draw costs least. All convolutions have batch
normalisation. Its depth is that of the LeNets that certified training uses on MNIST (Zhang et al.
2020; Jeong and Shin 2020). With ``inner_noise`` its strided part ends in noise of that deviation,
which h draws from its own row (:mod:`models.networks.row_noise`).

The paper adds its noise after the first convolution; it can also be added to the image.
"""

from math import ceil

from torch import nn

from models.networks.resnet import Residual
from models.networks.row_noise import RowNoise


def build_cnn(
    shape: tuple[int, int, int],
    labels: int,
    *,
    channels: tuple[int, int] = (32, 64),
    hidden: int = 1024,
) -> nn.Sequential:
    """Build the network for pictures of ``shape`` (channels, height, width)."""
    first, second = channels
    return nn.Sequential(
        *_strided(shape[0], first), *_strided(first, second), *_head(shape, second, hidden, labels)
    )


def build_strided_cnn(
    shape: tuple[int, int, int],
    labels: int,
    *,
    channels: tuple[int, int] = (32, 64),
    depth: int = 4,
    hidden: int = 256,
    inner_noise: float = 0.0,
) -> nn.Sequential:
    """Build the network with ``depth`` residual 3×3 convolutions after the strided ones."""
    first, second = channels
    return nn.Sequential(
        *_normalised(shape[0], first, 5, 2),
        *_normalised(first, second, 5, 2),
        *([RowNoise(inner_noise)] if inner_noise else []),
        *(Residual(nn.Sequential(*_normalised(second, second, 3, 1))) for _ in range(depth)),
        *_head(shape, second, hidden, labels),
    )


def _strided(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 5, stride=2, padding=2), nn.ReLU(inplace=True)]


def _normalised(before: int, after: int, size: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]


def _head(shape: tuple[int, int, int], channels: int, hidden: int, labels: int) -> list[nn.Module]:
    rows, columns = (ceil(ceil(size / 2) / 2) for size in shape[1:])
    return [
        nn.Flatten(),
        nn.Linear(channels * rows * columns, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, labels),
    ]
