"""A supervisor starts, watches and replaces the worker of one device."""

import asyncio
import contextlib
import itertools
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from typing import Any, TypeVar

import structlog

from models.bundle import Bundle
from models.certification.answer import Conclusion
from models.execution import Calibration
from service.catalogue import Catalogue
from service.engine import messages
from service.engine.agreement import Agreement
from service.engine.check import CheckResult, Recent, WrongAnswerError, tally_of
from service.engine.dispatcher import Dispatcher
from service.engine.errors import LoadError
from service.engine.failures import explain, explain_exit
from service.engine.handle import WorkerHandle
from service.engine.observer import Observer
from service.engine.probe import probe
from service.engine.process import Process
from service.engine.status import SharedStatus
from service.engine.watchdog import Watchdog
from service.system import background

log = structlog.get_logger(__name__)

_CHUNK = 1 << 20
RESTART_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
STEADY_SECONDS = 30.0
# For a worker that has closed its end of the socket to end by itself.
LAST_SECONDS = 2.0
# One that failed a self-check is steady if it served for as long as so many take.
STEADY_CHECKS = 10
# For so many passes a probe picture waits; it has slots in the first few. One that makes no pass is
# found by the watch, and how long a pass takes plays no part.
MOST_PASSES = 10_000
# How many times as long as its self-checks take a worker is left alone after them.
REST = 9
# A worker that shows no sign of life for so long, or does nothing though it has work, is sent no
# more pictures; after so long those that it has go to others, if there are any. Its pass counts,
# too: something may keep the whole process from its turn while it makes one.
QUIET_SECONDS, SILENT_SECONDS = 0.4, 1.0
STUCK_SECONDS = 2.0
PASSES = 3


T = TypeVar("T")


class _StartAgainError(Exception):
    """A worker is not as the others are; its successor will be."""


