"""A loaded model: its bundle read, its network built and its bounds proven, once.

Predictors of all number formats are made from one loaded model; each has its own copy of h.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.bundle import MANIFEST, Bundle, BundleError, Manifest, describe
from models.certification.certificates import DEFAULTS
from models.certification.names import Norm
from models.mechanisms import interval
from models.mechanisms.interval import Boxes
from models.mechanisms.split import SplitNoise, seen_shape
from models.network import TEMPLATE, PixelDP, load_proven
from models.networks.folding import fold
from models.networks.interval import IntervalError, IntervalNetwork
from models.networks.placement import IMAGE
from models.noise import PIXEL_STEP, GridNoise
from models.sensitivity.error import EncoderError, encoder_error
from models.sensitivity.modules import Pair
from models.sensitivity.operators import Sensitivity
from models.undisturbed import call

# Features of a layer are clipped to between these numbers of noise scales, on a grid of at most
# this many steps to each side.
LEAST_REACH, MOST_REACH, STEPS = 512.0, 4096.0, 2**15


@dataclass(frozen=True)
class LoadedModel:
    """The parts that all predictors of a model share; none of them changes it.

    Attributes:
        bundle: its description.
        network: g and h in float32 on the CPU, in evaluation mode.
        encoder: g in float64.
        sensitivities: bounds Δ(p,q) of g, for every pair of norms.
        encoder_errors: bounds on the error of g as it is computed, in each norm that certificates
            of this noise can use.
        feature_shape: of the output of g for one picture.
        seen_shape: of what h sees of it.
        noise: the noise, on its grid.
    """

    bundle: Bundle
    network: PixelDP
    encoder: nn.Module
    sensitivities: dict[Pair, Sensitivity]
    encoder_errors: dict[Norm, EncoderError]
    feature_shape: tuple[int, ...]
    seen_shape: tuple[int, ...]
    noise: GridNoise | SplitNoise | Boxes

    @property
    def manifest(self) -> Manifest:
        """The model's description."""
        return self.bundle.manifest

    def classifier(self, device: str, kind: torch.dtype) -> nn.Module:
        """Return a copy of h that runs fastest on ``device`` in the number format ``kind``."""
        copied = fold(self.network.classifier)
        if self.manifest.noise.mechanism == "interval":
            return IntervalNetwork(copied).to(device)
        copied = copied.to(device, kind)
        # The layout in which convolutions are fast, on CPUs with bfloat16 by far.
        return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def load_model(source: Bundle | Path) -> LoadedModel:
    """Load a model; each file of its bundle is read once.

    Args:
        source: its bundle, or the bundle's folder.

    Raises:
        BundleError: the bundle cannot be trusted; see ``models.network.load_network``.
    """
    bundle = source if isinstance(source, Bundle) else describe(source)
    network, sensitivities = load_proven(bundle)
    manifest = bundle.manifest
    encoder = copy.deepcopy(network.encoder).double()
    with torch.inference_mode():
        features = call(encoder, torch.zeros(1, *manifest.input.shape, dtype=torch.float64))[0]
    errors = {
        norm: encoder_error(encoder, manifest.input.shape, norm)
        for norm in DEFAULTS[manifest.noise.mechanism]
    }
    shape = tuple(features.shape)
    if manifest.noise.mechanism == "split":
        seen = seen_shape(manifest.input.shape)
        split = SplitNoise(manifest.noise.scale, _template(bundle, network))
        return LoadedModel(bundle, network, encoder, sensitivities, errors, shape, seen, split)
    if manifest.noise.mechanism == "interval":
        _check_intervals(bundle, network)
        seen, boxes = interval.seen_shape(manifest.input.shape), Boxes(manifest.noise.scale)
        return LoadedModel(bundle, network, encoder, sensitivities, errors, shape, seen, boxes)
    try:
        noise = grid_noise(manifest, errors[manifest.sensitivity.noise_norm].largest)
    except ValueError as problem:
        raise BundleError(bundle.path / MANIFEST, "noise.scale", str(problem)) from None
    return LoadedModel(bundle, network, encoder, sensitivities, errors, shape, shape, noise)


def _check_intervals(bundle: Bundle, network: PixelDP) -> None:
    """Refuse a network that has no interval bounds.

    Raises:
        BundleError: it has none; says why.
    """
    try:
        IntervalNetwork(fold(network.classifier))
    except IntervalError as error:
        raise BundleError(bundle.path / MANIFEST, "architecture", str(error)) from None


def _template(bundle: Bundle, network: PixelDP) -> NDArray[np.int32]:
    """Return t of split noise, which is one of the weights.

    Any whole numbers will do; but h must have been trained on these.
    """
    template = network.template
    if template.dtype != torch.int32:
        raise BundleError(bundle.weights, TEMPLATE, "must hold 32-bit integers")
    found: NDArray[np.int32] = template.numpy()
    return found


def grid_noise(manifest: Manifest, largest: float) -> GridNoise:
    """Return the grid on which a model's noise is drawn.

    In the image, 8-bit pixels are on the grid of 1/255. After a layer the grid reaches as far as
    the features can, within limits, in steps of at most an eighth of the noise scale: rounding to
    them has the effect of less than a thousandth more noise. If features are still clipped, that is
    part of h: clipping moves no two of them apart.

    Args:
        manifest: the model's description.
        largest: a bound on all features, for every picture.

    Raises:
        ValueError: the noise scale is too small for the pixels' grid.
    """
    noise = manifest.noise
    if noise.placement == IMAGE:
        return GridNoise(noise.mechanism, noise.scale, PIXEL_STEP, largest=1.0)
    reach = min(max(largest / noise.scale, LEAST_REACH), MOST_REACH) * noise.scale
    return GridNoise(noise.mechanism, noise.scale, reach / STEPS, largest=reach)
