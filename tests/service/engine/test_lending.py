"""Draws of one picture by several workers: whose they are, and what becomes of it if one goes."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.certification.question import Question
from models.execution import Execution
from models.predictor import Predictor
from service.decoding.reduction import Reduced
from service.engine import messages
from service.engine.channel import FrontGoneError
from service.engine.engine import Engine
from service.engine.handle import WorkerHandle
from service.engine.queue import Job, Outcome
from tests.chaos.processes import workers
from tests.e2e.test_survival import until, with_engine
from tests.service.engine.test_engine import asking, build, job, kill, open_worker, run, taken
from tests.service.engine.test_loop import PIXELS, SLOTS, Failing, Front, Small, Starter, load

H = Execution("pytorch", "float32", SLOTS, False)


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return load(tmp_path)


@pytest.fixture
def start() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    error = starter.end()
    assert error is None or isinstance(error, FrontGoneError)


def assist(front: Front, number: int, execution: Execution = H) -> messages.Assists:
    """Ask a worker to help with a picture, and return what it says."""
    admission = messages.Admit(
        id=number,
        model=0,
        width=8,
        height=8,
        channels=1,
        bits=8,
        confidence=0.99,
        max_draws=1000,
        target=None,
        norm="l2",
        scores=3,
        deadline=time.monotonic() + 500,
        high=False,
        progress=False,
    )
    front.tell(messages.Assist(id=number, admission=admission, execution=execution), PIXELS)
    return front.wait(messages.Assists, lambda one: one.id == number)


def draw(front: Front, number: int, draws: int) -> None:
    front.tell(messages.Draw(id=number, helper="worker1", draws=draws))


# A worker that helps.


def test_a_helper_makes_the_draws_that_it_is_asked_for(
    start: Starter, predictor: Predictor
) -> None:
    front = start(predictor)
    assert assist(front, 7).able
    for count in (SLOTS, 10):
        draw(front, 7, count)
        drawn = front.wait(messages.Drawn, lambda one, count=count: len(one.votes) == count)  # type: ignore[misc]
        assert set(drawn.votes) <= {-1, 0, 1, 2}
    front.ask(1)
    assert front.answer(1).conclusion.draws == 256, "it has pictures of its own, too"
    front.tell(messages.Cancel(id=7))
    draw(front, 7, 20)
    front.ask(2)
    front.answer(2)
    assert not [one for one in front.received if getattr(one, "votes", None) == 20]


def test_a_worker_that_runs_another_h_does_not_help(start: Starter, predictor: Predictor) -> None:
    front = start(predictor)
    other = Execution("pytorch", "float32", 2 * SLOTS, False)
    assert not assist(front, 7, other).able


def test_a_helper_says_that_h_has_failed(start: Starter, predictor: Predictor) -> None:
    front = start(predictor)
    assist(front, 7)
    predictor.resident.network = Failing(predictor.resident.network, least=-50.0)
    draw(front, 7, SLOTS)
    drawn = front.wait(messages.Drawn)
    assert not drawn.votes
    assert "ArithmeticError" in drawn.failed


def test_a_helper_whose_memory_is_short_says_so(start: Starter, predictor: Predictor) -> None:
    front = start(predictor)
    assist(front, 7)
    predictor.resident.network = Small(predictor.resident.network, rows=SLOTS // 2)
    draw(front, 7, SLOTS)
    assert front.wait(messages.Assists, lambda one: not one.able).id == 7


# A worker that is helped.


def begin(front: Front, **question: Any) -> messages.Wants:
    """Ask for a picture with which another worker may help, and does."""
    front.ask(1, lendable=True, **question)
    wants = front.wait(messages.Wants)
    front.tell(messages.Lent(id=1, helper="worker1", more=True))
    return wants


def asked(front: Front, known: set[int]) -> messages.Draw | messages.Answer:
    """Return what the helper is asked for next, or the answer."""
    one = front.wait(messages.Draw | messages.Answer, lambda one: id(one) not in known)  # type: ignore[arg-type]
    known.add(id(one))
    return one  # type: ignore[no-any-return]


def hand_in(front: Front, votes: list[int], failed: str = "") -> None:
    front.tell(messages.Drawn(id=1, helper="worker1", votes=votes, failed=failed))


def help_until_answered(front: Front, known: set[int], vote: int) -> int:
    """Make draws that all vote for a label as long as any are wanted; return how many."""
    made = 0
    while isinstance(one := asked(front, known), messages.Draw):
        hand_in(front, [vote] * one.draws)
        made += one.draws
    return made


def test_draws_of_both_make_the_answer(start: Starter, predictor: Predictor) -> None:
    front = start(predictor)
    assert begin(front, max_draws=6400).execution == H
    made = help_until_answered(front, set(), vote=2)
    answer = front.answer(1).conclusion
    assert answer.draws == 6400
    assert SLOTS < made < 6400
    assert answer.evidence.total.sums[2] >= made


def test_what_was_lent_is_waited_for(start: Starter, predictor: Predictor) -> None:
    """Draws that were issued are never made again, and no answer goes without them."""
    front, known = start(predictor), set[int]()
    begin(front, max_draws=640)
    first = asked(front, known)
    front.ask(2, max_draws=6400)
    front.answer(2)
    assert not [one for one in front.received if one.kind == "answer" and one.id == 1]
    assert isinstance(first, messages.Draw)
    front.tell(messages.Lent(id=1, helper="worker1", more=False))
    hand_in(front, [0] * first.draws)
    assert help_until_answered(front, known, vote=0) <= SLOTS, "what it owed; it gets no more"
    assert front.answer(1).conclusion.draws == 640


def test_a_picture_on_which_h_failed_at_the_helper_ends_at_its_last_look(
    start: Starter, predictor: Predictor
) -> None:
    front = start(predictor)
    begin(front, max_draws=100_000)
    asked(front, set())
    hand_in(front, [], failed="ArithmeticError: beyond what it was made for")
    outcome = front.wait(messages.Failed | messages.Answer)  # type: ignore[arg-type]
    if isinstance(outcome, messages.Answer):
        assert outcome.conclusion.stopped == "deadline"
    else:
        assert outcome.model


def test_draws_for_a_former_run_are_dropped(start: Starter, predictor: Predictor) -> None:
    front = start(predictor)
    small = predictor.resident.network = Small(predictor.resident.network, rows=SLOTS)
    begin(front, max_draws=20_000)
    asked(front, set())
    small.rows = SLOTS // 2
    front.wait(messages.Begun)
    hand_in(front, [2] * SLOTS)
    assert front.answer(1).conclusion.draws == 20_000
    halves = small.sizes.count(SLOTS // 2) * SLOTS // 2
    assert halves >= 20_000, "all draws of the answer are of the new h"


def test_help_that_comes_for_a_former_run_is_not_used(start: Starter, predictor: Predictor) -> None:
    """The front has ended the loan by then, and nobody would make what is issued."""
    front = start(predictor)
    predictor.resident.network = Small(predictor.resident.network, rows=SLOTS // 2)
    front.ask(1, lendable=True, max_draws=6400)
    front.wait(messages.Begun)
    front.tell(messages.Lent(id=1, helper="worker1", more=True))
    assert front.answer(1).conclusion.draws == 6400
    assert not [one for one in front.received if isinstance(one, messages.Draw)]


def test_who_needs_one_pass_has_no_helper(start: Starter, predictor: Predictor) -> None:
    front = start(predictor)
    front.ask(1, lendable=True, max_draws=SLOTS)
    front.answer(1)
    front.ask(2, max_draws=6400)
    front.answer(2)
    assert not [one for one in front.received if isinstance(one, messages.Wants)]


# The front, with workers whose part is played here.


class Recorder:
    """Takes the place of a worker's writer."""

    def __init__(self, worker: WorkerHandle) -> None:
        self.told: list[messages.ToWorker] = []
        worker.send = lambda message, payload=b"": self.told.append(message)  # type: ignore[method-assign,assignment]

    def of(self, kind: type) -> list[Any]:
        return [one for one in self.told if isinstance(one, kind)]


