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
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import setproctitle
import structlog

from models.bundle import MANIFEST, Bundle, BundleError, read_bundle
from models.certification.answer import conclude
from models.certification.procedure import Inquiry, Question
from models.precision import Calibration
from service import logs
from service.engine import wire
from service.engine.batcher import Batcher, Ticket

if TYPE_CHECKING:
    from models.predictor import Predictor

_PR_SET_PDEATHSIG = 1
_CHUNK = 1 << 20
_NUMBERS_EVERY_SECONDS = 1.0
# How often an idle worker looks whether a network has been compiled.
_COMPILING_SECONDS = 0.25

log = structlog.get_logger(__name__)


class FrontGoneError(Exception):
    """The other end of the socket is closed."""


class Link:
    """The worker's end of the socket pair."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._decoder = wire.Decoder()

    def receive(self, wait: float | None) -> Iterator[tuple[wire.Message, bytes]]:
        """Yield what has come in, waiting up to ``wait`` seconds for it; None is for ever."""
        while select.select([self._socket], [], [], wait)[0]:
            try:
                data = self._socket.recv(_CHUNK)
            except OSError:
                raise FrontGoneError from None
            if not data:
                raise FrontGoneError
            yield from self._decoder.feed(data)
            wait = 0.0

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
    predictor: "Predictor"


class _Lane:
    """One h and the pictures that it draws for, from their first draw to their last."""

    def __init__(self, predictor: "Predictor") -> None:
        self.predictor = predictor
        self.batcher = Batcher(predictor.pass_size)


class Worker:
    """The loop: admit, plan, run, record.

    Args:
        link: to the front process.
        loaded: each model, and how it is run.
        compile_: whether to compile the models in the background, and use what is faster.
    """

    def __init__(
        self, link: Link, loaded: "list[tuple[Predictor, Calibration]]", compile_: bool
    ) -> None:
        self._link = link
        # The lane of each model that admits pictures; further ones only finish what they have.
        self._current = [_Lane(predictor) for predictor, _ in loaded]
        self._lanes = list(self._current)
        self._calibrations = [calibration for _, calibration in loaded]
        self._compiled: deque[tuple[int, Predictor]] = deque()
        self._compiler = threading.Thread(target=self._compile, daemon=True)
        self._clients: dict[int, _Client] = {}
        self._turn = 0
        self._passes = self._slots = self._filled = 0
        self._busy = 0.0
        self._reported = time.monotonic()
        if compile_:
            self._compiler.start()

    def run(self) -> None:
        """Serve until the front process goes."""
        while True:
            idle = not any(lane.batcher for lane in self._lanes)
            if idle:
                self._report()
            for message, payload in self._link.receive(self._patience() if idle else 0.0):
                if isinstance(message, wire.Admit):
                    self._admit(message, payload)
                elif isinstance(message, wire.Cancel):
                    self._cancel(message.id)
            if self._compiled:
                self._switch(*self._compiled.popleft())
            self._step()

    def _step(self) -> None:
        """Make one pass of the next model that has pictures in flight."""
        now = time.monotonic()
        for lane in self._lanes:
            self._answer(lane.batcher.expire(now))
        for _ in self._lanes:
            self._turn = (self._turn + 1) % len(self._lanes)
            lane = self._lanes[self._turn]
            planned = lane.batcher.plan(now)
            if planned:
                features = [ticket.features for ticket in planned.tickets]
                scores = lane.predictor.run(features, planned.rows)
                self._answer(lane.batcher.record(planned, scores))
                self._passes += 1
                self._slots += lane.batcher.slots
                self._filled += planned.filled
                self._busy += time.monotonic() - now
                break
        if now - self._reported > _NUMBERS_EVERY_SECONDS:
            self._report()

    def _compile(self) -> None:
        """Compile each model, in a thread of its own; the loop takes over what comes of it."""
        done = []
        for index, lane in enumerate(self._current):
            try:
                done.append((index, lane.predictor.compile()))
            except Exception as error:  # whatever it was, the eager path goes on
                reason = str(error).strip().partition("\n")[0]
                log.warning("cannot compile, going on without", model=index, reason=reason)
        # All at the end: no compiled network may run while another is being traced.
        self._compiled.extend(done)

    def _switch(self, index: int, compiled: "Predictor") -> None:
        """Let new pictures be drawn for by a compiled network, if it is worth it."""
        from models.calibration import compare

        former = self._current[index]
        found = compare(former.predictor, compiled, self._calibrations[index])
        if found:
            # The former lane keeps the pictures that it has: none of them meets another h.
            self._calibrations[index] = found
            self._current[index] = _Lane(compiled)
            self._lanes.append(self._current[index])
            self._link.send(wire.Faster(model=index, calibration=found))

    def _patience(self) -> float | None:
        """How long to wait for messages when there is nothing to draw."""
        return _COMPILING_SECONDS if self._compiler.is_alive() or self._compiled else None

    def _admit(self, message: wire.Admit, pixels: bytes) -> None:
        lane = self._current[message.model]
        predictor = lane.predictor
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
        lane.batcher.admit(
            Ticket(message.id, encoded.features, inquiry, message.deadline, message.high)
        )
        self._clients[message.id] = _Client(
            time.monotonic(), message.scores, message.progress, predictor
        )

    def _cancel(self, ticket_id: int) -> None:
        self._clients.pop(ticket_id, None)
        for lane in self._lanes:
            lane.batcher.cancel(ticket_id)

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
            if client.progress and ticket.inquiry.stopped != "deadline":
                messages.append(wire.Look(id=ticket.id, conclusion=conclusion))
            if not ticket.done:
                continue
            started = now if ticket.started is None else ticket.started
            messages.append(
                wire.Answer(
                    id=ticket.id,
                    conclusion=conclusion,
                    precision=client.predictor.precision,
                    compiled=client.predictor.compiled,
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


def _read(model: wire.Model) -> Bundle:
    """Read a bundle, and make sure that it is still the one that the front process speaks of."""
    bundle = read_bundle(Path(model.path))
    if bundle.digest != model.digest:
        reason = f"is {bundle.digest}, but was {model.digest} when the service started; restart it"
        raise BundleError(bundle.path / MANIFEST, "digest", reason)
    return bundle


def _load(message: wire.Load) -> "list[tuple[Predictor, Calibration]]":
    """Load every model in the way that is fastest here; measuring also warms it up."""
    import torch

    from models.calibration import calibrate

    torch.set_num_threads(1)
    return [
        calibrate(_read(model), message.device, model.precision, message.pass_size)
        for model in message.models
    ]


def main() -> None:
    """Run a worker as the front process starts it."""
    parser = argparse.ArgumentParser(description="Started by the service; not by hand.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--fd", type=int, required=True)
    arguments = parser.parse_args()
    setproctitle.setproctitle(f"pixeldp-{arguments.name}")
    logs.configure_from_environment()
    # An interrupt at the terminal reaches the whole group; the front decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = Link(socket.socket(fileno=arguments.fd))
    try:
        _die_with_parent()
        message, _ = next(link.receive(wait=None))
        assert isinstance(message, wire.Load)
        try:
            loaded = _load(message)
        except (ValueError, OSError, RuntimeError) as error:
            link.send(wire.Broken(reason=str(error)))
            sys.exit(1)
        link.send(wire.Ready(calibrations=[calibration for _, calibration in loaded]))
        Worker(link, loaded, message.compile).run()
    except FrontGoneError:
        sys.exit(0)


if __name__ == "__main__":
    main()
