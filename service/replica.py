"""The service as an application of Ray Serve: the application and the engine on every replica.

Ray places, scales, rolls out and replaces replicas, and its HAProxy spreads requests over them. A
replica is all of the plain service except for its server: Ray owns the process, the event loop, the
socket and the signals. ``deploy/ray/serve.yaml`` names :func:`build`; see ``docs/ray.md``.
"""

import asyncio
import os
from functools import partialmethod
from typing import Any

import ray
import structlog
from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve
from ray.serve.config import AutoscalingContext
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config

from service import logs
from service.http.address import resolve
from service.http.api.health import trouble
from service.http.app import create_app
from service.http.checks import check_keys
from service.http.problems import Problem
from service.http.server import (
    END_SECONDS,
    CannotServeError,
    drain_seconds,
    raise_files,
    tell_passed_over,
)
from service.settings import Settings, explain
from service.system.environment import check

log = structlog.get_logger(__name__)

# What replicas tell Ray's autoscaler: pictures that wait or are in work.
PICTURES = "pictures"
# Requests beyond those whose pictures may wait: for refusals, which take no time, and for probes.
SPARE_REQUESTS = 1024
# How long Ray still lets requests come to a replica that it ends, unless its variable says it.
REACHABLE_SECONDS = 30.0
# Between looks whether the first worker is ready.
LOOK_SECONDS = 0.1
# Every address, where Ray's HAProxy and the replicas listen.
HOST = "0.0.0.0"  # noqa: S104 - with the same keys as the plain service


# Headers with which a client could change how Ray treats its request.
OF_RAY = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
REQUEST_ID = b"x-request-id"
NO_ANSWER = Problem(
    "not-ready", "The replica ended before it answered. Try again.", retry_after_s=1
)


class NotReadyError(RuntimeError):
    """The replica answers no pictures now: says why."""


class Replica:
    """What Ray runs on every replica.

    Raises:
        CannotServeError: the settings do not allow it.
        ValueError: a model cannot be served.
    """

    def __init__(self) -> None:
        settings, passed_over = read_settings()
        # Beside Ray's own log of the replica, which keeps lines back and puts a form of its own
        # around them.
        outlet = logs.open_outlet()
        logs.configure(settings.log_format, settings.log_level)
        tell_passed_over(passed_over)
        raise_files()
        # Ray's server would name itself in every answer, and Ray has no option for that.
        nameless: Any = partialmethod(Config.__init__, server_header=False)
        Config.__init__ = nameless  # type: ignore[method-assign]
        self._broken = ""
        self._was_ready = False
        self._served = create_app(on_own_devices(settings), self._give_up)
        self._served.state.metrics.read_dropped = lambda: outlet.dropped

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application, which Ray starts and stops."""
        return self._served

    async def check_health(self) -> None:
        """Tell Ray what ``/health/ready`` tells; before the first answer, wait for it.

        Ray sends no requests to a replica that is not ready, and replaces it if that lasts. Being
        full does not count: the clients are told, and a new replica would not be emptier.

        Raises:
            NotReadyError: it is not ready.
        """
        while not (self._was_ready or self._broken):
            self._was_ready = self._served.state.predictions.ready
            await asyncio.sleep(LOOK_SECONDS)
        predictions = self._served.state.predictions
        full = predictions.engine.ready and predictions.decoders.queue.full
        if reason := self._broken or ("" if full else trouble(predictions)):
            raise NotReadyError(reason)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the pictures that wait or are in work here."""
        engine, queue = self._served.state.engine, self._served.state.predictions.decoders.queue
        return {PICTURES: engine.in_flight + engine.queued + queue.waiting + queue.running}

    def _give_up(self, reason: str) -> None:
        log.error("replica cannot go on", reason=reason)
        self._broken = reason


def read_settings() -> tuple[Settings, list[str]]:
    """Read and check the settings from the environment; return also variables to pass over.

    Raises:
        CannotServeError: one is wrong, or other machines would need no key.
    """
    try:
        passed_over = check(os.environ, Settings.model_fields)
        settings = Settings(host=HOST)
        check_keys(settings, resolve(settings.host, settings.port))
    except ValidationError as error:
        raise CannotServeError(explain(error, set())) from None
    except ValueError as error:
        raise CannotServeError(str(error)) from None
    return settings, passed_over


def on_own_devices(settings: Settings) -> Settings:
    """Return settings with a worker for each processor that Ray gave this replica.

    Ray shows a replica only its own GPUs, so those need no more than the plain service does.
    """
    given: dict[str, float] = ray.get_runtime_context().get_assigned_resources()
    if settings.devices != "auto" or given.get("GPU"):
        return settings
    workers = ",".join(["cpu"] * max(1, int(given.get("CPU", 1))))
    return settings.model_copy(update={"devices": workers})


def scale(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Return how many replicas the pictures that wait or are in work take.

    The deployment's ``target_ongoing_requests`` is the number of pictures for each replica.
    """
    pictures = (context.aggregated_metrics or {}).get(PICTURES, {})
    if not pictures:
        return context.target_num_replicas, {}
    return sum(pictures.values()) / context.config.target_ongoing_requests, {}


def build(arguments: dict[str, str]) -> serve.Application:
    """Return the application of Ray Serve that the environment's settings describe.

    Requests wait in the queue of the engine, which answers 503 with Retry-After when it is full, so
    Ray must let through more than fit. At its end a replica has the time of the plain service to
    answer what it has, after that in which HAProxy learns to send no more.

    Args:
        arguments: of the application in Ray's configuration; there are none.

    Raises:
        CannotServeError: the settings do not allow it, or there are arguments.
    """
    if arguments:
        raise CannotServeError(
            f"the application has no arguments, so {', '.join(arguments)} cannot be set: settings "
            "are variables PIXELDP_… in env_vars of its runtime_env"
        )
    settings, _ = read_settings()
    reachable = os.environ.get("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S")
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="pixeldp",
        max_ongoing_requests=settings.queue + SPARE_REQUESTS,
        graceful_shutdown_timeout_s=float(reachable or REACHABLE_SECONDS)
        + drain_seconds(settings)
        + END_SECONDS,
        # Ray's Python proxies count what waits; HAProxy does not.
        max_queued_requests=-1,
    )
    return deployment.bind()


class Straight:
    """Lets requests and answers pass through Ray's replica as through the plain service.

    Otherwise Ray reads each body as fast as it comes, without our limits, to notice that a client
    has left, which the application does itself; and it adds its own request id to the answer's.

    Where Ray has no answer, this is 503, which clients repeat: its proxy in Python, which answers
    while HAProxy knows no replica, otherwise says 500 of what a replica took with it, and so does a
    replica of requests that come a moment too early. The application answers what fails in it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_once(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                ids = [one for one in message["headers"] if one[0].lower() == REQUEST_ID]
                others = [one for one in message["headers"] if one not in ids]
                # The first is the application's.
                message = {**message, "headers": [*others, *ids[:1]]}
            await send(message)

        given = [one for one in scope["headers"] if one[0] not in OF_RAY]
        scope = {**scope, "headers": [*given, (OF_RAY[1], b"?1")]}
        try:
            await self._app(scope, receive, send_once)
        except Exception:
            if started:
                raise
            log.exception("Ray failed before the application had the request")
        if not started:
            await NO_ANSWER.response()(scope, receive, send)


def straight() -> list[Middleware]:
    """Return what surrounds every replica, for ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``."""
    return [Middleware(Straight)]
