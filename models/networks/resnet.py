"""Residual networks for small colour pictures.

``resnet`` is the network of He et al. (2016, section 4.2; depth 20 to 110), and ``wide-resnet``
that of Zagoruyko and Komodakis (2016; WRN-28-10 has depth 28 and width 10).

``fast-resnet`` is the nine-layer network found by Page ("How to train your ResNet", 2018) for
training in few steps: convolutions and pooling halve the picture three times, with one residual
pair of convolutions after the first and the last. A draw costs as much as with ResNet-20, and a few
dozen epochs of training achieve more.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
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
    stages = _stages(channels, (channels, 2 * channels, 4 * channels), _blocks(depth, 2), _block)
    stem = nn.Sequential(*_convolved(shape[0], channels), nn.ReLU(inplace=True))
    return _network(stem, stages, nn.Sequential(*_head(4 * channels, labels)))


def build_wide_resnet(
    shape: Shape, labels: int, *, depth: int = 28, width: int = 10
) -> nn.Sequential:
    """Build a WRN-``depth``-``width``, depth 6n + 4: normalisation comes before convolution."""
    widths = 16 * width, 32 * width, 64 * width
    stages = _stages(16, widths, _blocks(depth, 4), _activated_block)
    head = nn.Sequential(*_activated(widths[-1]), *_head(widths[-1], labels))
    return _network(nn.Sequential(_convolution(shape[0], 16)), stages, head)


def build_fast_resnet(
    shape: Shape, labels: int, *, channels: tuple[int, int, int, int] = (24, 48, 96, 192)
) -> nn.Sequential:
    """Build the nine-layer network with these ``channels`` at full, 1/2, 1/4 and 1/8 size."""
    stages: list[tuple[str, nn.Module]] = []
    for stage, (before, after) in enumerate(pairwise(channels)):
        parts = [*_convolved(before, after), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        if stage != 1:
            pair = [*_convolved(after, after), nn.ReLU(inplace=True)]
            parts.append(
                Residual(nn.Sequential(*pair, *_convolved(after, after), nn.ReLU(inplace=True)))
            )
        stages.append((f"stage{stage + 1}", nn.Sequential(*parts)))
    stem = nn.Sequential(*_convolved(shape[0], channels[0]), nn.ReLU(inplace=True))
    return _network(stem, stages, nn.Sequential(*_head(channels[-1], labels)))


def _stages(
    before: int,
    widths: Sequence[int],
    blocks: int,
    build_block: Callable[[int, int, int], list[nn.Module]],
) -> list[tuple[str, nn.Module]]:
    """Build stages of so many blocks each; every stage but the first halves the picture's sides."""
    stages: list[tuple[str, nn.Module]] = []
    for stage, width in enumerate(widths):
        parts: list[nn.Module] = []
        for block in range(blocks):
            parts += build_block(before, width, 2 if stage and not block else 1)
            before = width
        stages.append((f"stage{stage + 1}", nn.Sequential(*parts)))
    return stages


def _block(before: int, after: int, stride: int) -> list[nn.Module]:
    branch = nn.Sequential(
        *_convolved(before, after, stride), nn.ReLU(inplace=True), *_convolved(after, after)
    )
    same = stride == 1 and before == after
    shortcut = None if same else nn.Sequential(*_convolved(before, after, stride, 1))
    return [Residual(branch, shortcut), nn.ReLU(inplace=True)]


def _activated_block(before: int, after: int, stride: int) -> list[nn.Module]:
    branch = nn.Sequential(
        _convolution(before, after, stride), *_activated(after), _convolution(after, after)
    )
    activated = _activated(before)
    if stride == 1 and before == after:
        # The shortcut takes the features as they are; only the branch takes them activated.
        return [Residual(nn.Sequential(*activated, *branch))]
    return [*activated, Residual(branch, _convolution(before, after, stride, 1))]


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
