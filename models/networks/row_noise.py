"""Further noise inside h, which h draws from each row's own values.

A certificate speaks of one h, whose rows look only at themselves. So a network must not call a
random generator. Noise by a row's place in the pass would make it another h in each place, and for
split noise, whose votes are counted and not estimated, the votes of two pictures would differ where
what h sees of them does not.

:class:`RowNoise` instead derives noise from the bits of the row that it is given. These are fresh
in each draw, as the certified noise in front of h is drawn by the pass's fresh key, row by row; and
yet h stays an ordinary function, for which every certificate holds as it is, however good or bad
this noise is. Equal rows get equal noise, in every place and in every pass.

By post-processing it adds nothing to a certificate. Rakin et al. 2018, "Parametric noise
injection", have noise in all layers for what it does to training and against attacks.

All arithmetic is of integers that never overflow, so that a row of given values has the same noise
by every kernel. A network whose values round otherwise gives other noise to its next layer: it is
another h, as always.
"""

from math import isfinite, sqrt

import torch
from torch import Tensor, nn

_WORD = 2**32 - 1
# An odd number near 2³²/φ, whose multiples spread evenly.
_STEP = 0x9E3779B9
# The standard deviation of a sum of four independent uniform bytes.
_DEVIATION = sqrt(4 * (256**2 - 1) / 12)


class RowNoise(nn.Module):
    """Adds noise of standard deviation ``scale`` to each value of a row, whatever the row is.

    A value's noise is a sum of four bytes, so nearly normal, and at most 3.46 deviations.

    Args:
        scale: in the units of the features.

    Raises:
        ValueError: it is negative or not finite.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        if not (isfinite(scale) and scale >= 0):
            raise ValueError(f"the scale of noise must be at least 0 and finite, not {scale}")
        self.scale = float(scale)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``features`` [rows, …] with their noise; gradients pass as if it were constant."""
        words = features.detach().float().flatten(1).view(torch.int32).to(torch.int64) & _WORD
        places = torch.arange(1, words.shape[1] + 1, device=words.device)
        seeds = _mix(words ^ _mix(places)).sum(1, keepdim=True) & _WORD
        bits = _mix((_mix(seeds) + _STEP * places) & _WORD)
        total = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24)
        noise = (total - 2 * 255).to(torch.float32) * (self.scale / _DEVIATION)
        return features + noise.view(features.shape).to(features.dtype)

    def extra_repr(self) -> str:
        """Show the scale."""
        return f"scale={self.scale:g}"


def _mix(words: Tensor) -> Tensor:
    """Return a permutation of the integers below 2³² in which every bit changes every other.

    Wellons 2018, "Prospecting for hash functions": two rounds of multiplication. Its constants are
    below 2³¹, so that products of 32-bit words fit into 64 bits with their sign.
    """
    words = (words ^ words >> 16) * 0x21F0AAAD & _WORD
    words = (words ^ words >> 15) * 0x735A2D97 & _WORD
    return words ^ words >> 15
