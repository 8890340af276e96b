"""The loop that draws until a question is answered: for evaluation, training and the command line.

Draws share passes by the batcher of the service's workers, so that pilot, looks, bounds and
rounding are those of the service. Unlike here, workers also have clients that come and go.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from models.batcher import Batcher, Ticket
from models.certification.kinds import SizeInquiry
from models.certification.question import Question
from models.certification.stickers import StickerInquiry
from models.noise import Features, Key
from models.predictor import Predictor
from models.preprocessing import Pixels

# The number of pictures that share passes, as in a busy service.
IN_FLIGHT = 8


def answer_all(
    predictor: Predictor,
    images: Iterable[Pixels],
    question: Question,
    report: Callable[[int], None] = lambda drawn: None,
) -> Iterator[tuple[int, SizeInquiry]]:
    """Answer ``question`` for each picture [height, width, channels].

    Before each pass ``report`` is called with the number of draws made for all of them.

    Yields:
        The index of a picture and its finished inquiry, in the order in which they finish.
    """

    def begin(image: Pixels) -> tuple[Features, SizeInquiry]:
        encoded = predictor.encode(image)
        return encoded.features, predictor.inquire(question, encoded)

    return _answer(predictor, images, begin, report)


def answer_about_stickers(
    predictor: Predictor, images: Iterable[Pixels], question: Question
) -> Iterator[tuple[int, StickerInquiry]]:
    """Do what :func:`answer_all` does for a question about stickers."""

    def begin(image: Pixels) -> tuple[Features, StickerInquiry]:
        height, width, channels = image.shape
        preparation = predictor.plan((height, width, channels), 8 * image.itemsize)
        return predictor.against_stickers(question, preparation.apply(image), preparation)

    return _answer(predictor, images, begin)


def _answer(
    predictor: Predictor,
    images: Iterable[Pixels],
    begin: Callable[[Pixels], tuple[Features, Any]],
    report: Callable[[int], None] = lambda drawn: None,
) -> Iterator[tuple[int, Any]]:
    waiting = enumerate(images)
    batcher = Batcher(predictor.pass_size)
    drawn = 0
    while True:
        for index, image in itertools.islice(waiting, IN_FLIGHT - len(batcher)):
            features, inquiry = begin(image)
            batcher.admit(Ticket(index, features, inquiry, deadline=math.inf))
        planned = batcher.plan(0.0)
        if planned is None:
            return
        report(drawn)
        draws = predictor.run(planned.features, planned.rows)
        drawn += planned.filled
        for ticket in batcher.record(planned, draws):
            if ticket.done:
                yield ticket.id, ticket.inquiry


def repeatable_key(seed: int) -> Key:
    """Return noise keys that are the same for the same ``seed``.

    For experiments only: anybody who knows the seed knows the noise.
    """
    numbers = itertools.count()
    return lambda: hashlib.sha256(f"pixeldp evaluation {seed} {next(numbers)}".encode()).digest()
