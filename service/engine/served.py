"""Which models the workers have, how they run them, and how that changes while they serve."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from models.bundle import Bundle
from models.execution import Calibration, Precision
from service import reading
from service.catalogue import Catalogue, Served
from service.engine import messages
from service.engine.check import CheckResult, Reference
from service.engine.errors import ModelGoneError, NotReadyError
from service.engine.observer import Observer
from service.system import background

if TYPE_CHECKING:
    from service.engine.supervisor import Supervisor

log = structlog.get_logger(__name__)


class ServedModels:
    """The models, by number.

    Args:
        catalogue: what clients see of them; changed by :meth:`load` and :meth:`unload`.
        observer: told of these changes.
        precision: the number format of h; None to measure which is fastest.
        pass_size: slots of every pass; None to measure how many are enough.
        compiled: whether workers may compile the models, and use that where it is faster.
        load_seconds: how long reading a bundle may take.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        observer: Observer,
        precision: Precision | None,
        pass_size: int | None,
        compiled: bool,
        load_seconds: float,
    ) -> None:
        self._catalogue, self._observer = catalogue, observer
        # Those that workers have: one that is being loaded or unloaded is not in the catalogue.
        self._models = {served.index: served for served in catalogue.models}
        self._precision, self._pass_size, self._compile = precision, pass_size, compiled
        self._load_seconds = load_seconds
        # By kind of device and model. What the first worker chooses is binding for the others and
        # for all restarts: a certificate speaks of one network, and formats differ in some votes.
        self._precisions: dict[tuple[str, int], Precision] = {}
        # The largest passes that fit, by supervisor and model, where larger ones did not.
        self._ceilings: dict[tuple[str, int], int] = {}
        # What their probe pictures are compared with, by kind of device and model.
        self._references: dict[tuple[str, int], Reference] = {}
        self._pictures: Counter[int] = Counter()
        self._one_left = asyncio.Event()
        # One change at a time of each name: what hangs over one model keeps no other.
        self._changing: dict[str, asyncio.Lock] = {}
        self._stopping = False
        self._under_way: set[asyncio.Timeout] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    @contextmanager
    def picture(self, model: int) -> Iterator[None]:
        """Keep a model until a picture of it is answered.

        Raises:
            ModelGoneError: it is served no longer.
        """
        if model not in self._models:
            raise ModelGoneError("the model is served no longer")
        self._pictures[model] += 1
        try:
            yield
        finally:
            self._pictures[model] -= 1
            self._one_left.set()

    @property
    def serves(self) -> bool:
        """Whether there is any model."""
        return bool(self._catalogue.models)

    def bundle(self, model: int) -> Bundle | None:
        """Return the model of that number; None if it is served no longer."""
        served = self._models.get(model)
        return served.bundle if served else None

    def order(self, supervisor: "Supervisor") -> messages.Load:
        """Return what a worker that starts at ``supervisor`` is to load."""
        return messages.Load(
            models=[self._model(served, supervisor) for served in self._models.values()],
            device=supervisor.device,
            pass_size=self._pass_size,
            compile=self._compile,
        )

    def agree(self, supervisor: "Supervisor", calibrations: dict[int, Calibration]) -> bool:
        """Say whether a worker runs models in the number formats of those before it."""
        same = [
            self._precisions.setdefault((supervisor.kind, model), one.precision) == one.precision
            for model, one in calibrations.items()
        ]
        return all(same)

    def complete(self, calibrations: dict[int, Calibration]) -> bool:
        """Say whether a worker has every model."""
        return self._models.keys() <= calibrations.keys()

    def too_large(self, supervisor: "Supervisor", model: int, ceiling: int) -> None:
        """Note the largest pass of a model that fits into the memory of the supervisor's device."""
        self._observer.worker_out_of_memory(supervisor.name)
        self._ceilings[supervisor.name, model] = ceiling

    def reference(self, supervisor: "Supervisor", model: int) -> Reference:
        """Return what probe pictures of a model are compared with at ``supervisor``."""
        return self._references.setdefault((supervisor.kind, model), Reference())

    def checked(self, supervisor: "Supervisor", model: int, result: CheckResult) -> None:
        """Note what came of a probe picture, unless its model is served no longer."""
        if bundle := self.bundle(model):
            self._observer.self_checked(supervisor.name, bundle.manifest.name, result)

    async def load(
        self, paths: Sequence[Path], supervisors: Collection["Supervisor"]
    ) -> list[Served]:
        """See ``Engine.load_all``."""
        async with self._change():
            bundles = await reading.bundles(paths, self._load_seconds)
            async with self._alone({bundle.manifest.name for bundle in bundles}):
                return await self._load(bundles, supervisors)

    async def _load(
        self, bundles: list[Bundle], supervisors: Collection["Supervisor"]
    ) -> list[Served]:
        added: list[Served] = []
        try:
            found = [await self._prepare(bundle, added, supervisors) for bundle in bundles]
        except BaseException:
            for served in added if not self._stopping else ():
                await self._withdraw(served, supervisors)
            raise
        for served in added:
            self._serve(served, supervisors)
        return found

    def stop(self) -> None:
        """Give up all changes that are under way, and begin no other."""
        self._stopping = True
        for change in self._under_way:
            change.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """Change what is served, until the service stops.

        Raises:
            NotReadyError: it does.
        """
        stopping = NotReadyError("the service is stopping")
        if self._stopping:
            raise stopping
        try:
            async with asyncio.timeout(None) as limit:
                self._under_way.add(limit)
                try:
                    yield
                finally:
                    self._under_way.discard(limit)
        except TimeoutError:
            raise stopping from None

    @asynccontextmanager
    async def _alone(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Wait until nobody else changes models of these names."""
        async with AsyncExitStack() as stack:
            for name in sorted(names):
                lock = self._changing.setdefault(name, asyncio.Lock())
                await stack.enter_async_context(lock)
            yield

    async def _prepare(
        self, bundle: Bundle, added: list[Served], supervisors: Collection["Supervisor"]
    ) -> Served:
        """Have the workers load a model, unless it is served already; nobody sees it yet."""
        served = self._catalogue.number(bundle)
        for one in self._catalogue.models:
            if (one.key, one.bundle.digest) == (served.key, served.bundle.digest):
                return one
        if not any(supervisor.ready for supervisor in supervisors):
            raise NotReadyError("no worker is ready to load a model")
        self._models[served.index] = served  # from now on, workers that start load it, too
        added.append(served)
        await self._add(served, [supervisor for supervisor in supervisors if supervisor.loaded])
        return served

    def _serve(self, served: Served, supervisors: Collection["Supervisor"]) -> None:
        """Let clients see a model that the workers have."""
        former = self._catalogue.put(served)
        self._observer.add_model(*served.key, served.bundle.digest)
        log.info("model loaded", model=":".join(served.key), digest=served.bundle.digest)
        if former:
            self._observer.remove_model(*former.key, former.bundle.digest)
            leaving = background.once("unloading", self._withdraw(former, supervisors))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def unload(self, name: str, supervisors: Collection["Supervisor"]) -> None:
        """See ``Engine.unload``."""
        async with self._change(), self._alone([name.partition(":")[0]]):
            leaving = self._catalogue.named(name)
            for served in leaving:
                self._catalogue.drop(served)
                self._observer.remove_model(*served.key, served.bundle.digest)
            for served in leaving:
                await self._withdraw(served, supervisors)
                log.info("model unloaded", model=":".join(served.key))

    async def _add(self, served: Served, supervisors: list["Supervisor"]) -> None:
        # The first of each kind of device chooses the number format.
        first = list({supervisor.kind: supervisor for supervisor in reversed(supervisors)}.values())
        for some in (first, [supervisor for supervisor in supervisors if supervisor not in first]):
            adding = [supervisor.add(self._model(served, supervisor)) for supervisor in some]
            for outcome in await asyncio.gather(*adding, return_exceptions=True):
                if outcome:
                    raise outcome

    async def _withdraw(self, served: Served, supervisors: Collection["Supervisor"]) -> None:
        """Have workers forget a model that is not in the catalogue, after its last picture."""
        while self._pictures[served.index]:
            self._one_left.clear()
            await self._one_left.wait()
        del self._models[served.index], self._pictures[served.index]
        having = [
            supervisor for supervisor in supervisors if served.index in supervisor.calibrations
        ]
        await asyncio.gather(*(supervisor.remove(served.index) for supervisor in having))
        for kind in {supervisor.kind for supervisor in supervisors}:
            self._references.pop((kind, served.index), None)

    def _model(self, served: Served, supervisor: "Supervisor") -> messages.Model:
        return messages.Model(
            number=served.index,
            path=str(served.bundle.path),
            digest=served.bundle.digest,
            precision=self._precisions.get((supervisor.kind, served.index), self._precision),
            ceiling=self._ceilings.get((supervisor.name, served.index)),
        )
