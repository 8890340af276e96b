"""The engine: owns the workers, hands them pictures, and never loses one.

It lives in the front process, on its event loop. A worker that dies is started again and its
pictures go to another or to its successor, from their first draw on. Why it died may depend on the
draws; so each run of a picture has its own share of α (``models.certification.division``), and an
answer holds with the confidence asked however many runs there were.
"""

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from models.certification.answer import Conclusion
from models.execution import Calibration, Precision
from service.catalogue import Catalogue, Served
from service.engine import messages
from service.engine.errors import (
    CannotEncodeError,
    DeadlineError,
    EngineError,
    LoadError,
    ModelFailedError,
    ModelGoneError,
    NotReadyError,
    OverloadedError,
    WorkersLostError,
)
from service.engine.observer import Observer
from service.engine.pace import fitting
from service.engine.queue import MOST_DEATHS, SHARED, Entries, Entry, Job, Queue, Result
from service.engine.served import ServedModels
from service.engine.supervisor import RESTART_SECONDS, Supervisor
from service.system import background

__all__ = [
    "CannotEncodeError",
    "DeadlineError",
    "Engine",
    "EngineError",
    "Job",
    "LoadError",
    "ModelFailedError",
    "ModelGoneError",
    "NotReadyError",
    "OverloadedError",
    "Result",
    "WorkersLostError",
]

log = structlog.get_logger(__name__)

# Under overload budgets shrink before pictures are refused: from these fills of the queue on, each
# picture is granted only so much of the draws it asked for, but never less than this many.
SHRINKING = ((0.5, 8), (0.25, 4), (0.125, 2))
LEAST_GRANTED = 128
# What clients are told to wait at most before they ask again, in seconds.
LONGEST_RETRY = 60


