"""A worker's loop over a real socket pair: pictures, exhausted memory, changing networks."""

import copy
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from models import calibration
from models.batcher import Part, Pass, Ticket
from models.bundle import Manifest
from models.certification.inquiry import Inquiry
from models.certification.kinds import SizeInquiry
from models.certification.question import Question
from models.certification.tally import NO_VOTE
from models.execution import Calibration
from models.loaded import load_model
from models.network import build_network, save_network
from models.predictor import Encoded, Predictor
from models.trial import RowsError
from service.engine import messages
from service.engine.channel import Channel, FrontGoneError
from service.engine.loop import Loader, Loop
from service.engine.pass_runner import PassRunner, Running
from service.engine.status import SharedStatus
from tests.conftest import HAS_COMPILER
from tests.models.test_bundle import DESCRIPTION

SLOTS = 64
CALIBRATION = Calibration("float32", SLOTS, 1.0)
PIXELS = np.full((8, 8, 1), 128, np.uint8).tobytes()
FURTHER = messages.Model(number=4, path="unused", digest="", precision=None)
M = TypeVar("M")


class Front:
    """The other end of the socket pair, and the shared status."""

    def __init__(self, connection: socket.socket, status: SharedStatus) -> None:
        self._socket, self.status = connection, status
        self._decoder = messages.Decoder()
        self.received: list[messages.Message] = []

    def tell(self, message: messages.ToWorker, payload: bytes = b"") -> None:
        self._socket.sendall(messages.encode(message, payload))

    def ask(self, number: int, height: int = 8, seconds: float = 500, **more: Any) -> None:
        asked: dict[str, Any] = {
            "max_draws": 256,
            "progress": False,
            "model": 0,
            "target": None,
            **more,
        }
        message = messages.Admit(
            id=number,
            width=8,
            height=height,
            channels=1,
            bits=8,
            confidence=0.99,
            norm="l2",
            scores=3,
            deadline=time.monotonic() + seconds,
            high=False,
            **asked,
        )
        self.tell(message, PIXELS[: height * 8])

    def wait(self, kind: type[M], wanted: Callable[[M], bool] = lambda one: True) -> M:
        end = time.monotonic() + 500
        while time.monotonic() < end:
            for message in self.received:
                if isinstance(message, kind) and wanted(message):
                    return message
            self._socket.settimeout(max(end - time.monotonic(), 0.01))
            data = self._socket.recv(1 << 20)
            assert data, "the worker is gone"
            received = self._decoder.feed(data)
            self.received += [
                one.open() if isinstance(one, messages.SealedAnswer) else one for one, _ in received
            ]
        raise AssertionError(f"never came; there were {[one.kind for one in self.received]}")

    def answer(self, number: int) -> messages.Answer:
        return self.wait(messages.Answer, lambda one: one.id == number)


class Small(nn.Module):
    """h on a device whose memory holds passes of up to ``rows``; ``sizes`` are those tried."""

    def __init__(self, h: Any, rows: int) -> None:
        super().__init__()
        self.h, self.rows = h, rows
        self.sizes: list[int] = []

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        fits = len(noisy) <= self.rows
        self.sizes.append(len(noisy))
        if not fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        logits: torch.Tensor = self.h(noisy)
        return logits


def load(folder: Path, name: str = "tiny") -> Predictor:
    manifest = Manifest.model_validate({**DESCRIPTION, "name": name})
    save_network(folder, manifest, build_network(manifest))
    return Predictor(load_model(folder), SLOTS)


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return load(tmp_path)


