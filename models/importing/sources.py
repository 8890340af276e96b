"""Where a classifier comes from, by what is given to ``pixeldp import``.

The grammar is in :mod:`models.source_names`.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import networks
from models.importing.cohen import read_cohen
from models.importing.files import Archive, read_archive, read_weights
from models.importing.wanted import needs_input
from models.networks.foreign.python import absolute
from models.networks.foreign.torchvision import find_defaults
from models.networks.foreign.wrapping import Contiguous
from models.source_names import (
    ARCHIVE,
    ONNX,
    ImportFailedError,
    check_source,
    cohen_file,
    folder_of,
    is_builder,
    timm_name,
)

Shape = tuple[int, int, int]

# How far from 1 a sum of probabilities may be, even of those in a half format.
_ROUNDING = 1e-2


@dataclass(frozen=True)
class Source:
    """A classifier as a bundle will name it.

    Attributes:
        text: the source as given.
        name: the bundle's name, unless another is given.
        network: its name in ``models.networks.IMPORTED``.
        arguments: its arguments, without normalisation.
        shape: (channels, height, width) of its input; None if it must be given.
        mean: the mean that normalises its pictures, unless another is given.
        std: likewise.
        labels: their names; None for as many as it returns logits.
        tensors: its weights, by their names in the file; None for fresh ones.
        program: the program, if it is an exported one.
        record: where it came from, for the bundle.
    """

    text: str
    name: str
    network: str
    arguments: dict[str, Any]
    shape: Shape | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None
    tensors: dict[str, Tensor] | None = None
    program: bytes | None = None
    record: dict[str, Any] = field(default_factory=dict)


def find_source(text: str, weights: Path | None, shape: Shape | None = None) -> Source:
    """Find the source that ``text`` names, and read its weights.

    Args:
        text: by the grammar of :mod:`models.source_names`.
        weights: the file of its weights; archives, ONNX files and checkpoints have their own.
        shape: (channels, height, width) of the pictures, if they are not those of the source.

    Raises:
        ImportFailedError: it is not a source, or its files cannot be read.
    """
    record: dict[str, Any] = {"source": text, "torch": torch.__version__}
    checkpoint = cohen_file(text)
    if (checkpoint or text.endswith((ARCHIVE, ONNX))) and weights is not None:
        raise ImportFailedError(f"{text} has its own weights; omit {weights}")
    check_source(text)
    if checkpoint:
        return _checkpoint(checkpoint, record)
    if text.endswith(ARCHIVE):
        file = Path(text)
        archive = read_archive(file)
        record |= {"source": file.name, "sha256": _digest(file)}
        return _program(file.name, _name(file.stem), archive, record)
    if text.endswith(ONNX) or folder_of(text) or timm_name(text):
        return _exported(text, weights, shape, record)
    tensors = None
    if weights is not None:
        tensors = read_weights(weights)
        record["weights"] = {"file": weights.name, "sha256": _digest(weights)}
    else:
        record["weights"] = "its own" if is_builder(text) else "random"
    if is_builder(text):
        code, _, function = text.rpartition(":")
        arguments: dict[str, Any] = {"builder": absolute(text)}
        if code.endswith(".py"):
            file = Path(code)
            record["code"] = {"file": file.name, "sha256": _digest(file)}
            text = f"{file.name}:{function}"
        return Source(text, _name(text), "python", arguments, tensors=tensors, record=record)
    known = find_defaults(text)
    return Source(
        text,
        _name(text),
        "torchvision",
        {"model": text},
        shape=(3, known.size, known.size),
        mean=known.mean,
        std=known.std,
        labels=known.labels,
        tensors=tensors,
        record=record,
    )


def _program(text: str, name: str, archive: Archive, record: dict[str, Any]) -> Source:
    """Describe an exported program."""
    return Source(
        text,
        name,
        "exported",
        {},
        shape=archive.shape,
        tensors={f"graph.{name}": value for name, value in archive.tensors.items()},
        program=archive.program,
        record=record,
    )


def _exported(
    text: str, weights: Path | None, shape: Shape | None, record: dict[str, Any]
) -> Source:
    """Describe a classifier that another library reads or builds, as an exported program."""
    from models.importing.exporting import export
    from models.importing.hugging_face import CONFIG, WEIGHTS, read_folder
    from models.importing.onnx_graph import read_onnx
    from models.importing.timm_models import build_timm

    folder, model = folder_of(text), timm_name(text)
    given = {"file": weights.name, "sha256": _digest(weights)} if weights else None
    if folder:
        built, name = read_folder(folder, weights, shape), folder.resolve().name
        given = given or {"file": WEIGHTS, "sha256": _digest(folder / WEIGHTS)}
        record |= {"source": f"hf:{name}", "sha256": _digest(folder / CONFIG), "weights": given}
    elif model:
        built, name = build_timm(model, read_weights(weights) if weights else None, shape), model
        record["weights"] = given or "random"
    else:
        built, name = read_onnx(Path(text)), Path(text).stem
        record |= {"source": Path(text).name, "sha256": _digest(Path(text))}
    if built.shape and shape and built.shape != shape:
        raise ImportFailedError(
            f"{text} takes pictures {list(built.shape)} (channels, height, width), not "
            f"{list(shape)}: omit --input; the service fits other pictures to the model"
        )
    size = built.shape or shape
    if size is None:
        raise needs_input(text)
    source = _program(Path(text).name, _name(name), export(built.network, size, text), record)
    return replace(source, mean=built.mean, std=built.std, labels=built.labels)


def _checkpoint(file: Path, record: dict[str, Any]) -> Source:
    """Describe a checkpoint of Cohen et al.'s code."""
    found = read_cohen(file)
    return Source(
        file.name,
        _name(found.arch),
        found.network,
        found.arguments,
        shape=found.shape,
        mean=found.mean,
        std=found.std,
        labels=found.labels,
        tensors=found.tensors,
        record={**record, "source": file.name, "sha256": _digest(file), "arch": found.arch},
    )


