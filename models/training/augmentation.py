"""Random changes of training pictures."""

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

from models.training.recipe import Augmentation


def augment(pictures: Tensor, how: Augmentation) -> Tensor:
    """Alter each picture of [batch, channels, height, width] by its own random affine map.

    Flips, and shifts by whole pixels, keep pixel values; other changes interpolate between them.
    Pixels from outside the picture are black (0).
    """
    if how == Augmentation():
        return pictures
    batch, height, width = len(pictures), *pictures.shape[2:]

    def uniform(largest: float) -> Tensor:
        return (2 * torch.rand(batch) - 1) * largest

    def pixels(size: int) -> Tensor:
        # The picture spans −1 to 1, so that a pixel is 2/size.
        return torch.randint(-how.shift, how.shift + 1, (batch,)) * (2 / size)

    angle, stretch, shear = (
        uniform(how.rotation * pi / 180),
        1 + uniform(how.stretch),
        uniform(how.shear),
    )
    mirror = torch.randint(2, (batch,)) * 2 - 1 if how.flip else torch.ones(batch)
    # The place in the old picture of each pixel of the new one; rows and columns in the same unit.
    maps = torch.empty(batch, 2, 3)
    maps[:, 0, 0] = mirror * stretch * angle.cos()
    maps[:, 0, 1] = (shear - stretch * angle.sin()) * (height / width)
    maps[:, 0, 2] = pixels(width)
    maps[:, 1, 0] = mirror * stretch * angle.sin() * (width / height)
    maps[:, 1, 1] = stretch * angle.cos()
    maps[:, 1, 2] = pixels(height)
    places = F.affine_grid(maps, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, places, align_corners=False)
