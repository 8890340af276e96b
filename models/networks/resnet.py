"""Residual networks for small colour pictures.

``resnet`` is the network of He et al. (2016, section 4.2; depth 20 to 110), and ``wide-resnet``
that of Zagoruyko and Komodakis (2016; WRN-28-10 has depth 28 and width 10).

``fast-resnet`` is the nine-layer network found by Page ("How to train your ResNet", 2018) for
training in few steps: convolutions and pooling halve the picture three times, with one residual
pair of convolutions after the first and the last. A draw costs as much as with ResNet-20, and a few
dozen epochs of training achieve more.
"""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]


class Residual(nn.Module):
    """branch(x) + shortcut(x)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut or nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Return the sum."""
        return torch.add(self.branch(features), self.shortcut(features))


def build_resnet(
    shape: Shape, labels: int, *, depth: int = 20, channels: int = 16
) -> nn.Sequential:
    """Build a ResNet of ``depth`` 6n + 2: three stages of n blocks of two convolutions."""
    blocks = _blocks(depth, 2)
    stages: list[tuple[str, nn.Module]] = []
    before = channels
    for stage, (width, stride) in enumerate(((channels, 1), (2 * channels, 2), (4 * channels, 2))):
        parts: list[nn.Module] = []
        for block in range(blocks):
            stride = stride if block == 0 else 1
            branch = nn.Sequential(
                *_convolved(before, width, stride), nn.ReLU(inplace=True), *_convolved(width, width)
            )
            same = stride == 1 and before == width
            shortcut = None if same else nn.Sequential(*_convolved(before, width, stride, 1))
            parts += [Residual(branch, shortcut), nn.ReLU(inplace=True)]
            before = width
        stages.append((f"stage{stage + 1}", nn.Sequential(*parts)))
    stem = nn.Sequential(*_convolved(shape[0], channels), nn.ReLU(inplace=True))
    return _network(stem, stages, nn.Sequential(*_head(before, labels)))


def build_wide_resnet(
    shape: Shape, labels: int, *, depth: int = 28, width: int = 10
) -> nn.Sequential:
    """Build a WRN-``depth``-``width``, depth 6n + 4: normalisation comes before convolution."""
    blocks = _blocks(depth, 4)
    stages: list[tuple[str, nn.Module]] = []
    before = 16
    for stage, (channels, stride) in enumerate(((16, 1), (32, 2), (64, 2))):
        after = channels * width
        parts: list[nn.Module] = []
        for block in range(blocks):
            stride = stride if block == 0 else 1
            branch = nn.Sequential(
                _convolution(before, after, stride),
                *_activated(after),
                _convolution(after, after),
            )
            shortcut: nn.Module | None = None
            activated = _activated(before)
            if stride == 1 and before == after:
                # The shortcut takes the features as they are; only the branch takes them activated.
                branch, activated = nn.Sequential(*activated, *branch), []
            else:
                shortcut = _convolution(before, after, stride, 1)
            parts += [*activated, Residual(branch, shortcut)]
            before = after
        stages.append((f"stage{stage + 1}", nn.Sequential(*parts)))
    head = nn.Sequential(*_activated(before), *_head(before, labels))
    return _network(nn.Sequential(_convolution(shape[0], 16)), stages, head)


def build_fast_resnet(
    shape: Shape, labels: int, *, channels: tuple[int, int, int, int] = (24, 48, 96, 192)
) -> nn.Sequential:
    """Build the nine-layer network with these ``channels`` at full, 1/2, 1/4 and 1/8 size."""
    first, *widths = channels
    stages: list[tuple[str, nn.Module]] = []
    for stage, (before, after) in enumerate(pairwise(channels)):
        parts = [*_convolved(before, after), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        if stage != 1:
            pair = [*_convolved(after, after), nn.ReLU(inplace=True)]
            parts.append(
                Residual(nn.Sequential(*pair, *_convolved(after, after), nn.ReLU(inplace=True)))
            )
        stages.append((f"stage{stage + 1}", nn.Sequential(*parts)))
    stem = nn.Sequential(*_convolved(shape[0], first), nn.ReLU(inplace=True))
    return _network(stem, stages, nn.Sequential(*_head(widths[-1], labels)))


def _network(
    stem: nn.Module, stages: list[tuple[str, nn.Module]], head: nn.Module
) -> nn.Sequential:
    return nn.Sequential(OrderedDict([("stem", stem), *stages, ("head", head)]))


def _blocks(depth: int, others: int) -> int:
    blocks, left = divmod(depth - others, 6)
    if left or blocks < 1:
        raise ValueError(f"depth {depth}: expected 6n + {others} with n ≥ 1")
    return blocks


def _convolution(before: int, after: int, stride: int = 1, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)


def _convolved(before: int, after: int, stride: int = 1, size: int = 3) -> list[nn.Module]:
    return [_convolution(before, after, stride, size), nn.BatchNorm2d(after)]


def _activated(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _head(channels: int, labels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, labels)]
