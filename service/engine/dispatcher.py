"""The dispatcher: gives pictures to workers, takes them back, and never loses one.

A picture whose worker dies goes to another or to the successor, and begins again with its first
draw. The death may depend on the draws; so each run of a picture has its own share of α
(``models.certification.division``), and an answer holds with the requested confidence however many
runs there were.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

from models.certification.answer import AnyConclusion
from service.engine import messages
from service.engine.errors import (
    CannotEncodeError,
    DeadlineError,
    EngineError,
    ModelFailedError,
    WorkersLostError,
)
from service.engine.handle import WorkerHandle
from service.engine.lending import Lending
from service.engine.observer import Observer
from service.engine.pace import fitting
from service.engine.queue import MOST_DEATHS, Entries, Entry, Job, Outcome, Queue

# Under overload budgets shrink before pictures are refused: when this share of the queue is filled,
# each picture's budget is divided by this number, but it is never reduced below the last one.
SHRINKING = ((0.5, 8), (0.25, 4), (0.125, 2))
LEAST_GRANTED = 128


class Dispatcher:
    """The queue before the workers, and the pictures that each worker has.

    Args:
        workers: the workers.
        limit: the number of pictures that may wait.
        shrink: whether draw budgets shrink when many pictures wait, or when there is no time.
        observer: told what happens.
        on_change: told when pictures begin and end to wait, as by ``Queue``.

    Attributes:
        opened_once: whether any worker has been ready.
        queue: the pictures that wait for a worker.
    """

    def __init__(
        self,
        workers: Sequence[WorkerHandle],
        limit: int,
        shrink: bool,
        observer: Observer,
        on_change: Callable[[int, int], None] | None = None,
    ) -> None:
        self._limit, self._shrink, self._observer = limit, shrink, observer
        self._ids = itertools.count(1)
        self._entries = {worker: Entries(worker) for worker in workers}
        self._lending = Lending(self._entries)
        self.queue = Queue(on_change)
        self.opened_once = False

    @property
    def in_flight(self) -> int:
        """The number of pictures that workers have."""
        return sum(map(len, self._entries.values()))

    @property
    def any_ready(self) -> bool:
        """Whether any worker is ready."""
        return any(worker.ready for worker in self._entries)

    @property
    def any_untried(self) -> bool:
        """Whether any worker has not failed yet."""
        return any(not worker.trouble for worker in self._entries)

    def entries(self, worker: WorkerHandle) -> Entries:
        """Return the pictures that a worker has."""
        return self._entries[worker]

    def has_work(self, worker: WorkerHandle) -> bool:
        """Say whether a worker has pictures, or owes draws of another's."""
        return bool(self.entries(worker)) or self._lending.owes(worker)

    def shrinkage(self, waiting: int) -> int:
        """Return the divisor of draw budgets while ``waiting`` pictures wait; 1 if they are few."""
        fill = waiting / self._limit if self._shrink else 0.0
        return next((divisor for least, divisor in SHRINKING if fill >= least), 1)

    async def answer(
        self, job: Job, on_look: Callable[[AnyConclusion | None], None] | None
    ) -> Outcome:
        """Answer ``job``; cancelling this coroutine frees the picture's slots.

        Args:
            job: the question.
            on_look: as of ``Engine.predict``.

        Raises:
            EngineError: see its tree.
        """
        loop = asyncio.get_running_loop()
        number, began = next(self._ids), job.question.restarts
        entry = Entry(number, job, loop.create_future(), on_look, restarts=began)
        arrived = time.monotonic()
        left = max(job.deadline - arrived, 0.0)
        entry.timer = loop.call_later(left, self._expire, entry)
        entry.move(self.queue)
        self._dispatch()
        try:
            answer = await entry.answer
            return Outcome(answer, entry.granted, entry.device, entry.sent - arrived)
        finally:
            entry.timer.cancel()
            self._forget(entry)
            # Avoid circles: an error's traceback refers to this frame, and the entry to the error;
            # the timer refers to the entry.
            entry.timer = None
            del entry

    def opened(self, worker: WorkerHandle) -> None:
        """Give pictures to a worker that is ready, or shows signs of life again."""
        self.opened_once = True
        self._observer.worker_up(worker.name, True)
        self._dispatch()

    def heard(
        self, worker: WorkerHandle, message: messages.OfPicture | messages.SealedAnswer
    ) -> None:
        """Handle a worker's message about a picture, unless the worker no longer has it."""
        if isinstance(message, messages.Assists | messages.Drawn):
            if lost := self._lending.heard(worker, message):
                self._begin_again(lost)
            return
        entry = self._entries[worker].get(message.id)
        if entry is None:
            return
        match message:
            case messages.Look():
                entry.tell(message.conclusion)
            case messages.Begun():
                self._lending.end(entry)
                entry.begin_anew()
            case messages.Wants():
                if not self.queue:
                    self._lending.lend(entry, message.execution)
            case messages.Draw():
                self._lending.pass_on(entry, message)
            case messages.Answer() | messages.SealedAnswer() if message.draft:
                entry.draft = message
            case messages.Answer() | messages.SealedAnswer():
                self._finish(entry, message)
            case messages.Late():
                late = DeadlineError("the deadline came before the first look", message.draws)
                self._finish(entry, late)
            case messages.Failed():
                kind = ModelFailedError if message.model else CannotEncodeError
                self._finish(entry, kind(message.reason))

    def fallen(self, worker: WorkerHandle, running: set[int], wrong: bool = False) -> None:
        """Return the pictures of a worker that is gone to the head of the queue.

        Args:
            worker: the worker.
            running: the pictures in its last pass.
            wrong: whether it was taken out for wrong answers: then no picture caused its end, and
                its drafts do not count.
        """
        self._observer.worker_up(worker.name, False)
        entries = list(self._entries[worker].values())
        lent = self._lending.lost(worker)
        for entry in [*entries, lent] if lent else entries:
            if wrong:
                entry.draft = None
                continue
            # Pictures that waited, or whose worker was only starting, are not the cause.
            entry.deaths += running == {entry.id}
            entry.suspicions += entry.id in running and len(running) > 1
            if entry.deaths >= MOST_DEATHS:
                reason = f"{entry.deaths} workers died while they ran this picture alone"
                entry.settle(WorkersLostError(reason))
        if lent:
            self._begin_again(lent)
        self._take_back(entries)

    def silent(self, worker: WorkerHandle) -> None:
        """Give the pictures of a worker that shows no sign of life to others, if there are any.

        They begin again under another number: what the worker may still send is about an earlier
        run. If it is the only worker they stay, because it may continue.
        """
        self._observer.worker_up(worker.name, False)
        if lent := self._lending.lost(worker):
            self._begin_again(lent)
        if not any(other.ready and not other.quiet for other in self._entries):
            return
        entries = list(self._entries[worker].values())
        for entry in entries:
            worker.send(messages.Cancel(id=entry.id))
            entry.move(None)
            entry.id = next(self._ids)
        self._take_back(entries)

    def _begin_again(self, entry: Entry) -> None:
        """Return a picture to the queue whose draws another worker was to make, and has not."""
        if isinstance(entry.place, Entries):
            entry.place.worker.send(messages.Cancel(id=entry.id))
        entry.move(None)
        self._lending.end(entry)
        entry.id = next(self._ids)
        self._take_back([entry])

    def _take_back(self, entries: list[Entry]) -> None:
        """Return a worker's pictures to the head of the queue."""
        now = time.monotonic()
        for entry in reversed(entries):
            self._lending.end(entry)
            if entry.job.deadline <= now:
                self._end(entry)
            entry.restarts += 1
            entry.begin_anew()
            if entry.answer.done():
                entry.move(None)
            else:
                entry.move(self.queue)
                self._observer.picture_requeued()
        self._dispatch()

    def _expire(self, entry: Entry) -> None:
        """End a picture at its deadline if it is still in the queue.

        A worker itself answers with its certificate so far, between two passes. If it does not, the
        client is answered from here.
        """
        if entry.answer.done():
            return
        if isinstance(entry.place, Entries):
            seconds = entry.place.worker.late_seconds
            entry.timer = asyncio.get_running_loop().call_later(seconds, self._end, entry)
        else:
            entry.settle(DeadlineError("the deadline came in the queue"))

    def _end(self, entry: Entry) -> None:
        """Answer in place of a worker that has not answered, with the draft if there is one."""
        entry.settle(entry.draft or DeadlineError("the worker did not answer by the deadline"))

    def _forget(self, entry: Entry) -> None:
        """Drop an entry for which nobody waits any more."""
        place = entry.place
        entry.move(None)
        self._lending.end(entry)
        if isinstance(place, Entries):
            place.worker.send(messages.Cancel(id=entry.id))
            self._dispatch()

    def _dispatch(self) -> None:
        """Give waiting pictures to the workers with the fewest."""
        ready = [
            entries
            for worker, entries in self._entries.items()
            if worker.ready and not worker.quiet
        ]
        while ready and self.queue:
            entries = min(ready, key=lambda one: len(one) / one.worker.window)
            entry = self.queue.choose(entries)
            if entry is None:
                return
            entry.move(entries)
            self._lending.busy(entries.worker)
            entry.sent, entry.device = time.monotonic(), entries.worker.device
            entry.granted = self._grant(entry.job, entries)
            entries.worker.send(
                entry.admission(lendable=self._lending.possible(entry, entries.worker)),
                entry.job.picture.content,
            )

    def _grant(self, job: Job, entries: Entries) -> int:
        """Return a picture's draw budget, before its first draw, as the division of α requires.

        It is all that was asked if fewer draws prove nothing. Otherwise it is less under overload,
        and if the worker, with all its pictures, is too slow to reach a look by the deadline.
        Neither depends on the draws that the picture will have.
        """
        asked = job.question.max_draws
        if job.whole:
            return asked
        # Only clients with many waiting pictures pay for a full queue.
        shrinkage = self.shrinkage(self.queue.likewise(job.owner))
        granted = min(asked, max(asked // shrinkage, LEAST_GRANTED))
        found = entries.worker.calibrations.get(job.model)
        if found is None or not self._shrink:
            return granted
        share = found.least_speed / len(entries)
        return fitting(granted, share, job.deadline - time.monotonic())

    def _finish(self, entry: Entry, outcome: messages.AnyAnswer | EngineError) -> None:
        """End a picture with its worker's answer."""
        entry.move(None)
        self._lending.end(entry)
        entry.settle(outcome)
        self._dispatch()
