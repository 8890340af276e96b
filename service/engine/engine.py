"""The engine: owns the workers, hands them pictures, and never loses one.

It lives in the front process, on its event loop. A worker that dies is started again and its
pictures go to another or to its successor, from their first draw on: predicting has no side
effects.
"""

import asyncio
import itertools
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Protocol

import structlog

from models.bundle import Bundle
from models.certification.answer import Conclusion
from models.certification.procedure import Question
from models.precision import Calibration, Precision
from service.engine import wire
from service.images import Picture

log = structlog.get_logger(__name__)

_CHUNK = 1 << 20
# How long after its deadline a picture's answer may still be on its way from the worker.
GRACE_SECONDS = 2.0
# Deaths of workers that one picture may see before it is taken to be their cause.
MOST_DEATHS = 2
RESTART_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
STEADY_SECONDS = 30.0
# Under overload budgets shrink before pictures are refused: from these fills of the queue on, each
# picture is granted only so much of the draws it asked for, but never less than this many.
SHRINKING = ((0.5, 8), (0.25, 4), (0.125, 2))
LEAST_GRANTED = 128
# Draws that a picture takes from a pass at a time: how many pictures keep a worker's passes full.
DRAWS_AT_A_TIME = 32


class EngineError(Exception):
    """Why there is no answer.

    ├── NotReadyError       no worker is ready yet
    ├── OverloadedError     the queue is full
    ├── DeadlineError       the deadline came before the first look
    ├── CannotEncodeError   the model cannot take this picture
    └── WorkersLostError    workers died over this picture
    """


class NotReadyError(EngineError):
    """No worker is ready yet."""


class OverloadedError(EngineError):
    """The queue is full."""


class DeadlineError(EngineError):
    """The deadline came before the first look."""


class CannotEncodeError(EngineError):
    """The model cannot take this picture."""


class WorkersLostError(EngineError):
    """Workers died over this picture."""


@dataclass(frozen=True)
class Job:
    """A question about a picture.

    ``deadline`` is on the clock of ``time.monotonic``, which all processes of a machine share.
    """

    model: int
    picture: Picture
    question: Question
    scores: int
    deadline: float
    high: bool = False


@dataclass(frozen=True)
class Result:
    """The answer to a job, its draw budget, where it was made, and where its time went."""

    conclusion: Conclusion
    granted: int
    device: str
    precision: Precision
    compiled: bool
    queue_seconds: float
    compute_seconds: float


class Observer(Protocol):
    """Who wants to know what the engine does: the metrics."""

    def numbers(self, worker: str, numbers: wire.Numbers) -> None:
        """Take what a worker has done since it last said."""

    def worker_up(self, worker: str, up: bool) -> None:
        """A worker has become ready, or is so no longer."""

    def worker_died(self, worker: str) -> None:
        """A worker has died."""


class _StartAgainError(Exception):
    """A worker chose another number format than those before it."""


@dataclass(eq=False)
class _Flight:
    id: int
    job: Job
    answer: asyncio.Future[wire.Answer]
    on_look: Callable[[Conclusion], None] | None
    granted: int = 0
    worker: "_Worker | None" = None
    sent: float = 0.0
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    name: str
    device: str
    writer: asyncio.StreamWriter | None = None
    ready: bool = False
    calibrations: list[Calibration] = field(default_factory=list)
    window: int = 0
    heard: float = 0.0

    @property
    def kind(self) -> str:
        """Its kind of device."""
        return self.device.partition(":")[0]

    flights: dict[int, _Flight] = field(default_factory=dict)


