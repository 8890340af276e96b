"""A supervisor starts, watches and replaces the worker of one device."""

import asyncio
import contextlib
import itertools
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Iterable
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

import structlog

from models.bundle import Bundle
from models.certification.answer import Conclusion
from models.execution import Calibration
from service.engine import messages
from service.engine.check import CheckResult, Recent, WrongAnswerError, tally_of
from service.engine.errors import LoadError
from service.engine.failures import explain, explain_exit
from service.engine.probe import probe
from service.engine.process import Process
from service.engine.queue import Entries, Entry
from service.engine.served import ServedModels
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
# Draws that a picture takes from a pass at a time: how many pictures keep a worker's passes full.
DRAWS_AT_A_TIME = 32
# A worker that shows no sign of life for so long, or does nothing though it has work, is sent no
# more pictures; after so long those that it has go to others, if there are any. Its pass counts,
# too: something may keep the whole process from its turn while it makes one.
QUIET_SECONDS, SILENT_SECONDS = 0.4, 1.0
STUCK_SECONDS = 2.0
PASSES = 3
# For an answer to come from the worker, beside the pass that it waits for.
ON_ITS_WAY_SECONDS = 0.05


class Owner(Protocol):
    """Who the supervisors belong to: the engine."""

    def opened(self, supervisor: "Supervisor") -> None:
        """Note that a supervisor takes pictures now."""

    def heard(self, supervisor: "Supervisor", message: messages.FromWorker) -> None:
        """Take what a worker says about pictures and passes."""

    def fallen(self, supervisor: "Supervisor", entries: Iterable[Entry], running: set[int]) -> None:
        """Take back the pictures of a worker that is gone, which was at those ``running``."""

    def silent(self, supervisor: "Supervisor") -> None:
        """Note, again and again, that a worker that takes pictures shows no sign of life."""

    def spoke(self, supervisor: "Supervisor") -> None:
        """Note that a worker that showed none does so again."""

    def died(self, supervisor: "Supervisor", told: bool) -> None:
        """Note a death; ``told`` if the worker itself said that it cannot serve."""


T = TypeVar("T")


class _StartAgainError(Exception):
    """A worker is not as the others are; its successor will be."""


