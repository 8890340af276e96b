"""The application: routes, engine and what they share, put together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service import tracing
from service.api import docs, health, models, page, predict, problems, v2
from service.api.head import Head
from service.api.middleware import Envelope
from service.api.openapi import Described
from service.api.overload import Gate
from service.api.predictions import Predictions
from service.api.prefix import Prefix
from service.api.uploads import Uploads
from service.catalogue import Catalogue, UnknownModelError
from service.engine.engine import Engine
from service.keys import Keys
from service.metrics import Metrics
from service.settings import Settings

# Pictures decoded at once; each holds its bytes and its pixels meanwhile.
DECODERS = 2


def create_app(settings: Settings, on_broken: Callable[[str], None]) -> FastAPI:
    """Build the application.

    Args:
        settings: checked settings.
        on_broken: called with the reason when workers cannot start.

    Raises:
        BundleError: a model's bundle cannot be trusted.
        ValueError: the default model is none of those that are to be served.
        KeysError: the file of keys cannot be read.
    """
    try:
        catalogue = Catalogue(settings.models, settings.default_model)
    except UnknownModelError as error:
        raise ValueError(f"PIXELDP_DEFAULT_MODEL: {error.args[0]}") from None
    metrics = Metrics()
    traces = tracing.start(version("pixeldp"))
    engine = Engine(
        catalogue,
        settings.worker_devices(),
        precision=settings.precision,
        pass_size=settings.pass_size,
        compiled=settings.compile,
        queue=settings.queue,
        queue_bytes=settings.queue_bytes,
        shrink=settings.shrink,
        stall_seconds=settings.stall_seconds,
        load_seconds=settings.load_seconds,
        observer=metrics,
        on_broken=on_broken,
    )
    metrics.expect(version("pixeldp"), engine.workers, problems.PROBLEMS, settings.queue)
    metrics.watch(
        lambda: engine.ready,
        lambda: engine.queued,
        lambda: engine.in_flight,
        lambda: 1 / engine.shrinkage,
    )
    for bundle in catalogue.bundles:
        metrics.add_model(bundle.manifest.name, bundle.manifest.version, bundle.digest)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(DECODERS, "decode") as pool:
            app.state.predictions = Predictions(settings, catalogue, engine, metrics, traces, pool)
            engine.start()
            try:
                yield
            finally:
                await engine.close()
                if traces:
                    await asyncio.to_thread(traces.close)

    app = Described(
        title="PixelDP",
        version=version("pixeldp"),
        description="What is in a picture, with proof of how far it could have been altered.",
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        # Its own spans would carry paths and queries as they were sent; see service/tracing.py.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.engine, app.state.metrics = engine, metrics
    app.state.uploads = Uploads(settings.queue_bytes)
    app.state.keys = Keys(settings.keys) if settings.keys else None
    app.state.cors_origins = settings.cors_origins
    app.add_middleware(Gate, engine=engine, metrics=metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
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
    problems.lie_at(settings.root_path)
    app.add_middleware(Envelope, metrics=metrics, tracing=traces)
    app.add_middleware(Prefix, root_path=settings.root_path)
    for module in (predict, models, v2, health, docs, page):
        app.include_router(module.router)
    app.mount("/page", page.files)
    problems.install(app)
    return app
