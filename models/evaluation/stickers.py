"""``pixeldp evaluate --threat sticker``: how many pictures no sticker can change.

A picture is counted as certified if its label is right, and certified against every sticker of the
side. What was measured is kept in a file of one line for each picture, if one is given, and a run
that is begun again goes on behind it.
"""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from models.answering import answer_about_stickers
from models.bundle import Part
from models.certification.answer import conclude
from models.certification.question import Question
from models.data.labelled import DataSet
from models.evaluation.asked import Attacks, check_data
from models.evaluation.figures import Interval, Share, interval
from models.evaluation.kept import digest_of, whole_lines
from models.execution import Format, Provider
from models.predictor import Predictor
from models.preprocessing import Pixels


class StickerEvaluation(Part):
    """The results, and how they were measured.

    Attributes:
        model: the bundle's name.
        version: the bundle's version.
        digest: the bundle's digest.
        dataset: the data set's name.
        pictures: how many, every ``every``-th of the data set.
        every: see ``pictures``.
        side: of the stickers, in pixels of the pictures as they are.
        masks: along each side of the model's input.
        accuracy: the share of pictures whose label, by the two rounds, is right.
        accuracy_interval: at 95 %, like all intervals here.
        certified: the share of pictures whose label is right and certified.
        certified_interval: at 95 %.
        certified_at_all: the same, right labels or not.
        draws: all views made.
        seconds: what they took, encoding included.
        device: where h ran.
        provider: what ran h.
        precision: the number format of h.
        pass_size: views in a pass.
    """

    model: str
    version: str
    digest: str
    dataset: str
    pictures: int
    every: int
    side: int
    masks: int
    accuracy: Share
    accuracy_interval: Interval
    certified: Share
    certified_interval: Interval
    certified_at_all: Share
    draws: int
    seconds: float
    device: str
    provider: Provider
    precision: Format
    pass_size: int


class Found(NamedTuple):
    """What one picture's answer says: its label, whether it is certified, views, seconds."""

    label: int
    certified: bool
    draws: int
    seconds: float


def evaluate_stickers(
    predictor: Predictor,
    data: DataSet,
    question: Question,
    *,
    every: int = 1,
    dataset: str = "",
    log: Path | None = None,
) -> StickerEvaluation:
    """Answer for pictures, and count.

    Args:
        predictor: the model.
        data: labelled pictures.
        question: about stickers.
        every: answer for every N-th picture only.
        dataset: the data set's name.
        log: keeps what was found, for a run that goes on later.

    Raises:
        ValueError: the labels are not the model's, or the log is of something else or damaged.
    """
    manifest = predictor.manifest
    check_data(manifest, data, Attacks(), None)
    part = data.every(every)
    assert question.target is not None
    about = {
        "digest": predictor.bundle.digest,
        "dataset": dataset,
        "every": every,
        "side": int(question.target),
        "masks": question.masks,
        "device": predictor.device,
        "provider": predictor.execution.provider,
        "precision": predictor.execution.precision,
        "pass_size": predictor.pass_size,
    }
    found = _read(log, {**about, "data": digest_of(part)}, len(part))
    for number in range(len(found), len(part)):
        one = _answer(predictor, part.images[number], question)
        found.append(one)
        if log:
            with log.open("a") as stream:
                stream.write(json.dumps(one) + "\n")
    right = [one.label == label for one, label in zip(found, part.labels.tolist(), strict=True)]
    certified = [one.certified and well for one, well in zip(found, right, strict=True)]
    count = len(found)
    measured = {
        "pictures": count,
        "accuracy": sum(right) / count,
        "accuracy_interval": interval(sum(right), count),
        "certified": sum(certified) / count,
        "certified_interval": interval(sum(certified), count),
        "certified_at_all": sum(one.certified for one in found) / count,
        "draws": sum(one.draws for one in found),
        "seconds": round(sum(one.seconds for one in found), 1),
    }
    named = {"model": manifest.name, "version": manifest.version}
    return StickerEvaluation.model_validate({**named, **about, **measured})


def _answer(predictor: Predictor, image: Pixels, question: Question) -> Found:
    """Answer for one picture."""
    begun = time.perf_counter()
    [(_, inquiry)] = answer_about_stickers(predictor, [image], question)
    answer = conclude(inquiry, 1)
    return Found(answer.label, answer.certified, answer.draws, time.perf_counter() - begun)


def _read(log: Path | None, about: dict[str, object], most: int) -> list[Found]:
    """Return what a log has, or begin it.

    Args:
        log: which need not exist.
        about: everything on which its answers depend.
        most: how many answers there are at the end.

    Raises:
        ValueError: it is of something else, and stays as it is.
    """
    if log is None:
        return []
    begin = (json.dumps(about) + "\n").encode()
    content = log.read_bytes() if log.exists() else b""
    # A line without an end was being written when the run ended.
    first, *lines = whole_lines(content) or [b""]
    known = first == begin if first else begin.startswith(content)
    if not known:
        said = (first or content)[:500].decode(errors="replace").strip()
        raise ValueError(
            f"{log} is of another evaluation, or of something else: {said}; name another file "
            "with --resume"
        )
    if not first:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(begin)
        return []
    found = [_found(line, f"{log}, line {number}") for number, line in enumerate(lines, 2)]
    if len(found) > most:
        raise ValueError(
            f"{log} has {len(found):,} answers to {most:,} pictures; name another file with "
            "--resume"
        )
    os.truncate(log, len(first) + sum(map(len, lines)))
    return found


def _found(line: bytes, place: str) -> Found:
    try:
        label, certified, draws, seconds = json.loads(line)
        if not isinstance(certified, bool):
            raise ValueError
        return Found(int(label), certified, int(draws), float(seconds))
    except (ValueError, TypeError):
        raise ValueError(
            f"{place}: is not what an evaluation keeps; name another file with --resume"
        ) from None
