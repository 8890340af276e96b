"""Laplace noise in training."""

import torch
from torch import Tensor


def draw_like(features: Tensor) -> Tensor:
    """Return noise of scale 1 for each feature."""
    # The difference of two standard exponentials is a standard Laplace variable.
    one, other = (torch.empty_like(features).exponential_() for _ in range(2))
    return one - other
