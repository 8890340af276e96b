"""Accuracy and certified accuracy of a model, by the very procedure that serves it.

Every picture gets the certificate that the service would answer without a target: encoded once,
a pilot, counted draws in passes shared with other pictures, the same bounds and rounding.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from models.bundle import Manifest, read_bundle, write_manifest
from models.certification.norms import Norm
from models.certification.procedure import Inquiry, Question
from models.precision import Precision
from models.predictor import Encoded, Predictor
from models.training.datasets import DataSet

RADII = (0.25, 0.5, 0.75, 1.0)
PASS_SIZE = 256
# So many pictures share a pass, as they do in a busy service.
IN_FLIGHT = 8

Share = Annotated[float, Field(ge=0, le=1)]


class CertifiedAccuracy(BaseModel):
    """The share of pictures whose label is right and whose certified size reaches ``radius``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    radius: float
    accuracy: Share


class Evaluation(BaseModel):
    """What was measured, and how.

    Attributes:
        model: the bundle's name.
        version: the bundle's version.
        dataset: the data set's name, if it was given one.
        pictures: how many pictures were evaluated, every ``every``-th of the data set.
        every: see ``pictures``.
        max_draws: draws for each picture.
        confidence: η of each certificate.
        norm: the norm of all sizes.
        accuracy: share of pictures whose largest expected score is that of the right label.
        certified: certified accuracy per radius. A picture with nothing certified, or with the
            wrong label certified, counts as a failure.
        mean_size: mean certified size, right labels or not.
        uncertified: pictures with certified size 0.
        draws: all draws made for the answers.
        seconds: wall time, encoding and certificates included.
        draws_per_second: ``draws`` / ``seconds``.
        device: what h ran on.
        precision: the number format of h.
        threads: of the CPU.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: str
    dataset: str = ""
    pictures: int
    every: int
    max_draws: int
    confidence: float
    norm: Norm
    accuracy: Share
    certified: tuple[CertifiedAccuracy, ...]
    mean_size: float
    uncertified: int
    draws: int
    seconds: float
    draws_per_second: float
    device: str
    precision: Precision
    threads: int


def evaluate(
    model: Path | Predictor,
    data: DataSet,
    *,
    every: int = 1,
    max_draws: int = 1000,
    confidence: float = 0.999,
    radii: Sequence[float] = RADII,
    norm: Norm | None = None,
    dataset: str = "",
    progress: bool = True,
) -> Evaluation:
    """Evaluate a model on labelled pictures.

    Args:
        model: a bundle's folder, or a loaded model.
        data: pictures whose label names are the model's.
        every: take every so many-th picture.
        max_draws: draws for each picture.
        confidence: η of each picture's certificate.
        radii: the sizes at which certified accuracy is reported.
        norm: the norm of sizes; the model's own by default.
        dataset: what the data set is called, for the record.
        progress: show a bar on standard error.

    Raises:
        BundleError: the bundle cannot be trusted.
        ValueError: labels that are not the model's, pictures that it cannot certify, or options
            out of range.
    """
    predictor = Predictor(read_bundle(model), PASS_SIZE) if isinstance(model, Path) else model
    manifest = predictor.manifest
    _check(manifest, data, every, radii)
    some = data.every(every)
    norm = norm or manifest.sensitivity.input_norm
    question = Question(confidence=confidence, max_draws=max_draws, target=None, norm=norm)
    began = time.perf_counter()
    leaders = np.empty(len(some), dtype=np.int64)
    sizes = np.empty(len(some))
    draws = 0
    with tqdm(
        total=len(some), unit="picture", disable=not (progress and sys.stderr.isatty())
    ) as bar:
        for index, inquiry in answers(predictor, some.images, question):
            leaders[index], sizes[index] = inquiry.total.leader, inquiry.size
            draws += inquiry.total.draws
            bar.update()
    seconds = time.perf_counter() - began
    right = leaders == some.labels
    return Evaluation(
        model=manifest.name,
        version=manifest.version,
        dataset=dataset,
        pictures=len(some),
        every=every,
        max_draws=max_draws,
        confidence=confidence,
        norm=norm,
        accuracy=float(right.mean()),
        certified=tuple(
            CertifiedAccuracy(radius=radius, accuracy=float((right & (sizes >= radius)).mean()))
            for radius in radii
        ),
        mean_size=float(sizes.mean()),
        uncertified=int((sizes == 0).sum()),
        draws=draws,
        seconds=round(seconds, 2),
        draws_per_second=round(draws / seconds, 1),
        device=predictor.device,
        precision=predictor.precision,
        threads=torch.get_num_threads(),
    )


def answers(
    predictor: Predictor, images: NDArray[np.uint8], question: Question
) -> Iterator[tuple[int, Inquiry]]:
    """Answer ``question``, which has no target, for each picture of [N, height, width, channels].

    Yields:
        The index of a picture and its finished inquiry, in the order in which they finish.
    """
    waiting = iter(range(len(images)))
    manifest = predictor.manifest
    active: list[tuple[int, Encoded, Inquiry]] = []
    while True:
        while len(active) < IN_FLIGHT and (index := next(waiting, None)) is not None:
            encoded = predictor.encode(images[index])
            inquiry = Inquiry(question, encoded.terms, len(manifest.labels), manifest.scoring)
            active.append((index, encoded, inquiry))
        if not active:
            return
        # Without a target nobody stops before the last draw.
        left = [question.max_draws - inquiry.total.draws for *_, inquiry in active]
        counts = share(left, predictor.pass_size)
        rows = np.repeat(np.arange(len(active)), counts)
        # Rows of the last pass that nobody needs are drawn and dropped.
        padded = np.zeros(predictor.pass_size, dtype=np.intp)
        padded[: len(rows)] = rows
        scores = predictor.run([encoded.features for _, encoded, _ in active], padded)
        for own, (index, _, inquiry) in zip(
            np.split(scores[: len(rows)], np.cumsum(counts)[:-1]), active, strict=True
        ):
            inquiry.add(own)
            if inquiry.stopped:
                yield index, inquiry
        active = [entry for entry in active if not entry[2].stopped]


def share(remaining: Sequence[int], slots: int) -> list[int]:
    """Divide a pass's slots evenly; what one cannot use goes to the others."""
    counts = [0] * len(remaining)
    for position, index in enumerate(sorted(range(len(remaining)), key=remaining.__getitem__)):
        fair = (slots - sum(counts)) // (len(remaining) - position)
        counts[index] = min(remaining[index], fair)
    return counts


def record(path: Path, evaluation: Evaluation) -> None:
    """Write ``evaluation`` into the bundle in the folder ``path``.

    Raises:
        BundleError: the bundle cannot be trusted.
    """
    manifest = read_bundle(path).manifest
    summary: dict[str, Any] = evaluation.model_dump(mode="json")
    write_manifest(path, manifest.model_copy(update={"evaluation": summary}))


def _check(manifest: Manifest, data: DataSet, every: int, radii: Sequence[float]) -> None:
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    if not all(radius > 0 for radius in radii):
        raise ValueError(f"radii must be above 0, not {list(radii)}")
    if data.names != manifest.labels:
        raise ValueError(
            f"the data set's labels ({_few(data.names)}) are not "
            f"those of {manifest.name} ({_few(manifest.labels)})"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], "…"] if len(names) > 5 else names) + f"; {len(names)} in all"
