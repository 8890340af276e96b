"""The loop that draws until a question is answered: for evaluation, training and the command line.

Draws share passes by the batcher of the service's workers, so that pilot, looks, bounds and
rounding are those of the service. Unlike here, workers also have clients that come and go.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

from models.batcher import Batcher, Ticket
from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.certification.split import SplitInquiry
from models.noise import Key
from models.predictor import Predictor
from models.preprocessing import Pixels

# The number of pictures that share passes, as in a busy service.
IN_FLIGHT = 8


def answer_all(
    predictor: Predictor,
    images: Iterable[Pixels],
    question: Question,
    report: Callable[[int], None] = lambda drawn: None,
) -> Iterator[tuple[int, Inquiry | SplitInquiry]]:
    """Answer ``question`` for each picture [height, width, channels].

    Before each pass ``report`` is called with the number of draws made for all of them.

    Yields:
        The index of a picture and its finished inquiry, in the order in which they finish.
    """
    waiting = enumerate(images)
    batcher = Batcher(predictor.pass_size)
    drawn = 0
    while True:
        for index, image in itertools.islice(waiting, IN_FLIGHT - len(batcher)):
            encoded = predictor.encode(image)
            inquiry = predictor.inquire(question, encoded)
            batcher.admit(Ticket(index, encoded.features, inquiry, deadline=math.inf))
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
