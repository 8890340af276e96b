"""The engine: workers that answer pictures, their models, and the queue.

It is part of the front process, on its event loop.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import structlog

from models.certification.answer import AnyConclusion
from models.execution import Calibration, Execution, Format, Provider
from service.catalogue import Catalogue, Served
from service.engine.agreement import Agreement
from service.engine.changes import Changes
from service.engine.dispatcher import Dispatcher
from service.engine.errors import NotReadyError, OverloadedError, WorkersLostError
from service.engine.handle import WorkerHandle
from service.engine.observer import Observer
from service.engine.queue import SHARED, Job, Outcome, Result
from service.engine.supervisor import Supervisor
from service.system import background

log = structlog.get_logger(__name__)

# The longest time that clients are told to wait before they try again, in seconds.
LONGEST_RETRY = 60


class Engine:
    """Workers on devices, and the queue before them.

    Args:
        catalogue: the models; it changes with :meth:`load_all` and :meth:`unload`.
        devices: one worker is started for each entry.
        precision: the number format of h; None to measure which is fastest.
        provider: what runs h; None to measure which is fastest.
        int8: whether int8 may be chosen where a model's record allows it.
        pass_size: slots of every pass; None to measure how many are enough.
        compiled: whether workers may compile the models that are there at the start, and use the
            compiled form if faster.
        pins: by a model's digest the only way in which it may be served; empty for any.
        queue: the number of pictures that may wait; more are refused.
        shrink: whether draw budgets shrink when many pictures wait, or when there is no time.
        stall_seconds: a worker is replaced after this long without a sign of life.
        load_seconds: the time in which a worker must load its models, or a further one.
        check_seconds: the time between a worker's self-checks; 0 means none.
        observer: told what happens.
        on_broken: called with the reason when workers cannot start, and none is ready.
        on_change: told when pictures begin and end to wait, as by ``Queue``.
        publish: awaited after each change of the catalogue, until all who read it know.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        devices: list[str],
        *,
        precision: Format | None,
        provider: Provider | None = None,
        int8: bool = True,
        pass_size: int | None,
        compiled: bool,
        pins: Mapping[str, Execution] = MappingProxyType({}),
        queue: int,
        shrink: bool,
        stall_seconds: float,
        load_seconds: float,
        check_seconds: float,
        observer: Observer,
        on_broken: Callable[[str], None],
        on_change: Callable[[int, int], None] | None = None,
        publish: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._catalogue, self._observer = catalogue, observer
        self._workers = [WorkerHandle(f"worker{i}", device) for i, device in enumerate(devices)]
        first = [served.index for served in catalogue.models] if compiled else []
        agreement = Agreement(self._workers, precision, provider, int8, pass_size, first, pins)
        self._dispatcher = Dispatcher(self._workers, queue, shrink, observer, on_change)
        self._supervisors = [
            Supervisor(
                worker,
                self._dispatcher,
                catalogue,
                agreement,
                observer,
                stall_seconds,
                load_seconds,
                check_seconds,
                on_broken,
            )
            for worker in self._workers
        ]
        self._changes = Changes(catalogue, agreement, self._supervisors, load_seconds, publish)
        self._agreement = agreement
        self._limit, self._on_broken = queue, on_broken
        # The number of pictures that are being decoded, by client.
        self._preparing: Counter[int] = Counter()
        self._tasks: list[asyncio.Task[None]] = []
        self.draining = False

    @property
    def opened_once(self) -> bool:
        """Whether any worker has been ready."""
        return self._dispatcher.opened_once

    @property
    def ready(self) -> bool:
        """Whether pictures are answered now."""
        responds = any(worker.responds for worker in self._workers)
        return responds and not self.draining and bool(self._catalogue.models)

    @property
    def trouble(self) -> str:
        """Why a worker is gone that should be ready again; empty if none is."""
        return next((worker.trouble for worker in self._workers if worker.trouble), "")

    @property
    def queued(self) -> int:
        """The number of pictures that wait for a worker."""
        return len(self._dispatcher.queue)

    @property
    def in_flight(self) -> int:
        """The number of pictures that workers have."""
        return self._dispatcher.in_flight

    @property
    def full(self) -> bool:
        """Whether no more pictures may wait."""
        return self.queued + self._preparing.total() >= self._limit

    @property
    def shrinkage(self) -> int:
        """The present divisor of draw budgets; 1 unless too many pictures wait."""
        return self._dispatcher.shrinkage(self.queued)

    @property
    def workers(self) -> list[str]:
        """The names of the workers."""
        return [worker.name for worker in self._workers]

    @property
    def calibrations(self) -> list[dict[int, Calibration]]:
        """How each ready worker runs each model, by number."""
        return [worker.calibrations for worker in self._workers if worker.ready]

    def running(self, model: int) -> list[tuple[Calibration, str | None]]:
        """Return how each ready worker runs a model, and why if not as agreed with the others."""
        return [
            (worker.calibrations[model], self._agreement.deviation(worker, model))
            for worker in self._workers
            if worker.ready and model in worker.calibrations
        ]

    def speed(self, model: int | None = None) -> float:
        """Return a ready worker's draws per second with a model, or any; 0 if none is ready."""
        speeds = (
            one.draws_per_second
            for calibrations in self.calibrations
            for number, one in calibrations.items()
            if model is None or number == model
        )
        return max(speeds, default=0.0)

    @property
    def retry_seconds(self) -> int:
        """The seconds after which there is likely to be room in the queue again.

        That is when half of it could be answered if each picture took all its draws.
        """
        seconds = 0.0
        for model, draws in self._dispatcher.queue.draws.items():
            together = sum(one[model].draws_per_second for one in self.calibrations if model in one)
            seconds += draws / self.shrinkage / together if together else LONGEST_RETRY
        return min(max(math.ceil(seconds / 2), 1), LONGEST_RETRY)

    def start(self) -> None:
        """Start the workers; they become ready by themselves."""
        self._catalogue.announce_to(self._observer)
        self._tasks = [
            background.keep(
                f"the supervision of {supervisor.worker.name}", supervisor.keep, self._on_broken
            )
            for supervisor in self._supervisors
        ]

    def stop_changes(self) -> None:
        """Cancel loading and unloading of models, because the service ends."""
        self._changes.stop()

    async def close(self) -> None:
        """End the workers."""
        self.draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextmanager
    def preparing(self, owner: int = SHARED) -> Iterator[None]:
        """Hold a place in the queue for a picture while it is decoded.

        Args:
            owner: its client.

        Raises:
            NotReadyError: no worker has been ready yet.
            OverloadedError: there is no place, or this client has half of them.
        """
        self._check(owner)
        self._preparing[owner] += 1
        try:
            yield
        finally:
            self._preparing[owner] -= 1

    async def predict(
        self, job: Job, on_look: Callable[[AnyConclusion | None], None] | None = None
    ) -> Result:
        """Answer ``job``; cancelling this coroutine frees the picture's slots.

        Args:
            job: the question.
            on_look: called with the conclusion so far at every look before the last; with None when
                the job begins again, which voids the earlier ones.

        Raises:
            EngineError: see its tree.
        """
        return (await self.answer(job, on_look)).read()

    async def answer(
        self, job: Job, on_look: Callable[[AnyConclusion | None], None] | None = None
    ) -> Outcome:
        """Answer ``job`` like :meth:`predict`, but do not read the answer."""
        self._check(job.owner)
        try:
            with self._changes.picture(job.model):
                return await self._dispatcher.answer(job, on_look)
        except WorkersLostError as error:
            digest = await asyncio.to_thread(lambda: job.picture.digest)
            log.error("picture refused", reason=str(error), picture=f"sha256:{digest}")
            raise

    async def load_all(self, paths: Sequence[Path]) -> list[Served]:
        """Have every worker load the bundles in folders, and serve them from then on.

        A path may be the file of a family, which is then served with all its members. Takes
        seconds; pictures of other models are answered meanwhile. When it returns, every ready
        worker has certified a probe picture with each model, and the catalogue names them. A bundle
        that is already served does not change. One with the same name and version but another
        digest replaces the former: new pictures go to the new one, those in flight end with the
        old. After any failure everything is as before.

        Raises:
            BundleError: a bundle cannot be trusted.
            NotReadyError: no worker is ready, or the service stops.
            LoadError: one was not read in time, or a worker could not load it; says why.
        """
        return await self._changes.load(paths)

    async def unload(self, name: str, members: bool = False) -> None:
        """Stop serving the model ``name`` or ``name:version``; without a version, all of them.

        ``name`` may be that of a family; its members stay, unless ``members`` is set.

        The catalogue drops it at once, so that new requests do not find it; pictures in flight are
        answered; then the workers free its memory, and this returns.

        Raises:
            UnknownModelError: it is not served.
            NotReadyError: the service stops.
        """
        await self._changes.unload(name, members)

    def _check(self, owner: int) -> None:
        if not self.opened_once:
            raise NotReadyError("the workers are still loading the models")
        if self.full:
            waiting = self.queued + self._preparing.total()
            raise OverloadedError(f"{waiting} pictures are already waiting")
        mine = self._dispatcher.queue.of(owner) + self._preparing[owner]
        if owner != SHARED and mine >= max(self._limit // 2, 1):
            raise OverloadedError(f"{mine} pictures of this key are already waiting")
