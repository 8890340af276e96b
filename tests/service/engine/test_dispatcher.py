"""One field says where a picture is, and queue and workers always agree with it."""

import ast
import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.certification.answer import Conclusion
from models.execution import Calibration
from service.engine import dispatcher, messages
from service.engine.dispatcher import Dispatcher
from service.engine.handle import WorkerHandle
from service.engine.queue import Entries, Entry, Queue
from service.http.metrics import Metrics
from tests.names import modules
from tests.service.engine.test_engine import conclusion, draft, job

METRICS = Metrics()
WORKERS = 2
# All that may happen to a picture or a worker; a number says to which.
ROADS = (
    "ask",
    "ask again",
    "ask in a hurry",
    "ask for looks that fail",
    "open",
    "die",
    "die at once",
    "die for wrong answers",
    "quiet",
    "silence",
    "speak",
    "look",
    "draft",
    "begun anew",
    "answer",
    "late",
    "failed",
    "answer of a run that is over",
    "deadline",
    "end",
    "leave",
)


def content(place: Queue | Entries) -> list[Entry]:
    """Return the pictures that a place holds, from its own records."""
    if isinstance(place, Entries):
        assert all(entry.id == number for number, entry in place.items())
        return list(place.values())
    queues = [queue for owners in place._queues.values() for queue in owners.values()]
    assert all(queues)
    return [entry for queue in queues for entry in queue]


class Front:
    """A dispatcher, its workers and its clients; the tests play the rest."""

    def __init__(self, entries: list[Entry]) -> None:
        self.workers = [WorkerHandle(f"worker{i}", "cpu") for i in range(WORKERS)]
        self.dispatcher = Dispatcher(self.workers, 8, True, METRICS)
        self.entries = entries
        self.clients: list[asyncio.Task[object]] = []
        self.former: list[int] = []

    def go(self, road: str, number: int) -> None:
        """Make something happen."""
        worker = self.workers[number % WORKERS]
        if road.startswith("ask"):
            self._ask(road, number)
        elif road == "leave":
            if self.clients:
                self.clients[number % len(self.clients)].cancel()
        elif road in ("deadline", "end"):
            if self.entries:
                call = {"deadline": self.dispatcher._expire, "end": self.dispatcher._end}[road]
                call(self.entries[number % len(self.entries)])
        elif road in ("open", "die", "die at once", "die for wrong answers"):
            self._change(road, worker)
        elif worker.ready and road in ("quiet", "silence", "speak"):
            worker.quiet, worker.silent = road != "speak", road == "silence"
            {"silence": self.dispatcher.silent, "speak": self.dispatcher.opened}.get(
                road, lambda worker: None
            )(worker)
        else:
            self._hear(road, worker, number)

    def _ask(self, road: str, number: int) -> None:
        def fail(reached: Conclusion | None) -> None:
            raise KeyError("odd")

        asked = job(-1.0 if "hurry" in road else 60.0, number % 2 == 0, owner=number % 3)
        on_look = fail if "fail" in road else None
        self.clients.append(asyncio.create_task(self.dispatcher.answer(asked, on_look)))

    def _change(self, road: str, worker: WorkerHandle) -> None:
        if road == "open" and not worker.ready:
            worker.loaded = worker.ready = True
            worker.calibrations = {0: Calibration("float32", 32, 1000.0)}
            self.dispatcher.opened(worker)
        elif road != "open":
            worker.forget()
            ids = set(self.dispatcher.entries(worker))
            self.former += ids
            running = set() if road == "die" else set(list(ids)[:1])
            self.dispatcher.fallen(worker, running, wrong="wrong" in road)

    def _hear(self, road: str, worker: WorkerHandle, number: int) -> None:
        known = list(self.dispatcher.entries(worker))
        if "over" in road:
            known = self.former
        if not known:
            return
        picture = known[number % len(known)]
        self.former.append(picture)
        said: dict[str, Callable[[], messages.OfPicture]] = {
            "look": lambda: messages.Look(id=picture, conclusion=conclusion()),
            "draft": lambda: draft(picture),
            "begun anew": lambda: messages.Begun(id=picture),
            "late": lambda: messages.Late(id=picture),
            "failed": lambda: messages.Failed(id=picture, reason="odd"),
        }
        answer = draft(picture).model_copy(update={"draft": False})
        self.dispatcher.heard(worker, said.get(road, lambda: answer)())
        if road in ("answer", "late", "failed"):
            assert picture not in self.dispatcher.entries(worker)

    def check(self) -> None:
        """Compare each entry's place with what the queue and the workers hold."""
        queue = self.dispatcher.queue
        places = [queue, *(self.dispatcher.entries(worker) for worker in self.workers)]
        found = [(entry, place) for place in places for entry in content(place)]
        assert all(entry.place is place for entry, place in found)
        held = [entry for entry, _ in found]
        assert len(held) == len(set(held)) == len(queue) + self.dispatcher.in_flight
        assert set(held) == {entry for entry in self.entries if entry.place is not None}
        assert all(entry.place is not None or entry.answer.done() for entry in self.entries)
        assert not any(self.dispatcher.entries(one) for one in self.workers if not one.ready)
        for place in places:
            owners = Counter(entry.job.owner for entry in content(place))
            assert [place.of(owner) for owner in range(3)] == [owners[one] for one in range(3)]
        asked = sum(entry.job.question.max_draws for entry in content(queue))
        assert queue.draws.total() == asked

    async def drain(self) -> None:
        """End all workers, and have all clients get answers or leave."""
        for worker in self.workers:
            self._change("die", worker)
            self.check()
        for client in self.clients:
            client.cancel()
        await asyncio.gather(*self.clients, return_exceptions=True)
        self.check()
        assert all(entry.place is None for entry in self.entries)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, WORKERS),
    st.lists(st.tuples(st.sampled_from(ROADS), st.integers(0, 7), st.booleans()), max_size=60),
)
def test_no_sequence_puts_a_picture_in_two_places_or_in_none(
    ready: int, roads: list[tuple[str, int, bool]]
) -> None:
    async def test() -> None:
        entries: list[Entry] = []

        class Noted(Entry):
            def __init__(self, *parts: Any) -> None:
                super().__init__(*parts)
                entries.append(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dispatcher, "Entry", Noted)
            front = Front(entries)
            for number in range(ready):
                front.go("open", number)
            for road, number, pause in roads:
                front.go(road, number)
                front.check()
                if pause:  # otherwise the clients' next steps would come during the next sequence
                    await asyncio.sleep(0)
                    front.check()
            await front.drain()

    asyncio.run(test())


