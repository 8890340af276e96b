"""The convolutional network of the paper (Lécuyer et al. 2019, Table I, for MNIST and SVHN).

Two strided 5×5 convolutions, one hidden fully connected layer. The paper puts its noise after the
first convolution; in the image is possible too.
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
    convolution = nn.Conv2d(shape[0], first, 5, stride=2, padding=2, bias=placement == "image")
    rows, columns = (ceil(ceil(size / 2) / 2) for size in shape[1:])
    rest = [
        nn.ReLU(),
        nn.Conv2d(first, second, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * rows * columns, hidden),
        nn.ReLU(),
        nn.Linear(hidden, labels),
    ]
    if placement == "image":
        return nn.Identity(), nn.Sequential(convolution, *rest)
    if placement == "layer1":
        return convolution, nn.Sequential(*rest)
    raise ValueError(f"unknown placement {placement!r}; known: {', '.join(PLACEMENTS)}")