class Starter:
    """Starts a loop in a thread, and makes sure that it ends."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._thread: threading.Thread | None = None
        self.loader: Loader | None = None
        self.error: BaseException | None = None

    def __call__(
        self,
        predictor: Predictor,
        further: Predictor | None = None,
        found: Calibration = CALIBRATION,
    ) -> Front:
        status = SharedStatus.create()

        def loader(model: messages.Model) -> tuple[Predictor, Calibration]:
            if further is None:
                raise ValueError("there is no such bundle")
            return further, CALIBRATION

        def serve() -> None:
            loaded = {0: (predictor, found)}
            try:
                Loop(Channel(self._theirs), status, loaded, self.loader or loader).run()
            except BaseException as error:
                self.error = error
                self._theirs.close()

        self._thread = threading.Thread(target=serve)
        self._thread.start()
        return Front(self._ours, status)

    def end(self) -> BaseException | None:
        """End the front; return what the loop ended with."""
        self._ours.close()
        if self._thread:
            self._thread.join(30)
            assert not self._thread.is_alive(), "the worker must end with the front"
        return self.error


@pytest.fixture
def start() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    error = starter.end()
    assert error is None or isinstance(error, FrontGoneError)


def test_the_front_gets_a_draft_before_the_deadline(predictor: Predictor, start: Starter) -> None:
    front = start(predictor)
    front.ask(1, max_draws=2**22, seconds=5)
    front.ask(2, max_draws=2**22)
    end = front.wait(messages.Answer, lambda one: one.id == 1 and not one.draft)
    assert end.conclusion.stopped == "deadline"
    answers = [one for one in front.received if isinstance(one, messages.Answer)]
    assert {one.id for one in answers} == {1}, "the other's deadline is far away"
    drafts = [one for one in answers if one.draft]
    assert drafts
    assert drafts == answers[: len(drafts)]
    for draft in drafts:
        assert draft.conclusion.stopped == "deadline"
        assert draft.conclusion.draws <= end.conclusion.draws
        assert draft.looks == end.looks[: len(draft.looks)]


def test_pictures_are_answered(start: Starter, predictor: Predictor) -> None:
    front = start(predictor)
    for number in range(5):
        front.ask(number)
    for number in range(5):
        assert front.answer(number).conclusion.draws == 256
    front.wait(messages.Numbers)  # which are sent when there is nothing to do
    assert front.status.turns > 5
    assert front.status.running == set()


def test_a_picture_that_cannot_be_encoded_harms_no_other(
    start: Starter, predictor: Predictor
) -> None:
    front = start(predictor)
    front.ask(1)
    front.ask(2, height=0)
    front.ask(3)
    assert front.wait(messages.Failed).id == 2
    assert front.answer(1).conclusion.draws == front.answer(3).conclusion.draws == 256


def test_a_question_whose_numbers_overflow_harms_no_other(
    start: Starter, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    inquire = predictor.inquire

    def overflow(question: Question, encoded: Encoded) -> SizeInquiry:
        math.exp(question.target or 0.0)
        return inquire(question, encoded)

    monkeypatch.setattr(predictor, "inquire", overflow)
    front = start(predictor)
    front.ask(1)
    front.ask(2, target=1000.0)
    front.ask(3)
    assert front.answer(1).conclusion.draws == front.answer(3).conclusion.draws == 256
    failed = front.wait(messages.Failed)
    assert (failed.id, failed.model) == (2, True)
    assert "math range error" in failed.reason


def test_numbers_are_sent_when_there_is_nothing_left_to_do(
    start: Starter, predictor: Predictor
) -> None:
    front = start(predictor)
    front.ask(1, max_draws=100)
    numbers = front.wait(messages.Numbers)
    assert (numbers.passes, numbers.slots, numbers.filled) == (2, 2 * SLOTS, 100)


def test_the_shared_status_says_which_pictures_a_pass_is_for(
    start: Starter, predictor: Predictor
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    class Halting(Small):
        def forward(self, noisy: torch.Tensor) -> torch.Tensor:
            reached.set()
            assert go_on.wait(60)
            return super().forward(noisy)

    predictor.resident.network = Halting(predictor.resident.network, SLOTS)
    front = start(predictor)
    front.ask(5)
    assert reached.wait(60)
    assert front.status.running == {5}
    go_on.set()
    front.answer(5)


def test_a_suspect_has_its_first_passes_to_itself(start: Starter, predictor: Predictor) -> None:
    seen: list[set[int]] = []
    front = start(predictor)

    class Noting(Small):
        def forward(self, noisy: torch.Tensor) -> torch.Tensor:
            seen.append(front.status.running)
            return super().forward(noisy)

    predictor.resident.network = Noting(predictor.resident.network, SLOTS)
    for number in range(4):
        front.ask(number, max_draws=1024, alone=3 if number == 2 else 0)
    for number in range(4):
        assert front.answer(number).conclusion.draws == 1024
    own = [running for running in seen if 2 in running]
    assert own[:3] == [{2}] * 3
    assert all(len(running) > 1 for running in own[3:5]), "then it has been cleared"


def test_a_pass_that_does_not_fit_into_memory_is_halved(
    start: Starter, predictor: Predictor
) -> None:
    """Pictures begin again: an answer rests on draws of one h, each counted once."""
    small = predictor.resident.network = Small(predictor.resident.network, rows=20)
    front = start(predictor)
    for number in range(3):
        front.ask(number, progress=True)
    for number in range(3):
        assert front.answer(number).conclusion.draws == 256
    assert front.answer(0).conclusion.evidence.restarts == 1
    changes = [one for one in front.received if isinstance(one, messages.Recalibrated)]
    # Each size is tried before it serves pictures.
    assert [one.calibration.pass_size for one in changes] == [16]
    # The size that was found is kept.
    assert small.sizes[:4] == [64, 64, 32, 16], "the pass that was in flight, too"
    assert set(small.sizes[3:]) == {16}
    front.ask(9, restarts=5)
    assert front.answer(9).conclusion.draws == 256
    assert front.answer(9).conclusion.evidence.restarts == 5
    assert set(small.sizes[3:]) == {16}


def test_draws_before_memory_ran_out_do_not_count(start: Starter, predictor: Predictor) -> None:
    small = predictor.resident.network = Small(predictor.resident.network, rows=SLOTS)
    front = start(predictor)
    front.ask(1, max_draws=20_000, progress=True)
    look = front.wait(messages.Look)
    assert look.conclusion.draws >= 64
    small.rows = 32  # as if another process had taken the memory
    answer = front.answer(1)
    assert answer.conclusion.draws == 20_000
    halves = small.sizes.count(32)
    assert halves * 32 >= 20_000, "every draw of the answer came from passes of the new size"
    begun = front.received.index(messages.Begun(id=1))
    runs = [
        {one.conclusion.evidence.restarts for one in part if isinstance(one, messages.Look)}
        for part in (front.received[:begun], front.received[begun:])
    ]
    assert runs == [{0}, {1}], "the looks of each run have their own part of α"


class Failing(Small):
    """An h that fails where a row's first value is beyond ``least``, which depends on the noise."""

    def __init__(self, h: Any, least: float) -> None:
        super().__init__(h, SLOTS)
        self.least = least

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        if (noisy[:, 0, 0, 0] > self.least).any():
            raise ArithmeticError("beyond what it was made for")
        return super().forward(noisy)


