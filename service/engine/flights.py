"""A picture's way through the front process: what is asked, where it is, what comes of it."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.certification.answer import Conclusion
from models.certification.procedure import Question
from models.precision import Execution
from service.decoding.reduction import Reduced
from service.engine import wire

if TYPE_CHECKING:
    from service.engine.post import Post


# Deaths of workers in passes of one picture, after which it is taken to be their cause.
MOST_DEATHS = 2


@dataclass(frozen=True)
class Job:
    """A question about a picture.

    ``deadline`` is on the clock of ``time.monotonic``, which all processes of a machine share.
    """

    model: int
    picture: Reduced
    question: Question
    scores: int
    deadline: float
    high: bool = False
    attacks: int | None = None


@dataclass(frozen=True)
class Result:
    """The answer to a job, its draw budget, where it was made, and where its time went.

    ``looks`` has for each look the draws so far and the seconds since the first pass began.
    """

    conclusion: Conclusion
    granted: int
    device: str
    execution: Execution
    queue_seconds: float
    compute_seconds: float
    looks: list[tuple[int, float]]


@dataclass(eq=False)
class Flight:
    """A job on its way: ``post`` has it, or it waits.

    ``deaths`` counts the workers that died in a pass of its own, ``suspicions`` those that died in
    a pass that it shared, ``restarts`` those that had it at all: each run has an α of its own.
    ``looked`` says whether looks of the present run were told of. ``draft`` is the answer of this
    run should the worker say no more by the deadline, whose timer is ``timer``.
    """

    id: int
    job: Job
    answer: asyncio.Future[wire.Answer]
    on_look: Callable[[Conclusion | None], None] | None
    granted: int = 0
    post: "Post | None" = None
    sent: float = 0.0
    deaths: int = 0
    suspicions: int = 0
    restarts: int = 0
    looked: bool = False
    draft: wire.Answer | None = None
    timer: asyncio.TimerHandle | None = None

    def begin_anew(self) -> None:
        """Say to who was told of looks that they are void: those to come are of another run."""
        if self.looked:
            self.tell(None)
        self.looked, self.draft = False, None

    def tell(self, reached: Conclusion | None) -> None:
        """Tell who asked of a look; if that fails, only this picture has no answer."""
        if self.on_look is None or self.answer.done():
            return
        self.looked = True
        try:
            self.on_look(reached)
        except Exception as error:
            self.answer.set_exception(error)

    def admission(self) -> wire.Admit:
        """Return the message that gives it to a worker; its pixels go beside it."""
        picture, question = self.job.picture, self.job.question
        return wire.Admit(
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
            scores=self.job.scores,
            attacks=self.job.attacks,
            deadline=self.job.deadline,
            high=self.job.high,
            progress=self.on_look is not None,
            alone=self._alone,
            restarts=self.restarts,
        )

    @property
    def _alone(self) -> int:
        """How many passes it must have to itself, so that no other is blamed if it is the cause.

        Most that were in a pass when its worker died have nothing to do with it, and show that in
        the first pass of their own.
        """
        before = self.deaths + self.suspicions
        return min(before, 1) if before < MOST_DEATHS else self.granted


class Waiting:
    """The queue: high priority goes first, but one turn in four is normal's, so none starves.

    Attributes:
        draws: what those that wait have asked for together, by model.
    """

    def __init__(self) -> None:
        self.draws: Counter[int] = Counter()
        self._high: deque[Flight] = deque()
        self._normal: deque[Flight] = deque()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._high) + len(self._normal)

    def push(self, flight: Flight) -> None:
        """Let a picture wait behind those of its priority."""
        self._queue(flight).append(flight)
        self._count(flight, 1)

    def push_first(self, flight: Flight) -> None:
        """Let a picture wait before those of its priority."""
        self._queue(flight).appendleft(flight)
        self._count(flight, 1)

    @property
    def any_high(self) -> bool:
        """Whether any of high priority waits."""
        return bool(self._high)

    def pop_high(self) -> Flight:
        """Take out the next one of high priority; there must be one."""
        return self._out(self._high.popleft())

    def pop(self) -> Flight:
        """Take the next one out; there must be one."""
        self._turn = (self._turn + 1) % 4
        first, second = (self._high, self._normal) if self._turn else (self._normal, self._high)
        return self._out((first or second).popleft())

    def remove(self, flight: Flight) -> None:
        """Take one out, if it is there."""
        queue = self._queue(flight)
        if flight in queue:
            queue.remove(flight)
            self._count(flight, -1)

    def _out(self, flight: Flight) -> Flight:
        self._count(flight, -1)
        return flight

    def _count(self, flight: Flight, sign: int) -> None:
        self.draws[flight.job.model] += sign * flight.job.question.max_draws

    def _queue(self, flight: Flight) -> deque[Flight]:
        return self._high if flight.job.high else self._normal
