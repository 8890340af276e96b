"""``pixeldp import``: a bundle from a classifier that was made elsewhere."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from models.certification.names import MECHANISM_NORMS, Mechanism, Norm, Scoring
from service.cli import noise_options
from service.cli.device_option import DeviceOption, check_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.bundle import Bundle, ConstructionBound
    from models.denoiser import Denoiser
    from models.importing.bundling import Imported
    from models.importing.sources import Source
    from models.importing.wanted import Noise

Numbers = Annotated[str | None, typer.Option(help="One for each channel, separated by commas.")]


def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="A torchvision name (resnet50), an exported program (net.pt2), an ONNX file "
            "(net.onnx), a folder of Hugging Face's libraries (hf:FOLDER), a name of timm's "
            "(timm:resnet18), a checkpoint of Cohen et al.'s code (cohen:checkpoint.pth.tar), or a "
            "module:function or file.py:function that builds a network."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the bundle.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="The state dict: .safetensors, or .pth without other objects."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="A file with a name on each line, or names separated by commas."),
    ] = None,
    input_: Annotated[
        str | None, typer.Option("--input", help="Channels x height x width, such as 3x224x224.")
    ] = None,
    mean: Numbers = None,
    std: Numbers = None,
    denoiser: Annotated[
        Path | None,
        typer.Option(
            help="Put this denoiser in front, with its noise: photo, or the folder of a denoiser "
            "or of a bundle that has one."
        ),
    ] = None,
    denoiser_tune: Annotated[
        Path | None,
        typer.Option(
            help="Tune the denoiser to the classifier first, on the photographs in this folder; it "
            "takes hours, and continues if the same command was interrupted."
        ),
    ] = None,
    mechanism: noise_options.MechanismOption = None,
    scale: noise_options.Scale = None,
    bound: noise_options.Bound = None,
    epsilon: noise_options.Epsilon = None,
    delta: noise_options.Delta = None,
    norm: noise_options.NormOption = None,
    scoring: Annotated[Scoring, typer.Option(help="How draws score labels.")] = "votes",
    name: Annotated[
        str | None, typer.Option(help="The bundle's name; by default from the source.")
    ] = None,
    version: Annotated[str, typer.Option(help="The bundle's version, a number.")] = "1",
    picture: Annotated[
        Path | None, typer.Option(help="A picture to try; by default a made-up one.")
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="A folder of at most 12 PNG or JPEG pictures, which the page offers."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Measure what int8 costs on up to 1,000 pictures of mnist, svhn, cifar10, "
            "cifar100, imagenet, digits, an .npz, or a folder."
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="The folder of a named data set.")] = None,
    split: Annotated[
        Literal["test", "train"], typer.Option(help="The part of a named data set.")
    ] = "test",
    device: DeviceOption = None,
    draws: Annotated[
        int, typer.Option(min=64, help="Noise draws for the picture, and for each of --data.")
    ] = 256,
    confidence: Annotated[float, typer.Option(help="The confidence of their certificates.")] = 0.95,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = (False),
) -> None:
    """Make a bundle of a classifier made elsewhere, or say why it cannot be certified.

    The noise is added to the image, or where the denoiser has it; normalisation follows the noise.
    The module of a Python function is searched among the installed packages, on PYTHONPATH and in
    the current folder, and its code runs: use only code that you trust. Nothing of the other
    sources is run, and nothing is downloaded.
    """
    from models.certification.question import Question
    from models.data.datasets import load
    from models.images.folders import read_picture
    from models.importing.wanted import Wanted, check_wanted, needs_input
    from models.samples import collect_samples
    from models.source_names import TORCHVISION, check_source, check_weights, cohen_file, is_builder

    check_source(source)
    if weights is not None:
        check_weights(weights)
    check_device(device)
    law = mechanism or "gaussian"
    construction = noise_options.construction_bound(bound, epsilon, delta, law)
    noise, sizes = _noise(law, scale, construction, norm, denoiser)
    wanted = Wanted(
        name=name,
        version=version,
        shape=_shape(input_),
        labels=_labels(labels),
        mean=_numbers("mean", mean),
        std=_numbers("std", std),
        scoring=scoring,
    )
    offered = collect_samples(samples) if samples else None
    question = Question(confidence, draws, None, sizes)
    if is_builder(source) and wanted.shape is None:
        raise needs_input(source)
    known = 3 if source in TORCHVISION or cohen_file(source) else None
    check_wanted(wanted, noise, out, wanted.shape[0] if wanted.shape else known, force=force)
    given = None if picture is None else read_picture(picture).array()
    tuned = None if denoiser_tune is None else _to_tune(noise, denoiser_tune, data)
    pictures = load(data, root, split) if data else None

    from models.device import find_device
    from models.importing.bundling import import_classifier
    from models.importing.sources import find_source
    from models.networks.foreign.python import allow
    from service.cli.progress import Progress, cleaning_up

    how: dict[str, Any] = {"samples": offered, "device": find_device(device), "force": force}
    if data:
        how |= {"data": pictures, "dataset": f"{Path(data).name} ({split})"}
    allowed = allow(source) if is_builder(source) else None
    with _naming_fields(), cleaning_up(), Progress() as progress:
        progress("reading the source")
        found = find_source(source, weights, wanted.shape)
        pixels = _made_up(wanted.shape or found.shape or (3, 8, 8)) if given is None else given
        where = (out, pixels, question)
        if tuned and denoiser_tune:
            from models.importing.tuning import import_tuned

            how["photographs"] = denoiser_tune
            imported = import_tuned(found, wanted, tuned, *where, report=progress, **how)
        else:
            imported = import_classifier(found, wanted, noise, *where, report=progress, **how)
    _warn(found, imported)
    typer.echo(_report(out, imported, picture))
    if allowed:
        typer.echo(f"it runs Python code: serve it with PIXELDP_BUILDERS={allowed} set", err=True)


def _noise(
    mechanism: Mechanism,
    scale: float | None,
    construction: "ConstructionBound | None",
    norm: Norm | None,
    denoiser: Path | None,
) -> "tuple[Noise | Bundle | Denoiser, Norm]":
    """Return the noise of the options, or the denoiser with its own; and the norm of sizes."""
    from models.bundle import DENOISER, locate_denoiser, read_bundle
    from models.denoiser import read_denoiser
    from models.importing.wanted import Noise

    if mechanism == "split":
        raise ValueError(
            "split noise needs a network that was trained for what it shows of a picture: "
            "pixeldp train mnist-split; expected another --mechanism"
        )
    if mechanism == "interval":
        raise ValueError(
            "intervals need a network that was trained for them, which others hardly ever pass: "
            "pixeldp train mnist-linf; expected another --mechanism"
        )
    noise = Noise(mechanism, scale, construction, norm)
    if denoiser is None:
        return noise, norm or MECHANISM_NORMS[mechanism]
    folder = locate_denoiser(denoiser)
    front: Bundle | Denoiser
    if (folder / DENOISER).is_file():
        front = read_denoiser(folder)
        sizes = MECHANISM_NORMS[front.manifest.noise.mechanism]
    else:
        front = read_bundle(folder)
        sizes = front.manifest.sensitivity.input_norm
    if noise != Noise():
        raise ValueError(
            "a denoiser has the noise for which it was trained; omit the noise's options"
        )
    return front, sizes


def _to_tune(front: "Noise | Bundle | Denoiser", photographs: Path, data: str | None) -> "Denoiser":
    """Return the denoiser that is to be tuned.

    Raises:
        ValueError: there is none, no folder of photographs, or int8 is to be measured as well.
    """
    from models.denoiser import Denoiser

    if not isinstance(front, Denoiser):
        raise ValueError("--denoiser-tune needs a denoiser to begin with: --denoiser photo")
    if not photographs.is_dir():
        raise ValueError(f"--denoiser-tune {photographs}: expected a folder of photographs")
    if data:
        raise ValueError("--data does not go with --denoiser-tune: use pixeldp evaluate --write")
    return front


@contextmanager
def _naming_fields() -> Iterator[None]:
    """Turn an error of the description into one sentence that names the wrong field."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "bundle"
        raise ValueError(f"{place}: {first['msg']}") from None