def test_a_picture_at_which_h_fails_is_refused(start: Starter, predictor: Predictor) -> None:
    failing = predictor.resident.network = Failing(predictor.resident.network, least=50.0)
    front = start(predictor)
    front.ask(1, max_draws=640)
    front.answer(1)
    assert not [one for one in front.received if isinstance(one, messages.Failed)]
    failing.least = -50.0
    front.ask(2)
    refusal = front.wait(messages.Failed)
    assert (refusal.id, refusal.model) == (2, True)
    assert "ArithmeticError: beyond what it was made for" in refusal.reason
    failing.least = 50.0
    front.ask(3)
    assert front.answer(3).conclusion.draws == 256


def test_after_a_look_it_is_answered_with_that_look(start: Starter, predictor: Predictor) -> None:
    """It does not begin again, which would give it another chance to be wrong."""
    failing = predictor.resident.network = Failing(predictor.resident.network, least=50.0)
    front = start(predictor)
    front.ask(1, max_draws=100_000, progress=True)
    front.wait(messages.Look)
    failing.least = -50.0
    answer = front.answer(1).conclusion
    looks = [one.conclusion for one in front.received if isinstance(one, messages.Look)]
    assert answer.stopped == "deadline"
    assert answer.evidence == looks[-1].evidence or answer.draws > looks[-1].draws
    assert answer.certified_size >= looks[-1].certified_size


def test_neighbours_keep_the_noise_that_was_drawn_for_them(predictor: Predictor) -> None:
    """A pass in which h fails for one picture gives the others their scores all the same."""
    runner = PassRunner(0, predictor)
    grey = predictor.encode(np.full((8, 8, 1), 128, np.uint8))
    question = Question(0.99, 256, None, "l2")
    counts = (20, 24, 16)
    for number in range(3):
        inquiry = Inquiry(question, grey.terms, len(predictor.manifest.labels), "votes")
        runner.batcher.admit(Ticket(number, grey.features, inquiry, deadline=1e9))
    rows = np.zeros(SLOTS, np.intp)
    rows[: sum(counts)] = np.repeat(np.arange(3), counts)
    tickets = tuple(runner.batcher.tickets)
    for one, count in zip(tickets, counts, strict=True):
        one._parts.append(Part(count))
    planned = Pass(tickets, counts, rows, (grey.features,) * 3)
    noisy = predictor.noisy([grey.features] * 3, rows)
    second = slice(counts[0], counts[0] + counts[1])
    expected = predictor.score(noisy)
    # At one of its rows, the second picture's noise is more than h can bear.
    noisy[second.start + 3, 0, 0, 0] = 100.0
    predictor.resident.network = Failing(predictor.resident.network, least=99.0)
    predictor.resident.noisy = lambda *_: noisy  # type: ignore[method-assign]
    made = runner.collect(planned, runner.submit(planned))
    assert made is not None
    assert [ticket.id for ticket in made.failed] == [1]
    kept = np.ones(len(noisy), bool)
    kept[second] = False
    kept[planned.filled :] = False
    assert np.array_equal(made.draws[kept], expected[kept])
    assert (made.draws[second] == NO_VOTE).all()
    [left] = runner.batcher.fail(made.failed)
    assert left.id == 1
    list(runner.batcher.record(planned, made.draws))
    assert {ticket.id: ticket.inquiry.total.draws for ticket in runner.batcher.tickets} == {
        0: counts[0],
        2: counts[2],
    }


