"""Loading and unloading models while the service runs."""

import asyncio
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import structlog

from models.bundle import Bundle
from models.family import Family, is_family
from service import reading
from service.catalogue import Catalogue, Served
from service.engine.agreement import Agreement
from service.engine.errors import ModelGoneError, NotReadyError
from service.engine.supervisor import Supervisor
from service.system import background

log = structlog.get_logger(__name__)


class Changes:
    """Lets workers load and drop models, and changes the catalogue accordingly.

    Args:
        catalogue: the models; nothing else changes it once the service runs.
        agreement: how workers run them.
        supervisors: of the workers.
        load_seconds: the time in which a bundle must be read.
        publish: awaited after each change of the catalogue, until all who read it know.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        agreement: Agreement,
        supervisors: Sequence[Supervisor],
        load_seconds: float,
        publish: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._publish = publish or _known_at_once
        self._catalogue, self._agreement = catalogue, agreement
        self._supervisors, self._load_seconds = supervisors, load_seconds
        self._pictures: Counter[int] = Counter()
        self._one_left = asyncio.Event()
        # One change at a time for each name: a change that hangs blocks no other model.
        self._changing: dict[str, asyncio.Lock] = {}
        self._stopping = False
        self._under_way: set[asyncio.Timeout] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    @contextmanager
    def picture(self, model: int) -> Iterator[None]:
        """Keep a model until a picture of it is answered.

        Raises:
            ModelGoneError: it is no longer served.
        """
        if self._catalogue.bundle(model) is None:
            raise ModelGoneError("the model is no longer served")
        self._pictures[model] += 1
        try:
            yield
        finally:
            self._pictures[model] -= 1
            self._one_left.set()

    async def load(self, paths: Sequence[Path]) -> list[Served]:
        """See ``Engine.load_all``."""
        async with self._change():
            files = [path for path in paths if is_family(path)]
            families = [await reading.family(path, self._load_seconds) for path in files]
            folders = [path for path in paths if path not in files]
            for family in families:
                folders += [folder for folder in family.folders if folder not in folders]
            read = await reading.bundles(folders, self._load_seconds)
            bundles = dict(zip(folders, read, strict=True))
            for bundle in read:
                self._catalogue.check(bundle)
            for family in families:
                self._catalogue.check_family(family, [bundles[one] for one in family.folders])
            names = {bundle.manifest.name for bundle in read}
            async with self._alone(names | {family.file.name for family in families}):
                return await self._load(bundles, families)

    async def _load(self, bundles: dict[Path, Bundle], families: Sequence[Family]) -> list[Served]:
        added: list[Served] = []
        try:
            found = {path: await self._prepare(one, added) for path, one in bundles.items()}
        except BaseException:
            for served in added if not self._stopping else ():
                await self._withdraw(served)
            raise
        for served in added:
            former = self._catalogue.put(served)
            log.info("model loaded", model=":".join(served.key), digest=served.bundle.digest)
            if former:
                leaving = background.once("unloading", self._withdraw(former))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
        for family in families:
            self._catalogue.put_family(family, [found[folder] for folder in family.folders])
            log.info("family loaded", family=family.file.name)
        await self._publish()
        return [*found.values()]

    async def _prepare(self, bundle: Bundle, added: list[Served]) -> Served:
        """Have the workers load a model, unless it is already served; clients do not see it yet."""
        for served in self._catalogue.models:
            if (served.bundle.manifest, served.bundle.digest) == (bundle.manifest, bundle.digest):
                return served
        if not any(supervisor.worker.ready for supervisor in self._supervisors):
            raise NotReadyError("no worker is ready to load a model")
        served = self._catalogue.number(bundle)  # from now on, workers that start load it, too
        added.append(served)
        loaded = [supervisor for supervisor in self._supervisors if supervisor.worker.loaded]
        # The first of each kind of device finds out how its kind runs it.
        first = list(
            {supervisor.worker.kind: supervisor for supervisor in reversed(loaded)}.values()
        )
        for some in (first, [supervisor for supervisor in loaded if supervisor not in first]):
            adding = [supervisor.add(served) for supervisor in some]
            for outcome in await asyncio.gather(*adding, return_exceptions=True):
                if outcome:
                    raise outcome
        return served

    async def unload(self, name: str, members: bool) -> None:
        """See ``Engine.unload``."""
        async with self._change(), self._alone([name.partition(":")[0]]):
            if name in self._catalogue.families:
                leaving = self._catalogue.drop_family(name)
                log.info("family unloaded", family=name)
                await self._publish()
                if not members:
                    return
            else:
                leaving = self._catalogue.named(name)
            for served in leaving:
                self._catalogue.drop(served)
            for served in leaving:
                await self._withdraw(served)
                log.info("model unloaded", model=":".join(served.key))

    async def _withdraw(self, served: Served) -> None:
        """Have workers drop a model that clients do not see, after its last picture."""
        await self._publish()
        while self._pictures[served.index]:
            self._one_left.clear()
            await self._one_left.wait()
        self._catalogue.forget(served)
        del self._pictures[served.index]
        having = [one for one in self._supervisors if served.index in one.worker.calibrations]
        await asyncio.gather(*(supervisor.remove(served.index) for supervisor in having))
        self._agreement.forget(served.index)

    def stop(self) -> None:
        """Cancel all changes in progress, and begin no others."""
        self._stopping = True
        for change in self._under_way:
            change.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """Allow a change until the service stops.

        Raises:
            NotReadyError: the service stops.
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
        """Wait until no other change of models of these names is in progress."""
        async with AsyncExitStack() as stack:
            for name in sorted(names):
                lock = self._changing.setdefault(name, asyncio.Lock())
                await stack.enter_async_context(lock)
            yield


async def _known_at_once() -> None:
    """All who read the catalogue read this one."""
