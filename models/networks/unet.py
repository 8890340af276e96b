"""A small fully convolutional network that removes noise from pictures.

It is a U-Net in the manner of DRUNet (Zhang et al. 2021, "Plug-and-play image restoration with deep
denoiser prior"): residual convolutions without normalisation at several sizes, and sums in place of
concatenations. As in FFDNet (Zhang, Zuo and Zhang 2018), its first layer moves each two by two
pixels into channels, so that nothing is computed at the full size, where layers cost most.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.resnet import Residual

# The sides of the squares of pixels that are moved into channels.
SQUARE = 2


class UNet(nn.Module):
    """Pictures [batch, c, height, width] to pictures of that size; at first unchanged.

    Args:
        colours: the channels c of the pictures.
        channels: of the features at 1/2, 1/4, … of the picture's sides.
        blocks: the number of residual convolutions at each of these sizes: on the way down, and as
            many on the way up; at the last one only once.
        in_squares: whether pictures come as [batch, 4c, height / 2, width / 2], with each two by
            two pixels in channels.
    """

    def __init__(
        self,
        colours: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        *,
        in_squares: bool = False,
    ) -> None:
        super().__init__()
        self.in_squares = in_squares
        if len(channels) != len(blocks) or not channels or min(*channels, *blocks) < 1:
            raise ValueError(
                f"channels {list(channels)} and blocks {list(blocks)}: expected equally many of "
                "both, each at least 1"
            )
        inside = colours * SQUARE**2
        self.head = nn.Conv2d(inside, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.before, self.after = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(channels[:-1]):
            self.before.append(_residuals(width, blocks[level]))
            self.down.append(nn.Conv2d(width, channels[level + 1], 2, stride=2))
            self.up.append(nn.ConvTranspose2d(channels[level + 1], width, 2, stride=2))
            self.after.append(_residuals(width, blocks[level]))
        self.middle = _residuals(channels[-1], blocks[-1])
        self.tail = nn.Conv2d(channels[0], inside, 3, padding=1)
        assert self.tail.bias is not None
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)
        # Sides that are no multiple of this are padded to one.
        self.multiple = 2 ** (len(channels) - 1) * (1 if in_squares else SQUARE)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the pictures without what the network takes for noise."""
        height, width = pictures.shape[2:]
        margin = 0, -width % self.multiple, 0, -height % self.multiple
        padded = F.pad(pictures, margin, mode="replicate") if any(margin) else pictures
        features = self.head(padded if self.in_squares else F.pixel_unshuffle(padded, SQUARE))
        skipped = []
        for before, down in zip(self.before, self.down, strict=True):
            features = before(features)
            skipped.append(features)
            features = down(features)
        features = self.middle(features)
        for level in reversed(range(len(skipped))):
            features = self.after[level](torch.add(self.up[level](features), skipped[level]))
        noise = self.tail(features)
        if self.in_squares:
            return F.pixel_shuffle(pictures - noise[:, :, :height, :width], SQUARE)
        return pictures - F.pixel_shuffle(noise, SQUARE)[:, :, :height, :width]


def build_unet(
    shape: tuple[int, int, int],
    *,
    channels: Sequence[int] = (32, 64, 128, 128),
    blocks: Sequence[int] = (1, 1, 1, 2),
    first_layer: bool = False,
) -> nn.Sequential:
    """Build the network for pictures of ``shape`` (channels, height, width), of any size.

    Args:
        shape: of the pictures.
        channels: as for :class:`UNet`.
        blocks: as for :class:`UNet`.
        first_layer: begin with a convolution, whose weights are learned, in place of moving each
            two by two pixels into channels, so that noise can be added after it. At first it does
            just that. Sides must be even.

    Raises:
        ValueError: the options do not fit each other.
    """
    if not first_layer:
        return nn.Sequential(UNet(shape[0], channels, blocks))
    if shape[1] % SQUARE or shape[2] % SQUARE:
        raise ValueError(f"pictures of {shape[2]}x{shape[1]}: a first layer needs even sides")
    inside = shape[0] * SQUARE**2
    first = nn.Conv2d(shape[0], inside, SQUARE, stride=SQUARE, bias=False)
    one_each = torch.eye(inside).reshape(inside, shape[0], SQUARE, SQUARE)
    with torch.no_grad():
        first.weight.copy_(one_each)
    return nn.Sequential(first, UNet(shape[0], channels, blocks, in_squares=True))


def _residuals(width: int, count: int) -> nn.Sequential:
    """Build residual convolutions: x + convolution(max(x, 0)), ``count`` times."""
    return nn.Sequential(
        *(
            Residual(nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)))
            for _ in range(count)
        )
    )
