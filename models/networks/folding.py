"""Batch normalisation folded into the convolution before it: the same function in one step less."""

import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def fold(network: nn.Module) -> nn.Module:
    """Return ``network`` with each normalisation that follows a layer of its ``Sequential`` folded.

    In evaluation mode, normalisation multiplies and shifts each channel by constants, which the
    layer before it can do as well. Other modules do not change.

    Args:
        network: in evaluation mode; it is not altered.
    """
    folded = copy.deepcopy(network)
    for part in folded.modules():
        if type(part) is nn.Sequential:
            _fold_neighbours(part)
    return folded


def _fold_neighbours(sequence: nn.Sequential) -> None:
    names = list(sequence._modules)
    for first, second in pairwise(names):
        layer, norm = sequence._modules[first], sequence._modules[second]
        if type(layer) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
            sequence._modules[first] = fuse_conv_bn_eval(layer, norm)
        elif type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d:
            sequence._modules[first] = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        sequence._modules[second] = nn.Identity()
