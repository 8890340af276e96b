"""Running the application: the socket, the signals, the exit code."""

import asyncio
import contextlib
import gc
import logging
import math
import os
import resource
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol

import setproctitle
import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.flow_control import CLOSE_HEADER

from service import logs
from service.catalogue import Catalogue
from service.http.address import BACKLOG, Address, listen, url
from service.http.app import create_app
from service.http.connections import LEAST_FILES, Connection, check_connections
from service.http.guards.budget import Budget
from service.settings import Settings
from service.system import background, signals
from service.system.outlet import Outlet

log = structlog.get_logger(__name__)

SAMPLE = Path(__file__).parents[2] / "examples" / "7.png"


# The number of connections accepted in one turn of the event loop. It accepts one for each
# descriptor, so there are this many descriptors of the same socket.
ACCEPTED_IN_A_TURN = 16
# At the end of a stop, the time for data on the last connections to be read.
LAST_SECONDS = 0.2
# After the longest time that a request may take, the time until the remaining ones are given up;
# and from then the time until the process ends in any case.
DRAIN_SECONDS, END_SECONDS = 3, 5.0
# The seconds between collections of new objects.
NEW_GARBAGE_SECONDS = 0.1
# The pause between full collections: this many times the duration of the last one, within these
# seconds. While there are many requests, whose number may have grown since, it is the most.
ALL_GARBAGE_TIMES = 1000.0
LEAST_PAUSE, MOST_PAUSE = 0.5, 120.0
MANY_REQUESTS = 100


class CannotServeError(ValueError):
    """The service cannot start, or cannot continue: says why."""


class FewFilesError(CannotServeError):
    """The system allows too few open files."""


class Stopping(Protocol):
    """What a server tells that it stops.

    Attributes:
        draining: whether pictures in flight are still answered, and readiness fails.
    """

    draining: bool

    @property
    def opened_once(self) -> bool:
        """Whether any worker has been ready."""

    def stop_changes(self) -> None:
        """Cancel loading and unloading of models."""


class Server(uvicorn.Server):
    """uvicorn, but a signal to stop is not an error: it drains and exits with 0.

    Args:
        config: uvicorn's.
        engine: the engine to stop.
        budget: the memory budget of clients.
        delay: the seconds for which requests are accepted after a signal to stop.
        on_broken: called with the reason when a background task fails again and again.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        engine: Stopping,
        budget: Budget,
        delay: float,
        on_broken: Callable[[str], None],
    ) -> None:
        super().__init__(config)
        self._engine, self._budget, self._delay = engine, budget, delay
        self._on_broken = on_broken
        self._listeners: list[socket.socket] = []
        self.at_stop: Callable[[], None] = lambda: None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop: readiness fails at once, and pictures in flight are still answered."""
        if not self._engine.draining:
            self._engine.draining = True
            self.at_stop()
        log.info(
            "asked to stop",
            signal=signal.Signals(sig).name,
            requests=len(self.server_state.tasks),
            # A second Ctrl-C ends the wait.
            at_once=self.should_exit and sig == signal.SIGINT,
        )
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        # As long as there is another descriptor, closing the others drops no connection.
        self._listeners = [one.dup() for one in sockets or []]
        doors = [one.dup() for one in sockets or [] for _ in range(ACCEPTED_IN_A_TURN - 1)]
        await super().startup([*(sockets or []), *doors])
        self._chores = [
            background.keep(
                "the supervision of connections",
                lambda: check_connections(lambda: self.server_state.connections, self._budget),
                self._on_broken,
            ),
            background.keep(
                "the collection of garbage",
                lambda: _collect_garbage(lambda: self.server_state.tasks),
                self._on_broken,
            ),
        ]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept requests for a little longer, then none, and wait for the last answer."""
        self._engine.stop_changes()
        # Each answer tells its client, so that it sends no further request to a closed connection.
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE_HEADER]
        for connection in list(self.server_state.connections):
            assert isinstance(connection, Connection)
            connection.announce_close()
        if self._engine.opened_once:
            log.info("requests are still taken", seconds=self._delay)
            await self._pause(self._delay)
        for server in self.servers:
            server.close()
        for listener in self._listeners:
            await self._accept_last(listener)
            listener.close()
        await self._pause(LAST_SECONDS)
        log.info("drain begins", requests=len(self.server_state.tasks))
        await super().shutdown(sockets)
        for chore in self._chores:
            chore.cancel()

    async def _accept_last(self, listener: socket.socket) -> None:
        """Accept the waiting connections, which closing would reset."""
        listener.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: Connection(self.config, self.server_state, self.lifespan.state),
                    accepted,
                )

    async def _pause(self, seconds: float) -> None:
        """Wait, unless a second signal arrives."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.force_exit:  # noqa: ASYNC110 - set by a signal
            await asyncio.sleep(0.05)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals stop the server."""
        with stopped_by_signals(self.handle_exit):
            yield


@contextlib.contextmanager
def stopped_by_signals(stop: signals.Handler) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the service, and nothing else.

    So does SIGHUP if it means that the terminal is gone. Otherwise it asks servers to read their
    files again, which this one does by itself.

    Raises:
        SystemExit: one has come during the start, which went on all the same.
    """
    handlers: dict[signal.Signals, signals.Handler] = {signal.SIGINT: stop, signal.SIGTERM: stop}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        handlers[signal.SIGHUP] = stop if signals.has_terminal() else _pass_over
    with signals.handled(handlers):
        if signals.asked_to_stop():
            sys.exit(0)
        yield


