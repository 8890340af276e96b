"""Logistic noise in training."""

import torch
from torch import Tensor


def draw_like(features: Tensor) -> Tensor:
    """Return noise of scale 1 for each feature."""
    # The logarithm of the ratio of two standard exponentials is a standard logistic variable.
    one, other = (torch.empty_like(features).exponential_() for _ in range(2))
    return (one / other.clamp_min(torch.finfo(features.dtype).tiny)).log()
