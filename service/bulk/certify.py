"""A bulk certification: pictures from a source, through the engine, into the parts of a job."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from models.bulk.job import Job, Row
from models.bulk.sources import Item, Source
from models.certification.question import Question
from models.images.decoding import Picture
from models.images.errors import PictureError
from models.preprocessing import CannotCertify
from service.bulk.answerer import Answerer
from service.catalogue import Served
from service.decoding.reduction import Reduced, Task, reduce_file, reduce_picture
from service.engine.errors import EngineError
from service.engine.queue import Result
from service.http.api.answers import Answer, Timing, answer
from service.http.api.options import Asked

# A part has so many rows, or those that came in this time: no more is lost when the job is killed.
MOST_ROWS, PART_SECONDS = 4096, 10.0

Told = Callable[[Row], None]


class Certification:
    """A bulk certification under way.

    Args:
        job: where the answers go.
        source: where the pictures come from.
        answerer: who answers them.
        served: the model.
        max_pixels: the most pixels of a picture file.
        told: called with each row when it is made.
    """

    def __init__(
        self,
        job: Job,
        source: Source,
        answerer: Answerer,
        served: Served,
        max_pixels: int,
        told: Told = lambda row: None,
    ) -> None:
        self._job, self._answerer, self._served, self._told = job, answerer, served, told
        self._task = Task(max_pixels, served.bundle.manifest.input.shape)
        self._items = source.read(map(int, job.missing))
        self._rows: list[Row] = []
        self._committed = time.monotonic()

    async def run(self) -> None:
        """Certify all pictures that the job lacks; when cancelled, keep what is answered.

        Raises:
            OSError: a picture cannot be read, or a part not be written.
        """
        under_way: set[asyncio.Task[Row]] = set()
        try:
            while True:
                room = self._answerer.places - len(under_way)
                if room >= self._answerer.places // 4:
                    # Reading may wait for a disk, and the engine must not.
                    for item in await asyncio.to_thread(_several, self._items, room):
                        under_way.add(asyncio.create_task(self._certify(item)))
                if not under_way:
                    return
                done, under_way = await asyncio.wait(
                    under_way, timeout=PART_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    self._rows.append(task.result())
                    self._told(self._rows[-1])
                if self._full:
                    await asyncio.to_thread(self._commit)
        finally:
            for task in under_way:
                task.cancel()
            self._commit()

    @property
    def _full(self) -> bool:
        late = time.monotonic() - self._committed > PART_SECONDS
        return len(self._rows) >= MOST_ROWS or late

    def _commit(self) -> None:
        rows, self._rows = self._rows, []
        now = time.monotonic()
        if rows:
            self._job.commit(rows, now - self._committed)
        self._committed = now

    async def _certify(self, item: Item) -> Row:
        question = self._job.begin(item.number)
        began = time.perf_counter()
        try:
            picture = await asyncio.to_thread(_reduced, item, self._task)
            result = await self._answerer.answer(picture, question)
        except (PictureError, CannotCertify, EngineError) as error:
            return Row(item.number, item.key, item.right, problem=str(error))
        seconds = time.perf_counter() - began
        return row(item, result, picture, self._served, question, seconds)


def row(
    item: Item,
    result: Result,
    picture: Reduced,
    served: Served,
    question: Question,
    seconds: float,
) -> Row:
    """Put the answer for a picture together."""
    asked = Asked(served, None, question, 0, 0, None, False, True)
    queue, compute = 1000 * result.queue_seconds, 1000 * result.compute_seconds
    timing = Timing(decode=0.0, queue=queue, compute=compute, total=1000 * seconds)
    preparation = picture.plan(served.bundle.manifest.input.shape)
    found = answer(result, asked, picture, preparation, timing)
    assert isinstance(found, Answer), "the question is about sizes"
    return Row(
        picture=item.number,
        key=item.key,
        right=item.right,
        label=found.label.index,
        label_name=found.label.name,
        certified_size=found.certified_size,
        robust=found.robust,
        lower=found.certificate.lower,
        upper=found.certificate.upper,
        draws=found.draws,
        seconds=result.compute_seconds,
        answer=found.model_dump_json(),
    )


def _several(items: Iterator[Item], room: int) -> Sequence[Item]:
    return list(islice(items, room))


def _reduced(item: Item, task: Task) -> Reduced:
    """Return what a worker receives of a picture.

    Raises:
        PictureError: it is no picture that can be answered.
        CannotCertify: no preprocessing with a bound leads to the model's input.
    """
    if isinstance(item.content, bytes):
        return reduce_file(item.content, task)
    height, width, channels = item.content.shape
    picture = Picture(width, height, "L" if channels == 1 else "RGB", 8, item.content.tobytes())
    return reduce_picture(picture, task)
