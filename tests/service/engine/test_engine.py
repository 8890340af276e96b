"""What happens to pictures when workers come and go. The tests play the workers.

Real workers are in ``tests/e2e/test_survival.py``.
"""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from models.bundle import ZOO, Manifest
from models.certification.answer import Conclusion, conclude
from models.certification.division import LEAST_DRAWS
from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.certification.terms import Terms
from models.execution import Calibration, Execution
from models.network import build_network, save_network
from service.catalogue import Catalogue
from service.decoding.reduction import Reduced
from service.engine import messages
from service.engine.agreement import Agreement
from service.engine.check import WrongAnswerError
from service.engine.dispatcher import LEAST_GRANTED
from service.engine.engine import LONGEST_RETRY, Engine
from service.engine.errors import (
    CannotEncodeError,
    DeadlineError,
    LoadError,
    ModelGoneError,
    NotReadyError,
    OverloadedError,
    WorkersLostError,
)
from service.engine.handle import WorkerHandle
from service.engine.queue import SHARED, Entries, Job
from service.engine.status import SharedStatus
from service.engine.supervisor import MOST_PASSES, STEADY_CHECKS, STEADY_SECONDS
from service.http.metrics import Metrics
from tests.models.test_bundle import DESCRIPTION

BYTES = 100


def job(
    deadline: float = 60.0,
    high: bool = False,
    max_draws: int = 1000,
    size: int = BYTES,
    owner: int = SHARED,
) -> Job:
    picture = Reduced(size, 1, "L", 8, [], False, bytes(size))
    question = Question(0.95, max_draws, None, "l2")
    return Job(0, picture, question, 10, time.monotonic() + deadline, high, owner=owner)


def build(devices: int = 1, queue: int = 8, **more: Any) -> Engine:
    return Engine(
        more.get("catalogue") or Catalogue([ZOO / "mnist-cnn"]),
        ["cpu"] * devices,
        precision=None,
        provider="pytorch",
        int8=True,
        pass_size=None,
        compiled=False,
        pins=more.get("pins", {}),
        queue=queue,
        shrink=more.get("shrink", False),
        stall_seconds=10,
        load_seconds=60,
        check_seconds=60,
        observer=Metrics(),
        on_broken=more.get("on_broken", lambda reason: None),
    )


def open_worker(
    engine: Engine, number: int = 0, pass_size: int = 32, speed: float = 1000.0
) -> WorkerHandle:
    """Make a worker ready; passes of 32 slots give a window of 8 pictures."""
    worker = engine._workers[number]
    worker.loaded = worker.ready = True
    worker.calibrations = {0: Calibration("float32", pass_size, speed)}
    engine._dispatcher.opened(worker)
    return worker


def taken(engine: Engine, number: int = 0) -> Entries:
    """Return the pictures that a worker has."""
    return engine._dispatcher.entries(engine._workers[number])


def kill(engine: Engine, worker: WorkerHandle, running: set[int] | None = None) -> None:
    worker.forget()
    entries = engine._dispatcher.entries(worker)
    engine._dispatcher.fallen(worker, set(entries) if running is None else running)