def test_running_out_of_memory_on_a_processor_halves_passes_too(
    start: Starter, predictor: Predictor
) -> None:
    class Full(Small):
        def forward(self, noisy: torch.Tensor) -> torch.Tensor:
            if len(noisy) > self.rows:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
            return super().forward(noisy)

    predictor.resident.network = Full(predictor.resident.network, rows=16)
    front = start(predictor)
    front.ask(1)
    assert front.answer(1).conclusion.draws == 256
    assert front.wait(messages.Recalibrated).calibration.pass_size == 16


@pytest.mark.slow
def test_a_model_that_does_not_fit_at_all_ends_the_worker(predictor: Predictor) -> None:
    predictor.resident.network = Small(predictor.resident.network, rows=7)
    starter = Starter()
    front = starter(predictor)
    front.ask(1)
    with pytest.raises((AssertionError, OSError)):
        front.wait(messages.Answer)
    error = starter.end()
    assert isinstance(error, RuntimeError)
    assert "not even a pass of 8" in str(error)


def test_a_further_model_is_loaded_beside_the_first(
    start: Starter, predictor: Predictor, tmp_path: Path
) -> None:
    front = start(predictor, further=load(tmp_path / "further", "further"))
    front.ask(1, max_draws=50_000)
    front.tell(messages.Add(model=FURTHER))
    assert front.wait(messages.Added).calibration.pass_size == SLOTS
    front.ask(2, model=4)
    assert front.answer(2).conclusion.draws == 256
    front.ask(3, model=4, max_draws=100_000)
    front.tell(messages.Remove(model=4))
    assert front.wait(messages.Removed).model == 4
    assert front.wait(messages.Failed).id == 3
    front.ask(5, model=4)
    assert "no longer" in front.wait(messages.Failed, lambda one: one.id == 5).reason
    assert front.answer(1).conclusion.draws == 50_000


def test_a_model_that_cannot_be_loaded_changes_nothing(
    start: Starter, predictor: Predictor
) -> None:
    front = start(predictor)
    front.tell(messages.Add(model=FURTHER))
    refusal = front.wait(messages.NotAdded)
    assert (refusal.model, refusal.reason) == (4, "there is no such bundle")
    front.ask(1)
    assert front.answer(1).conclusion.draws == 256


@pytest.mark.parametrize(
    "change",
    ["loaded", *(pytest.param(one, marks=pytest.mark.slow) for one in ("refused", "removed"))],
)
def test_passes_that_a_load_made_smaller_are_large_again(
    start: Starter, predictor: Predictor, tmp_path: Path, change: str
) -> None:
    """For new pictures; those in smaller passes keep theirs."""
    small = predictor.resident.network = Small(predictor.resident.network, rows=20)
    further = load(tmp_path / "further", "further")
    front = start(predictor, further=None if change == "refused" else further)
    if change == "removed":
        front.tell(messages.Add(model=FURTHER))
        front.wait(messages.Added)
    front.ask(1)
    assert front.answer(1).execution.pass_size == 16
    front.ask(2, max_draws=20_000)
    small.rows = SLOTS
    front.tell(messages.Remove(model=4) if change == "removed" else messages.Add(model=FURTHER))
    assert front.wait(messages.Restored).calibration == CALIBRATION
    front.ask(3)
    assert front.answer(3).execution.pass_size == SLOTS
    kept = front.answer(2)
    assert (kept.execution.pass_size, kept.conclusion.draws) == (16, 20_000)
    assert kept.conclusion.evidence.restarts == 0


