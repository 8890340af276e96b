"""Convolutional networks without skips, for small pictures.

``cnn`` is that of the paper (Lécuyer et al. 2019, Table I, for MNIST and SVHN): two strided 5×5
convolutions, one hidden fully connected layer.

``strided-cnn`` is the deeper kind that certified training uses on MNIST (the LeNet of Zhang et al.
2020 and of Jeong and Shin 2020: two convolutions at each of two resolutions, one hidden layer),
with the picture halved twice first and the further convolutions at a quarter of its size. A draw
costs half as much as with that LeNet.

The paper puts its noise after the first convolution; in the image is possible too.
"""

from math import ceil

from torch import nn

PLACEMENTS = ("image", "layer1")


def build_cnn(
    shape: tuple[int, int, int],
    labels: int,
    placement: str,
    *,
    channels: tuple[int, int] = (32, 64),
    hidden: int = 1024,
) -> tuple[nn.Module, nn.Module]:
    """Build (g, h) for pictures of ``shape`` (channels, height, width)."""
    first, second = channels
    rest = [
        nn.Conv2d(first, second, 5, stride=2, padding=2),
        nn.ReLU(inplace=True),
        *_head(shape, second, hidden, labels),
    ]
    return _divide(shape[0], first, rest, placement)


def build_strided_cnn(
    shape: tuple[int, int, int],
    labels: int,
    placement: str,
    *,
    channels: tuple[int, int] = (32, 64),
    depth: int = 2,
    hidden: int = 256,
) -> tuple[nn.Module, nn.Module]:
    """Build (g, h) for pictures of ``shape``, with ``depth`` 3×3 convolutions after the strided."""
    first, second = channels
    strided = nn.Conv2d(first, second, 5, stride=2, padding=2)
    rest: list[nn.Module] = [strided, nn.ReLU(inplace=True)]
    for _ in range(depth):
        rest += [nn.Conv2d(second, second, 3, padding=1), nn.ReLU(inplace=True)]
    return _divide(shape[0], first, [*rest, *_head(shape, second, hidden, labels)], placement)


def _head(shape: tuple[int, int, int], channels: int, hidden: int, labels: int) -> list[nn.Module]:
    rows, columns = (ceil(ceil(size / 2) / 2) for size in shape[1:])
    return [
        nn.Flatten(),
        nn.Linear(channels * rows * columns, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, labels),
    ]


def _divide(
    inputs: int, outputs: int, rest: list[nn.Module], placement: str
) -> tuple[nn.Module, nn.Module]:
    """Put the first convolution before or after the noise."""
    # Before the noise a bias would change nothing: the noisy features could be shifted back.
    bias = placement == "image"
    convolution = nn.Conv2d(inputs, outputs, 5, stride=2, padding=2, bias=bias)
    if placement == "image":
        return nn.Identity(), nn.Sequential(convolution, nn.ReLU(inplace=True), *rest)
    if placement == "layer1":
        return convolution, nn.Sequential(nn.ReLU(inplace=True), *rest)
    raise ValueError(f"unknown placement {placement!r}; known: {', '.join(PLACEMENTS)}")
