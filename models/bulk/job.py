"""The folder of a bulk certification: what was asked, what was begun, and the answers.

=====================  ===========================================================================
job.json               what was asked: model, question, source; it never changes
begun.json             for each start of the job, or of what an engine left, which pictures up to
                       which number may have begun
parts/part-N.parquet   the answers, in the order in which they were made; a part never changes
summary.json, log.tsv  what follows from them, made at the end
=====================  ===========================================================================

The job may be killed at any time. A part is written beside its place, brought to the disk and then
renamed, so it is there as a whole or not at all, and a picture is answered if a part has its row.
No picture is in two parts, because a job reads all parts before it begins, and has the folder to
itself.

A picture that a job had begun when it was killed has lost draws, and the end of the job may have
depended on them. So it begins again with the next share of α, as in the service when a worker dies
(``models.certification.division``). For this, ``begun.json`` says on the disk that pictures may be
begun before the first of them is. So it is, too, if an engine on another machine dies, and what it
had begun begins elsewhere.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from models.bulk.parquet import check_pyarrow, open_parquet
from models.bulk.sources import Source
from models.bundle import Bundle, Part
from models.certification.arrays import Integers
from models.certification.names import Norm
from models.certification.question import Question
from models.files import locked, write_whole

if TYPE_CHECKING:
    from pyarrow import Schema

JOB, BEGUN, PARTS = "job.json", "begun.json", "parts"
# Pictures are said to be begun this many at a time.
STRIDE = 128
# The name in a part's metadata of the time that it took.
SECONDS = b"seconds"


class JobError(ValueError):
    """The folder belongs to another job, or is in use."""


class Asked(Part):
    """What is certified, and how.

    Attributes:
        model: its name.
        version: its version.
        digest: of the bundle.
        labels: the labels' names.
        dataset: the data set, as it was named.
        source: the source's identity.
        pictures: how many there are; every ``every``-th is certified.
        every: see ``pictures``.
        max_draws: the draw budget of each picture.
        confidence: η of each answer.
        target: the size that is needed, or None.
        norm: the norm of sizes.
    """

    model: str
    version: str
    digest: str
    labels: tuple[str, ...]
    dataset: str
    source: str
    pictures: int
    every: int
    max_draws: int
    confidence: float
    target: float | None
    norm: Norm

    @classmethod
    def of(
        cls, bundle: Bundle, source: Source, dataset: str, question: Question, every: int = 1
    ) -> Self:
        """Return what is asked of a model about a source.

        Args:
            bundle: the model.
            source: the pictures.
            dataset: the source's name, for the record.
            question: about each picture.
            every: certify every ``every``-th picture.
        """
        return cls(
            model=bundle.manifest.name,
            version=bundle.manifest.version,
            digest=bundle.digest,
            labels=bundle.manifest.labels,
            dataset=dataset,
            source=source.identity,
            pictures=len(source),
            every=every,
            max_draws=question.max_draws,
            confidence=question.confidence,
            target=question.target,
            norm=question.norm,
        )

    @property
    def numbers(self) -> Integers:
        """The pictures' numbers in the source, ascending."""
        return np.arange(0, self.pictures, self.every)

    def question(self, restarts: int = 0) -> Question:
        """Return the question about a picture that has begun so often before."""
        return Question(self.confidence, self.max_draws, self.target, self.norm, restarts)


@dataclass(frozen=True)
class Row:
    """The answer for one picture, or why there is none.

    Attributes:
        picture: its number in the source.
        key: its name there.
        right: the index of its right label, if that is known.
        problem: why there is no answer; then all that follows is empty.
        label: the index of the label that leads.
        label_name: its name.
        certified_size: see ``models.certification.answer``.
        robust: whether the size reaches the target; None without a target.
        lower: the bound on the label's expected score on which the size rests.
        upper: the bound on that of every rival.
        draws: all draws made.
        seconds: from its first pass to its answer; pictures share passes.
        answer: the JSON of ``POST /predict`` with its evidence, which ``pixeldp verify`` takes.
    """

    picture: int
    key: str
    right: int | None
    problem: str | None = None
    label: int | None = None
    label_name: str | None = None
    certified_size: float | None = None
    robust: bool | None = None
    lower: float | None = None
    upper: float | None = None
    draws: int | None = None
    seconds: float | None = None
    answer: str | None = None


