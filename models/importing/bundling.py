"""From a classifier that was made elsewhere to a bundle, if it can be certified."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from models.bundle import (
    MANIFEST,
    Architecture,
    Bundle,
    InputShape,
    Int8Spec,
    Manifest,
    NoiseSpec,
    SensitivitySpec,
    WeightsSpec,
    describe,
    remove_bundle,
    write_manifest,
)
from models.certification.kinds import SizeInquiry
from models.certification.names import MECHANISM_NORMS
from models.certification.question import Question
from models.data.labelled import DataSet
from models.denoiser import Denoiser
from models.evaluation.asked import Attacks, check_data
from models.evaluation.pairs import try_int8
from models.execution import Precision
from models.files import locked
from models.importing.acceptance import Report, answer, examine
from models.importing.fitting import fit
from models.importing.sources import Source, build_source, count_labels
from models.importing.wanted import (
    Noise,
    Shape,
    Wanted,
    check_size,
    check_wanted,
    needs_input,
    noise_of,
)
from models.loaded import LoadedModel, load_model
from models.network import PixelDP, load_network, load_weights, save_network
from models.networks import DENOISED
from models.networks.autoencoder import AUTOENCODER, CLASSIFIER, build_front, prepend
from models.networks.foreign.torchvision import AUXILIARY
from models.networks.placement import IMAGE, divide
from models.samples import check_samples, write_samples
from models.sensitivity.modules import encoder_sensitivity
from models.source_names import ImportFailedError


@dataclass(frozen=True)
class Imported:
    """A new bundle, the number formats in which it runs, and the answer to a picture.

    ``int8`` says what int8 costs; empty if no data set was given to measure it.
    """

    bundle: Bundle
    formats: tuple[Precision, ...]
    inquiry: SizeInquiry
    int8: str = ""


def import_classifier(
    source: Source,
    wanted: Wanted,
    noise: Noise | Bundle | Denoiser,
    out: Path,
    pixels: NDArray[Any],
    question: Question,
    *,
    samples: Mapping[str, bytes] | None = None,
    data: DataSet | None = None,
    dataset: str = "",
    device: str = "cpu",
    force: bool = False,
    report: Report = lambda doing: None,
) -> Imported:
    """Make a bundle of ``source``, try it, and answer a picture with it.

    Args:
        source: the classifier.
        wanted: name, input, labels, normalisation.
        noise: noise for the image; or a denoiser, or a bundle with one, which is put in front of
            the classifier, with the noise for which it was trained.
        out: the bundle's folder; nothing remains there if the classifier is refused.
        pixels: a picture [height, width, channels], 8 or 16 bits.
        question: the question about it, without a target.
        samples: for trying the model by hand: pictures' files by their names.
        data: labelled pictures on which to measure what int8 costs, by the same question. Their
            labels' names are those of the bundle, if neither ``wanted`` nor the source has names.
        dataset: the data set's name, for the record.
        device: the torch device on which it is tried.
        force: replace the bundle in ``out``.
        report: called with a description of each step.

    Raises:
        ImportFailedError: the classifier cannot be certified, or the options do not fit it.
        ValueError: a name, scale or construction bound is out of range, a sample is not a picture
            for this model, or the data set has other labels.
    """
    shape = wanted.shape or source.shape
    check_wanted(wanted, noise, out, shape and shape[0], force=force)
    if shape is None:
        raise needs_input(source.text)
    check_samples(samples or {}, shape)
    mean, std = wanted.mean or source.mean, wanted.std or source.std
    built, arguments, labels = _build(
        source,
        shape,
        tuple(wanted.labels or source.labels or (data.names if data else ())),
        mean or [0.0] * shape[0],
        std or [1.0] * shape[0],
        report,
    )
    network, manifest = _assemble(source, wanted, built, arguments, shape, labels, noise)
    if data is not None:
        check_data(manifest, data, Attacks(), None)
    # On the same disk as ``out``, but in a folder that exists, so that nothing is left behind.
    place = next(folder for folder in out.absolute().parents if folder.exists())
    with tempfile.TemporaryDirectory(dir=place, prefix=f".{out.name}.") as temporary:
        staged = Path(temporary)
        report("loading the bundle as it will be served")
        save_network(staged, manifest, network)
        write_samples(staged, samples or {})
        model = load_model(staged)
        formats = examine(model, device, report)
        inquiry = answer(model, pixels, question, device, report)
        said = ""
        if data is not None:
            report("measuring what int8 costs")
            int8, said = try_int8(model, data, question, dataset)
            model = _write_int8(model, int8)
        with locked(out / MANIFEST):
            if (out / MANIFEST).exists() and not force:
                raise ImportFailedError(f"{out} now holds a bundle; --force replaces it")
            _put(staged, out)
    return Imported(replace(model.bundle, path=out), formats, inquiry, said)


def _build(
    source: Source,
    shape: Shape,
    labels: tuple[str, ...],
    mean: Sequence[float],
    std: Sequence[float],
    report: Report,
) -> tuple[nn.Sequential, dict[str, Any], tuple[str, ...]]:
    """Build the classifier; return it, its arguments, and the names of its labels."""
    report("building the network")
    built, arguments = build_source(source, shape, len(labels), mean, std)
    # torchvision's classifiers are built for the given number of labels.
    if source.network == "torchvision":
        return built, arguments, labels
    report("running it for the first time")
    count, contiguous = count_labels(built, shape)
    if contiguous:
        arguments["contiguous"] = True
    labels = labels or tuple(map(str, range(count)))
    if len(labels) != count:
        raise ImportFailedError(
            f"{len(labels)} labels are given, but the network returns {count} logits: give "
            f"--labels {count} names"
        )
    return built, arguments, labels


def _write_int8(model: LoadedModel, int8: Int8Spec | None) -> LoadedModel:
    """Write the scales and the record of int8 into a new bundle's description."""
    path = model.bundle.path
    write_manifest(path, model.manifest.model_copy(update={"int8": int8}))
    return replace(model, bundle=describe(path))