def test_every_kind_of_event_has_an_effect() -> None:
    """This makes the sequences above meaningful."""

    async def test() -> None:
        front = Front([])
        asked = job()
        client = asyncio.create_task(front.dispatcher.answer(asked, None))
        await asyncio.sleep(0)
        [entry] = content(front.dispatcher.queue)
        front.entries.append(entry)
        assert entry.place is front.dispatcher.queue
        for road, place in (
            ("open", front.dispatcher.entries(front.workers[0])),
            ("die at once", front.dispatcher.queue),
            ("open", front.dispatcher.entries(front.workers[0])),
            ("answer", None),
        ):
            front.go(road, 0)
            front.check()
            assert entry.place is place
        result = await client
        assert result.device == "cpu"
        assert entry.sent <= time.monotonic()
        assert (entry.deaths, entry.restarts) == (1, 1)

    asyncio.run(test())


def test_only_one_method_sets_where_a_picture_is() -> None:
    writers = set()
    for module in modules().values():
        for function in ast.walk(module.tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                match node:
                    case ast.Attribute(attr="place", ctx=ast.Store()):
                        writers.add((module.name, function.name))
                    case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="place"), attr=name)):
                        writers.add((module.name, f"{function.name} {name}"))
    engine = {(module, name) for module, name in writers if module.startswith("service.engine.")}
    assert engine == {
        ("service.engine.queue", "move"),
        ("service.engine.queue", "move _remove"),
    }
