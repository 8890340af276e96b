"""A picture's way through the front process: its question, its place and its result."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from models.certification.answer import AnyConclusion
from models.certification.question import Question
from models.execution import Execution
from service.decoding.reduction import Reduced
from service.engine import messages
from service.engine.handle import WorkerHandle

# The number of workers that die in passes of one picture before it counts as the cause.
MOST_DEATHS = 2
# The owner that stands for all clients without a key.
SHARED = 0


@dataclass(frozen=True)
class Job:
    """A question about a picture.

    ``deadline`` is on the clock of ``time.monotonic``, which all processes of a machine share.
    ``owner`` identifies the client; clients share the workers. ``SHARED`` are all without a key.
    ``whole`` says that fewer draws than its budget would prove nothing.
    """

    model: int
    picture: Reduced
    question: Question
    scores: int
    deadline: float
    high: bool = False
    attacks: int | None = None
    owner: int = SHARED
    whole: bool = False


@dataclass(frozen=True)
class Result:
    """The answer to a job, its draw budget, where it was made, and where its time went.

    ``looks`` has for each look the draws so far and the seconds since the first pass began.
    """

    conclusion: AnyConclusion
    granted: int
    device: str
    execution: Execution
    queue_seconds: float
    compute_seconds: float
    looks: list[tuple[int, float]]


@dataclass(frozen=True)
class Outcome:
    """What becomes of a job, before its answer is read.

    Attributes:
        answer: of the worker.
        granted: the draw budget.
        device: the worker's device.
        waited: the seconds from its arrival until the worker received it.
    """

    answer: messages.AnyAnswer
    granted: int
    device: str
    waited: float

    def read(self) -> Result:
        """Return the answer to the job."""
        answer = self.answer.open()
        return Result(
            conclusion=answer.conclusion,
            granted=self.granted,
            device=self.device,
            execution=answer.execution,
            queue_seconds=self.waited + answer.queue_seconds,
            compute_seconds=answer.compute_seconds,
            looks=answer.looks,
        )


@dataclass(eq=False)
class Entry:
    """A job on its way.

    ``place`` says where it is: in the queue, among a worker's pictures, or nowhere once it has an
    answer. ``sent`` is when a worker last received it, and ``device`` is that worker's device.
    ``deaths`` counts the workers that died in a pass of its own, ``suspicions`` those that died in
    a pass that it shared, and ``restarts`` its earlier runs: each run has its own share of α.
    ``looked`` says whether looks of the present run were reported. ``draft`` is the answer of this
    run if the worker sends nothing more by the deadline, whose timer is ``timer``.
    """

    id: int
    job: Job
    answer: asyncio.Future[messages.AnyAnswer]
    on_look: Callable[[AnyConclusion | None], None] | None
    granted: int = 0
    place: "Queue | Entries | None" = None
    sent: float = 0.0
    device: str = ""
    deaths: int = 0
    suspicions: int = 0
    restarts: int = 0
    looked: bool = False
    draft: messages.AnyAnswer | None = None
    timer: asyncio.TimerHandle | None = None

    def move(self, place: "Queue | Entries | None") -> None:
        """Move it to another place, or nowhere.

        Nothing else changes its place: the queue and the workers' entries follow from it.
        """
        if self.place is not None:
            self.place._remove(self)
        self.place = place
        if place is not None:
            place._add(self)

    def begin_anew(self) -> None:
        """Tell a client that received looks that they are void: later ones are of another run."""
        if self.looked:
            self.tell(None)
        self.looked, self.draft = False, None

    def tell(self, reached: AnyConclusion | None) -> None:
        """Report a look to the client; if that fails, only this picture has no answer."""
        if self.on_look is None or self.answer.done():
            return
        self.looked = True
        try:
            self.on_look(reached)
        except Exception as error:
            self.settle(error)

    def settle(self, outcome: messages.AnyAnswer | Exception) -> None:
        """Answer the client, unless it has an answer or no longer waits."""
        if self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)

    def admission(self, lendable: bool = False) -> messages.Admit:
        """Return the message that gives it to a worker, without the pixels."""
        picture, question = self.job.picture, self.job.question
        return messages.Admit(
            id=self.id,
            model=self.job.model,
            width=picture.width,
            height=picture.height,
            channels=picture.channels,
            bits=picture.bits,
            prepared=picture.prepared,
            sensitivities=picture.sensitivities,
            confidence=question.confidence,
            max_draws=self.granted,
            target=question.target,
            norm=question.norm,
            allow=question.allow,
            masks=question.masks,
            scores=self.job.scores,
            attacks=self.job.attacks,
            deadline=self.job.deadline,
            high=self.job.high,
            owner=self.job.owner,
            progress=self.on_look is not None,
            alone=self._alone,
            restarts=self.restarts,
            lendable=lendable,
        )

    @property
    def _alone(self) -> int:
        """The number of passes that it may not share, so that no other is blamed in its place.

        Most pictures in a pass when its worker died are not the cause, and show this in their first
        pass alone.
        """
        before = self.deaths + self.suspicions
        return min(before, 1) if before < MOST_DEATHS else self.granted


class Entries(Mapping[int, Entry]):
    """The pictures that a worker has, by id, and how many of them each client has.

    Only :meth:`Entry.move` adds and removes them.
    """

    def __init__(self, worker: WorkerHandle) -> None:
        self.worker = worker
        self._entries: dict[int, Entry] = {}
        self._of: Counter[int] = Counter()

    def __getitem__(self, number: int) -> Entry:
        return self._entries[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def of(self, owner: int) -> int:
        """How many are a caller's."""
        return self._of[owner]

    def admits(self, owner: int, high: bool, window: int) -> bool:
        """Whether there is a place for one more.

        Some places are reserved for high priority, which does not wait for other pictures to end.
        Each key has some places, whatever the others have.

        Args:
            owner: its client.
            high: whether it has high priority.
            window: the number of places for normal priority.
        """
        if owner != SHARED and self.of(owner) < window // 4:
            return True
        return len(self) < (window * 5 // 4 if high else window)

    def _add(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self._of[entry.job.owner] += 1

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.id]
        self._of[entry.job.owner] -= 1


class Queue:
    """The queue: high priority comes first, but every fourth turn is for normal, so none starves.

    Within a priority, the client with the fewest pictures at the worker comes first. Only
    :meth:`Entry.move` adds and removes pictures.

    Args:
        on_change: called with a client and 1 or -1 when one of its pictures begins or ends to wait.

    Attributes:
        draws: the sum of the draws requested by waiting pictures, by model.
    """

    def __init__(self, on_change: Callable[[int, int], None] | None = None) -> None:
        self._on_change = on_change
        self.draws: Counter[int] = Counter()
        # By priority and owner; no queue is empty.
        self._queues: dict[bool, dict[int, deque[Entry]]] = {True: {}, False: {}}
        self._of: Counter[int] = Counter()
        self._turn = 0

    def __len__(self) -> int:
        return self._of.total()

    def of(self, owner: int) -> int:
        """How many are a caller's."""
        return self._of[owner]

    def likewise(self, owner: int) -> int:
        """How many would wait if each waiting client had as many as this one."""
        return self.of(owner) * sum(count > 0 for count in self._of.values())

    def choose(self, entries: Entries) -> Entry | None:
        """Return the next picture for which a worker has a place; None if there is none.

        Args:
            entries: the worker's pictures.
        """
        turn, window = (self._turn + 1) % 4, entries.worker.window
        for high in (True, False) if turn else (False, True):
            queues = self._queues[high]
            able = [owner for owner in queues if entries.admits(owner, high, window)]
            if able:
                self._turn = turn
                owner = min(able, key=lambda one: (entries.of(one), queues[one][0].id))
                return queues[owner][0]
        return None

    def _add(self, entry: Entry) -> None:
        """Let a picture wait with those of its priority and owner; first if it has begun before."""
        queue = self._queues[entry.job.high].setdefault(entry.job.owner, deque())
        if entry.restarts:
            queue.appendleft(entry)
        else:
            queue.append(entry)
        self._count(entry, 1)

    def _remove(self, entry: Entry) -> None:
        queues, owner = self._queues[entry.job.high], entry.job.owner
        queues[owner].remove(entry)
        if not queues[owner]:
            del queues[owner]
        self._count(entry, -1)

    def _count(self, entry: Entry, sign: int) -> None:
        self.draws[entry.job.model] += sign * entry.job.question.max_draws
        self._of[entry.job.owner] += sign
        if self._on_change is not None:
            self._on_change(entry.job.owner, sign)
        if not self._of[entry.job.owner]:
            del self._of[entry.job.owner]