class Supervisor:
    """Keeps one worker on one device; when it dies, its successor takes over.

    Args:
        name: of the workers that serve here.
        device: theirs.
        served_models: what they load.
        owner: who it belongs to.
        patience: seconds without a sign of life after which a worker is replaced.
        load_seconds: how long a worker may take to load its models.
        check_seconds: how long after a self-check a worker is given the next; 0 is never.

    Attributes:
        loaded: whether a worker has loaded its models.
        ready: whether it has certified a probe picture of each, so that it takes pictures.
        quiet: whether it has shown no sign of life just now: others go first.
        silent: whether that is so for longer; it may have been stopped.
        longest_pass: seconds that its longest pass took lately.
        calibrations: how it runs each model, by number.
        entries: the pictures that it has, by id.
        failures: deaths in a row that came early.
        trouble: why its last worker is gone; empty once another is ready.
    """

    def __init__(
        self,
        name: str,
        device: str,
        served_models: ServedModels,
        owner: Owner,
        patience: float,
        load_seconds: float,
        check_seconds: float,
    ) -> None:
        self.name, self.device = name, device
        self.loaded = self.ready = self.quiet = self.silent = False
        self.longest_pass = 0.0
        self.calibrations: dict[int, Calibration] = {}
        self.entries = Entries()
        self.failures = 0
        self.trouble = ""
        self._served_models, self._owner = served_models, owner
        self._patience, self._load_seconds = patience, load_seconds
        self._check_seconds = check_seconds
        # Why the present worker ends, as far as is known, and whether it said so itself.
        self._reason, self._told = "", False
        self._writer: asyncio.StreamWriter | None = None
        # Who waits for the worker's word on a model, and for its answer to a probe picture.
        self._changes: dict[int, asyncio.Future[Calibration | None]] = {}
        self._probes: dict[int, asyncio.Future[messages.Answer]] = {}
        self._probe_ids = itertools.count(-1, -1)
        # How many passes were made since each of these was sent.
        self._probe_passes: Counter[int] = Counter()
        # The last self-checks of each model that has passed one.
        self._recent: dict[int, Recent] = {}
        self._checks_took = 0.0

    @property
    def kind(self) -> str:
        """Its kind of device."""
        return self.device.partition(":")[0]

    @property
    def window(self) -> int:
        """How many pictures it has at most.

        Several times those that keep its passes full: some need so many draws that whoever waits
        for one of them to end waits long.
        """
        largest = max((one.pass_size for one in self.calibrations.values()), default=0)
        return 8 * max(1, largest // DRAWS_AT_A_TIME)

    @property
    def pass_seconds(self) -> float:
        """How long its longest passes should take."""
        each = (one.pass_size / one.draws_per_second for one in self.calibrations.values())
        return max(each, default=0.0)

    @property
    def responds(self) -> bool:
        """Whether it takes pictures, and is likely to answer them."""
        return self.ready and not self.silent

    @property
    def late_seconds(self) -> float:
        """How long after a deadline an answer may come: it is made after the pass under way."""
        if self.quiet:
            return 0.0
        return max(self.pass_seconds, self.longest_pass) + ON_ITS_WAY_SECONDS

    def send(self, message: messages.ToWorker, payload: bytes = b"") -> None:
        """Tell the worker something; nobody hears it if it is gone.

        Whoever has something to tell is often a client's request, which has nothing to do with the
        worker's end: what the worker had is given back when :meth:`keep` finds that it is gone.
        """
        if self._writer is None or self._writer.is_closing():
            return
        try:
            self._writer.write(messages.head(message, len(payload)))
            if payload:
                self._writer.write(payload)
        except (OSError, RuntimeError):  # the latter for a closed connection
            self._writer.transport.abort()

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
        self.calibrations[model.number] = found
        if not self._served_models.agree(self, self.calibrations):
            raise LoadError("it runs in another number format than on the other workers")
        await self._probe(model.number)

    async def remove(self, model: int) -> None:
        """Have the worker forget a model."""
        with contextlib.suppress(LoadError):  # that it died is as good
            await self._change(model, messages.Remove(model=model))
        self.calibrations.pop(model, None)
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
                log.info("worker starts again, to be as the others", worker=self.name)
                continue
            except OSError as error:
                self._reason = f"no process can be started: {explain(error, self.device)}"
            except Exception as error:  # one that talks nonsense must not end its supervision
                log.exception("worker failed", worker=self.name)
                self._reason = explain(error, self.device)
            lived = round(time.monotonic() - started, 1)
            self.trouble = f"{self.name} on {self.device}: {self._reason}"
            log.error(
                "worker died",
                worker=self.name,
                exit_code=code,
                after_seconds=lived,
                reason=self._reason,
            )
            # One that dies young is given longer and longer before it is tried again.
            self.failures = 0 if lived > self._steady_seconds else self.failures + 1
            self._owner.died(self, told=self._told)
            await asyncio.sleep(RESTART_SECONDS[min(self.failures, len(RESTART_SECONDS) - 1)])

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
        status = SharedStatus.create()
        try:
            return await self._converse(status)
        finally:
            status.close()

    async def _converse(self, status: SharedStatus) -> int | None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await Process.start(self.name, theirs, status)
        except BaseException:
            ours.close()
            raise
        # Whatever comes in between, the process is ended, and nothing of it left open.
        async with process:
            closed = await self._listen(ours, status, process)
            # If it has closed its end by itself, what it ends with is to be seen.
            code = await process.end(LAST_SECONDS if closed else 0.0)
        if not self._reason:
            self._reason = _explain_end(code, process.last_line)
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
        self._writer = writer
        tasks = [asyncio.create_task(_or_abort(writer, self._watch(status, process, writer)))]
        try:
            self.send(self._served_models.order(self))
            decoder = messages.Decoder()
            while data := await reader.read(_CHUNK):
                if self._told:
                    break  # what it still says of pictures is not to be relied on
                for message, _ in decoder.feed(data):
                    if not isinstance(message, messages.Ready):
                        self._receive(message)
                    elif self._is_like_others(message.calibrations):
                        self.loaded, self.calibrations = True, message.calibrations
                        tasks.append(asyncio.create_task(_or_abort(writer, self._open(writer))))
                    else:
                        raise _StartAgainError
        except ConnectionError:
            return False
        finally:
            for task in tasks:
                task.cancel()
            writer.transport.abort()
            self._writer = None
            self._fall(status)
        return True

    def _is_like_others(self, calibrations: dict[int, Calibration]) -> bool:
        """Whether a worker that has started has all models, and runs them as others do."""
        return self._served_models.agree(self, calibrations) and self._served_models.complete(
            calibrations
        )

    async def _open(self, writer: asyncio.StreamWriter) -> None:
        """Take pictures as soon as the worker has certified a probe picture of every model.

        From then on it does so again and again; once it does not, its successor takes over.
        """
        try:
            await self._check(self.calibrations)
            for model in list(self.calibrations):
                if not self._served_models.bundle(model) and model not in self._changes:
                    await self.remove(model)  # unloaded while this worker was starting
            self._become_ready()
            while self._check_seconds:
                known = all(
                    self._served_models.reference(self, one).full for one in self.calibrations
                )
                pause = self._check_seconds if known else 0.0
                await asyncio.sleep(max(pause, REST * self._checks_took))
                await self._check(self._recent)
        except LoadError as error:
            self._reason, self._told = str(error), True
            writer.transport.abort()

    def _become_ready(self) -> None:
        self.ready, self.trouble = True, ""
        log.info(
            "worker ready",
            worker=self.name,
            device=self.device,
            calibrations=[asdict(one) for one in self.calibrations.values()],
        )
        self._owner.opened(self)

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
                if self._served_models.bundle(model) is None:
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
        if self._check_seconds:
            self._served_models.checked(self, model, result)

    async def _probe(self, model: int) -> None:
        """Have a picture certified on the same way as any other, and compared with those before it.

        Raises:
            LoadError: it was not, or not as before.
        """
        bundle = self._served_models.bundle(model)
        if bundle is None:
            raise LoadError("the model is served no longer")
        number = next(self._probe_ids)
        answer: asyncio.Future[messages.Answer] = asyncio.get_running_loop().create_future()
        self._probes[number] = answer
        self.send(*probe(number, model, bundle))
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
            self._served_models.reference(self, model).compare(tally, recent)
        except WrongAnswerError as error:
            reason = f"its self-check of {bundle.manifest.name} failed: {error}"
            raise WrongAnswerError(reason) from None
        self._recent[model] = recent

    async def _change(self, model: int, message: messages.ToWorker) -> Calibration | None:
        if self._writer is None:
            raise LoadError("the worker is gone")
        done: asyncio.Future[Calibration | None] = asyncio.get_running_loop().create_future()
        self._changes[model] = done
        self.send(message)
        try:
            return await done
        finally:
            del self._changes[model]

    def _receive(self, message: messages.Message) -> None:
        match message:
            case messages.Added(model=model) if model not in self._changes:
                self.send(messages.Remove(model=model))  # nobody waits for it any more
            case messages.Added():
                _resolve(self._changes, message.model, message.calibration)
            case messages.NotAdded():
                _resolve(self._changes, message.model, LoadError(message.reason))
            case messages.Removed():
                _resolve(self._changes, message.model, None)
            case messages.Recalibrated():
                self.calibrations[message.model] = message.calibration
                found = asdict(message.calibration)
                log.info("worker runs otherwise", worker=self.name, calibration=found)
                if message.ceiling is not None:
                    self._served_models.too_large(self, message.model, message.ceiling)
            case messages.Broken():
                log.error("worker cannot load", worker=self.name, reason=message.reason)
                self._reason, self._told = message.reason, True
            case messages.Answer(id=number) if number in self._probes:
                _resolve(self._probes, number, message)
            case messages.Failed(id=number) | messages.Late(id=number) if number in self._probes:
                _resolve(self._probes, number, LoadError(f"no answer to a probe: {message!r}"))
            case messages.Numbers():
                self._count_passes(message.passes)
                self._owner.heard(self, message)
            case (
                messages.Look()
                | messages.Begun()
                | messages.Answer()
                | messages.Late()
                | messages.Failed()
            ):
                self._owner.heard(self, message)
            case _:
                log.error("unexpected message", worker=self.name, kind=message.kind)

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
        watch = Watchdog(self._patience, self._load_seconds)
        while True:
            await asyncio.sleep(watch.tick)
            busy = self.loaded and bool(self.entries or self._probes)
            reason = watch.look(status, self.loaded, self.pass_seconds if busy else None)
            if self.ready:
                self._heed(watch)
            if reason:
                log.error("worker is wedged", worker=self.name, reason=reason)
                self._reason = reason
                process.kill()
                # Its pictures need not wait until the kernel can end it.
                writer.transport.abort()
                return

    def _heed(self, watch: Watchdog) -> None:
        """Count with a worker as far as it shows signs of life."""
        lengths = max(self.pass_seconds, self.longest_pass)
        silent = watch.silent > max(SILENT_SECONDS, PASSES * lengths)
        stuck = watch.stuck > max(STUCK_SECONDS, PASSES * lengths)
        quiet = stuck or watch.silent > max(QUIET_SECONDS, lengths)
        was_quiet, was_silent = self.quiet, self.silent
        self.quiet, self.silent = quiet, silent
        if silent:
            self.trouble = f"{self.name} on {self.device}: no sign of life"
            if not was_silent:
                log.warning("worker is silent", worker=self.name, after_seconds=watch.silent)
            self._owner.silent(self)
        elif was_quiet and not quiet:
            self.trouble = ""
            if was_silent:
                log.info("worker speaks again", worker=self.name)
            self._owner.spoke(self)

    def _fall(self, status: SharedStatus) -> None:
        """Give back what the worker had."""
        self.loaded = self.ready = self.quiet = self.silent = False
        self.longest_pass = 0.0
        self.calibrations, self._recent = {}, {}
        waiting: list[asyncio.Future[Any]] = [*self._changes.values(), *self._probes.values()]
        for one in waiting:
            if not one.done():
                one.set_exception(LoadError("the worker died"))
        entries, self.entries = self.entries, Entries()
        running = status.running
        if self._told:
            # It is taken out for its own answers: no picture ended it, and no draft of its stands.
            running = set()
            for entry in entries.values():
                entry.draft = None
        self._owner.fallen(self, entries.values(), running)


def _resolve(waiters: "dict[int, asyncio.Future[T]]", number: int, outcome: T | Exception) -> None:
    waiter = waiters.get(number)
    if waiter is None or waiter.done():
        return
    if isinstance(outcome, Exception):
        waiter.set_exception(outcome)
    else:
        waiter.set_result(outcome)


def _explain_end(code: int | None, last_line: str) -> str:
    if code is None:
        return "it cannot be ended: see what the kernel says (dmesg)"
    return explain_exit(code, last_line)


async def _or_abort(writer: asyncio.StreamWriter, work: Awaitable[None]) -> None:
    """Await ``work``; should it fail, give the worker up, as nobody would look after it."""
    if await background.succeeds("supervision of a worker", work):
        writer.transport.abort()