def two(engine: Engine) -> tuple[WorkerHandle, WorkerHandle, Recorder, Recorder]:
    """Open two workers."""
    owner, helper = open_worker(engine, 0, SLOTS), open_worker(engine, 1, SLOTS)
    return owner, helper, Recorder(owner), Recorder(helper)


def lent(engine: Engine, owner: WorkerHandle, helper: WorkerHandle) -> int:
    """Lend the only picture; return its number."""
    [number] = taken(engine)
    engine._dispatcher.heard(owner, messages.Wants(id=number, execution=H))
    engine._dispatcher.heard(helper, messages.Assists(id=number, able=True))
    return number


def test_a_worker_with_nothing_to_do_helps_until_it_has_a_picture() -> None:
    async def test() -> None:
        engine = build(2)
        owner, helper, to_owner, to_helper = two(engine)
        async with asking(engine, [job()]):
            number = lent(engine, owner, helper)
            [assist] = to_helper.of(messages.Assist)
            assert (assist.id, assist.execution) == (number, H)
            draw = messages.Draw(id=number, helper="worker1", draws=SLOTS)
            engine._dispatcher.heard(owner, draw)
            assert to_helper.of(messages.Draw) == [draw]
            drawn = messages.Drawn(id=number, helper="worker1", votes=[0] * SLOTS)
            engine._dispatcher.heard(helper, drawn)
            assert to_owner.of(messages.Drawn) == [drawn]
            second = asyncio.create_task(engine.predict(job()))
            await asyncio.sleep(0)
            assert [one.more for one in to_owner.of(messages.Lent)] == [True, False]
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
        assert messages.Cancel(id=number) in to_helper.told

    run(test)


