"""The main process of a service with several fronts: engine, decoders, and the fronts."""

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import Callable
from functools import partial

import structlog

from service.catalogue import Catalogue
from service.engine.failures import explain_exit
from service.fronts.desk import Desk
from service.fronts.ledger import Field, Ledger, Sign
from service.fronts.remote import RUNNING
from service.fronts.shared import SharedBudget
from service.fronts.totals import Totals
from service.fronts.wire import Kind
from service.http.local import make_decoders, make_engine
from service.http.metrics import Metrics
from service.http.slowness import warn_of_slow_models
from service.settings import Settings
from service.system import background
from service.system.processes import is_stopped
from service.system.programs import environment, python

log = structlog.get_logger(__name__)

# How often the fronts are told what has changed, and how often each is asked whether it is alive.
TELL_SECONDS, CHECK_SECONDS = 0.1, 0.25
# A front is replaced if it is found stopped in this many checks in a row.
STOPPED_CHECKS = 4
# How often metrics are gathered, and how long a front that does not tell them is waited for.
GATHER_SECONDS, COLLECT_SECONDS = 2.0, 1.0
# The pauses before a front is started again, by the number of early deaths in a row; and how long
# it must have lived for its death not to be early.
RESTART_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
STEADY_SECONDS = 30.0
# Before any front has served, the service is given up after this many deaths.
MOST_FAILURES = 3


