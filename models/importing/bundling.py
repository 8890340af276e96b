"""From a classifier that was made elsewhere to a bundle, if it can be certified."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from models.bundle import (
    MANIFEST,
    Architecture,
    Bundle,
    ConstructionBound,
    InputShape,
    Manifest,
    NoiseSpec,
    SensitivitySpec,
    WeightsSpec,
)
from models.certification.certificates import MECHANISM_NORMS, Mechanism, construction_scale
from models.certification.norms import Norm
from models.certification.procedure import Inquiry, Question
from models.certification.tally import Scoring
from models.importing.acceptance import answer, examine
from models.importing.files import ImportFailedError
from models.importing.fitting import fit
from models.importing.sources import Source, count_labels
from models.loaded import load_model
from models.networks import DENOISED
from models.networks.autoencoder import CLASSIFIER
from models.networks.placement import IMAGE
from models.networks.torchvision_networks import AUXILIARY
from models.pixeldp import PixelDP, build_network, load_network, save_network
from models.precision import Precision
from models.sensitivity.modules import encoder_sensitivity

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Noise:
    """Noise in the image: its law, and its scale or the construction bound that gives it."""

    mechanism: Mechanism = "gaussian"
    scale: float | None = None
    construction_bound: ConstructionBound | None = None
    norm: Norm | None = None


@dataclass(frozen=True)
class Wanted:
    """What is said about the bundle; None where the source knows, or has a usual value."""

    name: str | None = None
    version: str = "1"
    shape: Shape | None = None
    labels: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    scoring: Scoring = "votes"


@dataclass(frozen=True)
class Imported:
    """A new bundle, the number formats that it runs in, and what a picture came to."""

    bundle: Bundle
    formats: tuple[Precision, ...]
    inquiry: Inquiry


def import_classifier(
    source: Source,
    wanted: Wanted,
    noise: Noise | Bundle,
    out: Path,
    pixels: NDArray[Any],
    question: Question,
) -> Imported:
    """Make a bundle of ``source``, try it, and answer a picture with it.

    Args:
        source: the classifier.
        wanted: name, input, labels, normalisation.
        noise: for the image; or a bundle with a denoiser, which is put in front of the classifier
            with the noise that it was trained for.
        out: the bundle's folder; nothing is left in it if the classifier is refused.
        pixels: a picture [height, width, channels], 8 or 16 bits.
        question: what is asked of it, without a target.

    Raises:
        ImportFailedError: the classifier cannot be certified, or what was said does not fit it.
        ValueError: a name, scale or construction bound out of range.
    """
    if (out / MANIFEST).exists():
        raise ImportFailedError(f"{out} holds a bundle; remove it or choose another folder")
    shape = wanted.shape or source.shape
    if shape is None:
        raise ImportFailedError(
            f"{source.text} does not say which pictures it takes: give channels x height x width"
        )
    labels = tuple(wanted.labels or source.labels or ())
    # torchvision's classifiers are built for as many labels as there are.
    if source.network != "torchvision":
        count, contiguous = count_labels(source, shape)
        if contiguous:
            source = replace(source, arguments={**source.arguments, "contiguous": True})
        labels = labels or tuple(map(str, range(count)))
        if len(labels) != count:
            raise ImportFailedError(
                f"{len(labels)} labels are given, but the network returns {count} logits"
            )
    mean, std = wanted.mean or source.mean, wanted.std or source.std
    _check_range("mean", mean)
    _check_range("std", std)
    described = Architecture(
        name=source.network,
        arguments={
            **source.arguments,
            "mean": list(mean or [0.0] * shape[0]),
            "std": list(std or [1.0] * shape[0]),
        },
    )
    network, manifest = _assemble(source, described, shape, labels, noise)
    manifest = manifest.model_copy(
        update={
            "name": wanted.name or source.name,
            "version": wanted.version,
            "scoring": wanted.scoring,
        }
    )
    manifest = Manifest.model_validate(manifest.model_dump())
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        staged = Path(temporary)
        save_network(staged, manifest, network)
        model = load_model(staged)
        formats = examine(model)
        inquiry = answer(model, pixels, question)
        out.mkdir(exist_ok=True)
        # The description last: a folder without it is no bundle.
        for file in sorted(staged.iterdir(), key=lambda file: file.name == MANIFEST):
            file.replace(out / file.name)
    return Imported(replace(model.bundle, path=out), formats, inquiry)


def _check_range(name: str, values: Sequence[float] | None) -> None:
    """Refuse what normalises values of 0 to 255: pictures have values of 0 to 1 here."""
    if values and any(abs(value) > 1 for value in values):
        given, divided = (", ".join(f"{value / by:.4g}" for value in values) for by in (1, 255))
        raise ImportFailedError(
            f"{name} {given} seems to be for pictures of 0 to 255; here they are of 0 to 1: divide "
            f"mean and std by 255 ({name} {divided})"
        )


def _assemble(
    source: Source,
    described: Architecture,
    shape: Shape,
    labels: tuple[str, ...],
    noise: Noise | Bundle,
) -> tuple[PixelDP, Manifest]:
    """The network with its weights, and its description less the weights' digest."""
    training: dict[str, Any] = {"imported": source.record}
    if isinstance(noise, Bundle):
        front = noise.manifest
        if front.architecture.name != DENOISED:
            raise ImportFailedError(
                f"{noise.path} holds no denoiser; train one with pixeldp train --denoiser"
            )
        if front.input.shape != shape:
            raise ImportFailedError(
                f"the denoiser of {noise.path} takes {list(front.input.shape)}, the classifier "
                f"{list(shape)} (channels, height, width)"
            )
        described = Architecture(
            name=DENOISED,
            arguments={
                **front.architecture.arguments,
                CLASSIFIER: described.model_dump(),
            },
        )
        training["denoiser"] = {"name": front.name, "digest": noise.digest, **front.training}
        spec, sensitivity = front.noise, front.sensitivity
    else:
        norm = noise.norm or MECHANISM_NORMS[noise.mechanism]
        proven = encoder_sensitivity(nn.Identity(), shape, norm, MECHANISM_NORMS[noise.mechanism])
        spec = NoiseSpec(
            mechanism=noise.mechanism,
            scale=_scale(noise, proven.value),
            placement=IMAGE,
            construction_bound=noise.construction_bound,
        )
        sensitivity = SensitivitySpec(
            value=proven.value,
            input_norm=norm,
            noise_norm=MECHANISM_NORMS[noise.mechanism],
            method=proven.method,
        )
    manifest = Manifest(
        name="imported",
        architecture=described,
        input=InputShape(channels=shape[0], height=shape[1], width=shape[2]),
        labels=labels,
        noise=spec,
        sensitivity=sensitivity,
        training=training,
        weights=WeightsSpec(sha256="0" * 64),
    )
    network = build_network(manifest, source.program)
    h = network.classifier
    if isinstance(noise, Bundle):
        _load_denoiser(network, load_network(noise))
        h = h.get_submodule(f"{CLASSIFIER}.network")
    if source.tensors is not None:
        left_out = _load(h.get_submodule("network"), source)
        if left_out:
            record = {**source.record, "left_out": list(left_out)}
            training = {**training, "imported": record}
            manifest = manifest.model_copy(update={"training": training})
    return network, manifest


def _scale(noise: Noise, sensitivity: float) -> float:
    bound = noise.construction_bound
    if (noise.scale is None) == (bound is None):
        raise ImportFailedError("give either the noise's scale or a construction bound")
    if bound is None:
        assert noise.scale is not None
        return noise.scale
    return construction_scale(noise.mechanism, bound.size, bound.epsilon, bound.delta, sensitivity)


def _load_denoiser(network: PixelDP, other: PixelDP) -> None:
    """Copy g and the autoencoder, and leave the classifier alone."""
    behind = f"classifier.{CLASSIFIER}."
    state = {
        name: value for name, value in other.state_dict().items() if not name.startswith(behind)
    }
    network.load_state_dict({**network.state_dict(), **state})


def _load(network: nn.Module, source: Source) -> tuple[str, ...]:
    """Put the source's weights into ``network``; return the names of what else its file holds."""
    assert source.tensors is not None
    unneeded = AUXILIARY if source.network == "torchvision" else ()
    fitted = fit(source.tensors, network.state_dict(), source.text, unneeded)
    network.load_state_dict(fitted.tensors, strict=True)
    return fitted.left_out