class Engine:
    """Workers on devices, and the queue before them.

    Args:
        catalogue: the models; it changes with :meth:`load` and :meth:`unload`.
        devices: one worker is started for each entry.
        precision: the number format of h; None to measure which is fastest.
        pass_size: slots of every pass; None to measure how many are enough.
        compiled: whether workers may compile the models, and use that where it is faster.
        queue: pictures that may wait; more are refused.
        shrink: whether draw budgets shrink when many pictures wait, or when there is no time.
        stall_seconds: a worker that shows no sign of life for so long is replaced.
        load_seconds: how long a worker may take to load its models, or a further one.
        check_seconds: how long after a self-check a worker is given the next; 0 is never.
        observer: told what happens.
        on_broken: called with the reason when workers cannot start, and none is ready.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        devices: list[str],
        *,
        precision: Precision | None,
        pass_size: int | None,
        compiled: bool,
        queue: int,
        shrink: bool,
        stall_seconds: float,
        load_seconds: float,
        check_seconds: float,
        observer: Observer,
        on_broken: Callable[[str], None],
    ) -> None:
        self._served_models = ServedModels(
            catalogue, observer, precision, pass_size, compiled, load_seconds
        )
        self._supervisors = [
            Supervisor(
                f"worker{i}",
                device,
                self._served_models,
                self,
                stall_seconds,
                load_seconds,
                check_seconds,
            )
            for i, device in enumerate(devices)
        ]
        self._limit, self._shrink = queue, shrink
        self._observer, self._on_broken = observer, on_broken
        self._ids = itertools.count(1)
        self._waiting = Queue()
        # Pictures that are being decoded, by whose they are.
        self._preparing: Counter[int] = Counter()
        self._tasks: list[asyncio.Task[None]] = []
        self.opened_once = False
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether pictures are answered now."""
        responds = any(supervisor.responds for supervisor in self._supervisors)
        return responds and not self.draining and self._served_models.serves

    @property
    def trouble(self) -> str:
        """Why a worker is gone that is to be ready again; empty if none is."""
        return next(
            (supervisor.trouble for supervisor in self._supervisors if supervisor.trouble), ""
        )

    @property
    def queued(self) -> int:
        """Pictures that wait for a worker."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Pictures that a worker has."""
        return sum(len(supervisor.entries) for supervisor in self._supervisors)

    @property
    def full(self) -> bool:
        """Whether no further picture may wait."""
        return self.queued + self._preparing.total() >= self._limit

    @property
    def shrinkage(self) -> int:
        """What draw budgets are divided by at present; 1 unless too many pictures wait."""
        return self._shrinkage(self.queued)

    def _shrinkage(self, waiting: int) -> int:
        """Return what draw budgets are divided by while so many pictures wait."""
        fill = waiting / self._limit if self._shrink else 0.0
        return next((divisor for least, divisor in SHRINKING if fill >= least), 1)

    @property
    def workers(self) -> list[str]:
        """The names of the workers."""
        return [supervisor.name for supervisor in self._supervisors]

    @property
    def calibrations(self) -> list[dict[int, Calibration]]:
        """How each ready worker runs each model, by number."""
        return [supervisor.calibrations for supervisor in self._supervisors if supervisor.ready]

    def speed(self, model: int | None = None) -> float:
        """Return the draws a second that a ready worker makes of a model, or of any; 0 if none."""
        speeds = (
            one.draws_per_second
            for calibrations in self.calibrations
            for number, one in calibrations.items()
            if model is None or number == model
        )
        return max(speeds, default=0.0)

    @property
    def retry_seconds(self) -> int:
        """In how many seconds there is room again, as far as the queue tells.

        That is when half of it could have been answered, if each picture took all its draws.
        """
        seconds = 0.0
        for model, draws in self._waiting.draws.items():
            together = sum(one[model].draws_per_second for one in self.calibrations if model in one)
            seconds += draws / self.shrinkage / together if together else LONGEST_RETRY
        return min(max(math.ceil(seconds / 2), 1), LONGEST_RETRY)

    def start(self) -> None:
        """Start the workers; they become ready by themselves."""
        self._tasks = [
            background.keep(
                f"the supervision of {supervisor.name}", supervisor.keep, self._on_broken
            )
            for supervisor in self._supervisors
        ]

    def stop_changes(self) -> None:
        """Give up loading and unloading models: whatever they wait for, the service is to end."""
        self._served_models.stop()

    async def close(self) -> None:
        """End the workers."""
        self.draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextmanager
    def preparing(self, owner: int = SHARED) -> Iterator[None]:
        """Hold a place in the queue for a picture while it is decoded.

        Args:
            owner: whose it is.

        Raises:
            NotReadyError: no worker has been ready yet.
            OverloadedError: there is no place, or this caller has half of them.
        """
        self._check(owner)
        self._preparing[owner] += 1
        try:
            yield
        finally:
            self._preparing[owner] -= 1

    async def predict(
        self, job: Job, on_look: Callable[[Conclusion | None], None] | None = None
    ) -> Result:
        """Answer ``job``; cancelling this coroutine frees the picture's slots.

        Args:
            job: the question.
            on_look: called with the conclusion so far at every look before the last; with None
                when the job is begun anew, which voids those before.

        Raises:
            EngineError: see its tree.
        """
        self._check(job.owner)
        try:
            with self._served_models.picture(job.model):
                return await self._fly(job, on_look)
        except WorkersLostError as error:
            digest = await asyncio.to_thread(lambda: job.picture.digest)
            log.error("picture refused", reason=str(error), picture=f"sha256:{digest}")
            raise

    async def _fly(self, job: Job, on_look: Callable[[Conclusion | None], None] | None) -> Result:
        loop = asyncio.get_running_loop()
        entry = Entry(next(self._ids), job, loop.create_future(), on_look)
        arrived = time.monotonic()
        left = max(job.deadline - arrived, 0.0)
        entry.timer = loop.call_later(left, self._expire, entry)
        self._waiting.push(entry)
        self._dispatch()
        try:
            answer = await entry.answer
            assert entry.supervisor is not None
            return Result(
                conclusion=answer.conclusion,
                granted=entry.granted,
                device=entry.supervisor.device,
                execution=answer.execution,
                queue_seconds=entry.sent - arrived + answer.queue_seconds,
                compute_seconds=answer.compute_seconds,
                looks=answer.looks,
            )
        finally:
            entry.timer.cancel()
            self._forget(entry)
            # An error's traceback refers to this frame, and the entry to the error: no circle.
            # Nor with the timer, which refers to the entry.
            entry.timer = None
            del entry

    async def load(self, path: Path) -> Served:
        """Have every worker load the bundle in the folder ``path``, and serve it from then on.

        Takes seconds; pictures of other models are answered meanwhile. When it returns, every ready
        worker has certified a probe picture with the model, and the catalogue names it. A bundle
        that is served already is left as it is. One of the same name and version but with another
        digest takes its place: new pictures go to the new one, those in flight end with the old.
        On any failure everything stays as it was.

        Raises:
            BundleError: the bundle cannot be trusted.
            NotReadyError: no worker is ready, or the service stops.
            LoadError: it was not read in time, or a worker could not load it; says why.
        """
        [served] = await self.load_all([path])
        return served

    async def load_all(self, paths: Sequence[Path]) -> list[Served]:
        """Load several bundles as :meth:`load` does one: if one of them fails, none is served."""
        return await self._served_models.load(paths, self._supervisors)

    async def unload(self, name: str) -> None:
        """Serve the model called ``name`` or ``name:version`` no longer; no version means all.

        The catalogue forgets it at once, so that new requests do not find it; pictures in flight
        are answered; then the workers free its memory, and this returns.

        Raises:
            UnknownModelError: it is not served.
            NotReadyError: the service stops.
        """
        await self._served_models.unload(name, self._supervisors)

    def _check(self, owner: int) -> None:
        if not self.opened_once:
            raise NotReadyError("the workers are still loading the models")
        if self.full:
            waiting = self.queued + self._preparing.total()
            raise OverloadedError(f"{waiting} pictures are waiting already")
        mine = self._waiting.of(owner) + self._preparing[owner]
        if owner != SHARED and mine >= max(self._limit // 2, 1):
            raise OverloadedError(f"{mine} pictures of this key are waiting already")

    def _expire(self, entry: Entry) -> None:
        """End a picture at its deadline if it is still in the queue.

        A worker answers by itself with what it has, between two passes. Whatever keeps it from
        that, the client is answered all the same.
        """
        if entry.answer.done():
            return
        if entry.supervisor is None:
            entry.answer.set_exception(DeadlineError("the deadline came in the queue"))
        else:
            seconds = entry.supervisor.late_seconds
            entry.timer = asyncio.get_running_loop().call_later(seconds, self._end, entry)

    def _end(self, entry: Entry) -> None:
        """Answer in the place of a worker that has not, with what is known of its picture."""
        if entry.answer.done():
            return
        if entry.draft:
            entry.answer.set_result(entry.draft)
        else:
            reason = "the worker did not answer by the deadline"
            entry.answer.set_exception(DeadlineError(reason))

    def _forget(self, entry: Entry) -> None:
        """Drop what is left of an entry that nobody waits for any more."""
        if entry.supervisor is None:
            self._waiting.remove(entry)
        elif entry.supervisor.entries.pop(entry.id, None):
            entry.supervisor.send(messages.Cancel(id=entry.id))
            self._dispatch()

    def _dispatch(self) -> None:
        """Give waiting pictures to the workers with the fewest."""
        ready = [
            supervisor
            for supervisor in self._supervisors
            if supervisor.ready and not supervisor.quiet
        ]
        while ready and self._waiting:
            supervisor = min(
                ready, key=lambda supervisor: len(supervisor.entries) / supervisor.window
            )
            entry = self._waiting.pop(supervisor.entries, supervisor.window)
            if entry is None:
                return
            entry.supervisor, entry.sent = supervisor, time.monotonic()
            entry.granted = self._grant(entry.job, supervisor)
            supervisor.entries[entry.id] = entry
            supervisor.send(entry.admission(), entry.job.picture.content)

    def _grant(self, job: Job, supervisor: Supervisor) -> int:
        """Return a picture's draw budget, before its first draw, as the division of α needs it.

        It is less than asked under overload, and where the worker, among its other pictures, is too
        slow for any look by the deadline. Neither depends on the draws that the picture will have.
        """
        asked = job.question.max_draws
        # Only those pay for a full queue of whom many wait.
        shrinkage = self._shrinkage(self._waiting.likewise(job.owner))
        granted = min(asked, max(asked // shrinkage, LEAST_GRANTED))
        found = supervisor.calibrations.get(job.model)
        if found is None or not self._shrink:
            return granted
        share = found.draws_per_second / (len(supervisor.entries) + 1)
        return fitting(granted, share, job.deadline - time.monotonic())

    def _settle(
        self, supervisor: Supervisor, number: int, outcome: messages.Answer | EngineError
    ) -> None:
        entry = supervisor.entries.pop(number, None)
        if entry and not entry.answer.done():
            if isinstance(outcome, EngineError):
                entry.answer.set_exception(outcome)
            else:
                entry.answer.set_result(outcome)
        self._dispatch()

    # What the supervisors tell: see ``Owner``.

    def opened(self, supervisor: Supervisor) -> None:
        """Note that a supervisor takes pictures now."""
        self.opened_once = True
        self._observer.worker_up(supervisor.name, True)
        self._dispatch()

    def heard(self, supervisor: Supervisor, message: messages.FromWorker) -> None:
        """Take what a worker says about pictures and passes."""
        match message:
            case messages.Numbers():
                supervisor.longest_pass = message.longest_seconds
                self._observer.numbers(supervisor.name, message)
            case messages.Look():
                entry = supervisor.entries.get(message.id)
                if entry:
                    entry.tell(message.conclusion)
            case messages.Begun():
                if entry := supervisor.entries.get(message.id):
                    entry.begin_anew()
            case messages.Answer(draft=True):
                if entry := supervisor.entries.get(message.id):
                    entry.draft = message
            case messages.Answer():
                self._settle(supervisor, message.id, message)
            case messages.Late():
                late = DeadlineError("the deadline came before the first look", message.draws)
                self._settle(supervisor, message.id, late)
            case messages.Failed():
                kind = ModelFailedError if message.model else CannotEncodeError
                self._settle(supervisor, message.id, kind(message.reason))

    def fallen(self, supervisor: Supervisor, entries: Iterable[Entry], running: set[int]) -> None:
        """Put the pictures of a worker that is gone back at the front of the queue."""
        self._observer.worker_up(supervisor.name, False)
        entries = list(entries)
        for entry in entries:
            # Those that waited, or whose worker was only starting, have nothing to do with it.
            entry.deaths += running == {entry.id}
            entry.suspicions += entry.id in running and len(running) > 1
            if entry.deaths >= MOST_DEATHS and not entry.answer.done():
                reason = f"{entry.deaths} workers died while they ran this picture alone"
                entry.answer.set_exception(WorkersLostError(reason))
        self._take_back(entries)

    def silent(self, supervisor: Supervisor) -> None:
        """Give the pictures of a worker that shows no sign of life to others, if there are any.

        They are begun anew by another number: what it may still say is of a run that is over.
        Where it is the only one they stay: perhaps it goes on.
        """
        self._observer.worker_up(supervisor.name, False)
        if not any(other.ready and not other.quiet for other in self._supervisors):
            return
        entries, supervisor.entries = list(supervisor.entries.values()), Entries()
        for entry in entries:
            supervisor.send(messages.Cancel(id=entry.id))
            entry.id = next(self._ids)
        self._take_back(entries)

    def spoke(self, supervisor: Supervisor) -> None:
        """Count with a worker again that showed no sign of life."""
        self._observer.worker_up(supervisor.name, True)
        self._dispatch()

    def _take_back(self, entries: list[Entry]) -> None:
        """Put pictures that a worker had back at the front of the queue."""
        now = time.monotonic()
        for entry in reversed(entries):
            if entry.job.deadline <= now and not entry.answer.done():
                self._end(entry)
                continue
            entry.supervisor = None
            entry.restarts += 1
            entry.begin_anew()
            if not entry.answer.done():
                self._waiting.push_first(entry)
                self._observer.picture_requeued()
        self._dispatch()

    def died(self, supervisor: Supervisor, told: bool) -> None:
        """Note a death; give the service up if workers cannot serve.

        That is so if one fails before any was ever ready, for whatever reason, and if none is ready
        and one has said again and again that it cannot load its models.
        """
        self._observer.worker_died(supervisor.name)
        lasting = not self.opened_once or (told and supervisor.failures >= len(RESTART_SECONDS))
        if lasting and not any(one.ready for one in self._supervisors):
            self._on_broken(f"a worker cannot start: {supervisor.trouble}")