class Supervisor:
    """Keeps one worker on one device; when it dies, its successor takes over.

    Args:
        worker: what is known of the worker; kept true here.
        dispatcher: whose pictures it answers.
        catalogue: the models that it is to have.
        agreement: how it is to run them.
        observer: told what it does, and when it dies.
        patience: seconds without a sign of life after which it is replaced.
        load_seconds: how long it may take to load its models.
        check_seconds: how long after a self-check it is given the next; 0 is never.
        on_broken: called with the reason when workers cannot start, and none is ready.

    Attributes:
        failures: deaths in a row that came early.
    """

    def __init__(
        self,
        worker: WorkerHandle,
        dispatcher: Dispatcher,
        catalogue: Catalogue,
        agreement: Agreement,
        observer: Observer,
        patience: float,
        load_seconds: float,
        check_seconds: float,
        on_broken: Callable[[str], None],
    ) -> None:
        self.worker, self.failures = worker, 0
        self._dispatcher, self._catalogue, self._agreement = dispatcher, catalogue, agreement
        self._observer, self._on_broken = observer, on_broken
        self._patience, self._load_seconds = patience, load_seconds
        self._check_seconds = check_seconds
        # Why the present worker ends, as far as is known, and whether it said so itself.
        self._reason, self._told = "", False
        # Who waits for the worker's word on a model, and for its answer to a probe picture.
        self._changes: dict[int, asyncio.Future[Calibration | None]] = {}
        self._probes: dict[int, asyncio.Future[messages.Answer]] = {}
        self._probe_ids = itertools.count(-1, -1)
        # How many passes were made since each of these was sent.
        self._probe_passes: Counter[int] = Counter()
        # The last self-checks of each model that has passed one.
        self._recent: dict[int, Recent] = {}
        self._checks_took = 0.0

    async def add(self, model: messages.Model) -> None:
        """Have the worker load a further model, and certify a probe picture with it.

        Raises:
            LoadError: it cannot, or it died over it.
        """
        try:
            async with asyncio.timeout(self._load_seconds):
                found = await self._change(model.number, messages.Add(model=model))
        except TimeoutError:
            reason = f"it was not loaded within {self._load_seconds:g} s"
            raise LoadError(f"{reason}; PIXELDP_LOAD_SECONDS allows more") from None
        assert found is not None
        self.worker.calibrations[model.number] = found
        if not self._agreement.accepts(self.worker, {model.number: found}):
            raise LoadError("it runs otherwise than on the other workers")
        await self._probe(model.number)

    async def remove(self, model: int) -> None:
        """Have the worker forget a model."""
        with contextlib.suppress(LoadError):  # that it died is as good
            await self._change(model, messages.Remove(model=model))
        self.worker.calibrations.pop(model, None)
        self._recent.pop(model, None)

    async def keep(self) -> None:
        """Keep a worker, for as long as the service runs."""
        while True:
            started = time.monotonic()
            self._reason, self._told = "", False
            code = None
            try:
                code = await self._serve()
            except _StartAgainError:
                log.info("worker starts again, to be as the others", worker=self.worker.name)
                continue
            except OSError as error:
                self._reason = f"no process can be started: {explain(error, self.worker.device)}"
            except Exception as error:  # one that talks nonsense must not end its supervision
                log.exception("worker failed", worker=self.worker.name)
                self._reason = explain(error, self.worker.device)
            lived = round(time.monotonic() - started, 1)
            self.worker.trouble = f"{self.worker.name} on {self.worker.device}: {self._reason}"
            log.error(
                "worker died",
                worker=self.worker.name,
                exit_code=code,
                after_seconds=lived,
                reason=self._reason,
            )
            # One that dies young is given longer and longer before it is tried again.
            self.failures = 0 if lived > self._steady_seconds else self.failures + 1
            self._note_death()
            await asyncio.sleep(RESTART_SECONDS[min(self.failures, len(RESTART_SECONDS) - 1)])

    def _note_death(self) -> None:
        """Tell of a death; give the service up if workers cannot serve.

        That is so if one fails before any was ever ready, for whatever reason, and if none is ready
        and one has said again and again that it cannot load its models.
        """
        self._observer.worker_died(self.worker.name)
        lasting = self._told and self.failures >= len(RESTART_SECONDS)
        if (lasting or not self._dispatcher.opened_once) and not self._dispatcher.any_ready:
            self._on_broken(f"a worker cannot start: {self.worker.trouble}")

    @property
    def _steady_seconds(self) -> float:
        """For how long a worker must have lived for its end to be no failure in a row."""
        checks = STEADY_CHECKS * self._check_seconds if self._told else 0.0
        return max(STEADY_SECONDS, checks)

    async def _serve(self) -> int | None:
        """Start one worker process, and listen to it until it ends.

        Returns:
            Its exit code; None if it cannot be ended.

        Raises:
            OSError: it cannot be started.
            _StartAgainError: it is as it should be, but for what it found fastest.
        """
        with contextlib.closing(SharedStatus.create()) as status:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    process = await Process.start(self.worker.name, theirs, status)
            except BaseException:
                ours.close()
                raise
            # Whatever comes in between, the process is ended, and nothing of it left open.
            async with process:
                closed = await self._listen(ours, status, process)
                # If it has closed its end by itself, what it ends with is to be seen.
                code = await process.end(LAST_SECONDS if closed else 0.0)
        self._reason = self._reason or explain_exit(code, process.last_line)
        return code

    async def _listen(
        self, connection: socket.socket, status: SharedStatus, process: Process
    ) -> bool:
        """Listen to a worker; return whether it has closed its end by itself."""
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise
        self.worker.writer = writer
        tasks = [asyncio.create_task(_or_abort(writer, self._watch(status, process, writer)))]
        try:
            self.worker.send(self._agreement.order(self.worker, self._catalogue.held))
            decoder = messages.Decoder()
            while data := await reader.read(_CHUNK):
                if self._told:
                    break  # what it still says of pictures is not to be relied on
                for message, _ in decoder.feed(data):
                    if not isinstance(message, messages.Ready):
                        self._receive(message)
                    elif self._is_like_others(message.calibrations):
                        self.worker.loaded, self.worker.calibrations = True, message.calibrations
                        tasks.append(asyncio.create_task(_or_abort(writer, self._open(writer))))
                    else:
                        raise _StartAgainError
        except ConnectionError:
            return False
        finally:
            for task in tasks:
                task.cancel()
            writer.transport.abort()
            self._fall(status)
        return True

    def _is_like_others(self, calibrations: dict[int, Calibration]) -> bool:
        """Whether a worker that has started has all models, and runs them as others do."""
        has_all = all(served.index in calibrations for served in self._catalogue.held)
        return self._agreement.accepts(self.worker, calibrations) and has_all

    async def _open(self, writer: asyncio.StreamWriter) -> None:
        """Take pictures as soon as the worker has certified a probe picture of every model.

        From then on it does so again and again; once it does not, its successor takes over.
        """
        try:
            await self._check(self.worker.calibrations)
            for model in list(self.worker.calibrations):
                if not self._catalogue.bundle(model) and model not in self._changes:
                    await self.remove(model)  # unloaded while this worker was starting
            self._become_ready()
            while self._check_seconds:
                known = all(
                    self._agreement.reference(self.worker, one).full
                    for one in self.worker.calibrations
                )
                pause = self._check_seconds if known else 0.0
                await asyncio.sleep(max(pause, REST * self._checks_took))
                await self._check(self._recent)
        except LoadError as error:
            self._reason, self._told = str(error), True
            writer.transport.abort()

    def _become_ready(self) -> None:
        self.worker.ready, self.worker.trouble = True, ""
        log.info(
            "worker ready",
            worker=self.worker.name,
            device=self.worker.device,
            calibrations=[asdict(one) for one in self.worker.calibrations.values()],
        )
        self._dispatcher.opened(self.worker)

    async def _check(self, models: Iterable[int]) -> None:
        """Have a probe picture of each of ``models`` certified, and compared with those before it.

        Raises:
            LoadError: one was not, or not as before.
        """
        began = time.monotonic()
        for model in list(models):
            result: CheckResult = "unanswered"
            try:
                await self._probe(model)
            except LoadError as error:
                if self._catalogue.bundle(model) is None:
                    continue
                result = "failed" if isinstance(error, WrongAnswerError) else result
                self._checked(model, result)
                raise
            except asyncio.CancelledError:
                if self._reason:  # the watch has found the worker wedged
                    self._checked(model, result)
                raise
            self._checked(model, "passed")
        self._checks_took = time.monotonic() - began

    def _checked(self, model: int, result: CheckResult) -> None:
        bundle = self._catalogue.bundle(model)
        if self._check_seconds and bundle:
            self._observer.self_checked(self.worker.name, bundle.manifest.name, result)

    async def _probe(self, model: int) -> None:
        """Have a picture certified on the same way as any other, and compared with those before it.

        Raises:
            LoadError: it was not, or not as before.
        """
        bundle = self._catalogue.bundle(model)
        if bundle is None:
            raise LoadError("the model is served no longer")
        number = next(self._probe_ids)
        answer: asyncio.Future[messages.Answer] = asyncio.get_running_loop().create_future()
        self._probes[number] = answer
        self.worker.send(*probe(number, model, bundle))
        try:
            found = (await answer).conclusion
        finally:
            del self._probes[number], self._probe_passes[number]
        bounds = [(one.lower, one.expected, one.upper) for one in found.scores]
        true = all(0 <= lower <= mean <= upper <= 1 for lower, mean, upper in bounds)
        if not (found.draws and bounds and true and found.certified_size >= 0):
            reason = f"{bundle.manifest.name} did not certify a probe picture: {found}"
            raise WrongAnswerError(reason)
        if self._check_seconds:
            self._compare(model, bundle, found)

    def _compare(self, model: int, bundle: Bundle, found: Conclusion) -> None:
        tally = tally_of(found.evidence.total, found.evidence.denominator)
        recent = self._recent.get(model, Recent())
        try:
            self._agreement.reference(self.worker, model).compare(tally, recent)
        except WrongAnswerError as error:
            reason = f"its self-check of {bundle.manifest.name} failed: {error}"
            raise WrongAnswerError(reason) from None
        self._recent[model] = recent

    async def _change(self, model: int, message: messages.ToWorker) -> Calibration | None:
        if self.worker.writer is None:
            raise LoadError("the worker is gone")
        done: asyncio.Future[Calibration | None] = asyncio.get_running_loop().create_future()
        self._changes[model] = done
        self.worker.send(message)
        try:
            return await done
        finally:
            del self._changes[model]

    def _receive(self, message: messages.Message) -> None:
        match message:
            case messages.Added(model=model) if model not in self._changes:
                self.worker.send(messages.Remove(model=model))  # nobody waits for it any more
            case messages.Added():
                _resolve(self._changes, message.model, message.calibration)
            case messages.NotAdded():
                _resolve(self._changes, message.model, LoadError(message.reason))
            case messages.Removed():
                _resolve(self._changes, message.model, None)
            case messages.Recalibrated():
                self.worker.calibrations[message.model] = message.calibration
                found = asdict(message.calibration)
                log.info("worker runs otherwise", worker=self.worker.name, calibration=found)
                if message.ceiling is not None:
                    self._observer.worker_out_of_memory(self.worker.name)
                    self._agreement.limit(self.worker, message.model, message.ceiling)
            case messages.Broken():
                log.error("worker cannot load", worker=self.worker.name, reason=message.reason)
                self._reason, self._told = message.reason, True
            case messages.Answer(id=number) if number in self._probes:
                _resolve(self._probes, number, message)
            case messages.Failed(id=number) | messages.Late(id=number) if number in self._probes:
                _resolve(self._probes, number, LoadError(f"no answer to a probe: {message!r}"))
            case messages.Numbers():
                self._count_passes(message.passes)
                self.worker.longest_pass = message.longest_seconds
                self._observer.numbers(self.worker.name, message)
            case _ if isinstance(message, messages.OfPicture):
                self._dispatcher.heard(self.worker, message)
            case _:
                log.error("unexpected message", worker=self.worker.name, kind=message.kind)

    def _count_passes(self, passes: int) -> None:
        """Give up probe pictures that have been left without an answer for too long."""
        for number in self._probes:
            self._probe_passes[number] += passes
            if self._probe_passes[number] > MOST_PASSES:
                reason = f"no answer to a probe within {MOST_PASSES:,} passes"
                _resolve(self._probes, number, LoadError(reason))

    async def _watch(
        self, status: SharedStatus, process: Process, writer: asyncio.StreamWriter
    ) -> None:
        """End a worker that is wedged."""
        worker, watch = self.worker, Watchdog(self._patience, self._load_seconds)
        while True:
            await asyncio.sleep(watch.tick)
            has_work = bool(self._dispatcher.entries(worker) or self._probes)
            pass_seconds = worker.pass_seconds if worker.loaded and has_work else None
            reason = watch.look(status, worker.loaded, pass_seconds)
            if worker.ready:
                self._heed(watch)
            if reason:
                log.error("worker is wedged", worker=worker.name, reason=reason)
                self._reason = reason
                process.kill()
                # Its pictures need not wait until the kernel can end it.
                writer.transport.abort()
                return

    def _heed(self, watch: Watchdog) -> None:
        """Count with a worker as far as it shows signs of life."""
        worker = self.worker
        lengths = max(worker.pass_seconds, worker.longest_pass)
        silent = watch.silent > max(SILENT_SECONDS, PASSES * lengths)
        stuck = watch.stuck > max(STUCK_SECONDS, PASSES * lengths)
        quiet = stuck or watch.silent > max(QUIET_SECONDS, lengths)
        was_quiet, was_silent = worker.quiet, worker.silent
        worker.quiet, worker.silent = quiet, silent
        if silent:
            worker.trouble = f"{worker.name} on {worker.device}: no sign of life"
            if not was_silent:
                log.warning("worker is silent", worker=worker.name, after_seconds=watch.silent)
            self._dispatcher.silent(worker)
        elif was_quiet and not quiet:
            worker.trouble = ""
            if was_silent:
                log.info("worker speaks again", worker=worker.name)
            self._dispatcher.opened(worker)

    def _fall(self, status: SharedStatus) -> None:
        """Give back what the worker had."""
        self.worker.forget()
        self._recent = {}
        waiting: list[asyncio.Future[Any]] = [*self._changes.values(), *self._probes.values()]
        for one in waiting:
            if not one.done():
                one.set_exception(LoadError("the worker died"))
        self._dispatcher.fallen(self.worker, status.running, wrong=self._told)


def _resolve(waiters: "dict[int, asyncio.Future[T]]", number: int, outcome: T | Exception) -> None:
    waiter = waiters.get(number)
    if waiter is None or waiter.done():
        return
    if isinstance(outcome, Exception):
        waiter.set_exception(outcome)
    else:
        waiter.set_result(outcome)


async def _or_abort(writer: asyncio.StreamWriter, work: Awaitable[None]) -> None:
    """Await ``work``; should it fail, give the worker up, as nobody would look after it."""
    if await background.succeeds("supervision of a worker", work):
        writer.transport.abort()
