"""Two passes in flight: the same answers, and what happens if the device goes wrong."""

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.answering import repeatable_key
from models.batcher import Pass, Ticket
from models.bundle import Manifest
from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.device import DeviceError, DeviceLostError
from models.execution import Calibration
from models.loaded import LoadedModel, load_model
from models.network import build_network, save_network
from models.predictor import Predictor
from service.engine import messages, worker
from service.engine.channel import Channel
from service.engine.flights import Flights
from service.engine.loop import Loop
from service.engine.pass_runner import PassRunner
from service.engine.status import SharedStatus
from service.engine.watchdog import Watchdog
from tests.models.faulty import FaultyDevice, Varied
from tests.models.test_bundle import DESCRIPTION
from tests.service.engine.test_loop import SLOTS, Front, Starter
from tests.service.engine.test_loop import start as start


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path, manifest, build_network(manifest))
    return load_model(tmp_path)


@pytest.fixture
def device() -> FaultyDevice:
    return FaultyDevice()


@pytest.fixture
def predictor(model: LoadedModel, device: FaultyDevice) -> Predictor:
    return Predictor(model, SLOTS, device)


class Gate:
    """Lets passes begin one by one."""

    def __init__(self, device: FaultyDevice) -> None:
        self._open = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        device.before = self._wait

    def _wait(self, rows: int) -> None:
        self.begun.release()
        assert self._open.acquire(timeout=100)

    def reached(self) -> None:
        assert self.begun.acquire(timeout=100)

    def let(self, passes: int = 1) -> None:
        self._open.release(passes)


def tickets(predictor: Predictor, count: int, target: float | None = None) -> list[Ticket]:
    found = []
    for number in range(count):
        shade = np.random.default_rng(number).integers(0, 256, (8, 8, 1)).astype(np.uint8)
        encoded = predictor.encode(shade)
        question = Question(0.99, 256 + 100 * number, target, "l2")
        inquiry = predictor.inquire(question, encoded)
        found.append(Ticket(number, encoded.features, inquiry, deadline=1e9))
    return found


@pytest.mark.parametrize("target", [None, 0.05, 0.5])
@pytest.mark.parametrize("depth", [2, 3])
def test_answers_are_those_of_the_same_draws_one_after_another(
    model: LoadedModel, target: float | None, depth: int
) -> None:
    """The same passes by the same keys, made one at a time; then each picture's draws in order."""
    runner = PassRunner(0, Predictor(model, SLOTS, key=repeatable_key(1)))
    h = runner.predictor.resident.network = Varied(runner.predictor)
    flights = Flights(SharedStatus.create(), lambda: None)
    asked = tickets(runner.predictor, 9, target)
    for ticket in asked:
        runner.batcher.admit(ticket)
    made: list[Pass] = []
    most = 0
    while runner.batcher or flights:
        while len(flights) < depth and (planned := runner.batcher.plan(0.0)):
            flights.submit(runner, planned)
            made.append(planned)
        most = max(most, len(flights))
        _, planned, found = flights.collect()
        assert found is not None
        list(runner.batcher.record(planned, found.draws))
    assert most == depth, "several passes were in flight"
    alone = Predictor(model, SLOTS, key=repeatable_key(1))
    alone.resident.network = h
    draws: dict[int, list[np.ndarray]] = {ticket.id: [] for ticket in asked}
    for one in made:
        votes = alone.run([ticket.features for ticket in one.tickets], one.rows)
        ends = np.cumsum(one.counts)
        for ticket, own in zip(one.tickets, np.split(votes[: ends[-1]], ends[:-1]), strict=True):
            draws[ticket.id].append(own)
    for ticket in asked:
        expected = Inquiry(ticket.inquiry.question, ticket.inquiry.terms, 3, "votes")
        expected.add(np.concatenate(draws[ticket.id]))
        assert ticket.inquiry.stopped == expected.stopped is not None
        assert ticket.inquiry.total.sums.tolist() == expected.total.sums.tolist()
        assert ticket.inquiry.size == expected.size
    assert any((ticket.inquiry.total.sums > 0).sum() > 1 for ticket in asked), "votes differ"


