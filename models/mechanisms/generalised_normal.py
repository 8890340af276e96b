"""Generalised normal noise in training."""

import torch
from torch import Tensor

from models.certification.laws.generalised_normal import SHAPE


def draw_like(features: Tensor) -> Tensor:
    """Return noise of scale 1 for each feature."""
    # |X|^β has the gamma law of shape 1/β, which is the law of shape 1/β + 1 times U^β.
    shape = torch.full_like(features, 1 / SHAPE + 1, dtype=torch.float32)
    distance = torch._standard_gamma(shape) ** (1 / SHAPE) * torch.rand_like(shape)
    return (distance * torch.randint_like(shape, 2).mul_(2).sub_(1)).to(features.dtype)
