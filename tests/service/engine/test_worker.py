"""A worker's loop over a real socket pair, and its change to a compiled network."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models import calibration
from models.bundle import BundleError, Manifest, read_bundle, write_manifest
from models.pixeldp import build_network, save_network
from models.precision import Calibration
from models.predictor import Predictor
from service.engine import wire, worker
from service.engine.worker import FrontGoneError, Link, Worker
from tests.conftest import HAS_COMPILER
from tests.models.test_bundle import DESCRIPTION

SLOTS = 64
PIXELS = np.full((8, 8, 1), 128, np.uint8).tobytes()


class Front:
    """The other end of the socket pair."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._decoder = wire.Decoder()
        self.received: list[wire.Message] = []

    def ask(self, number: int, max_draws: int = 256, height: int = 8) -> None:
        message = wire.Admit(
            id=number,
            model=0,
            width=8,
            height=height,
            channels=1,
            bits=8,
            confidence=0.99,
            max_draws=max_draws,
            target=None,
            norm="l2",
            scores=3,
            deadline=time.monotonic() + 60,
            high=False,
            progress=False,
        )
        self._socket.sendall(wire.encode(message, PIXELS[: height * 8]))

    def wait(self, wanted: Callable[[wire.Message], bool], seconds: float = 90) -> wire.Message:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for message in self.received:
                if wanted(message):
                    return message
            self._socket.settimeout(max(end - time.monotonic(), 0.01))
            received = self._decoder.feed(self._socket.recv(1 << 20))
            self.received += [message for message, _ in received]
        raise AssertionError(f"never came; there were {[one.kind for one in self.received]}")

    def answer(self, number: int) -> wire.Answer:
        found = self.wait(lambda one: isinstance(one, wire.Answer) and one.id == number)
        assert isinstance(found, wire.Answer)
        return found


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path, manifest, build_network(manifest))
    return Predictor(read_bundle(tmp_path), SLOTS)


@pytest.fixture
def start(predictor: Predictor) -> Iterator[Callable[[bool], Front]]:
    ours, theirs = socket.socketpair()
    threads: list[threading.Thread] = []

    def begin(compile_: bool) -> Front:
        loaded = [(predictor, Calibration("float32", SLOTS, 1.0))]

        def serve() -> None:
            with pytest.raises(FrontGoneError):
                Worker(Link(theirs), loaded, compile_).run()

        threads.append(threading.Thread(target=serve))
        threads[0].start()
        return Front(ours)

    yield begin
    ours.close()
    threads[0].join(30)
    theirs.close()
    assert not threads[0].is_alive(), "the worker goes when the front does"


def test_pictures_are_answered(start: Callable[[bool], Front]) -> None:
    front = start(False)
    for number in range(5):
        front.ask(number)
    for number in range(5):
        assert front.answer(number).conclusion.draws == 256


def test_a_picture_that_cannot_be_encoded_disturbs_no_other(
    start: Callable[[bool], Front],
) -> None:
    front = start(False)
    front.ask(1)
    front.ask(2, height=0)
    front.ask(3)
    failed = front.wait(lambda one: isinstance(one, wire.Failed))
    assert isinstance(failed, wire.Failed)
    assert failed.id == 2
    assert front.answer(1).conclusion.draws == front.answer(3).conclusion.draws == 256


def test_numbers_come_when_there_is_nothing_left_to_do(start: Callable[[bool], Front]) -> None:
    front = start(False)
    front.ask(1, max_draws=100)
    numbers = front.wait(lambda one: isinstance(one, wire.Numbers))
    assert isinstance(numbers, wire.Numbers)
    assert (numbers.passes, numbers.slots, numbers.filled) == (2, 2 * SLOTS, 100)


def test_a_compiled_network_takes_over_between_pictures(
    start: Callable[[bool], Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here whatever the measurement says: it is the change that is tested."""
    monkeypatch.setattr(calibration, "WORTHWHILE", 0.0)
    front = start(True)
    if not HAS_COMPILER:  # then the eager path goes on
        front.ask(1)
        assert front.answer(1).conclusion.draws == 256
        return
    answered, end = 0, time.monotonic() + 120
    while not any(isinstance(one, wire.Faster) for one in front.received):
        assert time.monotonic() < end, "the network was never compiled"
        answered += 1
        front.ask(answered, max_draws=640)
        front.answer(answered)
    [faster] = [one for one in front.received if isinstance(one, wire.Faster)]
    assert faster.calibration.compiled
    front.ask(answered + 1)
    assert front.answer(answered + 1).conclusion.draws == 256


def test_a_bundle_that_changed_since_the_service_started_is_refused(
    predictor: Predictor, tmp_path: Path
) -> None:
    """Or the front would speak of one model and the worker draw from another."""
    model = wire.Model(path=str(tmp_path), digest=predictor.bundle.digest, precision="float32")
    load = wire.Load(models=[model], device="cpu", pass_size=SLOTS, compile=False)
    threads = torch.get_num_threads()
    try:
        [(loaded, calibrated)] = worker._load(load)
        assert loaded.bundle.digest == predictor.bundle.digest
        assert (calibrated.precision, calibrated.pass_size) == ("float32", SLOTS)
        manifest = predictor.manifest
        labels = tuple(reversed(manifest.labels))
        write_manifest(tmp_path, manifest.model_copy(update={"labels": labels}))
        with pytest.raises(BundleError, match="restart it"):
            worker._load(load)
    finally:
        torch.set_num_threads(threads)