@asynccontextmanager
async def asking(engine: Engine, jobs: list[Job]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    tasks = [asyncio.create_task(engine.predict(one)) for one in jobs]
    await asyncio.sleep(0)
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert engine._preparing.total() == engine.queued == engine.in_flight == 0


async def refusal(task: Awaitable[Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - returned for a look
        await asyncio.wait_for(task, 10)
    return caught.value


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_before_the_first_worker_is_ready_pictures_are_refused() -> None:
    async def test() -> None:
        engine = build()
        assert isinstance(await refusal(engine.predict(job())), NotReadyError)

    run(test)


def test_without_a_model_it_is_not_ready() -> None:
    async def test() -> None:
        catalogue = Catalogue([ZOO / "mnist-cnn"])
        engine = build(catalogue=catalogue)
        open_worker(engine)
        assert engine.ready
        catalogue.drop(catalogue.models[0])
        assert not engine.ready

    run(test)


def test_while_all_workers_restart_pictures_wait() -> None:
    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        kill(engine, worker)
        assert not engine.ready
        async with asking(engine, [job(), job()]) as tasks:
            assert engine.queued == 2
            open_worker(engine)
            assert (engine.queued, engine.in_flight) == (0, 2)
            assert not any(task.done() for task in tasks)

    run(test)


def test_a_picture_is_refused_after_two_workers_died_while_running_it() -> None:
    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        with structlog.testing.capture_logs() as logs:
            async with asking(engine, [job()]) as [task]:
                kill(engine, worker)
                assert engine.queued == 1
                kill(engine, open_worker(engine))
                assert isinstance(await refusal(task), WorkersLostError)
        digest = job().picture.digest
        assert [entry["picture"] for entry in logs if "picture" in entry] == [f"sha256:{digest}"]

    run(test)


def test_waiting_and_starting_do_not_count() -> None:
    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        async with asking(engine, [job(), job()]) as tasks:
            first, second = taken(engine)
            for _ in range(5):
                kill(engine, worker, running=set())
                open_worker(engine)
            entries = taken(engine)
            assert entries[first].deaths == entries[first].suspicions == 0
            for _ in range(2):
                kill(engine, worker, running={first})
                open_worker(engine)
                entries = taken(engine)
            assert isinstance(await refusal(tasks[0]), WorkersLostError)
            assert not tasks[1].done()
            assert entries[second].deaths == entries[second].suspicions == 0

    run(test)


def test_a_picture_that_shared_a_deadly_pass_is_cleared_in_a_pass_of_its_own() -> None:
    """One of two pictures is deadly; the other is answered."""

    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        async with asking(engine, [job(), job()]) as tasks:
            deadly, other = taken(engine)
            kill(engine, worker, running={deadly, other})
            open_worker(engine)
            entries = taken(engine)
            assert [entry.admission().alone for entry in entries.values()] == [1, 1]
            kill(engine, worker, running={deadly})
            open_worker(engine)
            entries = taken(engine)
            assert entries[deadly].admission().alone == 1000
            assert entries[other].admission().alone == 1
            kill(engine, worker, running={deadly})
            assert isinstance(await refusal(tasks[0]), WorkersLostError)
            open_worker(engine)
            assert not tasks[1].done()
            assert taken(engine).keys() == {other}

    run(test)


def test_many_shared_deaths_refuse_nobody() -> None:
    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        async with asking(engine, [job(), job()]) as tasks:
            for _ in range(10):
                kill(engine, worker)
                open_worker(engine)
            assert not any(task.done() for task in tasks)
            assert all(entry.admission().alone == 1000 for entry in taken(engine).values())

    run(test)


def test_each_run_of_a_picture_is_counted() -> None:
    """Each run has its own share of α."""

    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        async with asking(engine, [job(), job()]) as tasks:
            first, _ = taken(engine)
            assert [one.admission().restarts for one in taken(engine).values()] == [0, 0]
            for restarts in (1, 2, 3):
                kill(engine, worker, running=set())
                open_worker(engine)
                found = [one.admission().restarts for one in taken(engine).values()]
                assert found == [restarts, restarts], "whatever ended the run"
            assert taken(engine)[first].deaths == 0
            assert not any(task.done() for task in tasks)

    run(test)


def test_pictures_of_a_dead_worker_go_first_and_in_order() -> None:
    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        async with asking(engine, [job() for _ in range(worker.window + 3)]):
            before = list(taken(engine))
            assert len(before) == worker.window
            assert engine.queued == 3
            kill(engine, worker, running=set())
            open_worker(engine)
            assert list(taken(engine)) == before

    run(test)


def test_a_refused_picture_is_freed_at_once() -> None:
    """Not only when garbage is collected, which is much later under load."""

    async def test() -> None:
        engine = build()
        kill(engine, open_worker(engine))
        asked = job(deadline=0.01)
        picture = weakref.ref(asked.picture)
        gc.disable()
        try:
            with pytest.raises(DeadlineError):
                await engine.predict(asked)
            del asked
            await asyncio.sleep(0)
            assert picture() is None
        finally:
            gc.enable()

    run(test)


def test_high_priority_does_not_wait_for_room() -> None:
    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        normal, high = [job() for _ in range(worker.window)], [job(high=True) for _ in range(3)]
        async with asking(engine, normal + high):
            assert [one.job.high for one in taken(engine).values()] == [False] * worker.window + [
                True,
                True,
            ]
            assert engine.queued == 1

    run(test)


def test_the_queue_is_bounded_in_pictures() -> None:
    async def test() -> None:
        engine = build(queue=4)
        worker = open_worker(engine)
        async with asking(engine, [job() for _ in range(worker.window + 4)]):
            assert (engine.in_flight, engine.queued) == (worker.window, 4)
            assert engine.full
            assert isinstance(await refusal(engine.predict(job())), OverloadedError)
            with pytest.raises(OverloadedError), engine.preparing():
                pass

    run(test)


def test_pictures_being_decoded_keep_their_place() -> None:
    async def test() -> None:
        engine = build(queue=2)
        open_worker(engine)
        with engine.preparing(), engine.preparing():
            assert engine.full
            assert isinstance(await refusal(engine.predict(job())), OverloadedError)
        assert not engine.full

    run(test)


def test_clients_are_told_how_long_the_queue_will_take() -> None:
    async def test() -> None:
        engine = build(queue=100)
        worker = open_worker(engine)  # 1000 draws a second
        assert engine.retry_seconds == 1
        async with asking(engine, [job(max_draws=1000) for _ in range(worker.window + 10)]):
            assert engine.queued == 10
            assert engine.retry_seconds == 5, "when half the draws of ten seconds are made"
            more = [asyncio.create_task(engine.predict(job(max_draws=100_000))) for _ in range(2)]
            await asyncio.sleep(0)
            assert engine.retry_seconds == LONGEST_RETRY
            for task in more:
                task.cancel()
            await asyncio.gather(*more, return_exceptions=True)
            assert engine.retry_seconds == 5
        assert engine.retry_seconds == 1

    run(test)


def test_a_picture_leaves_the_queue_at_its_deadline() -> None:
    async def test() -> None:
        engine = build()
        kill(engine, open_worker(engine))
        assert isinstance(await refusal(engine.predict(job(deadline=0.05))), DeadlineError)
        assert engine.queued == 0

    run(test)


def conclusion() -> Conclusion:
    """A worker's messages about a picture, all taken from a real inquiry."""
    inquiry = Inquiry(Question(0.95, 1000, None, "l2"), TERMS, 10, "votes")
    votes = np.zeros((64, 10), dtype=np.int64)
    votes[:, 3] = 1
    inquiry.add_to_look(votes)
    assert inquiry.look
    return conclude(inquiry, 3, None)


TERMS = Terms(mechanism="gaussian", scale=1.0, sensitivity=1.0, norm="l2", values=784)


def draft(number: int) -> messages.Answer:
    execution = Execution("pytorch", "float32", 32, False)
    return messages.Answer(
        id=number,
        conclusion=conclusion(),
        execution=execution,
        queue_seconds=0.0,
        compute_seconds=0.1,
        looks=[(64, 0.1)],
        draft=True,
    )


def silence(engine: Engine, worker: WorkerHandle) -> None:
    """Make a worker show no sign of life for a long time."""
    worker.quiet = worker.silent = True
    engine._dispatcher.silent(worker)


def test_deadlines_are_kept_whatever_the_worker_does() -> None:
    """It gets time for one pass; then the answer is what it had reached before."""

    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        assert worker.late_seconds > 0
        jobs = [job(deadline=0.05), job(deadline=0.05), job()]
        async with asking(engine, jobs) as tasks:
            first, second, third = taken(engine)
            for number in (first, third):
                engine._dispatcher.heard(worker, draft(number))
            assert not any(task.done() for task in tasks)
            assert (await asyncio.wait_for(tasks[0], 60)).conclusion == conclusion()
            error = await refusal(tasks[1])
            assert isinstance(error, DeadlineError)
            assert "did not answer" in str(error)
            assert list(taken(engine)) == [third], "others have taken their places"
            engine._dispatcher.heard(worker, draft(second))  # which is too late for everybody

    run(test)


def test_pictures_of_a_silent_worker_go_to_others() -> None:
    async def test() -> None:
        engine = build(devices=2)
        quiet = open_worker(engine)
        async with asking(engine, [job(), job(), job(deadline=-1)]) as tasks:
            first, _, late = list(taken(engine).values())
            silence(engine, quiet)
            assert len(taken(engine)) == 3, "as there is no other worker"
            assert not engine.ready
            open_worker(engine, 1)
            assert engine.ready
            engine._dispatcher.heard(quiet, draft(late.id))
            engine._dispatcher.silent(quiet)
            assert not taken(engine)
            assert next(iter(taken(engine, 1).values())) is first
            assert [one.admission().restarts for one in taken(engine, 1).values()] == [1, 1]
            assert (await asyncio.wait_for(tasks[2], 60)).conclusion == conclusion()
            # What it says of the former run does not count for this one.
            engine._dispatcher.heard(quiet, draft(1))
            engine._dispatcher.heard(quiet, messages.Failed(id=1, reason="odd"))
            engine._dispatcher.heard(quiet, messages.Late(id=2))
            assert first.draft is None
            assert not tasks[0].done()
            assert not tasks[1].done()

    run(test)


def test_a_quiet_worker_is_sent_no_more_until_it_speaks() -> None:
    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        worker.quiet = True
        assert engine.ready
        async with asking(engine, [job()]):
            assert (engine.queued, engine.in_flight) == (1, 0)
            worker.quiet = False
            engine._dispatcher.opened(worker)
            assert (engine.queued, engine.in_flight) == (0, 1)

    run(test)


def test_a_new_run_does_not_use_drafts_of_the_former() -> None:
    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        async with asking(engine, [job(deadline=0.3)]) as [task]:
            [number] = taken(engine)
            engine._dispatcher.heard(worker, draft(number))
            engine._dispatcher.heard(worker, messages.Begun(id=number))
            assert isinstance(await refusal(task), DeadlineError)

    run(test)


def test_a_failing_listener_for_looks_harms_no_other() -> None:
    async def test() -> None:
        engine = build()
        worker = open_worker(engine)

        def fail(reached: Conclusion | None) -> None:
            raise KeyError("odd")

        told = asyncio.create_task(engine.predict(job(), fail))
        async with asking(engine, [job()]) as [other]:
            first, second = taken(engine)
            for number in (first, second):
                engine._dispatcher.heard(worker, messages.Look(id=number, conclusion=conclusion()))
            assert isinstance(await refusal(told), KeyError)
            kill(engine, worker)
            assert engine.queued == 1
            assert not other.done()

    run(test)


def test_high_priority_goes_first_but_starves_nobody() -> None:
    async def test() -> None:
        engine = build(queue=100)
        kill(engine, open_worker(engine))
        jobs = [job() for _ in range(4)] + [job(high=True) for _ in range(16)]
        async with asking(engine, jobs):
            open_worker(engine, pass_size=32 * 50)
            entries = taken(engine).values()
            order = "".join("h" if entry.job.high else "n" for entry in entries)
            assert order == "hhhn" * 4 + "hhhh"

    run(test)


def test_budgets_shrink_as_the_queue_fills() -> None:
    async def test() -> None:
        engine = build(queue=8, shrink=True)
        kill(engine, open_worker(engine))
        async with asking(engine, [job(max_draws=8000) for _ in range(8)]):
            open_worker(engine, pass_size=32 * 50)
            entries = taken(engine).values()
            # Seven wait behind the first; the queue has room for eight.
            assert [one.granted for one in entries] == [1000] * 4 + [2000] * 2 + [4000, 8000]
        async with asking(engine, [job(max_draws=200) for _ in range(8)]):
            granted = {one.granted for one in taken(engine).values()}
            assert min(granted) >= LEAST_GRANTED

    run(test)


def test_a_key_has_places_of_its_own_whatever_another_has() -> None:
    async def test() -> None:
        engine = build(queue=1000)
        worker = open_worker(engine)
        greedy = [job(owner=1, high=number % 2 == 0) for number in range(100)]
        async with asking(engine, greedy + [job(owner=2) for _ in range(3)]) as tasks:
            own = tasks[100:]
            owners = [one.job.owner for one in taken(engine).values()]
            assert owners.count(2) == worker.window // 4 < len(own)
            waiting = engine.queued
            for task in own[:2]:
                task.cancel()
            await asyncio.gather(*own[:2], return_exceptions=True)
            # The third goes before all that came earlier.
            assert [one.job.owner for one in taken(engine).values()].count(2) == 1
            assert engine.queued == waiting - 1

    run(test)


def test_a_key_has_half_of_the_queue() -> None:
    async def test() -> None:
        engine = build(queue=8, shrink=True)
        worker = open_worker(engine)
        async with asking(engine, [job(owner=1) for _ in range(worker.window + 4)]) as tasks:
            assert isinstance(await refusal(engine.predict(job(owner=1))), OverloadedError)
            with pytest.raises(OverloadedError), engine.preparing(1):
                pass
            assert not engine.full
            with engine.preparing(2):
                other = asyncio.create_task(engine.predict(job(max_draws=8000, owner=2)))
                await asyncio.sleep(0)
            [entry] = [one for one in taken(engine).values() if one.job.owner == 2]
            assert engine.shrinkage > 1
            assert entry.granted == 8000, "only clients that fill the queue pay"
            tasks.append(other)
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)

    run(test)


def test_a_budget_that_must_be_used_in_full_never_shrinks() -> None:
    async def test() -> None:
        engine = build(queue=8, shrink=True)
        kill(engine, open_worker(engine))
        async with asking(engine, [replace(job(max_draws=2040), whole=True) for _ in range(8)]):
            open_worker(engine, pass_size=32 * 50, speed=1.0)
            assert [one.granted for one in taken(engine).values()] == [2040] * 8

    run(test)


def granted(speed: float, deadline: float, asked: int, pictures: int = 1) -> list[int]:
    found: list[int] = []

    async def test() -> None:
        engine = build(shrink=True)
        kill(engine, open_worker(engine))
        jobs = [job(deadline=deadline, max_draws=asked) for _ in range(pictures)]
        async with asking(engine, jobs):
            open_worker(engine, speed=speed)
            found.extend(one.granted for one in taken(engine).values())

    run(test)
    return found


def test_budgets_fit_into_the_time_that_is_left() -> None:
    assert granted(1000.0, 60.0, 100_000) == [100_000], "the deadline ends it, at a look"
    assert granted(1.0, 60.0, 1000) == [LEAST_DRAWS], "the minimum, even if it may be late"
    [some] = granted(4.0, 60.0, 1000)
    assert 100 <= some <= 120
    assert granted(4.0, 60.0, 80) == [80]
    first, *others = granted(4.0, 60.0, 1000, pictures=4)
    assert first == some
    assert others == [LEAST_DRAWS] * 3, "they share the worker"


def test_answers_and_failures_reach_their_clients() -> None:
    async def test() -> None:
        engine = build()
        worker = open_worker(engine)
        async with asking(engine, [job(), job()]) as tasks:
            first, second = taken(engine)
            engine._dispatcher.heard(worker, messages.Failed(id=first, reason="too odd"))
            engine._dispatcher.heard(worker, messages.Late(id=second))
            error = await refusal(tasks[0])
            assert isinstance(error, CannotEncodeError)
            assert "too odd" in str(error)
            assert isinstance(await refusal(tasks[1]), DeadlineError)

    run(test)


def test_taking_a_worker_out_for_wrong_answers_blames_no_picture() -> None:
    async def test() -> None:
        engine = build()
        open_worker(engine)
        supervisor = engine._supervisors[0]
        async with asking(engine, [job()]) as [task]:
            [entry] = taken(engine).values()
            for told, deaths in ((True, 0), (True, 0), (False, 1)):
                status = SharedStatus.create()
                status.begin([entry.id])
                supervisor._told = told
                entry.draft = draft(entry.id)
                supervisor._fall(status)
                status.close()
                assert (entry.deaths, entry.suspicions) == (deaths, 0)
                open_worker(engine)
            assert entry.restarts == 3
            assert not task.done()

    run(test)


def test_drafts_of_a_faulty_worker_are_never_answers() -> None:
    async def test() -> None:
        engine = build()
        open_worker(engine)
        supervisor = engine._supervisors[0]
        async with asking(engine, [job(deadline=0.0)]) as [task]:
            [entry] = taken(engine).values()
            engine._dispatcher.heard(supervisor.worker, draft(entry.id))
            supervisor._told = True
            status = SharedStatus.create()
            supervisor._fall(status)
            status.close()
            assert isinstance(await refusal(task), DeadlineError)

    run(test)


def test_a_probe_waits_for_a_number_of_passes_and_no_longer() -> None:
    """However long they take; the watchdog finds a worker that makes none."""

    async def test() -> None:
        engine = build()
        open_worker(engine)
        supervisor = engine._supervisors[0]
        probing = asyncio.create_task(supervisor._probe(0))
        await asyncio.sleep(0)
        half = messages.Numbers(
            passes=MOST_PASSES // 2,
            slots=0,
            filled=0,
            busy_seconds=0.0,
            memory_used=0,
            memory=0,
        )
        for _ in range(2):
            supervisor._receive(half)
        await asyncio.sleep(0)
        assert not probing.done()
        supervisor._receive(half)
        error = await refusal(probing)
        assert isinstance(error, LoadError)
        assert not isinstance(error, WrongAnswerError)
        assert not supervisor._probes
        assert not supervisor._probe_passes

    run(test)


def test_living_long_does_not_make_a_worker_that_fails_self_checks_steady() -> None:
    supervisor = build()._supervisors[0]
    assert supervisor._steady_seconds == STEADY_SECONDS
    supervisor._told = True
    assert supervisor._steady_seconds == STEADY_CHECKS * 60


def test_a_model_that_is_no_longer_served() -> None:
    async def test() -> None:
        engine = build()
        open_worker(engine)
        async with asking(engine, [job()]) as [task]:
            leaving = asyncio.create_task(engine.unload("mnist-cnn"))
            await asyncio.sleep(0)
            assert not leaving.done(), "it waits for the picture in flight"
            assert engine.in_flight == 1
            task.cancel()
            await asyncio.wait_for(leaving, 5)
        assert isinstance(await refusal(engine.predict(job())), ModelGoneError)

    run(test)


def test_models_are_not_loaded_without_a_worker(tmp_path: Path) -> None:
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path, manifest, build_network(manifest))

    async def test() -> None:
        with pytest.raises(NotReadyError):
            await build().load_all([tmp_path])

    run(test)


def test_a_model_that_a_worker_cannot_load_changes_nothing(tmp_path: Path) -> None:
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path, manifest, build_network(manifest))

    async def test() -> None:
        catalogue = Catalogue([ZOO / "mnist-cnn"])
        engine = build(catalogue=catalogue)
        open_worker(engine)
        with pytest.raises(LoadError, match="gone"):  # this worker has no process
            await engine.load_all([tmp_path])
        assert [served.index for served in catalogue.models] == [0]
        assert [served.index for served in catalogue.held] == [0]
        [served] = await engine.load_all([ZOO / "mnist-cnn"])
        assert served.index == 0, "the served models stay as they are"

    run(test)


