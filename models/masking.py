"""What a sticker reaches at a model's input, the masks that hide it, and what h sees under them.

The certificate is about a sticker on the picture as sent (``models.certification.stickers``). All
steps of preprocessing but the resize act on each pixel for itself. The resize is a triangle filter
on each axis: output i of one axis lies at c = (i + ½)·n/m of the input, where m of n pixels remain,
and weighs the pixel j by max(0, 1 − |j + ½ − c|/S), with S = max(1, n/m). So a sticker on the
pixels from p to p + s − 1 of an axis changes only outputs i with |j + ½ − c| < S for one of these
j. The outputs of both axes multiply: what the sticker changes lies in the rectangle of its rows and
columns. A mask that contains it hides everything, and the view does not depend on the sticker.

Weights are computed in float64, so a weight that is exactly 0 could come out as 1e-16. Therefore
the test here is |j + ½ − c| ≤ S, in integers: |(2j + 1)·m − (2i + 1)·n| ≤ 2·max(n, m). Beyond it
the distance exceeds S by a part of at least 1/(2·max(n, m)), far more than float64 errs.

A hidden value is a fixed grey. Everything after it is a function of the masked input: rounding to
the grid, g, h.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.certification.arrays import Integers, Numbers
from models.certification.stickers import Masks, Span, cover
from models.preprocessing import CannotCertify, Preprocessing

# What hidden values are, in steps of 1/255: many networks subtract about this much.
HIDDEN = 127


class SideTooLarge(CannotCertify):
    """A sticker can hide the whole picture; against smaller ones it may be certified.

    Attributes:
        option, allowed: which option of the request is wrong, and what it may be.
    """

    option, allowed = "target", "a smaller side"


def reached(size: int, resized: int, kept: int, side: int) -> list[Span]:
    """Return the outputs that a sticker changes on one axis, for each of its places.

    Args:
        size: pixels of the picture along the axis.
        resized: pixels after the resize.
        kept: pixels of the model's input, the centre of those.
        side: of the sticker, in pixels of the picture, as large as one likes.

    Returns:
        Spans of the model's input; empty where the crop drops all that is changed.
    """
    # A larger one changes no more, and its side need not fit into an int64.
    side = min(side, size)
    outputs = np.arange(kept, dtype=np.int64) + (resized - kept) // 2
    if size == resized:
        first = last = outputs
    else:
        # |(2j + 1)·m − (2i + 1)·n| ≤ 2·max(n, m), solved for j.
        centres, support = (2 * outputs + 1) * size, 2 * max(size, resized)
        first = -((resized - centres + support) // (2 * resized))
        last = (centres + support - resized) // (2 * resized)
    places = np.arange(size - side + 1)
    starts = np.searchsorted(last, places, side="left")
    ends = np.searchsorted(first, places + side - 1, side="right")
    return [
        (start, max(start, end)) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


@lru_cache(maxsize=256)
def masks_for(preparation: Preprocessing, side: int, along: int) -> Masks:
    """Return masks that hide every sticker of ``side`` pixels, ``along`` of them along each side.

    Raises:
        SideTooLarge: a sticker of that side can hide the whole picture.
    """
    _, height, width = preparation.shape
    axes = [
        (preparation.height, preparation.resized[0], height),
        (preparation.width, preparation.resized[1], width),
    ]
    rows, columns = (cover(reached(*axis, side), along) for axis in axes)
    if (0, height) in rows and (0, width) in columns:
        raise SideTooLarge(
            f"a mask for stickers of {side:.9g} pixels a side hides the whole of a picture of "
            f"{preparation.width}x{preparation.height}; ask for a smaller target"
        )
    return Masks(rows, columns)


@dataclass(frozen=True)
class MaskedViews:
    """What h sees of one picture, without noise, under two masks.

    Attributes:
        masks: the masks.
        picture: [channels, height, width], the model's input.
        hidden: the value that masks put in place of others, in its units.
        see: turns a masked input into what h sees of it, [m] in steps of the noise's grid.
    """

    masks: Masks
    picture: Numbers
    hidden: float
    see: Callable[[Numbers], NDArray[np.int32]]

    def steps(self, numbers: Integers) -> NDArray[np.int32]:
        """Return views by their numbers, [n, m]."""
        return np.stack([self.see(self._masked(int(number))) for number in numbers])

    def _masked(self, number: int) -> Numbers:
        masked = self.picture.copy()
        for mask in self.masks.pairs[number]:
            rows, columns = self.masks.rectangle(mask)
            masked[:, slice(*rows), slice(*columns)] = self.hidden
        return masked