def build_source(
    source: Source,
    shape: Shape,
    labels: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[nn.Sequential, dict[str, Any]]:
    """Build a classifier behind its normalisation, with its source's weights.

    Args:
        source: the classifier.
        shape: (channels, height, width) of the pictures.
        labels: the number of logits that a torchvision classifier shall return; others decide it.
        mean: of each channel.
        std: of each channel.

    Returns:
        The network, and its arguments.

    Raises:
        ImportFailedError: it cannot be built.
    """
    arguments = {**source.arguments, "mean": list(mean), "std": list(std)}
    try:
        _, h = networks.build(source.network, shape, labels, "image", arguments, source.program)
    except ValueError as error:
        raise ImportFailedError(str(error)) from None
    assert isinstance(h, nn.Sequential)
    return h, arguments


def count_labels(network: nn.Sequential, shape: Shape) -> tuple[int, bool]:
    """Run a black picture and count the logits.

    Args:
        network: as :func:`build_source` builds it; changed to the plain memory layout if it needs
            that.
        shape: (channels, height, width) of the pictures.

    Returns:
        Their number, and whether the network needs the plain memory layout.

    Raises:
        ImportFailedError: it does not run, or returns something else.
    """
    network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        return _count(network, shape), False
    except _DoesNotRunError as error:
        # view() needs the values in the order of their axes, in which convolutions are not fastest.
        # Only users' own code calls it.
        if "view" not in str(error):
            raise
    network.network = Contiguous(network.get_submodule("network"))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _count(network, shape), True


class _DoesNotRunError(ImportFailedError):
    pass


def _count(network: nn.Module, shape: Shape) -> int:
    pictures = torch.zeros(2, *shape).to(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            logits = network(pictures)
    except Exception as error:  # whatever their code raises
        reason = " ".join(str(error).split())
        raise _DoesNotRunError(
            f"the network does not run on pictures {list(shape)} (channels, height, width; "
            f"--input says another): {reason}"
        ) from None
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 2:
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ImportFailedError(
            f"the network returns {found} for 2 pictures; expected logits [2, labels]"
        )
    if _are_probabilities(logits):
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode():
            logits = network(torch.rand(pictures.shape, generator=generator))
        if _are_probabilities(logits):
            raise ImportFailedError(
                "the network returns probabilities: it applies softmax to its logits, as softmax "
                "scoring does again; give the network without its last softmax"
            )
    return int(logits.shape[1])


def _are_probabilities(logits: Tensor) -> bool:
    """Whether each row is at least 0 and has the sum 1, as logits hardly ever have."""
    sums = logits.float().sum(dim=1)
    return bool((logits >= 0).all() and (sums - 1).abs().max() < _ROUNDING)


def _name(text: str) -> str:
    """Return ``text`` as a bundle's name."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).lstrip("._-")[:64]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
