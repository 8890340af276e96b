"""Exponential noise in training."""

import torch
from torch import Tensor


def draw_like(features: Tensor) -> Tensor:
    """Return noise of scale 1 for each feature."""
    return torch.empty_like(features).exponential_()
