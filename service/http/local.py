"""Everything behind the application in its own process, except for workers and decoders."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog

from service.catalogue import Catalogue
from service.decoding.decoders import Decoders
from service.engine.engine import Engine
from service.http.guards.budget import Budget
from service.http.guards.keys import Keys, own_allowance
from service.http.guards.shared_rates import SHARING, shared_rates
from service.http.metrics import Metrics
from service.http.problems import PROBLEMS
from service.http.slowness import warn_of_slow_models
from service.settings import Settings
from service.system import background

log = structlog.get_logger(__name__)


class Local:
    """The backend of a service with one front process.

    Args:
        settings: checked settings.
        catalogue: the models to serve.
        observer: the metrics.
        on_broken: called with the reason when workers or decoders cannot start.

    Raises:
        KeysError: the file of keys cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        observer: Metrics,
        on_broken: Callable[[str], None],
    ) -> None:
        self.catalogue = catalogue
        self.engine = make_engine(settings, catalogue, observer, on_broken)
        self.budget = Budget(settings.queue_bytes)
        self._rates = shared_rates(settings)
        allow = self._rates.allowance if self._rates else own_allowance
        self.keys = Keys(settings.keys, allow) if settings.keys else None
        self._settings, self._observer, self._on_broken = settings, observer, on_broken

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Decoders]:
        """Start workers and decoders, and stop them at the end."""
        engine, decoders = self.engine, make_decoders(self._settings, self._on_broken)
        self._observer.watch(
            ready=lambda: engine.ready and decoders.ready,
            queued=lambda: engine.queued + decoders.queue.waiting,
            decoding=lambda: decoders.queue.running,
            in_flight=lambda: engine.in_flight,
            granted=lambda: 1 / engine.shrinkage,
            budget=self.budget,
        )
        engine.start()
        warning = background.once(
            "the warning of slow models",
            warn_of_slow_models(engine, self.catalogue, self._settings),
        )
        sharing = self._rates and background.keep(SHARING, self._rates.keep, self._on_broken)
        try:
            yield decoders
        finally:
            if sharing:
                sharing.cancel()
            log.info("drain ended", pictures=engine.in_flight + engine.queued)
            warning.cancel()
            await engine.close()
            decoders.close()

    async def metrics(self, own: Metrics) -> bytes:
        """Return the metrics, which are all in this process."""
        return own.render()


def make_engine(
    settings: Settings,
    catalogue: Catalogue,
    observer: Metrics,
    on_broken: Callable[[str], None],
    on_change: Callable[[int, int], None] | None = None,
    publish: Callable[[], Awaitable[None]] | None = None,
) -> Engine:
    """Make the engine that the settings ask for, with its metrics; as of ``Engine``."""
    engine = Engine(
        catalogue,
        settings.worker_devices(),
        precision=settings.precision,
        provider=settings.wanted_provider,
        int8=settings.int8,
        pass_size=settings.pass_size,
        # PyTorch compiles; models that only another provider may run are not compiled.
        compiled=settings.compile and settings.wanted_provider in (None, "pytorch"),
        pins=settings.pins,
        queue=settings.queue,
        shrink=settings.shrink,
        stall_seconds=settings.stall_seconds,
        load_seconds=settings.load_seconds,
        check_seconds=settings.check_seconds,
        observer=observer,
        on_broken=on_broken,
        on_change=on_change,
        publish=publish,
    )
    observer.expect(version("pixeldp"), engine.workers, PROBLEMS, settings.queue)
    return engine


def make_decoders(settings: Settings, on_broken: Callable[[str], None]) -> Decoders:
    """Start the decoders that the settings ask for."""
    return Decoders(settings.max_pixels, settings.max_bytes, settings.queue, on_broken)
