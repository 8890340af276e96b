"""What the samplers have in common for which pixels are bytes."""

from models.certification.arrays import Floats
from models.noise import Features, snap_to_bytes


class OfBytes:
    """A sampler for pictures of 8 bits per value."""

    def snap(self, g: Floats) -> Features:
        """Round pixel values to 8 bits: for trials with pictures that nobody sent."""
        return snap_to_bytes(g)