def _put(staged: Path, out: Path) -> None:
    """Move a bundle to ``out``, replacing one that exists there."""
    out.mkdir(parents=True, exist_ok=True)
    remove_bundle(out)
    # The description comes last: a folder without it is not a bundle.
    for file in sorted(staged.iterdir(), key=lambda file: file.name == MANIFEST):
        file.replace(out / file.name)


def _assemble(
    source: Source,
    wanted: Wanted,
    built: nn.Sequential,
    arguments: dict[str, Any],
    shape: Shape,
    labels: tuple[str, ...],
    noise: Noise | Bundle | Denoiser,
) -> tuple[PixelDP, Manifest]:
    """Return the network with its weights, and its description without the weights' digest."""
    training: dict[str, Any] = {"imported": source.record}
    described = Architecture(name=source.network, arguments=arguments)
    if isinstance(noise, Bundle | Denoiser):
        front = noise.manifest
        training["denoiser"] = {"name": front.name, "digest": noise.digest, **front.training}
    if isinstance(noise, Bundle):
        spec, sensitivity = noise.manifest.noise, noise.manifest.sensitivity
        network, described = _put_behind(noise, built, described, shape)
    elif isinstance(noise, Denoiser):
        spec, sensitivity = _noise_in_image(noise_of(noise), shape)
        network, described = _put_behind_alone(noise, built, described, shape)
    else:
        spec, sensitivity = _noise_in_image(noise, shape)
        network = PixelDP(*divide(built, IMAGE), spec.mechanism, spec.scale)
    if source.tensors is not None:
        left_out = _load(built.get_submodule("network"), source)
        if left_out:
            training["imported"] = {**source.record, "left_out": list(left_out)}
    manifest = Manifest(
        name=wanted.name or source.name,
        version=wanted.version,
        architecture=described,
        input=InputShape(channels=shape[0], height=shape[1], width=shape[2]),
        labels=labels,
        scoring=wanted.scoring,
        noise=spec,
        sensitivity=sensitivity,
        training=training,
        weights=WeightsSpec(sha256="0" * 64),
    )
    return network, manifest


def _noise_in_image(noise: Noise, shape: Shape) -> tuple[NoiseSpec, SensitivitySpec]:
    """Describe noise in the image, whose g is the identity."""
    noise_norm = MECHANISM_NORMS[noise.mechanism]
    norm = noise.norm or noise_norm
    proven = encoder_sensitivity(nn.Identity(), shape, norm, noise_norm)
    spec = NoiseSpec(
        mechanism=noise.mechanism,
        scale=noise.scale_at(proven.value),
        placement=IMAGE,
        construction_bound=noise.construction_bound,
    )
    sensitivity = SensitivitySpec(
        value=proven.value, input_norm=norm, noise_norm=noise_norm, method=proven.method
    )
    return spec, sensitivity


def _put_behind(
    denoiser: Bundle, built: nn.Sequential, described: Architecture, shape: Shape
) -> tuple[PixelDP, Architecture]:
    """Put a classifier behind a denoiser; return the network, and its description."""
    front = denoiser.manifest
    if front.input.shape != shape:
        raise ImportFailedError(
            f"the denoiser of {denoiser.path} takes {list(front.input.shape)}, the classifier "
            f"{list(shape)} (channels, height, width)"
        )
    arguments = front.architecture.arguments
    whole = prepend(build_front(shape, **arguments[AUTOENCODER]), built)
    encoder, h = divide(whole, front.noise.placement)
    network = PixelDP(encoder, h, front.noise.mechanism, front.noise.scale)
    _load_denoiser(network, load_network(denoiser))
    both = {**arguments, CLASSIFIER: described.model_dump()}
    return network, Architecture(name=DENOISED, arguments=both)


def _put_behind_alone(
    denoiser: Denoiser, built: nn.Sequential, described: Architecture, shape: Shape
) -> tuple[PixelDP, Architecture]:
    """Do the same with a denoiser that is a bundle of its own, and takes pictures of any size."""
    check_size(denoiser, shape)
    spec = denoiser.manifest.architecture
    arguments = {"network": spec.name, **spec.arguments}
    try:
        front = build_front(shape, **arguments)
    except (TypeError, ValueError) as error:
        raise ImportFailedError(f"{denoiser.path}: cannot be built ({error})") from None
    load_weights(denoiser, front)
    noise = denoiser.manifest.noise
    network = PixelDP(nn.Identity(), prepend(front, built), noise.mechanism, noise.scale)
    both = {AUTOENCODER: arguments, CLASSIFIER: described.model_dump()}
    return network, Architecture(name=DENOISED, arguments=both)


def _load_denoiser(network: PixelDP, other: PixelDP) -> None:
    """Copy g and the autoencoder, but not the classifier."""
    behind = f"classifier.{CLASSIFIER}."
    state = {
        name: value for name, value in other.state_dict().items() if not name.startswith(behind)
    }
    network.load_state_dict({**network.state_dict(), **state})


def _load(network: nn.Module, source: Source) -> tuple[str, ...]:
    """Put the source's weights into ``network``; return the names of what else is in its file."""
    assert source.tensors is not None
    unneeded = AUXILIARY if source.network == "torchvision" else ()
    fitted = fit(source.tensors, network.state_dict(), source.text, unneeded)
    network.load_state_dict(fitted.tensors, strict=True)
    return fitted.left_out
