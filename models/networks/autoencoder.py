"""The autoencoder in front of a classifier (Lécuyer et al. 2019, section III-B, option 4).

It is trained to undo the noise while the classifier behind it stays as it is. PixelDP demands
nothing of the layers after the noise, so any classifier will do. The noise is added to the picture,
or after the autoencoder's first convolution, whose sensitivity is kept at a bound.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from models.bundle import AUTOENCODER as AUTOENCODER
from models.bundle import UNET
from models.networks.foreign.wrapping import Frozen
from models.networks.resnet import Residual
from models.networks.unet import build_unet

Shape = tuple[int, int, int]

# Names of the two parts, and so prefixes of their weights' names.
CLASSIFIER = "classifier"


def build_autoencoder(
    shape: Shape,
    *,
    channels: Sequence[int] = (32, 64),
    strides: Sequence[int] = (2, 1),
    kernel: int = 5,
    depth: int = 0,
    residual: bool = False,
) -> nn.Sequential:
    """Build convolutions and as many transposed convolutions, from pictures to pictures.

    Args:
        shape: (channels, height, width) of the pictures.
        channels: outputs of each convolution.
        strides: of each convolution.
        kernel: the side of all kernels, odd.
        depth: the number of 3×3 convolutions in the middle.
        residual: whether the output is a correction to the picture (as in Zhang et al. 2017), at
            first zero. Noise can then only be added to the image.

    Raises:
        ValueError: the options do not fit each other.
    """
    if len(channels) != len(strides) or not channels or min(*channels, *strides) < 1:
        raise ValueError(
            f"channels {list(channels)} and strides {list(strides)}: expected equally many "
            "of both, each at least 1"
        )
    if kernel % 2 == 0 or kernel < max(strides):
        raise ValueError(f"kernel {kernel}: expected an odd number, at least the largest stride")
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    before, size = shape[0], shape[1:]
    for after, stride in zip(channels, strides, strict=True):
        halved = -(-size[0] // stride), -(-size[1] // stride)
        # The padding with which the transposed convolution restores the earlier size.
        rest = size[0] - 1 - (halved[0] - 1) * stride, size[1] - 1 - (halved[1] - 1) * stride
        margin = kernel // 2
        encoder += [nn.Conv2d(before, after, kernel, stride, margin), nn.ReLU(inplace=True)]
        back = nn.ConvTranspose2d(after, before, kernel, stride, margin, rest)
        decoder = [back, nn.ReLU(inplace=True), *decoder]
        before, size = after, halved
    for _ in range(depth):
        encoder += [nn.Conv2d(before, before, 3, padding=1), nn.ReLU(inplace=True)]
    whole = nn.Sequential(*encoder, *decoder[:-1])
    if not residual:
        return whole
    last = decoder[-2]
    assert isinstance(last, nn.ConvTranspose2d)
    assert last.bias is not None
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(Residual(whole))


def build_front(shape: Shape, *, network: str = AUTOENCODER, **arguments: Any) -> nn.Sequential:
    """Build what stands in front of a classifier: an autoencoder, or the U-Net of denoisers.

    Args:
        shape: (channels, height, width) of the pictures.
        network: ``autoencoder`` or ``unet``.
        arguments: of :func:`build_autoencoder` or :func:`models.networks.unet.build_unet`.

    Raises:
        ValueError: there is no such network, or its arguments do not fit.
    """
    if network not in _FRONTS:
        raise ValueError(f"no denoiser {network!r}; known: {', '.join(_FRONTS)}")
    return _FRONTS[network](shape, **arguments)


_FRONTS: dict[str, Callable[..., nn.Sequential]] = {
    AUTOENCODER: build_autoencoder,
    UNET: build_unet,
}


def prepend(autoencoder: nn.Sequential, classifier: nn.Module) -> nn.Sequential:
    """Return ``classifier``, frozen, behind ``autoencoder``."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts[AUTOENCODER] = autoencoder
    parts[CLASSIFIER] = Frozen(OrderedDict(network=classifier))
    return nn.Sequential(parts)
