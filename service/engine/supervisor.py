"""A supervisor starts, watches and replaces the worker of one device."""

import asyncio
import contextlib
import itertools
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, astuple
from typing import Any, TypeVar

import structlog

from models.bundle import Bundle
from models.certification.answer import Conclusion
from models.execution import Calibration
from service.catalogue import Catalogue, Served
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
from service.system import background, devices

log = structlog.get_logger(__name__)

_CHUNK = 1 << 20
RESTART_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
STEADY_SECONDS = 30.0
# The time in which a worker that has closed its end of the socket should end by itself.
LAST_SECONDS = 2.0
# A worker that failed a self-check is steady if it served for as long as this many checks take.
STEADY_CHECKS = 10
# A probe picture waits for this many passes; it has slots in the first few. The watchdog finds a
# worker that makes no pass, and the duration of a pass does not matter.
MOST_PASSES = 10_000
# After its self-checks a worker is left alone for this many times their duration.
REST = 9
# A worker that shows no sign of life for the first time, or does nothing although it has work, gets
# no more pictures; after the second time its pictures go to others, if there are any. Time within a
# pass counts, too: the machine may stop scheduling the whole process during a pass.
QUIET_SECONDS, SILENT_SECONDS = 0.4, 1.0
STUCK_SECONDS = 2.0
PASSES = 3
# Others no longer wait for what a worker measures that shows no sign of life for so long.
MEASURING_SECONDS = 3.0


T = TypeVar("T")


class _StartAgainError(Exception):
    """A worker does not run like the others; its successor will."""


