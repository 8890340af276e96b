"""The application's backend in a front process: the way to the main process."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from pydantic import TypeAdapter

from models.bundle import Bundle, Manifest
from models.certification.answer import AnyConclusion
from models.execution import Calibration
from models.family import Family, FamilyFile
from models.images.decoding import Size
from service.catalogue import Catalogue, Served, ServedFamily
from service.decoding.reduction import Reduced, Task
from service.decoding.small import SmallPictures
from service.engine.errors import NotReadyError, OverloadedError
from service.engine.messages import Concluded, SealedAnswer
from service.engine.queue import SHARED, Job, Outcome, Result
from service.fronts.failures import restore
from service.fronts.ledger import Account, Field, Ledger, Sign
from service.fronts.shared import SharedBudget
from service.fronts.totals import snapshot
from service.fronts.wire import Kind, Wire
from service.http.guards.budget import File
from service.http.guards.keys import Allowance, Key, Keys
from service.http.guards.shared_rates import SHARING, shared_rates
from service.http.metrics import Metrics
from service.settings import Settings
from service.system import background

log = structlog.get_logger(__name__)

Running = dict[int, list[tuple[Calibration, str | None]]]
RUNNING: TypeAdapter[Running] = TypeAdapter(Running)
CONCLUSION: TypeAdapter[AnyConclusion] = TypeAdapter(Concluded)
Reply = tuple[Any, bytes]


class Mirror(Catalogue):
    """The main process's catalogue, as it was announced last."""

    def __init__(self) -> None:
        self._default, self._served, self._folders = "", {}, {}
        self.families = {}

    def show(self, told: dict[str, Any]) -> None:
        """Serve what is announced from now on."""
        served = [
            Served(index, Bundle(Path(path), Manifest.model_validate_json(manifest), digest))
            for index, path, manifest, digest in told["models"]
        ]
        self._default = told["default"]
        self._served = {one.key: one for one in served}
        self._folders = {(name, version): Path(path) for name, version, path in told["folders"]}
        described = [
            (Family(Path(path), FamilyFile.model_validate_json(file)), members)
            for path, file, members in told["families"]
        ]
        self.families = {
            family.file.name: ServedFamily(family, tuple((name, of) for name, of in members))
            for family, members in described
        }


