"""The application: puts routes, engine and their shared parts together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.catalogue import Catalogue
from service.http import exceptions, problems, tracing
from service.http.api import docs, health, models, page, predict
from service.http.api.openapi import Described
from service.http.backend import Backend
from service.http.checks import read_catalogue
from service.http.guards.bodies import Bodies
from service.http.guards.overload import Gate
from service.http.head import Head
from service.http.local import Local
from service.http.metrics import Metrics
from service.http.middleware import Envelope
from service.http.predictions import Predictions
from service.http.prefix import Prefix
from service.http.tracing import Tracing
from service.http.v2 import repository as v2_repository
from service.http.v2 import routes as v2
from service.settings import Settings

# How many bodies are parsed at once.
THREADS = 2


@dataclass(frozen=True)
class _Parts:
    """The parts of the application, and the tasks that run with it."""

    settings: Settings
    backend: Backend
    metrics: Metrics
    tracing: Tracing | None

    @asynccontextmanager
    async def run(self, app: FastAPI) -> AsyncIterator[None]:
        """Start what is behind the application, and stop it at the end."""
        bodies = Bodies(THREADS, self.settings.queue)
        try:
            async with self.backend.running() as decoders:
                app.state.predictions = Predictions(
                    self.settings,
                    self.backend.catalogue,
                    self.backend.engine,
                    self.metrics,
                    self.tracing,
                    bodies,
                    decoders,
                )
                yield
        finally:
            bodies.close()
            if self.tracing:
                await asyncio.to_thread(self.tracing.close)


def create_app(
    settings: Settings,
    on_broken: Callable[[str], None],
    catalogue: Catalogue | None = None,
    behind: Callable[[Metrics], Backend] | None = None,
) -> FastAPI:
    """Build the application. It owns neither the event loop nor the signals of its process.

    Args:
        settings: checked settings.
        on_broken: called with the reason when workers cannot start.
        catalogue: the models to serve, if they have been read.
        behind: makes what is behind it, if that is not in this process; told the metrics.

    Raises:
        BundleError: a model's bundle cannot be trusted.
        ValueError: the default model is not among the models to serve.
        KeysError: the file of keys cannot be read.
        UselessDefaultsError: with these settings no request without options could be answered.
    """
    metrics = Metrics()
    if behind is not None:
        backend = behind(metrics)
    else:
        backend = Local(settings, catalogue or read_catalogue(settings), metrics, on_broken)
    parts = _Parts(settings, backend, metrics, tracing.start(version("pixeldp")))
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
    app.state.backend, app.state.engine, app.state.metrics = backend, backend.engine, metrics
    app.state.budget, app.state.hosts = backend.budget, settings.hosts
    app.state.keys = backend.keys
    if backend.keys:
        metrics.read_keys = backend.keys.names
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
    app.add_middleware(Gate, engine=parts.backend.engine, metrics=parts.metrics)
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
    app.add_middleware(
        Envelope, metrics=parts.metrics, tracing=parts.tracing, budget=parts.backend.budget
    )
    app.add_middleware(Prefix, root_path=parts.settings.root_path)