class Office:
    """Everything that the fronts share, and the fronts.

    Args:
        settings: checked settings.
        catalogue: the models to serve.
        listener: the socket on which fronts accept connections.
        metrics: those of the main process.
        on_broken: called with the reason when the service cannot go on.

    Attributes:
        serving: set once a front listens.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        listener: socket.socket,
        metrics: Metrics,
        on_broken: Callable[[str], None],
    ) -> None:
        self._settings, self._catalogue, self._listener = settings, catalogue, listener
        self._metrics, self._on_broken = metrics, on_broken
        count = settings.wanted_fronts
        self._ledger = Ledger.create(1 + count)
        own = self._ledger.account(0)
        self.engine = make_engine(
            settings,
            catalogue,
            metrics,
            on_broken,
            on_change=lambda owner, sign: own.add(Field.PLACES, sign, owner),
            publish=self._publish,
        )
        self.decoders = make_decoders(settings, on_broken)
        self._desks: dict[int, Desk] = {}
        self._fronts = range(1, 1 + count)
        self._totals = Totals()
        self._numbers = itertools.count(1)
        self._announced, self._state = 0, ""
        self._news = asyncio.Event()
        self._stopping, self._served_once = False, False
        self._failures = 0
        self.serving = asyncio.Event()
        self._watch(SharedBudget(settings.queue_bytes, own))

    def _watch(self, budget: SharedBudget) -> None:
        engine, decoders, said = self.engine, self.decoders, self._ledger.said
        self._metrics.watch(
            ready=lambda: bool(said(Sign.READY) and said(Sign.DECODING)),
            queued=lambda: engine.queued + decoders.queue.waiting,
            decoding=lambda: decoders.queue.running,
            in_flight=lambda: engine.in_flight,
            granted=lambda: 1 / engine.shrinkage,
            budget=budget,
        )

    def start(self) -> None:
        """Start workers and fronts."""
        self.engine.start()
        warning = warn_of_slow_models(self.engine, self._catalogue, self._settings)
        self._chores = [
            background.keep("telling the fronts", self._tell, self._on_broken),
            background.keep("gathering metrics", self._gather, self._on_broken),
            background.once("the warning of slow models", warning),
        ]
        self._keeping = [
            background.keep(f"front{one}", partial(self._keep, one), self._on_broken)
            for one in self._fronts
        ]

    def begin_stop(self, at_once: bool) -> None:
        """Let readiness fail, and the fronts answer what they have and end."""
        self._stopping = self.engine.draining = True
        self._ledger.say(Sign.READY, 0)
        self.engine.stop_changes()
        for desk in self._desks.values():
            desk.wire.send(Kind.STOP, 0, at_once)

    async def stop(self) -> None:
        """Wait for the end of the fronts, and end everything else."""
        await asyncio.gather(*self._keeping, return_exceptions=True)
        log.info("drain ended", pictures=self.engine.in_flight + self.engine.queued)
        for chore in self._chores:
            chore.cancel()
        await self.engine.close()
        self.decoders.close()

    async def scrape(self) -> bytes:
        """Return the metrics of the whole service."""
        await self._collect()
        fronts = [desk.snapshot for desk in self._desks.values()]
        return self._totals.render(self._metrics, fronts)

    def heard(self) -> None:
        """Note that a front knows or serves what it did not."""
        self._news.set()
        if any(desk.serving for desk in self._desks.values()):
            self._served_once = True
            self.serving.set()

    @property
    def _told(self) -> bool:
        """Whether all fronts know everything that was announced."""
        return all(
            desk.known >= self._announced
            for desk in self._desks.values()
            if desk.serving and not desk.gone.is_set()
        )

    async def _publish(self) -> None:
        """Announce the catalogue, and wait until every front knows it."""
        self._announced = next(self._numbers)
        for desk in self._desks.values():
            self._show(desk)
        while not self._told:
            self._news.clear()
            await self._news.wait()

    def _show(self, desk: Desk) -> None:
        """Tell a front the catalogue, and how workers run the models."""
        models = [
            (served.index, str(bundle.path), bundle.manifest.model_dump_json(), bundle.digest)
            for served in self._catalogue.models
            for bundle in [served.bundle]
        ]
        folders = [(*key, str(path)) for key, path in self._catalogue.folders.items()]
        families = [
            (str(one.family.path), one.family.file.model_dump_json(), one.members)
            for one in self._catalogue.families.values()
        ]
        told = {
            "default": self._catalogue.default,
            "models": models,
            "folders": folders,
            "families": families,
        }
        desk.wire.send(Kind.MODELS, 0, told)
        desk.wire.send(Kind.STATE, self._announced, self._describe())

    def _describe(self) -> dict[str, object]:
        running = {one.index: self.engine.running(one.index) for one in self._catalogue.models}
        return {
            "running": RUNNING.dump_python(running, mode="json"),
            "trouble": self.engine.trouble,
            "decoders": self.decoders.trouble,
        }

    async def _tell(self) -> None:
        """Tell the fronts what has changed, for ever."""
        ledger, engine = self._ledger, self.engine
        while True:
            state = self._describe()
            if repr(state) != self._state:
                self._state, self._announced = repr(state), next(self._numbers)
                for desk in self._desks.values():
                    desk.wire.send(Kind.STATE, self._announced, state)
            known = self._told
            if not ledger.said(Sign.OPENED):
                ledger.say(Sign.OPENED, engine.opened_once and known)
            # A front must not be asked about workers of which it does not know.
            ledger.say(Sign.READY, engine.ready and (known or ledger.said(Sign.READY)))
            ledger.say(Sign.DECODING, self.decoders.ready)
            ledger.say(Sign.RETRY_SECONDS, engine.retry_seconds)
            await asyncio.sleep(TELL_SECONDS)

    async def _gather(self) -> None:
        """Gather the metrics, for ever, so that little is lost when a front dies."""
        while True:
            await asyncio.sleep(GATHER_SECONDS)
            await self._collect()

    async def _collect(self) -> None:
        serving = [desk for desk in self._desks.values() if desk.serving]
        number = next(self._numbers)
        await asyncio.gather(*(desk.collect(number, COLLECT_SECONDS) for desk in serving))

    async def _keep(self, number: int) -> None:
        """Keep a front running until the service stops."""
        failures = 0
        while not self._stopping:
            started = time.monotonic()
            try:
                reason = await self._serve(number)
            except OSError as error:
                reason = f"no process can be started: {error}"
            if self._stopping:
                return
            lived = time.monotonic() - started
            log.error("front died", front=f"front{number}", reason=reason)
            failures = 0 if lived > STEADY_SECONDS else failures + 1
            self._failures += 1
            if not self._served_once and self._failures >= MOST_FAILURES:
                self._on_broken(f"a front process cannot start: {reason}")
                return
            await asyncio.sleep(RESTART_SECONDS[min(failures, len(RESTART_SECONDS)) - 1])

    async def _serve(self, number: int) -> str:
        """Run a front until its end; return how it ended."""
        account, desk = self._ledger.account(number), Desk(self, self._ledger.account(number))
        pairs = [socket.socketpair() for _ in range(2)]
        theirs = [there for _, there in pairs]
        with contextlib.ExitStack() as stack:
            for ours, there in pairs:
                stack.enter_context(there)
                stack.callback(ours.close)
            descriptors = [*(one.fileno() for one in theirs), self._listener.fileno()]
            descriptors.append(self._ledger.descriptor)
            process = await asyncio.create_subprocess_exec(
                *python("service.fronts.front", "--name", f"front{number}"),
                *_options(["wire", "bulk", "listener", "ledger"], descriptors),
                *_options(["number", "accounts"], [number, self._ledger.accounts]),
                pass_fds=descriptors,
                stdin=asyncio.subprocess.DEVNULL,
                env=environment(),
            )
            for ours, wire in zip((ours for ours, _ in pairs), (desk.wire, desk.bulk), strict=True):
                await wire.connect(ours.dup())
        checking = background.keep(
            f"front{number}'s watch", lambda: self._check(desk, process), self._on_broken
        )
        try:
            self._desks[number] = desk
            desk.wire.send(Kind.SETTINGS, 0, self._settings.model_dump(mode="json"))
            self._show(desk)
            if self._stopping:
                desk.wire.send(Kind.STOP, 0, False)
            code = await process.wait()
        finally:
            checking.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            desk.close()
            await desk.settled()
            del self._desks[number]
            self._totals.end(desk.snapshot)
            account.clear()
            self.heard()
        return explain_exit(code, "")

    async def _check(self, desk: Desk, process: asyncio.subprocess.Process) -> None:
        """End a front that is stopped, or whose event loop stands still."""
        stopped, most = 0, self._settings.stall_seconds / CHECK_SECONDS
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            stopped = stopped + 1 if is_stopped(process.pid) else 0
            desk.silent += desk.serving
            desk.wire.send(Kind.CHECK)
            if stopped >= STOPPED_CHECKS or desk.silent > most:
                log.error("front is stopped, or stands still, and is ended", pid=process.pid)
                process.kill()
                return


def _options(names: list[str], values: list[int]) -> list[str]:
    return [
        part
        for name, value in zip(names, values, strict=True)
        for part in (f"--{name}", str(value))
    ]
