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
    """

    def __init__(self, colours: int, channels: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
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
        self.multiple = SQUARE * 2 ** (len(channels) - 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the pictures without what the network takes for noise."""
        height, width = pictures.shape[2:]
        margin = 0, -width % self.multiple, 0, -height % self.multiple
        padded = F.pad(pictures, margin, mode="replicate") if any(margin) else pictures
        features = self.head(F.pixel_unshuffle(padded, SQUARE))
        skipped = []
        for before, down in zip(self.before, self.down, strict=True):
            features = before(features)
            skipped.append(features)
            features = down(features)
        features = self.middle(features)
        for level in reversed(range(len(skipped))):
            features = self.after[level](torch.add(self.up[level](features), skipped[level]))
        noise = F.pixel_shuffle(self.tail(features), SQUARE)
        return pictures - noise[:, :, :height, :width]


def build_unet(
    shape: tuple[int, int, int],
    *,
    channels: Sequence[int] = (32, 64, 128, 128),
    blocks: Sequence[int] = (1, 1, 1, 2),
) -> nn.Sequential:
    """Build the network for pictures of ``shape`` (channels, height, width), of any size.

    Raises:
        ValueError: the options do not fit each other.
    """
    return nn.Sequential(UNet(shape[0], channels, blocks))


def _residuals(width: int, count: int) -> nn.Sequential:
    """Build residual convolutions: x + convolution(max(x, 0)), ``count`` times."""
    return nn.Sequential(
        *(
            Residual(nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)))
            for _ in range(count)
        )
    )
