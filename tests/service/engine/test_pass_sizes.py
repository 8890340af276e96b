"""A model in passes of two sizes: which one a picture gets, and that the picture keeps it."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models import calibration
from models.execution import Calibration, SmallPass
from models.predictor import Predictor
from models.trial import RowsError
from service.engine import messages
from service.engine.channel import FrontGoneError
from service.engine.pass_runner import Running
from tests.service.engine.test_loop import CALIBRATION, SLOTS, Front, Small, Starter, load

SMALL = 16
# Large passes make twice the draws per second, and take twice as long.
BOTH = replace(CALIBRATION, draws_per_second=2.0, small=SmallPass(SMALL, 1.0))
ALONE = replace(BOTH, small=None)
# The least draws for this target are fewer than the slots of a small pass.
EASY: dict[str, Any] = {"target": 0.05, "max_draws": 640}


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return load(tmp_path)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Predictor], Front]]:
    """Starts a loop, and has it make small passes."""
    starter = Starter()
    monkeypatch.setattr(calibration, "gauge_small", lambda small: SmallPass(small.pass_size, 1.0))

    def begin(predictor: Predictor) -> Front:
        front = starter(predictor, found=ALONE)
        front.tell(messages.Shorten(models={0: SMALL}))
        assert front.wait(messages.Shortened).calibrations == {0: BOTH}
        return front

    yield begin
    error = starter.end()
    assert error is None or isinstance(error, FrontGoneError)


def running_both(predictor: Predictor) -> Running:
    running = Running.begin(0, predictor, ALONE)
    running.shorten(predictor, SmallPass(SMALL, 1.0))
    assert running.calibration == BOTH
    return running


@pytest.mark.parametrize(
    ("least", "others", "size"),
    [
        (10, 0, SMALL),
        (16, 0, SMALL),
        (17, 0, SLOTS),
        (16, 1, SMALL),  # one large pass for both would not be sooner by enough
        (20, 1, SLOTS),
        (640, 0, SLOTS),
    ],
)
def test_the_size_is_the_one_that_answers_sooner(
    predictor: Predictor, least: int, others: int, size: int
) -> None:
    running = running_both(predictor)
    assert running.choose(least, others).batcher.slots == size
    assert Running.begin(0, predictor, ALONE).choose(least, others).batcher.slots == SLOTS


def test_large_passes_after_the_first_count_as_full(predictor: Predictor) -> None:
    """70 draws of seven pictures take 56 s in passes of 64 slots, but 102 s in two whole ones."""
    running = running_both(predictor)
    running.calibration = replace(BOTH, draws_per_second=1.25)
    assert running.choose(10, 6).batcher.slots == SLOTS


def test_a_picture_alone_has_small_passes_and_among_others_large_ones(
    start: Callable[[Predictor], Front], predictor: Predictor
) -> None:
    front = start(predictor)
    front.ask(1, **EASY)
    assert front.answer(1).execution.pass_size == SMALL
    hard = range(2, 9)
    for number in hard:
        front.ask(number, max_draws=20_000)
    front.ask(9, **EASY)
    assert front.answer(9).execution.pass_size == SLOTS
    for number in hard:
        assert front.answer(number).execution.pass_size == SLOTS
    front.ask(10, **EASY)
    assert front.answer(10).execution == BOTH.executions[1]


def test_a_picture_keeps_its_size_whatever_comes(
    start: Callable[[Predictor], Front], predictor: Predictor
) -> None:
    """All draws of an answer come from passes of the size that it names."""
    noting = predictor.resident.network = Small(predictor.resident.network, rows=SLOTS)
    front = start(predictor)
    noting.sizes.clear()
    front.ask(1, pass_size=SMALL, max_draws=4096)
    for number in range(2, 6):
        front.ask(number, max_draws=640)
    sizes = {number: front.answer(number).execution.pass_size for number in range(1, 6)}
    assert sizes == {1: SMALL, **dict.fromkeys(range(2, 6), SLOTS)}
    assert noting.sizes.count(SMALL) * SMALL == front.answer(1).conclusion.draws == 4096
    assert noting.sizes.count(SLOTS) * SLOTS >= 4 * 640


def test_one_among_many_gets_no_more_than_its_share(
    start: Callable[[Predictor], Front], predictor: Predictor
) -> None:
    """It would get more if the sizes took turns pass by pass."""
    noting = predictor.resident.network = Small(predictor.resident.network, rows=SLOTS)
    front = start(predictor)
    many = range(2, 18)
    for number in many:
        front.ask(number, max_draws=1280)
    front.ask(1, pass_size=SMALL, max_draws=480)
    for number in (1, *many):
        front.answer(number)
    first, *_, last = (at for at, size in enumerate(noting.sizes) if size == SMALL)
    between = noting.sizes[first:last]
    assert between.count(SLOTS) >= 3 * (480 // SMALL - 1)


@pytest.mark.slow
def test_passes_that_no_longer_fit_leave_one_size(
    start: Callable[[Predictor], Front], predictor: Predictor
) -> None:
    small = predictor.resident.network = Small(predictor.resident.network, rows=SMALL)
    front = start(predictor)
    front.ask(1, **EASY)
    assert front.answer(1).execution.pass_size == SMALL
    front.ask(2)
    assert front.answer(2).conclusion.evidence.restarts == 1
    change = front.wait(messages.Recalibrated).calibration
    assert (change.pass_size, change.small) == (SMALL, None)
    front.ask(3, **EASY)
    assert front.answer(3).execution == change.execution
    small.rows = 8
    front.ask(4)
    assert front.answer(4).execution.pass_size == 8


def test_a_small_pass_that_does_not_fit_leaves_smaller_ones(
    start: Callable[[Predictor], Front], predictor: Predictor
) -> None:
    small = predictor.resident.network = Small(predictor.resident.network, rows=SLOTS)
    front = start(predictor)
    small.rows = 8
    front.ask(1, **EASY)
    answer = front.answer(1)
    assert (answer.execution.pass_size, answer.conclusion.evidence.restarts) == (8, 1)
    assert front.wait(messages.Recalibrated).calibration.executions == [answer.execution]
    front.ask(2)
    assert front.answer(2).execution.pass_size == 8


def test_small_passes_whose_rows_fail_are_not_made(
    start: Callable[[Predictor], Front], predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = start(predictor)
    front.received.clear()

    def refuse(self: Predictor, alone: int = 0) -> None:
        raise RowsError("its rows look at each other")

    monkeypatch.setattr(Predictor, "try_rows", refuse)
    front.tell(messages.Shorten(models={0: 8}))
    assert front.wait(messages.Shortened).calibrations == {0: BOTH}, "all stays as it is"


def test_small_passes_come_too_late_for_another_network(predictor: Predictor) -> None:
    running = Running.begin(0, predictor, ALONE)
    running.halve(running.runner)
    running.shorten(predictor, SmallPass(SMALL, 1.0))
    assert (running.small, running.calibration.small) == (None, None)


def test_both_sizes_change_to_a_compiled_network(
    predictor: Predictor,
) -> None:
    running = running_both(predictor)
    former = running.runners
    compiled = [copy.copy(one.predictor) for one in former]
    for one in compiled:
        one.compiled = True
    assert "smaller" in running.change(compiled[:1], compare_=False)
    assert running.runners == former
    assert running.change(compiled, compare_=False) == ""
    assert [one.predictor for one in running.runners] == compiled
    assert all(one.compiled for one in running.calibration.executions)
    assert [one.pass_size for one in running.calibration.executions] == [SLOTS, SMALL]


def test_the_sizes_share_their_weights(predictor: Predictor) -> None:
    running = running_both(predictor)
    large, small = (one.predictor for one in running.runners)
    assert [large.pass_size, small.pass_size] == [SLOTS, SMALL]
    for one, other in zip(
        large.resident.network.parameters(), small.resident.network.parameters(), strict=True
    ):
        assert one.data_ptr() == other.data_ptr()


def test_a_calibration_names_each_h() -> None:
    alone = Calibration("bfloat16", 256, 10.0, compiled=True)
    assert alone.executions == [alone.execution]
    assert alone.least_speed == 10.0
    both = replace(alone, small=SmallPass(32, 4.0))
    assert both.executions == [alone.execution, replace(alone.execution, pass_size=32)]
    assert both.least_speed == 4.0
