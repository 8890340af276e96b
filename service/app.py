"""The application: routes, engine and what they share, put together."""

from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

import fastapi_swagger
from fastapi import FastAPI

from service.api import health, models, predict, problems
from service.api.middleware import Envelope
from service.api.predictions import Predictions
from service.catalogue import Catalogue
from service.engine.engine import Engine
from service.metrics import Metrics
from service.settings import Settings

# Pictures decoded at once; each holds its bytes and its pixels meanwhile.
DECODERS = 2


def create_app(settings: Settings, on_broken: Callable[[str], None]) -> FastAPI:
    """Build the application.

    Args:
        settings: checked settings.
        on_broken: called with the reason when a worker cannot load its models.

    Raises:
        BundleError: a model's bundle cannot be trusted.
    """
    catalogue, metrics = Catalogue(settings.models), Metrics()
    engine = Engine(
        catalogue.bundles,
        settings.worker_devices(),
        settings.precision,
        settings.pass_size,
        settings.compile,
        settings.queue,
        settings.shrink,
        metrics,
        on_broken,
    )
    metrics.watch(lambda: engine.queued, lambda: engine.in_flight, lambda: 1 / engine.shrinkage)
    for bundle in catalogue.bundles:
        manifest = bundle.manifest
        metrics.model.labels(manifest.name, manifest.version, bundle.digest).set(1)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(DECODERS, "decode") as pool:
            app.state.predictions = Predictions(settings, catalogue, engine, metrics, pool)
            engine.start()
            try:
                yield
            finally:
                await engine.close()

    app = FastAPI(
        title="PixelDP",
        version=version("pixeldp"),
        description="What is in a picture, with proof of how far it could have been altered.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
    )
    app.state.engine = engine
    app.add_middleware(Envelope, metrics=metrics)
    for module in (predict, models, health):
        app.include_router(module.router)
    problems.install(app)
    fastapi_swagger.patch_fastapi(app)
    return app