def _warn(found: "Source", imported: "Imported") -> None:
    """Say on standard error which weights are random, and which were left out."""
    if found.record.get("weights") == "random":
        typer.echo(
            "without --weights its weights are random: it knows nothing, and can only be used "
            "to measure speed",
            err=True,
        )
    elif found.tensors is None and found.network == "python":
        typer.echo(
            f"without --weights its weights are those that {found.text} gives it: random ones, "
            "unless that loads some",
            err=True,
        )
    left_out = imported.bundle.manifest.training["imported"].get("left_out", [])
    if left_out:
        shown = ", ".join(left_out[:5]) + (", …" if len(left_out) > 5 else "")
        typer.echo(
            f"left out of the weights, because they do not belong to the network: {shown}", err=True
        )


def _report(out: Path, imported: "Imported", picture: Path | None) -> str:
    manifest, inquiry = imported.bundle.manifest, imported.inquiry
    question = inquiry.question
    label = manifest.labels[inquiry.total.leader]
    lines = [
        f"{out}: {manifest.name}, {len(manifest.labels):,} labels, "
        f"{noise_options.describe_noise(manifest)}; "
        f"runs in {' and '.join(imported.formats)}; rows: {manifest.rows}"
    ]
    what = str(picture) if picture else "a made-up picture"
    if inquiry.size > 0:
        lines.append(
            f"{what}: {label}, certified against any change of {question.norm} size "
            f"{inquiry.size:g} at confidence {question.confidence:g}, "
            f"by {inquiry.total.draws} draws"
        )
    else:
        lines.append(
            f"{what}: {label} leads, but {inquiry.total.draws} draws certify nothing. A classifier "
            "that never saw noise needs less noise, or a denoiser: pixeldp train --denoiser"
        )
    if imported.int8:
        lines.append(imported.int8)
    return "\n".join(lines)


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(
            f"expected channels x height x width, such as 3x224x224, not {text!r}"
        )
    channels, height, width = map(int, parts)
    return channels, height, width


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(map(float, text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"--{name}: expected numbers separated by commas") from None


def _labels(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    file = Path(text)
    if file.is_file():
        lines = _text(file).splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    if "," not in text:
        raise ValueError(f"--labels: there is no file {text}, and a single name is not enough")
    return tuple(name.strip() for name in text.split(","))


def _text(file: Path) -> str:
    """Read UTF-8, with or without a byte-order mark.

    Raises:
        ValueError: it has another encoding.
    """
    content = file.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{file}: is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}: is not UTF-8 (byte 0x{content[error.start]:02x} in line {line}; Latin-1 or "
            "Windows-1252?); save it as UTF-8"
        ) from None


def _made_up(shape: tuple[int, int, int]) -> "NDArray[Any]":
    """Return a picture of large patches."""
    import numpy as np

    channels, height, width = shape
    patches = np.random.default_rng(0).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    large = patches.repeat(-(-height // 4), axis=0).repeat(-(-width // 4), axis=1)
    return large[:height, :width]
