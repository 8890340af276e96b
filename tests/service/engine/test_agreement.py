"""Workers of one kind run a model in one way: who finds it, and what the others are told."""

from dataclasses import replace

import pytest

from models.bundle import ZOO
from models.execution import Calibration, Format, SmallPass
from service.catalogue import Catalogue
from service.engine import messages
from service.engine.agreement import NO_MEMORY, Agreement
from service.engine.handle import WorkerHandle

MODELS = Catalogue([ZOO / "mnist-cnn"]).models


class Worker(WorkerHandle):
    """A worker that records the messages that it gets."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        super().__init__(name, device)
        self.told: list[messages.ToWorker] = []

    def send(self, message: messages.ToWorker, payload: bytes = b"") -> None:
        assert not payload
        self.told.append(message)

    def take(self) -> messages.ToWorker | None:
        """Return the message that it got since the last call, if any."""
        told, self.told = self.told, []
        assert len(told) <= 1
        return told[0] if told else None

    def run(self) -> messages.Model:
        """Return how it was just told to run its model."""
        told = self.take()
        assert isinstance(told, messages.Run)
        [model] = told.models
        return model

    def open(self, calibration: Calibration) -> None:
        self.loaded = self.ready = True
        self.calibrations = {0: calibration}


class Case:
    """Three workers on processors and one on another device."""

    def __init__(self, compilable: bool = True, pass_size: int | None = None) -> None:
        self.workers = [Worker("worker0"), Worker("worker1"), Worker("worker2")]
        self.other = Worker("worker3", "cuda:0")
        everyone = [*self.workers, self.other]
        self.agreement = Agreement(
            everyone, None, None, True, pass_size, [0] if compilable else [], {}
        )

    def read(self, *workers: Worker) -> None:
        for worker in workers:
            self.agreement.wait(worker, MODELS)

    def accepts(self, worker: Worker, found: Calibration, ceiling: int | None = None) -> bool:
        ceilings = {0: ceiling} if ceiling else {}
        return self.agreement.accepts(worker, {0: found}, ceilings)

    def start(self) -> None:
        """Make all workers on processors ready."""
        self.read(*self.workers)
        for worker in self.workers:
            assert self.accepts(worker, FOUND)
            worker.open(FOUND)
            worker.told.clear()
            self.agreement.compile(worker)


def found(pass_size: int = 256, precision: Format = "float32") -> Calibration:
    return Calibration(precision, pass_size, 1000.0)


FOUND = found()
BOTH = replace(FOUND, small=SmallPass(32, 500.0))
COMPILED = Calibration("float32", 256, 2000.0, compiled=True)


@pytest.fixture
def case() -> Case:
    return Case()


def way(model: messages.Model) -> tuple[str | None, str | None, int | None]:
    return model.provider, model.precision, model.pass_size


UNKNOWN, AGREED = (None, None, None), ("pytorch", "float32", 256)


def test_one_measures_and_the_others_are_told(case: Case) -> None:
    first, *others = case.workers
    case.read(first, *others)
    assert way(first.run()) == UNKNOWN
    assert [case.agreement.waits(one) for one in case.workers] == [False, True, True]
    assert not any(one.told for one in others)
    assert case.accepts(first, FOUND)
    for one in others:
        assert not case.agreement.waits(one)
        assert way(one.run()) == AGREED
        assert case.accepts(one, Calibration("float32", 256, 1.0)), "whatever its speed"


def test_settings_are_not_measured() -> None:
    case = Case(pass_size=96)
    case.read(case.workers[0])
    assert way(case.workers[0].run()) == (None, None, 96)


def test_another_kind_measures_for_itself(case: Case) -> None:
    case.read(case.workers[0], case.other)
    assert way(case.other.run()) == UNKNOWN
    assert case.accepts(case.other, found(1024, "bfloat16"))
    assert case.accepts(case.workers[0], FOUND)


@pytest.mark.parametrize("gone", [True, False], ids=["dead", "silent"])
def test_the_next_measures_in_the_place_of_one_in_trouble(case: Case, gone: bool) -> None:
    first, second, third = case.workers
    case.read(first, second, third)
    first.take()
    (case.agreement.leave if gone else case.agreement.pass_on)(first)
    assert way(second.run()) == UNKNOWN
    assert not third.told
    assert case.accepts(second, FOUND)
    assert way(third.run()) == AGREED
    # If the first then names another way, no further worker has to measure.
    assert not case.accepts(first, found(128))
    case.read(first)
    assert way(first.run()) == AGREED


def test_a_waiting_worker_may_end(case: Case) -> None:
    first, second, third = case.workers
    case.read(first, second)
    case.agreement.leave(second)
    assert case.accepts(first, FOUND)
    assert not second.told
    case.read(third)
    assert way(third.run()) == AGREED


@pytest.mark.parametrize(
    "other", [found(128), found(256, "bfloat16"), COMPILED], ids=["size", "format", "compiled"]
)
def test_another_way_is_not_accepted(case: Case, other: Calibration) -> None:
    assert case.accepts(case.workers[0], FOUND)
    assert not case.accepts(case.workers[1], other)


def test_a_worker_has_its_own_ceiling(case: Case) -> None:
    """It is found at the start or while serving, and the successor is told."""
    first, second, third = case.workers
    assert case.accepts(first, FOUND)
    assert not case.accepts(second, found(64))
    assert case.accepts(second, found(64), ceiling=64)
    assert case.agreement.deviation(second, 0) == NO_MEMORY
    assert case.agreement.deviation(first, 0) is None
    case.agreement.limit(third, 0, 32)
    case.agreement.leave(second)
    case.agreement.leave(third)
    case.read(second, third)
    assert (way(second.run()), way(third.run())) == (
        ("pytorch", "float32", 64),
        ("pytorch", "float32", 32),
    )
    assert case.accepts(second, found(64))
    assert case.accepts(third, found(32))


def test_one_compiles_to_compare_and_the_others_follow(case: Case) -> None:
    case.start()
    first, *others = case.workers
    assert first.take() == messages.Compile(models=[0], compare=True)
    assert not any(one.told for one in others)
    case.agreement.compiled(first, messages.Compiled(calibrations={0: COMPILED}, kept={}))
    for one in others:
        assert one.take() == messages.Compile(models=[0], compare=False)
    assert not first.told
    # A successor begins in the agreed way, and then follows, too.
    case.agreement.leave(first)
    case.read(first)
    assert way(first.run()) == AGREED
    first.open(FOUND)
    case.agreement.compile(first)
    assert first.take() == messages.Compile(models=[0], compare=False)


def test_where_compiling_does_not_pay_nobody_else_compiles(case: Case) -> None:
    case.start()
    first, second, _ = case.workers
    first.take()
    kept = messages.Compiled(calibrations={}, kept={0: "compiled it is not faster"})
    case.agreement.compiled(first, kept)
    case.agreement.compile(second)
    assert not any(one.told for one in case.workers)
    assert case.agreement.deviation(first, 0) is None, "it runs as all others do"


def test_a_worker_that_cannot_follow_says_why(case: Case) -> None:
    case.start()
    first, second, third = case.workers
    case.agreement.compiled(first, messages.Compiled(calibrations={0: COMPILED}, kept={}))
    reason = "it cannot be compiled: its rows look at each other"
    case.agreement.compiled(second, messages.Compiled(calibrations={}, kept={0: reason}))
    case.agreement.compiled(third, messages.Compiled(calibrations={0: COMPILED}, kept={}))
    assert [case.agreement.deviation(one, 0) for one in case.workers] == [None, reason, None]
    case.agreement.leave(second)
    assert case.agreement.deviation(second, 0) is None, "its successor may be able to"


def test_another_compares_when_the_first_dies_over_it(case: Case) -> None:
    case.start()
    first, second, third = case.workers
    first.forget()
    case.agreement.leave(first)
    assert second.take() == messages.Compile(models=[0], compare=True)
    assert not third.told


def test_a_model_loaded_later_is_not_compiled() -> None:
    case = Case(compilable=False)
    case.start()
    assert not any(one.told for one in case.workers)


def test_a_model_that_is_gone_leaves_nothing(case: Case) -> None:
    case.start()
    case.agreement.limit(case.workers[0], 0, 8)
    case.agreement.compiled(case.workers[0], messages.Compiled(calibrations={0: COMPILED}, kept={}))
    case.agreement.forget(0)
    case.workers[1].take()
    case.read(case.workers[1])
    assert way(case.workers[1].run()) == UNKNOWN


def shortened(case: Case, worker: Worker, calibration: Calibration) -> None:
    """Let a worker report on its small passes."""
    worker.calibrations = {0: calibration}
    case.agreement.shortened(worker, messages.Shortened(calibrations={0: calibration}))


MEASURE, TOLD = messages.Shorten(models={0: None}), messages.Shorten(models={0: 32})
COMPARE = messages.Compile(models=[0], compare=True)


def improving(case: Case) -> tuple[Worker, Worker, Worker]:
    """Make all workers on processors ready for improvements."""
    for worker in case.workers:
        case.read(worker)
        case.accepts(worker, FOUND)
        worker.open(FOUND)
        worker.told.clear()
        case.agreement.improve(worker)
    first, second, third = case.workers
    return first, second, third


def test_one_looks_for_small_passes_and_the_others_are_told(case: Case) -> None:
    first, second, third = improving(case)
    assert [one.take() for one in case.workers] == [MEASURE, None, None]
    shortened(case, first, BOTH)
    assert second.take() == third.take() == TOLD
    assert first.take() == COMPARE, "it compiles once it has both sizes"
    shortened(case, second, BOTH)
    assert second.take() is None, "another compares"
    # One worker cannot make them, which is no reason to try again.
    shortened(case, third, FOUND)
    case.agreement.compiled(first, messages.Compiled(calibrations={0: COMPILED}, kept={}))
    assert second.take() == third.take() == messages.Compile(models=[0], compare=False)
    # A successor has the same size, and compiles then.
    case.agreement.leave(second)
    second.open(FOUND)
    case.agreement.improve(second)
    assert second.take() == TOLD
    shortened(case, second, BOTH)
    assert second.take() == messages.Compile(models=[0], compare=False)


def test_where_small_passes_do_not_pay_no_other_worker_has_them(case: Case) -> None:
    first, *_ = improving(case)
    first.take()
    shortened(case, first, FOUND)
    assert [one.take() for one in case.workers] == [COMPARE, None, None]


def test_the_next_looks_for_small_passes_in_the_place_of_one_that_is_gone(case: Case) -> None:
    first, second, third = improving(case)
    first.forget()
    case.agreement.leave(first)
    assert second.take() == MEASURE
    assert third.take() is None
    shortened(case, second, BOTH)
    assert third.take() == TOLD


def test_a_worker_whose_passes_are_small_already_has_one_size(case: Case) -> None:
    """A worker whose memory holds no larger passes has one size."""
    first, second, _ = improving(case)
    case.agreement.limit(second, 0, 32)
    second.calibrations = {0: found(32)}
    first.take()
    shortened(case, first, BOTH)
    assert second.take() is None


@pytest.mark.parametrize("how", ["size", "pin"])
def test_a_size_that_is_set_or_pinned_is_the_only_one(how: str) -> None:
    case = Case(pass_size=256 if how == "size" else None)
    [served] = MODELS
    if how == "pin":
        case.agreement._pins = {served.bundle.digest: FOUND.execution}
        assert not case.agreement.departs(served.bundle, FOUND)
        assert case.agreement.departs(served.bundle, BOTH)
    improving(case)
    assert not any(isinstance(one.take(), messages.Shorten) for one in case.workers)


def test_a_model_loaded_later_has_small_passes_too(case: Case) -> None:
    first, second, _ = improving(case)
    first.take()
    shortened(case, first, BOTH)
    first.take()
    second.take()
    shortened(case, second, BOTH)
    first.calibrations = {0: BOTH, 7: FOUND}
    case.agreement.improve(first)
    assert first.take() == messages.Shorten(models={7: None})
