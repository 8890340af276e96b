"""A bulk certification: pictures from a source, through the engine, into the parts of a job."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from itertools import islice

import numpy as np
from numpy.typing import NDArray

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


class Writer:
    """Keeps rows back until they are worth a part.

    Args:
        job: where the rows go.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._rows: dict[int, Row] = {}
        self._written = time.monotonic()

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows; of a picture that has one already, the first counts."""
        for row in rows:
            if not self._job.answered[row.picture]:
                self._rows.setdefault(row.picture, row)

    @property
    def full(self) -> bool:
        """Whether it is time for a part."""
        late = time.monotonic() - self._written > PART_SECONDS
        return len(self._rows) >= MOST_ROWS or late

    def write(self) -> None:
        """Write a part of the rows.

        Raises:
            OSError: it cannot be written.
        """
        rows, self._rows = [*self._rows.values()], {}
        now = time.monotonic()
        if rows:
            self._job.commit(rows, now - self._written)
        self._written = now


class BulkCertifier:
    """Certifies pictures, as many at once as the answerer should have.

    Args:
        answerer: who answers the pictures.
        served: the model.
        max_pixels: the most pixels of a picture file.
    """

    def __init__(self, answerer: Answerer, served: Served, max_pixels: int) -> None:
        self._answerer, self._served = answerer, served
        self._task = Task(max_pixels, served.bundle.manifest.input.shape)

    async def certify(
        self, items: Iterator[Item], begin: Callable[[int], Question]
    ) -> AsyncGenerator[list[Row], None]:
        """Yield the rows of pictures as they are made, and after ``PART_SECONDS`` in any case.

        Args:
            items: the pictures.
            begin: called with the number of each when it begins; returns the question about it.

        Raises:
            OSError: a picture cannot be read.
        """
        under_way: set[asyncio.Task[Row]] = set()
        done: asyncio.Queue[asyncio.Task[Row]] = asyncio.Queue()
        try:
            while True:
                room = self._answerer.places - len(under_way)
                if room >= self._answerer.places // 4:
                    # Reading may wait for a disk, and the engine must not.
                    for item in await asyncio.to_thread(_several, items, room):
                        task = asyncio.create_task(self._row(item, begin(item.number)))
                        task.add_done_callback(done.put_nowait)
                        under_way.add(task)
                if not under_way:
                    return
                found: list[asyncio.Task[Row]] = []
                with suppress(TimeoutError):
                    async with asyncio.timeout(PART_SECONDS):
                        found.append(await done.get())
                while not done.empty():
                    found.append(done.get_nowait())
                under_way.difference_update(found)
                yield [task.result() for task in found]
        finally:
            for task in under_way:
                task.cancel()

    async def _row(self, item: Item, question: Question) -> Row:
        began = time.perf_counter()
        try:
            if isinstance(item.content, bytes):
                picture = await asyncio.to_thread(reduce_file, item.content, self._task)
            else:  # a thread would take longer than this
                picture = reduced(item.content, self._task)
            result = await self._answerer.answer(picture, question)
        except (PictureError, CannotCertify, EngineError) as error:
            return Row(item.number, item.key, item.right, problem=str(error))
        seconds = time.perf_counter() - began
        return row(item, result, picture, self._served, question, seconds)


async def certify_missing(
    job: Job, source: Source, certifier: BulkCertifier, told: Told = lambda row: None
) -> None:
    """Certify all pictures that a job lacks; when cancelled, keep what is answered.

    Args:
        job: where the answers go.
        source: where the pictures come from.
        certifier: of the model.
        told: called with each row when it is made.

    Raises:
        OSError: a picture cannot be read, or a part not be written.
    """
    writer = Writer(job)
    items = source.read(map(int, job.missing))
    try:
        async with aclosing(certifier.certify(items, job.begin)) as found:
            async for rows in found:
                writer.add(rows)
                for row in rows:
                    told(row)
                if writer.full:
                    await asyncio.to_thread(writer.write)
    finally:
        writer.write()


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


def reduced(pixels: NDArray[np.uint8], task: Task) -> Reduced:
    """Return what a worker receives of pixels [height, width, channels].

    Raises:
        PictureError: it is no picture that can be answered.
        CannotCertify: no preprocessing with a bound leads to the model's input.
    """
    height, width, channels = pixels.shape
    picture = Picture(width, height, "L" if channels == 1 else "RGB", 8, pixels.tobytes())
    return reduce_picture(picture, task)