def fail(engine: Engine, number: int, reason: str, told: bool = False) -> None:
    """Make a worker fail, as its supervisor reports it."""
    supervisor = engine._supervisors[number]
    worker = supervisor.worker
    worker.trouble = f"{worker.name} on {worker.device}: {reason}"
    supervisor._told = told
    supervisor._note_death()


def test_failures_before_any_worker_was_ready_end_the_service() -> None:
    async def test() -> None:
        reasons: list[str] = []
        engine = build(devices=2, on_broken=reasons.append)
        fail(engine, 1, "first")
        assert not reasons, "the other has not failed yet"
        fail(engine, 1, "second", told=True)
        assert reasons == ["a worker cannot start: worker1 on cpu: second"]
        reasons.clear()
        fail(engine, 0, "third")
        assert reasons == ["a worker cannot start: worker0 on cpu: third"]

    run(test)


def test_once_a_worker_was_ready_others_are_waited_for() -> None:
    async def test() -> None:
        reasons: list[str] = []
        engine = build(devices=2, on_broken=reasons.append)
        open_worker(engine, 1)
        fail(engine, 0, "first", told=True)
        assert engine.trouble == "worker0 on cpu: first"
        kill(engine, engine._workers[1])
        fail(engine, 0, "second", told=True)
        assert not reasons, "it may be over soon, so pictures wait"
        engine._supervisors[0].failures = 9
        fail(engine, 0, "third")
        assert not reasons, "as before, for example if it was killed"
        fail(engine, 0, "fourth", told=True)
        assert reasons == ["a worker cannot start: worker0 on cpu: fourth"]

    run(test)