class Job:
    """A bulk certification under way, which has its folder to itself; see :func:`open_job`.

    Attributes:
        asked: what is certified, and how.
        answered: [pictures], which pictures of the source are.
    """

    def __init__(self, folder: Path, asked: Asked) -> None:
        self.asked, self._folder = asked, folder
        self._parts = folder / PARTS
        self._parts.mkdir(exist_ok=True)
        for left in self._parts.glob(".*"):  # of a job that was killed while it wrote a part
            left.unlink()
        parts = _parts(folder)
        self.answered = np.zeros(asked.pictures, np.bool_)
        for part in parts:
            self.answered[_done(part)] = True
        self._next = 1 + max((int(one.stem.partition("-")[2]) for one in parts), default=-1)
        self._earlier: list[int] = []
        with suppress(FileNotFoundError):
            self._earlier = json.loads((folder / BEGUN).read_bytes())
        self._begun, self._now = 0, np.zeros(asked.pictures, np.bool_)

    @property
    def missing(self) -> Integers:
        """The numbers of the pictures that have no answer, ascending."""
        numbers = self.asked.numbers
        return numbers[~self.answered[numbers]]

    def begin(self, number: int) -> Question:
        """Say on the disk that a picture begins, and return the question about it.

        A picture may begin again, if what it began in is lost.
        """
        if self._now[number]:
            self._earlier.append(self._begun)
            self._begun = 0
            self._now[:] = False
        self._now[number] = True
        if number >= self._begun:
            self._begun = number + STRIDE * self.asked.every
            content = json.dumps([*self._earlier, self._begun]).encode()
            write_whole(self._folder / BEGUN, content)
            _sync(self._folder)
        return self.asked.question(sum(number < begun for begun in self._earlier))

    def commit(self, rows: Sequence[Row], seconds: float) -> None:
        """Add a part; when this returns, these pictures are answered for good.

        Args:
            rows: the answers.
            seconds: the time since the part before.

        Raises:
            OSError: it cannot be written; then none of them is.
        """
        from pyarrow import Table
        from pyarrow.parquet import write_table

        name = f"part-{self._next:06}.parquet"
        written = self._parts / f".{name}"
        schema = _schema().with_metadata({SECONDS: str(seconds)})
        with written.open("wb") as stream:
            write_table(Table.from_pylist([asdict(row) for row in rows], schema), stream)
            stream.flush()
            os.fsync(stream.fileno())
        written.rename(self._parts / name)
        _sync(self._parts)
        self._next += 1
        self.answered[[row.picture for row in rows]] = True


@contextmanager
def open_job(folder: Path, asked: Asked) -> Iterator[Job]:
    """Begin a job in a folder, or go on with the one that is there.

    Args:
        folder: created if it does not exist.
        asked: what is certified, and how.

    Raises:
        JobError: the folder has another job, something else, or a process that works in it.
        ValueError: pyarrow is not installed.
        OSError: it cannot be written.
    """
    with claim_job(folder, asked), write_job(folder, asked) as job:
        yield job


@contextmanager
def claim_job(folder: Path, asked: Asked) -> Iterator[None]:
    """Do all of :func:`open_job` but read and write what is answered; another process may do that.

    Raises:
        As :func:`open_job`.
    """
    check_pyarrow()
    with _alone(folder):
        if (folder / JOB).exists():
            _check_same(folder, read_job(folder), asked)
        elif any(not one.name.startswith(".") for one in folder.iterdir()):
            raise JobError(f"{folder}: is not empty and has no {JOB}; name a new folder")
        else:
            write_whole(folder / JOB, asked.model_dump_json(indent=2).encode())
            _sync(folder)
        yield


@contextmanager
def write_job(folder: Path, asked: Asked) -> Iterator[Job]:
    """Read and write what is answered, after the process that does it now, if there is one.

    Args:
        folder: which somebody has claimed.
        asked: of the job that is there.
    """
    with locked(folder / PARTS / JOB):
        yield Job(folder, asked)


def read_job(folder: Path) -> Asked:
    """Read what was asked.

    Raises:
        JobError: the folder has no job.
    """
    try:
        return Asked.model_validate_json((folder / JOB).read_bytes())
    except (OSError, ValueError) as error:
        raise JobError(f"{folder}: no job of pixeldp certify here ({error})") from None


def read_columns(folder: Path, *names: str) -> tuple[dict[str, list[Any]], float]:
    """Read columns of all rows, in the order of the pictures' numbers.

    Returns:
        The columns by name, ``picture`` among them, and the seconds that the job has taken.

    Raises:
        JobError: there is no row.
        ValueError: pyarrow is not installed, or a part is damaged.
    """
    found: dict[str, list[Any]] = {name: [] for name in ("picture", *names)}
    seconds = 0.0
    for file in _parts(folder):
        with open_parquet(file) as part:
            table = part.read(columns=[*found])
        seconds += float(table.schema.metadata[SECONDS])
        for name, values in found.items():
            values += table.column(name).to_pylist()
    if not found["picture"]:
        raise JobError(f"{folder}: has no answers yet; go on with pixeldp certify")
    order = np.argsort(found["picture"])
    ordered = {name: [values[place] for place in order] for name, values in found.items()}
    return ordered, seconds


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / JOB, wait=False))
        except BlockingIOError:
            raise JobError(
                f"{folder}: another process certifies into this folder; wait for it, or end it"
            ) from None
        yield


def _check_same(folder: Path, former: Asked, asked: Asked) -> None:
    differ = [
        f"{name} was {getattr(former, name)!r}, and is now {getattr(asked, name)!r}"
        for name in Asked.model_fields
        if getattr(former, name) != getattr(asked, name) and name != "dataset"
    ]
    if differ:
        raise JobError(f"{folder}: has another job: {differ[0]}; name a new folder")


def _parts(folder: Path) -> list[Path]:
    return sorted((folder / PARTS).glob("part-*.parquet"))


def _done(part: Path) -> Integers:
    with open_parquet(part) as opened:
        column = opened.read(columns=["picture"]).column("picture")
        return np.asarray(column.to_numpy(), dtype=np.int64)


def _schema() -> "Schema":
    """Return the columns of a part, which are the members of :class:`Row`."""
    import pyarrow

    kinds = {
        **dict.fromkeys(("picture", "draws"), pyarrow.int64()),
        **dict.fromkeys(("right", "label"), pyarrow.int32()),
        **dict.fromkeys(("certified_size", "lower", "upper", "seconds"), pyarrow.float64()),
        "robust": pyarrow.bool_(),
    }
    return pyarrow.schema(
        [(one.name, kinds.get(one.name, pyarrow.string())) for one in fields(Row)]
    )


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