@pytest.mark.parametrize(
    "other", [{"busy": True}, {"kind": "cuda:1"}, {"size": 2 * SLOTS}], ids=str
)
def test_only_idle_workers_that_run_the_same_h_help(other: dict[str, Any]) -> None:
    async def test() -> None:
        engine = build(2)
        owner, helper, _, to_helper = two(engine)
        helper.device = other.get("kind", "cpu")
        if "size" in other:
            open_worker(engine, 1, other["size"])
        async with asking(engine, [job(), job()] if "busy" in other else [job()]):
            [number] = taken(engine)
            engine._dispatcher.heard(owner, messages.Wants(id=number, execution=H))
            assert not to_helper.of(messages.Assist)

    run(test)


@pytest.mark.parametrize("how", ["death", "silence", "memory"])
def test_a_picture_whose_helper_is_lost_begins_again_without_one(how: str) -> None:
    """Its draws may be why the helper was lost, so none are made in their place."""

    async def test() -> None:
        engine = build(2)
        owner, helper, to_owner, _ = two(engine)
        async with asking(engine, [job()]):
            number = lent(engine, owner, helper)
            [entry] = taken(engine).values()
            if how == "death":
                kill(engine, helper, {number})
            elif how == "silence":
                helper.quiet = helper.silent = True
                engine._dispatcher.silent(helper)
            else:
                engine._dispatcher.heard(helper, messages.Assists(id=number, able=False))
            assert messages.Cancel(id=number) in to_owner.told
            assert entry.id != number
            assert (entry.restarts, entry.deaths) == (1, int(how == "death"))
            assert not to_owner.of(messages.Admit)[-1].lendable or how == "memory"
            assert to_owner.of(messages.Admit)[-1].restarts == 1
            # What the helper still sends is of the former run.
            late = messages.Drawn(id=number, helper="worker1", votes=[0] * SLOTS)
            engine._dispatcher.heard(helper, late)
            assert not to_owner.of(messages.Drawn)

    run(test)