@pytest.mark.parametrize("pinned", [True, False])
def test_a_worker_that_does_not_run_a_model_as_pinned_is_given_up(pinned: bool) -> None:
    """For example because passes of that size no longer fit into memory."""
    catalogue = Catalogue([ZOO / "mnist-cnn"])
    way = {catalogue.bundles[0].digest: Execution("pytorch", "float32", 32, False)}
    engine = build(catalogue=catalogue, pins=way if pinned else {})
    open_worker(engine)
    [supervisor] = engine._supervisors
    same = Calibration("float32", 32, 1.0)
    supervisor._receive(messages.Recalibrated(model=0, calibration=same))
    assert not supervisor._told
    smaller = Calibration("float32", 16, 1.0)
    supervisor._receive(messages.Recalibrated(model=0, calibration=smaller))
    assert supervisor._told == pinned
    if pinned:
        reason = "does not run mnist-cnn as PIXELDP_PIN requires: pytorch/float32/16/False"
        assert reason in supervisor._reason
    [served] = catalogue.models
    told = engine._agreement.describe(served, supervisor.worker).pass_size
    assert told == (32 if pinned else 16), "memory may have been short for a moment"
    supervisor._receive(messages.Restored(model=0, calibration=same))
    assert supervisor.worker.calibrations == {0: same}
    assert engine._agreement.describe(served, supervisor.worker).pass_size == (
        32 if pinned else None
    )


