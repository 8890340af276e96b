"""A front process: speaks HTTP, and asks the main process for everything else.

    python -P -m service.fronts.front --name front1 --wire 7 --bulk 8 --listener 9 --ledger 10 ...

The file descriptors are its ends of two socket pairs with the main process, the socket on which all
fronts accept connections, and the shared numbers. When the main process ends, the kernel ends it.
"""

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import structlog
import uvloop

from service.fronts.ledger import Ledger
from service.fronts.remote import Remote
from service.fronts.wire import Kind, Wire
from service.http.app import create_app
from service.http.server import Server, configure, prepare
from service.settings import Settings
from service.system.parent import ParentGoneError, die_with_parent

log = structlog.get_logger(__name__)

# The exit status when the main process is gone, or a background task fails again and again.
GONE, BROKEN = 0, 1


class _Front(Server):
    """The server of a front, which the main process stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the main process."""
        yield

    def stop(self, at_once: bool) -> None:
        """Answer what is in progress, and end; what is left is given up if ``at_once``."""
        self.should_exit = True
        self.force_exit |= at_once

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and tell the main process."""
        await super().startup(sockets)
        self.at_start()

    at_start: Callable[[], None]


class _Ear:
    """Takes what the main process says until the application is there."""

    def __init__(self) -> None:
        self.settings: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.remote: Remote | None = None
        self.server: _Front | None = None
        self._early: list[tuple[Kind, int, Any, bytes]] = []
        self._stops: list[bool] = []

    def hear(self, kind: Kind, number: int, header: Any, payload: bytes) -> None:
        """Take a frame."""
        if kind is Kind.SETTINGS:
            self.settings.set_result(header)
        elif kind is Kind.STOP:
            self._stops.append(bool(header))
            if self.server is not None:
                self.server.stop(bool(header))
        elif self.remote is None:
            self._early.append((kind, number, header, payload))
        else:
            self.remote.hear(kind, number, header, payload)

    def hear_bulk(self, kind: Kind, number: int, header: Any, payload: bytes) -> None:
        """Take a large frame."""
        assert self.remote is not None  # which alone asks for it
        self.remote.hear_bulk(kind, number, header, payload)

    def lead_to(self, remote: Remote) -> None:
        """Pass everything on from now on."""
        self.remote = remote
        for frame in self._early:
            remote.hear(*frame)

    def stop(self, server: _Front) -> None:
        """Stop the server when the main process says so, which it may have done."""
        self.server = server
        for at_once in self._stops:
            server.stop(at_once)


async def _serve(arguments: argparse.Namespace) -> None:
    ear = _Ear()

    def lost() -> None:
        sys.exit(GONE)

    wire, bulk = Wire(ear.hear, lost), Wire(ear.hear_bulk, lost)
    for one, descriptor in ((bulk, arguments.bulk), (wire, arguments.wire)):
        await one.connect(socket.socket(fileno=descriptor))
    settings = Settings.model_validate(await ear.settings)
    outlet = prepare(f"pixeldp-{arguments.name}", settings)
    structlog.contextvars.bind_contextvars(front=arguments.name)
    ledger = Ledger(arguments.ledger, arguments.accounts)
    remote = Remote(settings, ledger, arguments.number, wire, bulk)
    broken: list[str] = []

    def give_up(reason: str) -> None:
        log.error("front cannot go on", reason=reason)
        broken.append(reason)
        server.stop(at_once=False)

    app = create_app(settings, give_up, behind=lambda metrics: remote)
    remote.observer = app.state.metrics
    app.state.metrics.read_dropped = lambda: outlet.dropped
    ear.lead_to(remote)
    delay = settings.stop_delay_seconds
    server = _Front(configure(app, settings), remote.engine, remote.budget, delay, give_up)
    server.at_start = lambda: wire.send(Kind.SERVING)
    ear.stop(server)
    await server.serve([socket.socket(fileno=arguments.listener)])
    wire.flush()
    if broken:
        sys.exit(BROKEN)


def main() -> None:
    """Run a front as the main process starts it."""
    parser = argparse.ArgumentParser(description="Started by the service; not by hand.")
    parser.add_argument("--name", required=True)
    for name in ("wire", "bulk", "listener", "ledger", "number", "accounts"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    # The main process decides when it ends; an interrupt of the service reaches its whole group.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    try:
        die_with_parent()
        uvloop.run(_serve(arguments))
    except ParentGoneError:
        sys.exit(GONE)


if __name__ == "__main__":
    main()
