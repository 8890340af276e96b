"""Discrete Laplace noise in training."""

import torch
from torch import Tensor

from models.certification.laws.split import LEVELS


def draw_like(features: Tensor, scale: float) -> Tensor:
    """Return noise of scale 1 for each feature: whole steps of 1/(255·``scale``)."""
    # The whole part of an exponential variable is geometric, and the difference of two of these
    # is discrete Laplace.
    spread = LEVELS * scale
    one, other = (
        torch.empty_like(features, dtype=torch.float32).exponential_().mul_(spread).floor_()
        for _ in range(2)
    )
    return ((one - other) / spread).to(features.dtype)
