"""What the samplers have in common for which pixels are bytes."""

import numpy as np

from models.certification.arrays import Floats
from models.certification.laws.split import LEVELS
from models.noise import Features


class OfBytes:
    """A sampler for pictures of 8 bits per value."""

    def snap(self, g: Floats) -> Features:
        """Round pixel values to 8 bits: for trials with pictures that nobody sent."""
        return Features(np.rint(np.clip(g.ravel(), 0, 1) * LEVELS).astype(np.int32), on_grid=True)
