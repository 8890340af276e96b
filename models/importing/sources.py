"""Where a classifier comes from: torchvision by name, an exported program, or a Python function."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import networks
from models.importing.files import ImportFailedError, read_archive, read_weights
from models.networks.python_networks import PATTERN
from models.networks.torchvision_networks import is_torchvision, usual

Shape = tuple[int, int, int]
ARCHIVE = ".pt2"


@dataclass(frozen=True)
class Source:
    """A classifier as it will be named in a bundle.

    Attributes:
        text: what was asked for.
        name: of the bundle, unless said otherwise.
        network: its name in ``models.networks.IMPORTED``.
        arguments: what it is built with, normalisation apart.
        shape: (channels, height, width) that it takes; None where that must be said.
        mean: what its pictures are normalised with, unless said otherwise.
        std: likewise.
        labels: their names; None: as many as it returns logits.
        tensors: its weights, by their names in the file; None for fresh ones.
        program: of an exported one.
        record: for the bundle, where it came from.
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


def find_source(text: str, weights: Path | None) -> Source:
    """Find out what ``text`` is, and read its weights.

    Args:
        text: the path of a ``.pt2`` archive, ``module:function``, or the name of one of
            torchvision's classifiers.
        weights: the file of its weights; an archive has its own.

    Raises:
        ImportFailedError: it is none of them, or its files cannot be read.
    """
    record: dict[str, Any] = {"source": text, "torch": torch.__version__}
    if text.endswith(ARCHIVE):
        if weights is not None:
            raise ImportFailedError(f"{text} has its own weights; leave out {weights}")
        file = Path(text)
        archive = read_archive(file)
        return Source(
            file.name,
            _name(file.stem),
            "exported",
            {},
            shape=archive.shape,
            tensors={f"graph.{name}": value for name, value in archive.tensors.items()},
            program=archive.program,
            record={**record, "source": file.name, "sha256": _digest(file)},
        )
    tensors = None
    if weights is not None:
        tensors = read_weights(weights)
        record["weights"] = {"file": weights.name, "sha256": _digest(weights)}
    if PATTERN.fullmatch(text):
        arguments: dict[str, Any] = {"builder": text}
        return Source(text, _name(text), "python", arguments, tensors=tensors, record=record)
    if not is_torchvision(text):
        raise ImportFailedError(
            f"{text!r} is no classifier: expected an archive of torch.export ({ARCHIVE}), a Python "
            "module:function that builds one, or a name of torchvision's, as resnet50 or vit_b_16"
        )
    known = usual(text)
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


def count_labels(source: Source, shape: Shape) -> tuple[int, bool]:
    """Run a black picture and count the logits.

    Returns:
        How many there are, and whether the network needs the plain memory layout.

    Raises:
        ImportFailedError: it does not run, or returns something else.
    """
    try:
        return _count(source, shape, {}), False
    except _DoesNotRunError as error:
        # view() wants the values in the order of their axes, which is not how convolutions are
        # fastest; only code of one's own writes that.
        if source.network != "python" or "view" not in str(error):
            raise
    return _count(source, shape, {"contiguous": True}), True


class _DoesNotRunError(ImportFailedError):
    pass


def _count(source: Source, shape: Shape, more: dict[str, Any]) -> int:
    arguments = {"mean": [0.0] * shape[0], "std": [1.0] * shape[0], **source.arguments, **more}
    try:
        _, h = networks.build(source.network, shape, 1, "image", arguments, source.program)
    except ValueError as error:
        raise ImportFailedError(str(error)) from None
    h.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = torch.zeros(2, *shape).to(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            logits = h(pictures)
    except Exception as error:  # whatever their code raises
        reason = " ".join(str(error).split())
        raise _DoesNotRunError(
            f"the network does not run on pictures {list(shape)} (channels, height, width): "
            f"{reason}"
        ) from None
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 2:
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ImportFailedError(
            f"the network returns {found} for 2 pictures; expected logits [2, labels]"
        )
    return logits.shape[1]


def _name(text: str) -> str:
    """Return ``text`` as a bundle's name."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).lstrip("._-")[:64]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
