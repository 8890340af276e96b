"""Answers for many pictures at once, by the very procedure that serves them.

A pilot, counted draws in passes shared with other pictures, looks, bounds and rounding are those of
the service; only the queue before them is simpler.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from models.certification.procedure import Inquiry, Question
from models.noise import Key
from models.predictor import Encoded, Predictor
from models.preprocessing import Pixels

# So many pictures share a pass, as they do in a busy service.
IN_FLIGHT = 8


def answer_all(
    predictor: Predictor, images: Pixels, question: Question
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
        counts = divide_slots(left, predictor.pass_size)
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


def divide_slots(remaining: Sequence[int], slots: int) -> list[int]:
    """Divide a pass's slots evenly; what one cannot use goes to the others."""
    counts = [0] * len(remaining)
    for position, index in enumerate(sorted(range(len(remaining)), key=remaining.__getitem__)):
        fair = (slots - sum(counts)) // (len(remaining) - position)
        counts[index] = min(remaining[index], fair)
    return counts


def repeatable_key(seed: int) -> Key:
    """Return noise keys that are the same again for the same ``seed``.

    For experiments alone: who knows the seed knows the noise.
    """
    numbers = itertools.count()
    return lambda: hashlib.sha256(f"pixeldp evaluation {seed} {next(numbers)}".encode()).digest()