def test_workers_are_told_of_pins_and_compile_nothing_else() -> None:
    catalogue = Catalogue([ZOO / "mnist-cnn", ZOO / "mnist-cnn-l1"])
    one, other = catalogue.models
    way = Execution("pytorch", "float32", 32, False)
    worker = WorkerHandle("worker0", "cpu")
    numbers = [one.index, other.index]
    agreement = Agreement([worker], None, None, True, 256, numbers, {one.bundle.digest: way})
    told = agreement.describe(one, worker)
    assert (told.pin, told.pass_size) == (way, 32)
    agreement.limit(worker, one.index, 16)
    assert agreement.describe(one, worker).pass_size == 16
    worker.calibrations = {one.index: Calibration("float32", 32, 1.0)}
    sent: list[messages.ToWorker] = []
    worker.send = lambda message, payload=b"": sent.append(message)  # type: ignore[method-assign]
    agreement.wait(worker, [one])
    assert isinstance(sent.pop(), messages.Run), "there is nothing to measure"
    agreement.compile(worker)
    assert not sent
    with pytest.raises(LoadError, match="PIXELDP_PIN names no h of mnist-cnn-l1:1, sha256:"):
        agreement.describe(other, worker)
    free = Agreement([worker], None, None, True, 256, numbers, {})
    assert free.describe(other, worker).pin is None
    free.compile(worker)
    assert sent == [messages.Compile(models=[one.index], compare=True)]
