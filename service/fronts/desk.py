"""The main process's side of one front: what the front asks for, and what it is told."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import structlog

from models.certification.answer import AnyConclusion
from models.certification.question import Question
from models.images.decoding import Size
from service.decoding.decoders import Decoders
from service.decoding.reduction import Reduced, Task
from service.engine.engine import Engine
from service.engine.queue import Job
from service.fronts.failures import TOLD, NotAdmittedError, tell
from service.fronts.ledger import Account, Field
from service.fronts.remote import CONCLUSION
from service.fronts.totals import Snapshot
from service.fronts.wire import Kind, Wire
from service.http.guards.budget import Budget, File, Holding

log = structlog.get_logger(__name__)


class Office(Protocol):
    """What the fronts share in the main process."""

    engine: Engine
    decoders: Decoders

    async def scrape(self) -> bytes:
        """Return the metrics of the whole service."""

    def heard(self) -> None:
        """A front knows or serves what it did not."""


class Desk:
    """One front.

    Args:
        office: what it shares with the others.
        account: what it holds.

    Attributes:
        known: the number of the last announcement that it knows.
        serving: whether it listens.
        silent: for how many checks it has not answered.
        snapshot: its metrics, as they were told last.
    """

    def __init__(self, office: Office, account: Account) -> None:
        self._office, self._account = office, account
        self.wire = Wire(self._hear, self._lose)
        self.bulk = Wire(self._hear_bulk, self._lose)
        self.known = self.silent = 0
        self.serving = False
        self.snapshot: Snapshot = []
        self._collected: dict[int, asyncio.Future[None]] = {}
        self._tasks: dict[tuple[Wire, int], asyncio.Task[None]] = {}
        self._admits: dict[int, asyncio.Future[bool]] = {}
        self.gone = asyncio.Event()

    def close(self) -> None:
        """Forget everything that the front has asked for; its pictures leave the workers."""
        self._lose()
        self.wire.close()
        self.bulk.close()
        for task in self._tasks.values():
            task.cancel()

    async def settled(self) -> None:
        """Wait until nothing is done for it any more."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def collect(self, number: int, seconds: float) -> None:
        """Have the front tell its metrics, if it does within ``seconds``."""
        told = self._collected[number] = asyncio.get_running_loop().create_future()
        self.wire.send(Kind.COLLECT, number)
        try:
            await asyncio.wait([told], timeout=seconds)
        finally:
            del self._collected[number]

    def _lose(self) -> None:
        self.gone.set()
        self._office.heard()
        waiting: list[asyncio.Future[Any]] = [*self._collected.values(), *self._admits.values()]
        for one in waiting:
            if not one.done():
                one.cancel()

    def _hear(self, kind: Kind, number: int, header: Any, payload: bytes) -> None:
        match kind:
            case Kind.ASK:
                self._ask(number, header, payload)
            case Kind.CANCEL:
                self._cancel(self.wire, number)
            case Kind.LOAD:
                self._begin(self.wire, number, self._load([Path(path) for path in header]))
            case Kind.UNLOAD:
                self._begin(self.wire, number, self._office.engine.unload(*header))
            case Kind.SCRAPE:
                self._begin(self.wire, number, self._scrape())
            case Kind.SNAPSHOT:
                self.snapshot = [(name, labels, value) for name, labels, value in header]
                if (told := self._collected.get(number)) and not told.done():
                    told.set_result(None)
            case Kind.KNOWN:
                self.known = max(self.known, number)
                self._office.heard()
            case Kind.SERVING:
                self.serving = True
                self._office.heard()
        self.silent = 0

    def _hear_bulk(self, kind: Kind, number: int, header: Any, payload: bytes) -> None:
        match kind:
            case Kind.DECODE:
                owner, task = header
                task = Task(task["max_pixels"], tuple(task["shape"]), task["side"])
                # The front holds it on its account.
                file = File(payload, Holding(Budget(0)))
                self._begin(self.bulk, number, self._decode(number, owner, task, file))
            case Kind.ADMIT:
                if (admit := self._admits.get(number)) and not admit.done():
                    admit.set_result(header)
            case Kind.CANCEL:
                self._cancel(self.bulk, number)

    def _begin(self, wire: Wire, number: int, work: Coroutine[Any, Any, Any]) -> None:
        """Do work for the front, and tell it what becomes of it."""

        async def done() -> None:
            try:
                header, payload = await work or (None, b"")
                wire.send(Kind.ANSWER, number, header, payload)
            except Exception as error:
                if not isinstance(error, TOLD):
                    log.exception("work for a front failed")
                wire.send(Kind.ERROR, number, tell(error))

        def end(task: asyncio.Task[None]) -> None:
            del self._tasks[wire, number]
            work.close()  # if it was cancelled before it began

        task = self._tasks[wire, number] = asyncio.create_task(done())
        task.add_done_callback(end)

    def _cancel(self, wire: Wire, number: int) -> None:
        if task := self._tasks.get((wire, number)):
            task.cancel()

    def _ask(self, number: int, told: list[Any], content: bytes) -> None:
        """Have a picture answered, which waits at the front until it is in the queue here."""
        owner, arrived = told[5], False

        def arrive(_: object = None) -> None:
            nonlocal arrived
            if not arrived:
                self._account.add(Field.ARRIVED, -1, owner)
            arrived = True

        self._begin(self.wire, number, self._answer(number, told, content, arrive))
        self._tasks[self.wire, number].add_done_callback(arrive)

    async def _answer(
        self, number: int, told: list[Any], content: bytes, arrive: Callable[[], None]
    ) -> tuple[list[Any], bytes]:
        model, scores, deadline, high, attacks, owner, whole, *about = told
        width, height, mode, bits, *rest = about
        sensitivities, prepared, confidence, draws, target, norm, allow, masks, progress = rest
        known = [(p, q, value) for p, q, value in sensitivities]
        job = Job(
            model=model,
            picture=Reduced(width, height, mode, bits, known, prepared, content),
            question=Question(
                confidence, draws, target, norm, allow=allow and tuple(allow), masks=masks
            ),
            scores=scores,
            deadline=deadline,
            high=high,
            attacks=attacks,
            owner=owner,
            whole=whole,
        )

        def look(reached: AnyConclusion | None) -> None:
            content = b"" if reached is None else CONCLUSION.dump_json(reached)
            self.wire.send(Kind.LOOK, number, None, content)

        arrive()
        outcome = await self._office.engine.answer(job, look if progress else None)
        return [outcome.granted, outcome.device, outcome.waited], outcome.answer.sealed()

    async def _decode(
        self, number: int, owner: int, task: Task, file: File
    ) -> tuple[list[Any], bytes]:
        async def admit(size: Size) -> None:
            admitted = self._admits[number] = asyncio.get_running_loop().create_future()
            self.bulk.send(Kind.SIZE, number, [size.width, size.height, size.scans])
            try:
                if not await admitted:
                    raise NotAdmittedError
            finally:
                del self._admits[number]

        found: Reduced = await self._office.decoders.reduce_large(file, task, owner, admit)
        header = [found.width, found.height, found.mode, found.bits]
        return [*header, found.sensitivities, found.prepared], found.content

    async def _load(self, paths: list[Path]) -> None:
        await self._office.engine.load_all(paths)

    async def _scrape(self) -> tuple[None, bytes]:
        return None, await self._office.scrape()