class Supervisor:
    """Keeps one worker on one device; when it dies, its successor takes over.

    Args:
        worker: what is known of the worker; kept up to date here.
        dispatcher: gives it pictures.
        catalogue: the models that it must have.
        agreement: how it must run them.
        observer: told what it does, and when it dies.
        patience: seconds without a sign of life after which it is replaced.
        load_seconds: the time in which it must load its models.
        check_seconds: the time between its self-checks; 0 means none.
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
        # Why the present worker ends, if known, and whether it said so itself.
        self._reason, self._told = "", False
        # Those who wait for the worker's answer about a model, or to a probe picture.
        self._changes: dict[int, asyncio.Future[messages.Added | None]] = {}
        self._probes: dict[int, asyncio.Future[messages.Answer]] = {}
        self._probe_ids = itertools.count(-1, -1)
        # The number of passes since each of these was sent.
        self._probe_passes: Counter[int] = Counter()
        # What the present worker was told to read.
        self._models: list[Served] = []
        # The last self-checks of each model that has passed one already, by pass size.
        self._recent: dict[int, dict[int, Recent]] = {}
        self._checks_took = 0.0

    async def add(self, served: Served) -> None:
        """Have the worker load a further model, and certify a probe picture with it.

        Raises:
            LoadError: it cannot, or it died.
        """
        try:
            async with asyncio.timeout(self._load_seconds):
                while not await self._add(served):
                    # One that started meanwhile has found another way first.
                    await self.remove(served.index)
        except TimeoutError:
            reason = f"it was not loaded within {self._load_seconds:g} s"
            raise LoadError(f"{reason}; PIXELDP_LOAD_SECONDS allows more") from None
        await self._probe(served.index)
        if self.worker.ready:
            self._agreement.improve(self.worker)

    async def _add(self, served: Served) -> bool:
        """Have the worker load a further model; return whether it runs it as others do."""
        model = served.index
        told = self._agreement.describe(served, self.worker)
        added = await self._change(model, messages.Add(model=told))
        assert added is not None
        self.worker.calibrations[model] = added.calibration
        ceilings = {model: added.ceiling} if added.ceiling else {}
        return self._agreement.accepts(self.worker, {model: added.calibration}, ceilings)

    async def remove(self, model: int) -> None:
        """Have the worker drop a model."""
        with contextlib.suppress(LoadError):  # if it died, the model is gone as well
            await self._change(model, messages.Remove(model=model))
        self.worker.calibrations.pop(model, None)
        self._recent.pop(model, None)

    async def keep(self) -> None:
        """Keep a worker running for as long as the service runs."""
        while True:
            started = time.monotonic()
            self._reason, self._told = "", False
            code = None
            try:
                code = await self._serve()
            except _StartAgainError:
                log.info("worker starts again, to run like the others", worker=self.worker.name)
                continue
            except OSError as error:
                self._reason = f"no process can be started: {explain(error, self.worker.device)}"
            except Exception as error:  # a worker that sends nonsense must not end its supervision
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
            # If it dies early again and again, the pauses before it is started again grow.
            self.failures = 0 if lived > self._steady_seconds else self.failures + 1
            self._note_death()
            await asyncio.sleep(RESTART_SECONDS[min(self.failures, len(RESTART_SECONDS) - 1)])

    def _note_death(self) -> None:
        """Report a death; give the service up if workers cannot serve.

        Before any was ever ready, that is the case if one has said why it fails, or if all have
        failed, for whatever reason. Later it is if none is ready and one has said again and again
        that it cannot load its models.
        """
        self._observer.worker_died(self.worker.name)
        if self._dispatcher.opened_once:
            over = self._told and self.failures >= len(RESTART_SECONDS)
        else:
            over = self._told or not self._dispatcher.any_untried
        if over and not self._dispatcher.any_ready:
            self._on_broken(f"a worker cannot start: {self.worker.trouble}")

    @property
    def _steady_seconds(self) -> float:
        """How long a worker must have lived for its end not to count as a failure in a row."""
        checks = STEADY_CHECKS * self._check_seconds if self._told else 0.0
        return max(STEADY_SECONDS, checks)

    async def _serve(self) -> int | None:
        """Start one worker process, and listen to it until it ends.

        Returns:
            Its exit code; None if it cannot be ended.

        Raises:
            OSError: it cannot be started.
            _StartAgainError: it is sound, but chose another provider or number format.
        """
        device, additional = devices.own(self.worker.device)
        with contextlib.closing(SharedStatus.create()) as status:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    process = await Process.start(self.worker.name, theirs, status, additional)
            except BaseException:
                ours.close()
                raise
            # Whatever happens, the process is ended, and nothing of it is left open.
            async with process:
                closed = await self._listen(ours, status, process, device)
                # If it has closed its end by itself, its exit status is of interest.
                code = await process.end(LAST_SECONDS if closed else 0.0)
        self._reason = self._reason or explain_exit(code, process.last_line)
        return code

    async def _listen(
        self, connection: socket.socket, status: SharedStatus, process: Process, device: str
    ) -> bool:
        """Listen to a worker on ``device``; return whether it has closed its end by itself."""
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise
        self.worker.writer = writer
        tasks = [asyncio.create_task(_or_abort(writer, self._watch(status, process, writer)))]
        try:
            self._models = self._catalogue.held
            described = [self._agreement.describe(one, self.worker) for one in self._models]
            self.worker.send(messages.Load(models=described, device=device))
            decoder = messages.Decoder()
            while data := await reader.read(_CHUNK):
                if self._told:
                    break  # what it still sends about pictures is not reliable
                for message, _ in decoder.feed(data):
                    if self._told:
                        break
                    if not isinstance(message, messages.Ready):
                        self._receive(message)
                    elif self._is_like_others(message):
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

    def _is_like_others(self, ready: messages.Ready) -> bool:
        """Whether a worker that has started has all models, and runs them as others do."""
        found = ready.calibrations
        has_all = all(served.index in found for served in self._catalogue.held)
        return self._agreement.accepts(self.worker, found, ready.ceilings) and has_all

    async def _open(self, writer: asyncio.StreamWriter) -> None:
        """Make the worker ready as soon as it has certified a probe picture with every model.

        From then on it does so again and again; if it fails, its successor takes over.
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
        self._agreement.improve(self.worker)

    async def _check(self, models: Iterable[int]) -> None:
        """Have a probe picture certified with each of ``models``, and compared with earlier ones.

        Raises:
            LoadError: one was not certified, or its votes differ.
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
                if self._reason:  # the watchdog has found the worker wedged
                    self._checked(model, result)
                raise
            self._checked(model, "passed")
        self._checks_took = time.monotonic() - began

    def _checked(self, model: int, result: CheckResult) -> None:
        bundle = self._catalogue.bundle(model)
        if self._check_seconds and bundle:
            self._observer.self_checked(self.worker.name, bundle.manifest.name, result)

    async def _probe(self, model: int) -> None:
        """Have a picture certified by each h of a model, in large passes and in small ones.

        Raises:
            LoadError: it was not certified, or its votes differ.
        """
        found = self.worker.calibrations.get(model)
        if found is None:
            raise LoadError("the model is no longer served")
        for execution in found.executions:
            await self._probe_h(model, execution.pass_size)

    async def _probe_h(self, model: int, pass_size: int) -> None:
        """Have it certified in the same way as any other, and compared with earlier ones."""
        bundle = self._catalogue.bundle(model)
        if bundle is None:
            raise LoadError("the model is no longer served")
        number = next(self._probe_ids)
        answer: asyncio.Future[messages.Answer] = asyncio.get_running_loop().create_future()
        self._probes[number] = answer
        self.worker.send(*probe(number, model, bundle, pass_size))
        try:
            found = (await answer).conclusion
            assert isinstance(found, Conclusion), "probes are about sizes"
        finally:
            del self._probes[number], self._probe_passes[number]
        bounds = [(one.lower, one.expected, one.upper) for one in found.scores]
        true = all(0 <= lower <= mean <= upper <= 1 for lower, mean, upper in bounds)
        if not (found.draws and bounds and true and found.certified_size >= 0):
            reason = f"{bundle.manifest.name} did not certify a probe picture: {found}"
            raise WrongAnswerError(reason)
        if self._check_seconds:
            self._compare(model, pass_size, bundle, found)

    def _compare(self, model: int, pass_size: int, bundle: Bundle, found: Conclusion) -> None:
        tally = tally_of(found.evidence.total, found.evidence.denominator)
        recent = self._recent.get(model, {}).get(pass_size, Recent())
        try:
            self._agreement.reference(self.worker, model).compare(tally, recent)
        except WrongAnswerError as error:
            reason = f"its self-check of {bundle.manifest.name} failed: {error}"
            raise WrongAnswerError(reason) from None
        self._recent.setdefault(model, {})[pass_size] = recent

    async def _change(self, model: int, message: messages.ToWorker) -> messages.Added | None:
        if self.worker.writer is None:
            raise LoadError("the worker is gone")
        done: asyncio.Future[messages.Added | None] = asyncio.get_running_loop().create_future()
        self._changes[model] = done
        self.worker.send(message)
        try:
            return await done
        finally:
            del self._changes[model]

    def _receive(self, message: messages.Message | messages.SealedAnswer) -> None:
        match message:
            case messages.SealedAnswer(id=number) if number in self._probes:
                _resolve(self._probes, number, message.open())
            case messages.SealedAnswer():
                self._dispatcher.heard(self.worker, message)
            case messages.Added(model=model) if model not in self._changes:
                self.worker.send(messages.Remove(model=model))  # nobody waits for it any more
            case messages.Added():
                _resolve(self._changes, message.model, message)
            case messages.NotAdded():
                _resolve(self._changes, message.model, LoadError(message.reason))
            case messages.Removed():
                _resolve(self._changes, message.model, None)
            case messages.Read():
                self._agreement.wait(self.worker, self._models)
            case messages.Recalibrated():
                self._recalibrate({message.model: message.calibration})
                self._observer.worker_out_of_memory(self.worker.name)
                if not self._departs(message.model, message.calibration):
                    ceiling = message.calibration.pass_size
                    self._agreement.limit(self.worker, message.model, ceiling)
            case messages.Restored():
                self._recalibrate({message.model: message.calibration})
                self._agreement.lift(self.worker, message.model)
            case messages.Shortened():
                self._recalibrate(message.calibrations)
                self._agreement.shortened(self.worker, message)
            case messages.Compiled():
                self._recalibrate(message.calibrations)
                for model, reason in message.kept.items():
                    log.info(
                        "worker goes on without compiling",
                        worker=self.worker.name,
                        model=model,
                        reason=reason,
                    )
                self._agreement.compiled(self.worker, message)
            case messages.Broken():
                log.error("worker cannot load", worker=self.worker.name, reason=message.reason)
                self._reason, self._told = message.reason, True
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

    def _departs(self, model: int, found: Calibration) -> bool:
        """Give the worker up if it runs a model in another way than the one that may serve.

        Its next process tries that way again: memory may have been short for a moment.
        """
        bundle = self._catalogue.bundle(model)
        departs = bundle is not None and self._agreement.departs(bundle, found)
        if bundle and departs:
            name, way = bundle.manifest.name, "/".join(map(str, astuple(found.execution)))
            self._reason = f"it does not run {name} as PIXELDP_PIN requires: {way}"
            # Whatever it says after this is not of the h that may serve.
            self._told = True
            if self.worker.writer is not None:
                self.worker.writer.transport.abort()
        return departs

    def _recalibrate(self, calibrations: dict[int, Calibration]) -> None:
        for model, calibration in calibrations.items():
            self.worker.calibrations[model] = calibration
            found = asdict(calibration)
            log.info("worker recalibrated", worker=self.worker.name, calibration=found)

    def _count_passes(self, passes: int) -> None:
        """Give up probe pictures that have waited for an answer for too long."""
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
            has_work = self._dispatcher.has_work(worker) or bool(self._probes)
            pass_seconds = worker.pass_seconds if worker.loaded and has_work else None
            waits = self._agreement.waits(worker)
            reason = watch.look(status, worker.loaded, pass_seconds, waits)
            if worker.ready:
                self._heed(watch)
            elif watch.silent > MEASURING_SECONDS:
                self._agreement.pass_on(worker)
            if reason:
                log.error("worker is wedged", worker=worker.name, reason=reason)
                self._reason = reason
                process.kill()
                # Its pictures need not wait until the kernel has ended it.
                writer.transport.abort()
                return

    def _heed(self, watch: Watchdog) -> None:
        """Note whether the worker shows signs of life, and act on it."""
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
            if worker.trouble:  # it was silent, and may have been stuck since
                log.info("worker responds again", worker=worker.name)
            worker.trouble = ""
            self._dispatcher.opened(worker)

    def _fall(self, status: SharedStatus) -> None:
        """Return everything that the worker had."""
        self.worker.forget()
        self._agreement.leave(self.worker)
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
    """Await ``work``; if it fails, give the worker up, because nobody would supervise it."""
    if await background.succeeds("supervision of a worker", work):
        writer.transport.abort()
