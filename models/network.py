"""A PixelDP network: g, noise, h (Lécuyer et al. 2019, §III).

``PixelDP`` is the network that is trained; ``load_network`` and ``save_network`` read it from a
bundle and write it. ``models.predictor`` draws its predictions with the noise of certificates.
"""

import hashlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from models import networks
from models.bundle import (
    MANIFEST,
    PROGRAM,
    WEIGHTS,
    Bundle,
    BundleError,
    Manifest,
    ProgramSpec,
    WeightsSpec,
    read_file,
    write_manifest,
)
from models.certification.laws import LAWS
from models.certification.names import Mechanism
from models.denoiser import Denoiser, DenoiserManifest, write_denoiser
from models.files import write_whole
from models.mechanisms import split
from models.networks.foreign.exported import program_of
from models.networks.limit import limited
from models.sensitivity.modules import Pair, encoder_sensitivities
from models.sensitivity.operators import Sensitivity

# Eigenvalues computed on another machine differ by far less, and a bound has ten times this margin.
STATED_ELSEWHERE = 1e-11

# The name of the fixed picture by which split noise begins.
TEMPLATE = "template"


class PixelDP(nn.Module):
    """scores = h(g(x) + noise).

    Args:
        encoder: g, [batch, c, h, w] pixel values in [0, 1] to features.
        classifier: h, noisy features to logits [batch, K].
        mechanism: the noise law.
        scale: σ, b or λ, in units of g's output; for intervals the radius of the largest box.
        shape: of the pictures; split noise draws its template for it.
    """

    template: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        classifier: nn.Module,
        mechanism: Mechanism,
        scale: float,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder.eval(), classifier
        self.mechanism, self.scale = mechanism, scale
        if mechanism == "split":
            self.register_buffer(TEMPLATE, split.draw_template(shape, scale))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of h. g always runs as in service: its Δ is that of evaluation mode.

        So a batch norm before the noise trains with the running statistics with which it was built,
        and no picture's features depend on others in its batch.
        """
        super().train(mode)
        self.encoder.eval()
        return self

    def encode(self, pictures: Tensor) -> Tensor:
        """Return g(x)."""
        features: Tensor = self.encoder(pictures)
        return features

    def perturb(self, features: Tensor, scale: float | None = None) -> Tensor:
        """Add noise for training, in float. Served models draw from ``models.noise`` instead.

        Intervals have none.
        """
        scale = self.scale if scale is None else scale
        if self.mechanism == "split":
            return split.perturb(features, self.template, scale)
        if self.mechanism == "interval":
            return features
        law = LAWS[self.mechanism]
        module = import_module(f"models.mechanisms.{law.module_name}")
        noisy: Tensor = features + scale * law.at(scale, module.draw_like)(features)
        return noisy

    def score(self, noisy: Tensor) -> Tensor:
        """Return h's logits."""
        logits: Tensor = self.classifier(noisy)
        return logits

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits of one draw for each picture."""
        return self.score(self.perturb(self.encode(pictures)))


def build_network(manifest: Manifest, program: bytes | None = None) -> PixelDP:
    """Build the network that ``manifest`` describes, with fresh weights; ``program`` if it has one.

    Raises:
        ValueError: the architecture or placement is unknown, or arguments do not fit.
    """
    noise, shape = manifest.noise, manifest.input.shape
    encoder, classifier = networks.build(
        manifest.architecture.name,
        split.seen_shape(shape) if noise.mechanism == "split" else shape,
        len(manifest.labels),
        noise.placement,
        manifest.architecture.arguments,
        program,
    )
    return PixelDP(encoder, classifier, noise.mechanism, noise.scale, shape)


def load_network(bundle: Bundle) -> PixelDP:
    """Build the bundle's network with its weights, in evaluation mode.

    Raises:
        BundleError: the weights do not fit the architecture, are not finite, or g's sensitivity,
            bounded again here, is larger than the description states.
    """
    return load_proven(bundle)[0]


def load_proven(bundle: Bundle) -> tuple[PixelDP, dict[Pair, Sensitivity]]:
    """Do what :func:`load_network` does, and also return the bounds Δ(p,q) of g."""
    manifest = bundle.manifest
    program = read_program(bundle)
    weights = _read_weights(bundle)
    network = _build(bundle, program, weights)
    _put(weights, network, bundle.weights)
    network.eval().requires_grad_(False)
    stated = manifest.sensitivity
    try:
        sensitivities = encoder_sensitivities(network.encoder, manifest.input.shape)
    except ValueError as error:
        raise BundleError(bundle.path / MANIFEST, "sensitivity", str(error)) from None
    proven = sensitivities[stated.input_norm, stated.noise_norm].value
    if proven > stated.value * (1 + STATED_ELSEWHERE):
        reason = f"states {stated.value}, but the weights' proven bound is {proven}"
        raise BundleError(bundle.path / MANIFEST, "sensitivity.value", reason)
    return network, sensitivities


def _put(weights: Mapping[str, Tensor], network: nn.Module, file: Path) -> None:
    """Put the weights that were read from ``file`` into ``network``."""
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = f"do not fit the architecture ({' '.join(str(error).split())})"
        raise BundleError(file, "tensors", reason) from None
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise BundleError(file, name, "holds NaN or infinity")


def _read_weights(bundle: Bundle | Denoiser) -> dict[str, Tensor]:
    content = read_file(bundle.weights, bundle.manifest.weights)
    try:
        weights = load(content)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(bundle.weights, "file", f"is not a safetensors file ({error})") from None
    for name, tensor in weights.items():
        if tensor.is_complex():
            raise BundleError(bundle.weights, name, "holds complex numbers; expected real ones")
    return weights


def _build(bundle: Bundle, program: bytes | None, weights: Mapping[str, Tensor]) -> PixelDP:
    values = sum(tensor.numel() for tensor in weights.values())
    try:
        with limited(len(weights), values):
            return build_network(bundle.manifest, program)
    except ValueError as error:
        reason = str(error)
    except Exception as error:  # with arguments from a file, a builder may raise anything
        reason = f"cannot be built ({type(error).__name__}: {error})"
    raise BundleError(bundle.path / MANIFEST, "architecture", " ".join(reason.split()))


def read_program(bundle: Bundle) -> bytes | None:
    """Read the description of an exported network, if there is one.

    Raises:
        BundleError: it is not what the bundle's own description states.
    """
    spec = bundle.manifest.program
    return read_file(bundle.path / PROGRAM, spec) if spec else None


def save_network(path: Path, manifest: Manifest, network: nn.Module) -> None:
    """Write a bundle: the network's weights, its program if any, and ``manifest`` with digests."""
    content = save(_plain(network.state_dict()))
    digest = hashlib.sha256(content).hexdigest()
    write_whole(path / WEIGHTS, content)
    changes: dict[str, object] = {"weights": WeightsSpec(sha256=digest)}
    if program := program_of(network):
        write_whole(path / PROGRAM, program)
        changes["program"] = ProgramSpec(sha256=hashlib.sha256(program).hexdigest())
    write_manifest(path, manifest.model_copy(update=changes))


def load_weights(source: Bundle | Denoiser, network: nn.Module) -> None:
    """Put the weights of a bundle or a denoiser into ``network``, which its architecture describes.

    A template of split noise stays the network's own: it was drawn for its scale.

    Raises:
        BundleError: the weights do not fit the architecture, or are not finite.
    """
    own = {name: value for name, value in network.state_dict().items() if name == TEMPLATE}
    weights = {name: value for name, value in _read_weights(source).items() if name != TEMPLATE}
    _put(weights | own, network, source.weights)


def save_denoiser(path: Path, manifest: DenoiserManifest, network: nn.Module) -> None:
    """Write a denoiser: the network's weights, and ``manifest`` with their digest."""
    content = save(_plain(network.state_dict()))
    write_whole(path / WEIGHTS, content)
    weights = WeightsSpec(sha256=hashlib.sha256(content).hexdigest())
    write_denoiser(path, manifest.model_copy(update={"weights": weights}))


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Copies, because weights that share memory cannot be saved.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