class Asking:
    """Questions to the main process that wait for their answers.

    Args:
        wire: leads there.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}

    async def ask(
        self, kind: Kind, header: Any = None, payload: bytes = b"", number: int | None = None
    ) -> Reply:
        """Ask, and return the answer's header and payload; cancelling this withdraws the question.

        Raises:
            Exception: that the main process told.
        """
        number = self.number() if number is None else number
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self.wire.send(kind, number, header, payload)
        del payload
        try:
            return await answer
        except asyncio.CancelledError:
            self.wire.send(Kind.CANCEL, number)
            raise
        finally:
            del self._waiting[number], answer

    def number(self) -> int:
        """Return the number of the next question."""
        return next(self._numbers)

    def hear(self, kind: Kind, number: int, header: Any, payload: bytes) -> None:
        """Take an answer, for which nobody may wait any more."""
        answer = self._waiting.get(number)
        if answer is None or answer.done():
            return
        if kind is Kind.ERROR:
            answer.set_exception(restore(header))
        else:
            answer.set_result((header, payload))

    def fail(self, number: int, error: BaseException) -> None:
        """End a question for a reason of this process."""
        if (answer := self._waiting.get(number)) and not answer.done():
            answer.set_exception(error)


class RemoteEngine:
    """The engine, which is in the main process; see ``service.engine.engine.Engine``.

    Args:
        ledger: the shared numbers.
        account: those of this process.
        limit: the number of pictures that may wait.
        asking: leads to the main process.
    """

    def __init__(self, ledger: Ledger, account: Account, limit: int, asking: Asking) -> None:
        self._ledger, self._account, self._limit = ledger, account, limit
        self._asking = asking
        self._looks: dict[int, Callable[[AnyConclusion | None], None]] = {}
        self.workers: Running = {}
        self.trouble = ""
        self.draining = False

    @property
    def opened_once(self) -> bool:
        """Whether any worker has been ready."""
        return bool(self._ledger.said(Sign.OPENED))

    @property
    def ready(self) -> bool:
        """Whether pictures are answered now."""
        return bool(self._ledger.said(Sign.READY))

    @property
    def full(self) -> bool:
        """Whether no more pictures may wait."""
        return self._ledger.waiting() >= self._limit

    @property
    def retry_seconds(self) -> int:
        """The seconds after which there is likely to be room in the queue again."""
        return max(self._ledger.said(Sign.RETRY_SECONDS), 1)

    def running(self, model: int) -> list[tuple[Calibration, str | None]]:
        """Return how each ready worker runs a model, and why if not as agreed with the others."""
        return self.workers.get(model, [])

    def speed(self, model: int | None = None) -> float:
        """Return a ready worker's draws per second with a model, or any; 0 if none is ready."""
        speeds = (
            one.draws_per_second
            for number, ways in self.workers.items()
            if model is None or number == model
            for one, _ in ways
        )
        return max(speeds, default=0.0)

    def stop_changes(self) -> None:
        """The main process does."""

    @contextmanager
    def preparing(self, owner: int = SHARED) -> Iterator[None]:
        """Hold a place in the queue for a picture while it is decoded; as of ``Engine``."""
        if not self.opened_once:
            raise NotReadyError("the workers are still loading the models")
        self._account.add(Field.PLACES, 1, owner)
        try:
            # Those of this picture included: two fronts that take the last one both see both.
            waiting = self._ledger.waiting()
            if waiting > self._limit:
                raise OverloadedError(f"{waiting - 1} pictures are already waiting")
            mine = self._ledger.waiting(owner) if owner != SHARED else 0
            if mine > max(self._limit // 2, 1):
                raise OverloadedError(f"{mine - 1} pictures of this key are already waiting")
            yield
        finally:
            self._account.add(Field.PLACES, -1, owner)

    async def predict(
        self, job: Job, on_look: Callable[[AnyConclusion | None], None] | None = None
    ) -> Result:
        """Answer ``job``; cancelling this coroutine frees the picture's slots."""
        picture, question = job.picture, job.question
        told = [
            *(job.model, job.scores, job.deadline, job.high, job.attacks, job.owner, job.whole),
            *(picture.width, picture.height, picture.mode, picture.bits),
            *(picture.sensitivities, picture.prepared),
            *(question.confidence, question.max_draws, question.target, question.norm),
            question.allow,
            *(question.masks, on_look is not None),
        ]
        number = self._asking.number()
        if on_look is not None:
            self._looks[number] = on_look
        # Until it arrives there, it waits here.
        self._account.add(Field.PLACES, 1, job.owner)
        try:
            header, payload = await self._asking.ask(Kind.ASK, told, picture.content, number)
        finally:
            self._looks.pop(number, None)
        granted, device, waited = header
        return Outcome(SealedAnswer(0, False, payload), granted, device, waited).read()

    async def load_all(self, paths: Sequence[Path]) -> None:
        """Have every worker load the bundles in folders, and serve them from then on."""
        await self._asking.ask(Kind.LOAD, [str(path) for path in paths])

    async def unload(self, name: str, members: bool = False) -> None:
        """Stop serving a model, all its versions or one, or a family, with its members or alone."""
        await self._asking.ask(Kind.UNLOAD, [name, members])

    def look(self, number: int, payload: bytes) -> None:
        """Report a look to a client; without a conclusion the picture begins again."""
        if (on_look := self._looks.get(number)) is None:
            return
        try:
            on_look(CONCLUSION.validate_json(payload) if payload else None)
        except Exception as error:
            self._asking.fail(number, error)
            self._asking.wire.send(Kind.CANCEL, number)


class RemoteDecoders:
    """The decoders, which are in the main process; small pictures are decoded here.

    Args:
        ledger: the shared numbers.
        asking: leads to the main process, for large frames.
    """

    def __init__(self, ledger: Ledger, asking: Asking) -> None:
        self._ledger, self._asking = ledger, asking
        self._small = SmallPictures()
        self._admits: dict[int, Callable[[Size], None]] = {}
        self.trouble = ""

    @property
    def ready(self) -> bool:
        """Whether large pictures are decoded now, and more may wait."""
        return bool(self._ledger.said(Sign.DECODING))

    def close(self) -> None:
        """End the threads."""
        self._small.close()

    async def reduce(
        self, file: File, task: Task, owner: int, admit: Callable[[Size], None]
    ) -> Reduced:
        """Decode a picture, and release its file; as of ``Decoders``."""
        if small := await self._small.reduce(file, task, admit):
            return small
        number = self._asking.number()
        self._admits[number] = admit
        header = [owner, asdict(task)]
        try:
            told, content = await self._asking.ask(Kind.DECODE, header, file.hand_over(), number)
        finally:
            del self._admits[number]
            file.release()
        width, height, mode, bits, sensitivities, prepared = told
        known = [(p, q, value) for p, q, value in sensitivities]
        return Reduced(width, height, mode, bits, known, prepared, content)

    def size(self, number: int, told: list[int]) -> None:
        """Say whether a picture of this size is to be decoded."""
        admit, admitted = self._admits.get(number), False
        if admit is not None:
            try:
                admit(Size(*told))
                admitted = True
            except Exception as error:
                self._asking.fail(number, error)
        self._asking.wire.send(Kind.ADMIT, number, admitted)


class Remote:
    """The backend of the application in a front process.

    Args:
        settings: those of the main process.
        ledger: the shared numbers.
        number: of this front's account.
        wire: leads to the main process.
        bulk: leads there, too, for large frames.
        observer: the metrics of this process.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, number: int, wire: Wire, bulk: Wire
    ) -> None:
        account = ledger.account(number)
        self.catalogue = Mirror()
        self._asking, self._large = Asking(wire), Asking(bulk)
        self.engine = RemoteEngine(ledger, account, settings.queue, self._asking)
        self.budget = SharedBudget(settings.queue_bytes, account)
        self._rates = rates = shared_rates(settings)

        def share(key: Key) -> Allowance:
            own = ledger.allowance(key)
            return rates.allowance(key, own.number) if rates and key.rate else own

        self.keys = Keys(settings.keys, share) if settings.keys else None
        self.decoders = RemoteDecoders(ledger, self._large)
        self.observer: Metrics | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RemoteDecoders]:
        """Run; workers and decoders are the main process's."""
        sharing = self._rates and background.keep(
            SHARING,
            self._rates.keep,
            lambda reason: log.error("rates are not shared", reason=reason),
        )
        try:
            yield self.decoders
        finally:
            if sharing:
                sharing.cancel()
            self.decoders.close()

    async def metrics(self, own: Metrics) -> bytes:
        """Return the metrics of the whole service."""
        _, payload = await self._asking.ask(Kind.SCRAPE)
        return payload

    def hear(self, kind: Kind, number: int, header: Any, payload: bytes) -> None:
        """Take a frame of the main process."""
        wire = self._asking.wire
        match kind:
            case Kind.ANSWER | Kind.ERROR:
                self._asking.hear(kind, number, header, payload)
            case Kind.LOOK:
                self.engine.look(number, payload)
            case Kind.MODELS:
                self.catalogue.show(header)
            case Kind.STATE:
                self.engine.workers = RUNNING.validate_python(header["running"])
                self.engine.trouble = header["trouble"]
                self.decoders.trouble = header["decoders"]
                wire.send(Kind.KNOWN, number)
            case Kind.COLLECT if self.observer is not None:
                wire.send(Kind.SNAPSHOT, number, snapshot(self.observer))
            case Kind.CHECK:
                wire.send(Kind.ALIVE)

    def hear_bulk(self, kind: Kind, number: int, header: Any, payload: bytes) -> None:
        """Take a large frame, or one about a large picture."""
        if kind is Kind.SIZE:
            self.decoders.size(number, header)
        else:
            self._large.hear(kind, number, header, payload)
