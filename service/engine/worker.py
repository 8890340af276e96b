"""A worker: one process that makes passes on one device.

    python -m service.engine.worker --name worker0 --fd 7

The file descriptor is its end of a socket pair with the front process. When the front goes, the
kernel ends the worker (and the closed socket would, too), so that nothing is left behind.
"""

import argparse
import ctypes
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import setproctitle

from models.certification.answer import conclude
from models.certification.procedure import Inquiry, Question
from models.precision import Calibration
from service.engine import wire
from service.engine.batcher import Batcher, Ticket

if TYPE_CHECKING:
    from models.predictor import Predictor

_PR_SET_PDEATHSIG = 1
_CHUNK = 1 << 20
_NUMBERS_EVERY_SECONDS = 1.0


class FrontGoneError(Exception):
    """The other end of the socket is closed."""


class Link:
    """The worker's end of the socket pair."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._decoder = wire.Decoder()

    def receive(self, wait: bool) -> Iterator[tuple[wire.Message, bytes]]:
        """Yield what has come in; with ``wait``, block until something has."""
        while select.select([self._socket], [], [], None if wait else 0)[0]:
            data = self._socket.recv(_CHUNK)
            if not data:
                raise FrontGoneError
            yield from self._decoder.feed(data)
            wait = False

    def send(self, *messages: wire.Message) -> None:
        """Send messages in order."""
        if messages:
            try:
                self._socket.sendall(b"".join(map(wire.encode, messages)))
            except OSError:
                raise FrontGoneError from None


@dataclass
class _Client:
    """What an answer needs to know beside the ticket."""

    admitted: float
    scores: int
    progress: bool


class Worker:
    """The loop: admit, plan, run, record."""

    def __init__(self, link: Link, predictors: "list[Predictor]") -> None:
        self._link = link
        self._predictors = predictors
        self._batchers = [Batcher(predictor.pass_size) for predictor in predictors]
        self._clients: dict[int, _Client] = {}
        self._turn = 0
        self._passes = self._slots = self._filled = 0
        self._busy = 0.0
        self._reported = time.monotonic()

    def run(self) -> None:
        """Serve until the front process goes."""
        while True:
            idle = not any(self._batchers)
            if idle:
                self._report()
            for message, payload in self._link.receive(wait=idle):
                if isinstance(message, wire.Admit):
                    self._admit(message, payload)
                elif isinstance(message, wire.Cancel):
                    self._cancel(message.id)
            self._step()

    def _step(self) -> None:
        """Make one pass of the next model that has pictures in flight."""
        now = time.monotonic()
        for batcher in self._batchers:
            self._answer(batcher.expire(now))
        for _ in self._batchers:
            self._turn = (self._turn + 1) % len(self._batchers)
            batcher, predictor = self._batchers[self._turn], self._predictors[self._turn]
            planned = batcher.plan(now)
            if planned:
                features = [ticket.features for ticket in planned.tickets]
                scores = predictor.run(features, planned.rows)
                self._answer(batcher.record(planned, scores))
                self._passes += 1
                self._slots += batcher.slots
                self._filled += planned.filled
                self._busy += time.monotonic() - now
                break
        if now - self._reported > _NUMBERS_EVERY_SECONDS:
            self._report()

    def _admit(self, message: wire.Admit, pixels: bytes) -> None:
        predictor = self._predictors[message.model]
        kind = np.dtype("<u1" if message.bits == 8 else "<u2")
        shape = (message.height, message.width, message.channels)
        try:
            encoded = predictor.encode(np.frombuffer(pixels, dtype=kind).reshape(shape))
        except ValueError as error:
            self._link.send(wire.Failed(id=message.id, reason=str(error)))
            return
        manifest = predictor.manifest
        question = Question(message.confidence, message.max_draws, message.target, message.norm)
        inquiry = Inquiry(question, encoded.terms, len(manifest.labels), manifest.scoring)
        self._batchers[message.model].admit(
            Ticket(message.id, encoded.features, inquiry, message.deadline, message.high)
        )
        self._clients[message.id] = _Client(time.monotonic(), message.scores, message.progress)

    def _cancel(self, ticket_id: int) -> None:
        self._clients.pop(ticket_id, None)
        for batcher in self._batchers:
            batcher.cancel(ticket_id)

    def _answer(self, tickets: Iterable[Ticket]) -> None:
        messages: list[wire.Message] = []
        now = time.monotonic()
        for ticket in tickets:
            client = self._clients[ticket.id]
            if ticket.done:
                del self._clients[ticket.id]
            elif not client.progress:
                continue
            if not ticket.inquiry.look:
                messages.append(wire.Late(id=ticket.id))
                continue
            conclusion = conclude(ticket.inquiry, client.scores)
            if not ticket.done:
                messages.append(wire.Look(id=ticket.id, conclusion=conclusion))
                continue
            started = now if ticket.started is None else ticket.started
            messages.append(
                wire.Answer(
                    id=ticket.id,
                    conclusion=conclusion,
                    queue_seconds=started - client.admitted,
                    compute_seconds=now - started,
                )
            )
        self._link.send(*messages)

    def _report(self) -> None:
        self._reported = time.monotonic()
        if self._passes:
            self._link.send(
                wire.Numbers(
                    passes=self._passes,
                    slots=self._slots,
                    filled=self._filled,
                    busy_seconds=self._busy,
                )
            )
            self._passes = self._slots = self._filled = 0
            self._busy = 0.0


def _die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, whatever it is doing."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before the call
            raise FrontGoneError


def _load(message: wire.Load) -> "tuple[list[Predictor], list[Calibration]]":
    """Load every model in the way that is fastest here; measuring also warms it up."""
    import torch

    from models.bundle import read_bundle
    from models.calibration import calibrate

    torch.set_num_threads(1)
    loaded = [
        calibrate(read_bundle(Path(path)), message.device, message.precision, message.pass_size)
        for path in message.bundles
    ]
    return [predictor for predictor, _ in loaded], [calibration for _, calibration in loaded]


def main() -> None:
    """Run a worker as the front process starts it."""
    parser = argparse.ArgumentParser(description="Started by the service; not by hand.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--fd", type=int, required=True)
    arguments = parser.parse_args()
    setproctitle.setproctitle(f"pixeldp-{arguments.name}")
    # An interrupt at the terminal reaches the whole group; the front decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = Link(socket.socket(fileno=arguments.fd))
    try:
        _die_with_parent()
        message, _ = next(link.receive(wait=True))
        assert isinstance(message, wire.Load)
        try:
            predictors, calibrations = _load(message)
        except (ValueError, OSError, RuntimeError) as error:
            link.send(wire.Broken(reason=str(error)))
            sys.exit(1)
        link.send(wire.Ready(calibrations=calibrations))
        Worker(link, predictors).run()
    except FrontGoneError:
        sys.exit(0)


if __name__ == "__main__":
    main()