def _pass_over(sig: int, frame: FrameType | None) -> None:
    log.info("SIGHUP is passed over: changed keys are noticed, and models are loaded over HTTP")


async def _collect_garbage(requests: Callable[[], Sized]) -> None:
    """Collect garbage by the clock, for ever, so that the loop never stands still for long.

    By default, Python goes through everything that a thousand waiting requests own, hundreds of
    thousands of objects in a tenth of a second, whenever it has counted enough new ones, although
    most of them are freed without that. Here new objects are collected often. The longer a full
    collection takes, the more rarely it is made, and hardly ever while many requests are open.

    Args:
        requests: returns the requests in progress.
    """
    gc.disable()
    gc.collect()
    gc.freeze()  # objects from the start stay
    ended = pause = 0.0
    while True:
        await asyncio.sleep(NEW_GARBAGE_SECONDS)
        begun = time.monotonic()
        if begun - ended < (MOST_PAUSE if len(requests()) > MANY_REQUESTS else pause):
            gc.collect(0)
        else:
            gc.collect()
            ended = time.monotonic()
            pause = min(max(ALL_GARBAGE_TIMES * (ended - begun), LEAST_PAUSE), MOST_PAUSE)


def serve(
    settings: Settings, address: Address, catalogue: Catalogue, passed_over: Sequence[str]
) -> None:
    """Serve until a signal to stop.

    Args:
        settings: checked settings; see :mod:`service.http.checks`.
        address: where to listen.
        catalogue: the models to serve.
        passed_over: environment variables that only look like settings, for the log.

    Raises:
        FewFilesError: the system allows too few open files.
        KeysError: the file of keys cannot be read.
        CannotListenError: the address is in use, or not one of this machine's.
        CannotServeError: a worker cannot start.
    """
    outlet = prepare("pixeldp-front", settings, passed_over)
    reasons: list[str] = []

    def broken(reason: str) -> None:
        reasons.append(reason)
        os.kill(os.getpid(), signal.SIGTERM)

    app = create_app(settings, broken, catalogue)
    app.state.metrics.read_dropped = lambda: outlet.dropped
    with listen(address) as listener:
        print(announcement(listener), file=sys.stderr, flush=True)
        try:
            state = app.state
            delay = settings.stop_delay_seconds
            config = configure(app, settings)
            server = Server(config, state.engine, state.budget, delay, broken)
            most = delay + LAST_SECONDS + drain_seconds(settings) + END_SECONDS
            server.at_stop = partial(end_at_last, most)
            server.run(sockets=[listener])
        except SystemExit as end:
            if not end.code:  # by a signal before the server handled it
                raise
            # The reason why it could not start is in the log.
            reasons.append("the service cannot start: see the error above")
    log.info("stopped", status=1 if reasons else 0)
    if reasons:
        raise CannotServeError(reasons[0])


def tell_passed_over(names: Sequence[str]) -> None:
    """Log the environment variables that only look like settings, if there are any."""
    if names:
        log.info("variables that Kubernetes sets are passed over", names=list(names))


def prepare(title: str, settings: Settings, passed_over: Sequence[str] = ()) -> Outlet:
    """Prepare a process that serves: its title, its log, its open files.

    Raises:
        FewFilesError: the system allows too few open files.
    """
    setproctitle.setproctitle(title)
    outlet = logs.open_outlet()
    logs.configure(settings.log_format, settings.log_level)
    tell_passed_over(passed_over)
    # A line for each broken request would only help an attack; they are counted.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    raise_files()
    return outlet


def configure(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration for the application."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        # Based on h11. It is slower than httptools, but httptools loses the body of a request that
        # offers an upgrade, as Java's and curl's HTTP/2 clients do; and it bounds header sizes.
        http=Connection,
        ws="none",
        lifespan="on",  # otherwise a failed start would look like one with nothing to start
        timeout_graceful_shutdown=drain_seconds(settings),
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
    )


def drain_seconds(settings: Settings) -> int:
    """Return how long requests in progress at a stop may continue: until their deadlines."""
    return math.ceil(settings.timeout_ms_limit / 1000) + DRAIN_SECONDS


def end_at_last(seconds: float) -> None:
    """End the process with status 1 if it still runs after ``seconds``, whatever it does.

    An orchestrator that stops a service waits for its end, and kills it if it takes too long; then
    processes that the service started must not be left behind.
    """

    def end() -> None:
        log.error("the stop takes too long, and is cut short", seconds=seconds)
        sys.stderr.close()  # which writes the waiting lines
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def raise_files() -> None:
    """Allow this process as many open files as the system permits.

    Raises:
        FewFilesError: they are too few to serve clients.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < LEAST_FILES:
        raise FewFilesError(
            f"the system allows this process {most} open files; it needs at least {LEAST_FILES}, "
            "one for each connection and some for itself: raise the limit (ulimit -n, LimitNOFILE "
            "of systemd, --ulimit nofile of Docker)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def announcement(listener: socket.socket) -> str:
    """Return what a person at a terminal is told when the service listens."""
    address = url(*listener.getsockname()[:2])
    lines = [
        f"PixelDP answers on {address} (interactive documentation: {address}/docs)",
        "The workers load and measure the models first, which takes minutes for large ones; until "
        "the log says that one is ready, requests for predictions are answered by 503.",
    ]
    if SAMPLE.is_file():
        lines += [
            "Certify a picture:",
            f"  curl --data-binary @{shlex.quote(str(SAMPLE))} -H 'Content-Type: image/png' "
            f"'{address}/predict?target=0.5'",
        ]
    return "\n".join(lines)