def test_a_helper_that_gets_a_picture_before_it_begins_does_not_help() -> None:
    async def test() -> None:
        engine = build(2)
        owner, helper, to_owner, to_helper = two(engine)
        async with asking(engine, [job()]):
            [number] = taken(engine)
            engine._dispatcher.heard(owner, messages.Wants(id=number, execution=H))
            second = asyncio.create_task(engine.predict(job()))
            await asyncio.sleep(0)
            assert messages.Cancel(id=number) in to_helper.told
            engine._dispatcher.heard(helper, messages.Assists(id=number, able=True))
            assert not to_owner.of(messages.Lent)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)

    run(test)


def test_a_helper_that_owes_draws_has_work() -> None:
    """So one whose pass never ends is found, and the picture does not wait for it."""

    async def test() -> None:
        engine = build(2)
        owner, helper, _, _ = two(engine)
        async with asking(engine, [job()]):
            number = lent(engine, owner, helper)
            has_work = engine._dispatcher.has_work
            assert (has_work(owner), has_work(helper)) == (True, False)
            for _ in range(2):
                draw = messages.Draw(id=number, helper="worker1", draws=SLOTS)
                engine._dispatcher.heard(owner, draw)
                assert has_work(helper)
                drawn = messages.Drawn(id=number, helper="worker1", votes=[0] * SLOTS)
                engine._dispatcher.heard(helper, drawn)
                assert not has_work(helper)
            engine._dispatcher.heard(owner, draw)
        assert not has_work(helper), "nobody waits for them any more"

    run(test)


def test_a_helper_that_falls_silent_before_it_begins_is_told_to_forget_the_picture() -> None:
    async def test() -> None:
        engine = build(2)
        owner, helper, to_owner, to_helper = two(engine)
        async with asking(engine, [job()]):
            [number] = taken(engine)
            engine._dispatcher.heard(owner, messages.Wants(id=number, execution=H))
            helper.quiet = helper.silent = True
            engine._dispatcher.silent(helper)
            assert messages.Cancel(id=number) in to_helper.told
            assert not to_owner.of(messages.Cancel), "no draws are lost"

    run(test)


def test_a_helper_that_could_not_begin_costs_nothing() -> None:
    async def test() -> None:
        engine = build(2)
        owner, helper, to_owner, _ = two(engine)
        async with asking(engine, [job()]):
            [number] = taken(engine)
            engine._dispatcher.heard(owner, messages.Wants(id=number, execution=H))
            engine._dispatcher.heard(helper, messages.Assists(id=number, able=False))
            assert not to_owner.of(messages.Cancel)
            assert list(taken(engine)) == [number]

    run(test)


# Real workers.


@pytest.mark.slow
def test_two_workers_answer_one_picture_together(tmp_path: Path) -> None:
    """And if either is killed meanwhile, the picture begins again and is answered."""
    load(tmp_path)
    picture = Reduced(8, 8, "L", 8, [], False, bytes([128]) * 64)

    def long(draws: int) -> Job:
        return Job(0, picture, Question(0.95, draws, None, "l2"), 3, time.monotonic() + 500)

    async def lent(engine: Engine) -> asyncio.Task[Outcome]:
        """Ask until the other worker helps: at first it may not be ready, or run another h."""
        asking = asyncio.create_task(engine.predict(long(400_000)))
        loans = engine._dispatcher._lending._loans
        await until(lambda: asking.done() or bool(loans))
        return await lent(engine) if asking.done() else asking

    async def test(engine: Engine) -> None:
        answer = await engine.predict(long(20_000))
        assert answer.conclusion.draws == 20_000
        assert answer.conclusion.evidence.restarts == 0
        for victim in workers(os.getpid()):
            asking = await lent(engine)
            await asyncio.sleep(0.2)
            os.kill(victim, signal.SIGKILL)
            found = (await asking).conclusion
            assert (found.draws, found.evidence.restarts) == (400_000, 1)
            await until(lambda: all(one.ready for one in engine._workers))

    with_engine(test, tmp_path, devices=["cpu"] * 2)