class Engine:
    """Workers on devices, and the queue before them.

    Args:
        bundles: the models, in the order in which jobs name them.
        devices: one worker is started for each entry.
        precision: the number format of h; None to measure which is fastest.
        pass_size: slots of every pass; None to measure how many are enough.
        compiled: whether workers may compile the models, and use that where it is faster.
        queue: pictures that may wait; more are refused.
        shrink: whether draw budgets shrink when many pictures wait.
        observer: told what happens.
        on_broken: called with the reason when a worker cannot load its models and none is ready.
    """

    def __init__(
        self,
        bundles: list[Bundle],
        devices: list[str],
        precision: Precision | None,
        pass_size: int | None,
        compiled: bool,
        queue: int,
        shrink: bool,
        observer: Observer,
        on_broken: Callable[[str], None],
    ) -> None:
        self._bundles = bundles
        self._pass_size, self._compile = pass_size, compiled
        # By kind of device and model. What the first worker chooses is binding for the others and
        # for all restarts: a certificate speaks of one network, and formats differ in some votes.
        self._precisions: dict[str, list[Precision]] = {}
        self._precision = precision
        self._workers = [_Worker(f"worker{i}", device) for i, device in enumerate(devices)]
        self._limit, self._shrink = queue, shrink
        self._observer, self._on_broken = observer, on_broken
        self._ids = itertools.count(1)
        self._waiting: tuple[deque[_Flight], deque[_Flight]] = (deque(), deque())
        self._tasks: list[asyncio.Task[None]] = []
        self._turn = 0
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether pictures are answered now."""
        return not self.draining and any(worker.ready for worker in self._workers)

    @property
    def queued(self) -> int:
        """Pictures that wait for a worker."""
        return sum(map(len, self._waiting))

    @property
    def in_flight(self) -> int:
        """Pictures that a worker has."""
        return sum(len(worker.flights) for worker in self._workers)

    @property
    def shrinkage(self) -> int:
        """What draw budgets are divided by at present; 1 unless too many pictures wait."""
        fill = self.queued / self._limit if self._shrink else 0.0
        return next((divisor for least, divisor in SHRINKING if fill >= least), 1)

    @property
    def calibrations(self) -> list[list[Calibration]]:
        """How each ready worker runs each model."""
        return [worker.calibrations for worker in self._workers if worker.ready]

    def start(self) -> None:
        """Start the workers; they become ready by themselves."""
        self._tasks = [
            asyncio.create_task(self._keep(worker), name=worker.name) for worker in self._workers
        ]

    async def close(self) -> None:
        """End the workers."""
        self.draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def predict(
        self, job: Job, on_look: Callable[[Conclusion], None] | None = None
    ) -> Result:
        """Answer ``job``; cancelling this coroutine frees the picture's slots.

        Args:
            job: the question.
            on_look: called with the conclusion so far at every look before the last.

        Raises:
            EngineError: see its tree.
        """
        if not any(worker.ready for worker in self._workers):
            raise NotReadyError("the workers are still loading the models")
        if self.queued >= self._limit:
            raise OverloadedError(f"{self.queued} pictures are waiting already")
        loop = asyncio.get_running_loop()
        flight = _Flight(next(self._ids), job, loop.create_future(), on_look)
        arrived = time.monotonic()
        self._waiting[not job.high].append(flight)
        self._dispatch()
        left = max(job.deadline - arrived, 0.0)
        timer = loop.call_later(left, self._expire, flight)
        try:
            # At the deadline the worker answers with what it has; this is for one that does not.
            async with asyncio.timeout(left + GRACE_SECONDS):
                answer = await flight.answer
        except TimeoutError:
            raise DeadlineError("the worker did not answer by the deadline") from None
        finally:
            timer.cancel()
            self._forget(flight)
        assert flight.worker is not None
        return Result(
            conclusion=answer.conclusion,
            granted=flight.granted,
            device=flight.worker.device,
            precision=answer.precision,
            compiled=answer.compiled,
            queue_seconds=flight.sent - arrived + answer.queue_seconds,
            compute_seconds=answer.compute_seconds,
        )

    def _expire(self, flight: _Flight) -> None:
        """End a picture that is still in the queue at its deadline."""
        if flight.worker is None and not flight.answer.done():
            flight.answer.set_exception(DeadlineError("the deadline came in the queue"))

    def _forget(self, flight: _Flight) -> None:
        """Drop what is left of a flight that nobody waits for any more."""
        worker = flight.worker
        if worker is None:
            queue = self._waiting[not flight.job.high]
            if flight in queue:
                queue.remove(flight)
        elif worker.flights.pop(flight.id, None) and worker.writer:
            worker.writer.write(wire.encode(wire.Cancel(id=flight.id)))
            self._dispatch()

    def _dispatch(self) -> None:
        """Give waiting pictures to the workers with the fewest, as many as keep passes full."""
        ready = [worker for worker in self._workers if worker.ready]
        while ready:
            # High priority goes first, but one turn in four is normal's, so that none starves.
            self._turn = (self._turn + 1) % 4
            order = self._waiting if self._turn else self._waiting[::-1]
            queue = next((queue for queue in order if queue), None)
            worker = min(ready, key=lambda worker: len(worker.flights) / worker.window)
            if queue is None or len(worker.flights) >= worker.window:
                return
            flight = queue.popleft()
            flight.worker, flight.sent = worker, time.monotonic()
            asked = flight.job.question.max_draws
            # Fixed before the first draw, as the division of α needs it to be.
            flight.granted = min(asked, max(asked // self.shrinkage, LEAST_GRANTED))
            worker.flights[flight.id] = flight
            assert worker.writer is not None
            worker.writer.write(_admit(flight))

    async def _keep(self, worker: _Worker) -> None:
        """Keep one worker running, for as long as the service does."""
        failures = 0
        while True:
            started = time.monotonic()
            try:
                code = await self._run(worker)
            except Exception:  # a worker that talks nonsense must not end its supervision
                log.exception("worker failed", worker=worker.name)
                code = -1
            if code is None:
                continue
            lived = time.monotonic() - started
            self._observer.worker_died(worker.name)
            log.error(
                "worker died", worker=worker.name, exit_code=code, after_seconds=round(lived, 1)
            )
            # One that dies young is given longer and longer before it is tried again.
            failures = 0 if lived > STEADY_SECONDS else failures + 1
            await asyncio.sleep(RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)])

    async def _run(self, worker: _Worker) -> int | None:
        """Start one worker process, and listen to it until it ends.

        Returns:
            Its exit code; None if it is only to be started again.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "service.engine.worker"),
                *("--name", worker.name, "--fd", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        worker.writer, again = writer, False
        try:
            writer.write(wire.encode(self._load(worker)))
            decoder = wire.Decoder()
            while data := await reader.read(_CHUNK):
                worker.heard = time.monotonic()
                for message, _ in decoder.feed(data):
                    self._receive(worker, message)
        except ConnectionError:
            pass
        except _StartAgainError:
            again = True
        finally:
            worker.ready, worker.writer = False, None
            self._observer.worker_up(worker.name, False)
            writer.close()
            if process.returncode is None:
                process.kill()
            self._recover(worker)
        code = await process.wait()
        return None if again else code

    def _load(self, worker: _Worker) -> wire.Load:
        formats = self._precisions.get(worker.kind, [self._precision] * len(self._bundles))
        models = [
            wire.Model(path=str(bundle.path), digest=bundle.digest, precision=precision)
            for bundle, precision in zip(self._bundles, formats, strict=True)
        ]
        return wire.Load(
            models=models,
            device=worker.device,
            pass_size=self._pass_size,
            compile=self._compile,
        )

    def _receive(self, worker: _Worker, message: wire.Message) -> None:
        match message:
            case wire.Ready():
                chosen = [one.precision for one in message.calibrations]
                if self._precisions.setdefault(worker.kind, chosen) != chosen:
                    log.info("worker starts again with the others' formats", worker=worker.name)
                    raise _StartAgainError
                worker.ready, worker.calibrations = True, message.calibrations
                largest = max(one.pass_size for one in message.calibrations)
                worker.window = 2 * max(1, largest // DRAWS_AT_A_TIME)
                self._observer.worker_up(worker.name, True)
                log.info(
                    "worker ready",
                    worker=worker.name,
                    device=worker.device,
                    calibrations=[asdict(one) for one in message.calibrations],
                )
                self._dispatch()
            case wire.Faster():
                worker.calibrations[message.model] = message.calibration
                log.info(
                    "model compiled", worker=worker.name, calibration=asdict(message.calibration)
                )
            case wire.Numbers():
                self._observer.numbers(worker.name, message)
            case wire.Look():
                flight = worker.flights.get(message.id)
                if flight and flight.on_look:
                    flight.on_look(message.conclusion)
            case wire.Answer():
                self._settle(worker, message.id, message)
            case wire.Late():
                error: EngineError = DeadlineError("the deadline came before the first look")
                self._settle(worker, message.id, error)
            case wire.Failed():
                self._settle(worker, message.id, CannotEncodeError(message.reason))
            case wire.Broken():
                log.error("worker cannot load", worker=worker.name, reason=message.reason)
                if not any(one.ready for one in self._workers):
                    self._on_broken(message.reason)
            case _:
                log.error("unexpected message", worker=worker.name, kind=message.kind)

    def _settle(self, worker: _Worker, flight_id: int, outcome: wire.Answer | EngineError) -> None:
        flight = worker.flights.pop(flight_id, None)
        if flight and not flight.answer.done():
            if isinstance(outcome, EngineError):
                flight.answer.set_exception(outcome)
            else:
                flight.answer.set_result(outcome)
        self._dispatch()

    def _recover(self, worker: _Worker) -> None:
        """Put the pictures of a dead worker back at the front of the queue."""
        flights, worker.flights = worker.flights, {}
        for flight in reversed(flights.values()):
            # One that had said nothing since it was given the picture may have been dead already.
            flight.deaths += worker.heard > flight.sent
            flight.worker = None
            # Looks of two runs together would not hold with the confidence asked.
            flight.on_look = None
            if flight.answer.done():
                continue
            if flight.deaths >= MOST_DEATHS:
                reason = f"{flight.deaths} workers died while they had this picture"
                flight.answer.set_exception(WorkersLostError(reason))
            else:
                self._waiting[not flight.job.high].appendleft(flight)
        self._dispatch()


def _admit(flight: _Flight) -> bytes:
    job = flight.job
    picture, question = job.picture, job.question
    message = wire.Admit(
        id=flight.id,
        model=job.model,
        width=picture.width,
        height=picture.height,
        channels=picture.channels,
        bits=picture.bits,
        confidence=question.confidence,
        max_draws=flight.granted,
        target=question.target,
        norm=question.norm,
        scores=job.scores,
        deadline=job.deadline,
        high=job.high,
        progress=flight.on_look is not None,
    )
    return wire.encode(message, picture.pixels)