def test_the_status_shows_the_pictures_of_both_passes(
    predictor: Predictor, device: FaultyDevice, start: Starter
) -> None:
    gate = Gate(device)
    front = start(predictor)
    front.ask(1, max_draws=SLOTS)
    gate.reached()
    assert front.status.running == {1}
    front.ask(2, max_draws=SLOTS)
    wait_for(lambda: front.status.running == {1, 2})
    gate.let()
    front.answer(1)
    gate.reached()
    wait_for(lambda: front.status.running == {2})
    gate.let()
    front.answer(2)
    wait_for(lambda: front.status.running == set())


def wait_for(condition: Any, seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_a_picture_that_is_to_be_alone_is_so_whatever_is_in_flight(
    predictor: Predictor, device: FaultyDevice, start: Starter
) -> None:
    seen: list[set[int]] = []
    device.before = lambda rows: seen.append(front.status.running)
    front = start(predictor)
    for number in range(6):
        front.ask(number, max_draws=2048, alone=3 if number == 4 else 0)
    for number in range(6):
        assert front.answer(number).conclusion.draws == 2048
    own = [running for running in seen if 4 in running]
    assert own[:3] == [{4}] * 3
    assert any(len(running) > 1 for running in seen)


def test_a_suspect_is_encoded_while_nothing_else_is_in_progress(
    predictor: Predictor, device: FaultyDevice, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another would be blamed if it ended the worker already there."""
    seen: list[set[int]] = []
    encode = predictor.encode

    def watched(pixels: Any) -> Any:
        seen.append(front.status.running)
        return encode(pixels)

    monkeypatch.setattr(predictor, "encode", watched)
    front = start(predictor)
    front.ask(1, max_draws=100_000)
    front.ask(2, max_draws=100_000, progress=True)
    front.wait(messages.Look)
    front.ask(3, alone=1)
    front.answer(3)
    assert seen[-1] == {3}


def test_a_cancelled_pictures_slots_are_lost_once(
    predictor: Predictor, device: FaultyDevice, start: Starter
) -> None:
    gate = Gate(device)
    front = start(predictor)
    front.ask(1, max_draws=100_000)
    front.ask(2, max_draws=100_000)
    gate.reached()
    front.tell(messages.Cancel(id=1))
    front.ask(3, max_draws=SLOTS)
    seen: list[set[int]] = []
    device.before = lambda rows: seen.append(front.status.running)
    gate.let()
    front.answer(3)
    assert 1 not in set().union(*seen[2:]), "no pass planned after it is for the picture"


def test_memory_that_runs_out_withdraws_both_passes(
    predictor: Predictor, device: FaultyDevice, start: Starter
) -> None:
    gate = Gate(device)
    front = start(predictor)
    # One pass is enough for the first, so the second pass is for others, whenever they come.
    budgets = [SLOTS, 1000, 1000]
    for number, draws in enumerate(budgets):
        front.ask(number, max_draws=draws)
    gate.reached()
    wait_for(lambda: len(front.status.running) > 1)
    device.room = SLOTS // 2
    gate.let(1000)
    answers = [front.answer(number) for number in range(3)]
    assert [one.conclusion.draws for one in answers] == budgets
    assert {one.conclusion.evidence.restarts for one in answers} == {1}, "withdrawn once"
    assert {one.execution.pass_size for one in answers} == {SLOTS // 2}
    changes = [one for one in front.received if isinstance(one, messages.Recalibrated)]
    assert len(changes) == 1


def test_memory_that_runs_out_in_the_second_pass_keeps_the_first(
    predictor: Predictor, device: FaultyDevice, start: Starter
) -> None:
    front = start(predictor)
    passes = itertools.count()

    def before(rows: int) -> None:
        if next(passes) == 1:
            device.room = SLOTS // 2

    device.before = before
    front.ask(1, max_draws=SLOTS)
    front.ask(2, max_draws=1000)
    assert front.answer(1).conclusion.evidence.restarts == 0
    assert front.answer(2).conclusion.evidence.restarts == 1


def test_a_model_that_does_not_fit_beside_the_others_is_not_added(
    predictor: Predictor, device: FaultyDevice, model: LoadedModel
) -> None:
    device.loads = False
    starter = Starter()
    starter.loader = lambda told: worker.run(device, model, told)
    front = starter(predictor)
    front.ask(1, max_draws=20_000)
    told = messages.Model(number=4, path="unused", digest="", precision=None)
    front.tell(messages.Add(model=told))
    assert "out of memory" in front.wait(messages.NotAdded).reason
    assert front.answer(1).conclusion.draws == 20_000
    starter.end()


def test_a_device_that_hangs_is_noticed_although_pictures_come(
    predictor: Predictor, device: FaultyDevice, start: Starter
) -> None:
    gate = Gate(device)
    front = start(predictor)
    front.ask(0)
    gate.reached()
    now = 0.0
    watch = Watchdog(2.0, 60.0, clock=lambda: now)
    found = None
    for number in range(1, 60):
        front.ask(number)
        front.tell(messages.Cancel(id=number))
        now += watch.tick
        found = found or watch.look(front.status, loaded=True, pass_seconds=0.01)
        front.status.beat()
        time.sleep(0.01)
    assert found is not None
    assert found.startswith("no pass for 2")
    gate.let(1000)
    front.answer(0)


def test_deadlines_are_kept_on_a_slow_device(
    predictor: Predictor, device: FaultyDevice, start: Starter
) -> None:
    device.before = lambda rows: time.sleep(0.2)
    front = start(predictor)
    front.ask(1, max_draws=2**20, seconds=2.0)
    front.ask(2, max_draws=256)
    assert front.answer(2).conclusion.stopped == "max_draws"
    end = front.wait(messages.Answer, lambda one: one.id == 1 and not one.draft)
    assert end.conclusion.stopped == "deadline"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def ended(
    pair: Pair, predictor: Predictor, device: FaultyDevice, fault: str, after: int = 4
) -> tuple[Front, Exception]:
    """Let a device go wrong after some passes; return how the worker ends."""
    ours, theirs = pair
    front, channel = Front(ours, SharedStatus.create()), Channel(theirs)
    loaded = {0: (predictor, Calibration("float32", SLOTS, 1.0))}
    loop = Loop(channel, front.status, loaded, lambda model: loaded[0])
    passes = itertools.count()
    device.before = lambda rows: setattr(device, fault, True) if next(passes) == after else None
    for number in range(3):
        front.ask(number, max_draws=100_000)
    with pytest.raises(DeviceError) as found:
        worker.work(channel, loop, "cpu")
    theirs.close()
    return front, found.value


@pytest.mark.parametrize("fault", ["repeats_noise", "repeats_passes"])
def test_repeated_noise_ends_the_worker_and_no_picture_is_blamed(
    pair: Pair, predictor: Predictor, device: FaultyDevice, fault: str
) -> None:
    front, error = ended(pair, predictor, device, fault)
    assert not isinstance(error, DeviceLostError)
    assert "repeated an earlier pass" in front.wait(messages.Broken).reason
    assert not [one for one in front.received if isinstance(one, messages.Answer)]


def test_a_lost_device_ends_the_worker_with_the_pictures_of_both_passes(
    pair: Pair, predictor: Predictor, device: FaultyDevice
) -> None:
    front, error = ended(pair, predictor, device, "lost", after=0)
    assert isinstance(error, DeviceLostError)
    assert len(front.status.running) > 1, "the first pass is full of one picture"
    with pytest.raises(AssertionError, match="the worker is gone"):
        front.wait(messages.Broken)
