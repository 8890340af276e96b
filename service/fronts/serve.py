"""Running a service with several fronts: the socket, the signals, the exit code."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import structlog
import uvloop

from service.catalogue import Catalogue
from service.fronts.office import Office
from service.http.address import Address, listen
from service.http.metrics import Metrics
from service.http.server import (
    END_SECONDS,
    LAST_SECONDS,
    CannotServeError,
    announcement,
    drain_seconds,
    end_at_last,
    prepare,
    stopped_by_signals,
)
from service.settings import Settings

log = structlog.get_logger(__name__)


def serve(
    settings: Settings, address: Address, catalogue: Catalogue, passed_over: Sequence[str]
) -> None:
    """Serve until a signal to stop.

    Args and errors are those of ``service.http.server.serve``.
    """
    outlet = prepare("pixeldp-main", settings, passed_over)
    reasons: list[str] = []

    def broken(reason: str) -> None:
        reasons.append(reason)
        os.kill(os.getpid(), signal.SIGTERM)

    metrics = Metrics()
    metrics.read_dropped = lambda: outlet.dropped
    with listen(address) as listener:
        uvloop.run(_run(settings, catalogue, listener, metrics, broken))
    log.info("stopped", status=1 if reasons else 0)
    if reasons:
        raise CannotServeError(reasons[0])


async def _run(
    settings: Settings,
    catalogue: Catalogue,
    listener: socket.socket,
    metrics: Metrics,
    broken: Callable[[str], None],
) -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    said = announcement(listener)

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin_stop, signal.Signals(number))

    def begin_stop(number: signal.Signals) -> None:
        at_once = asked.is_set() and number == signal.SIGINT  # a second Ctrl-C ends the wait
        log.info("asked to stop", signal=number.name, at_once=at_once)
        if not asked.is_set():
            most = settings.stop_delay_seconds + LAST_SECONDS + drain_seconds(settings)
            end_at_last(most + END_SECONDS)
        office.begin_stop(at_once)
        listener.close()  # the fronts have copies, and close them when they accept no more
        asked.set()

    with stopped_by_signals(stop):
        office = Office(settings, catalogue, listener, metrics, broken)
        office.start()
        # The first front takes a moment, in which connections wait.
        starting = asyncio.ensure_future(office.serving.wait())
        stopping = asyncio.ensure_future(asked.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            print(said, file=sys.stderr, flush=True)
        starting.cancel()
        await stopping
        await office.stop()
