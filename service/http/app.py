"""The application: puts routes, engine and their shared parts together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import structlog
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.catalogue import Catalogue
from service.decoding.decoders import Decoders
from service.engine.engine import Engine
from service.http import exceptions, problems, tracing
from service.http.api import docs, health, models, page, predict
from service.http.api.openapi import Described
from service.http.checks import read_catalogue
from service.http.guards.bodies import Bodies
from service.http.guards.budget import Budget
from service.http.guards.keys import Keys
from service.http.guards.overload import Gate
from service.http.head import Head
from service.http.metrics import Metrics
from service.http.middleware import Envelope
from service.http.predictions import Predictions
from service.http.prefix import Prefix
from service.http.slowness import warn_of_slow_models
from service.http.tracing import Tracing
from service.http.v2 import repository as v2_repository
from service.http.v2 import routes as v2
from service.settings import Settings
from service.system import background

log = structlog.get_logger(__name__)

# How many bodies are parsed at once.
THREADS = 2


@dataclass(frozen=True)
class _Parts:
    """The parts of the application, and the tasks that run with it."""

    settings: Settings
    catalogue: Catalogue
    engine: Engine
    metrics: Metrics
    tracing: Tracing | None
    budget: Budget
    on_broken: Callable[[str], None]

    @asynccontextmanager
    async def run(self, app: FastAPI) -> AsyncIterator[None]:
        """Start workers and decoders, and stop them at the end."""
        settings, engine = self.settings, self.engine
        decoders = Decoders(settings.max_pixels, settings.max_bytes, settings.queue, self.on_broken)
        bodies = Bodies(THREADS, settings.queue)
        predictions = app.state.predictions = Predictions(
            settings, self.catalogue, engine, self.metrics, self.tracing, bodies, decoders
        )
        self.metrics.watch(
            ready=lambda: predictions.ready,
            queued=lambda: engine.queued + decoders.queue.waiting,
            decoding=lambda: decoders.queue.running,
            in_flight=lambda: engine.in_flight,
            granted=lambda: 1 / engine.shrinkage,
            budget=self.budget,
        )
        engine.start()
        warning = background.once(
            "the warning of slow models", warn_of_slow_models(engine, self.catalogue, settings)
        )
        try:
            yield
        finally:
            log.info("drain ended", pictures=engine.in_flight + engine.queued)
            warning.cancel()
            await engine.close()
            decoders.close()
            bodies.close()
            if self.tracing:
                await asyncio.to_thread(self.tracing.close)


def create_app(
    settings: Settings, on_broken: Callable[[str], None], catalogue: Catalogue | None = None
) -> FastAPI:
    """Build the application.

    Args:
        settings: checked settings.
        on_broken: called with the reason when workers cannot start.
        catalogue: the models to serve, if they have been read.

    Raises:
        BundleError: a model's bundle cannot be trusted.
        ValueError: the default model is not among the models to serve.
        KeysError: the file of keys cannot be read.
        UselessDefaultsError: with these settings no request without options could be answered.
    """
    catalogue = catalogue or read_catalogue(settings)
    metrics = Metrics()
    budget = Budget(settings.queue_bytes)
    traces = tracing.start(version("pixeldp"))
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
        observer=metrics,
        on_broken=on_broken,
    )
    metrics.expect(version("pixeldp"), engine.workers, problems.PROBLEMS, settings.queue)

    parts = _Parts(settings, catalogue, engine, metrics, traces, budget, on_broken)
    app = Described(
        title="PixelDP",
        version=version("pixeldp"),
        description="Says what is in a picture, with proof of how far it could be altered.",
        lifespan=parts.run,
        generate_unique_id_function=lambda route: route.name,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        # FastAPI's spans would contain paths and queries as they were sent (see
        # service/http/tracing.py).
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.engine, app.state.metrics = engine, metrics
    app.state.budget, app.state.hosts = budget, settings.hosts
    app.state.keys = Keys(settings.keys) if settings.keys else None
    if app.state.keys:
        metrics.read_keys = app.state.keys.names
    app.state.cors_origins = settings.cors_origins
    _surround(app, parts)
    problems.lie_at(settings.root_path)
    # The last route of v2 answers every other path below /v2.
    for module in (predict, models, v2_repository, v2, health, docs, page):
        app.include_router(module.router)
    app.mount("/page", page.files)
    exceptions.install(app)
    return app


def _surround(app: FastAPI, parts: _Parts) -> None:
    """Add the middleware, the innermost first."""
    app.add_middleware(Gate, engine=parts.engine, metrics=parts.metrics)
    if parts.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=parts.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-Id"],
            expose_headers=[
                "Certified-Robust",
                "Certified-Size",
                "Retry-After",
                "traceparent",
                "X-Request-Id",
            ],
        )
    app.add_middleware(Head)
    app.add_middleware(Envelope, metrics=parts.metrics, tracing=parts.tracing, budget=parts.budget)
    app.add_middleware(Prefix, root_path=parts.settings.root_path)