@pytest.mark.slow
def test_passes_stay_small_beside_a_model_that_needs_the_memory(
    start: Starter, predictor: Predictor, tmp_path: Path
) -> None:
    small = predictor.resident.network = Small(predictor.resident.network, rows=20)
    front = start(predictor, further=load(tmp_path / "further", "further"))
    front.ask(1)
    front.answer(1)
    tried = small.sizes.count(SLOTS)
    front.tell(messages.Add(model=FURTHER))
    front.wait(messages.Added)
    end = time.monotonic() + 300
    while small.sizes.count(SLOTS) == tried and time.monotonic() < end:
        time.sleep(0.01)
    small.rows = SLOTS  # nothing tries again before another model comes or goes
    for number in (2, 3):
        front.ask(number)
        assert front.answer(number).execution.pass_size == 16
    assert small.sizes.count(SLOTS) == tried + 1
    front.tell(messages.Remove(model=4))
    assert front.wait(messages.Restored).calibration == CALIBRATION


@pytest.mark.parametrize("compare", [True, False])
def test_a_compiled_network_takes_over_for_new_pictures(
    start: Starter, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, compare: bool
) -> None:
    """Here regardless of any comparison: this test is about the change."""
    monkeypatch.setattr(calibration, "WORTHWHILE", 0.0 if compare else 1e9)
    front = start(predictor)
    front.tell(messages.Compile(models=[0], compare=compare))
    if not HAS_COMPILER:  # then the eager network goes on
        assert "cannot be compiled" in front.wait(messages.Compiled).kept[0]
        front.ask(1)
        assert front.answer(1).conclusion.draws == 256
        return
    answered, end = 0, time.monotonic() + 500
    while not any(isinstance(one, messages.Compiled) for one in front.received):
        assert time.monotonic() < end, "the network was never compiled"
        answered += 1
        front.ask(answered, max_draws=640)
        front.answer(answered)
        time.sleep(0.1)  # leave the processor to the compiler
    compiled = front.wait(messages.Compiled)
    assert compiled.calibrations[0].compiled
    assert not compiled.kept
    front.ask(answered + 1)
    assert front.answer(answered + 1).execution.compiled


def compile_to(monkeypatch: pytest.MonkeyPatch, outcome: Callable[[Predictor], Predictor]) -> None:
    monkeypatch.setattr(Predictor, "compile", outcome)


def renamed(predictor: Predictor) -> Predictor:
    """Return a network marked as compiled; for these tests it is another h."""
    other = copy.copy(predictor)
    other.compiled = True
    return other


def test_a_network_that_is_no_faster_compiled_stays_eager(
    start: Starter, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "WORTHWHILE", 1e9)
    compile_to(monkeypatch, renamed)
    front = start(predictor)
    front.tell(messages.Compile(models=[0], compare=True))
    assert front.wait(messages.Compiled).kept == {0: "compiled it is not faster"}
    front.ask(1)
    assert not front.answer(1).execution.compiled


def test_a_network_that_mixes_rows_when_compiled_stays_eager(
    start: Starter, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is told to run it compiled goes on as before, and says so."""

    def fail(predictor: Predictor) -> Predictor:
        raise RowsError("its rows look at each other")

    compile_to(monkeypatch, fail)
    front = start(predictor)
    front.tell(messages.Compile(models=[0], compare=False))
    kept = front.wait(messages.Compiled).kept
    assert kept == {0: "it cannot be compiled: its rows look at each other"}
    front.ask(1)
    assert front.answer(1).conclusion.draws == 256


def test_a_model_removed_while_compiling_is_left_out_of_the_outcome(
    start: Starter, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = threading.Event()

    def late(predictor: Predictor) -> Predictor:
        assert removed.wait(60)
        return renamed(predictor)

    compile_to(monkeypatch, late)
    front = start(predictor)
    front.tell(messages.Compile(models=[0], compare=False))
    front.tell(messages.Remove(model=0))
    front.wait(messages.Removed)
    removed.set()
    outcome = front.wait(messages.Compiled)
    assert not outcome.calibrations
    assert not outcome.kept


@pytest.mark.parametrize("compare", [True, False])
def test_a_compiled_network_is_dropped_when_passes_became_smaller(
    predictor: Predictor, compare: bool
) -> None:
    running = Running.begin(0, predictor, CALIBRATION)
    compiled = copy.copy(predictor)
    running.halve(running.runner)
    assert "smaller" in running.change([compiled], compare)
    assert running.runner.batcher.slots == SLOTS // 2
