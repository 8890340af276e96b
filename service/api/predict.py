"""``POST /predict`` and ``POST /predict/batch``."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from models.certification.procedure import Question, Terms
from models.certification.reach import draws_needed, reachable_size
from models.preprocessing import CannotCertify, Preprocessing, plan
from service import images
from service.api import problems
from service.api.answers import Answer, Compute, Look, Timing, answer, look
from service.api.body import Body, read_many, read_one
from service.api.options import Asked, Options, parse, resolve
from service.api.problems import Problem
from service.catalogue import Catalogue, Served, UnknownModelError
from service.engine.engine import (
    CannotEncodeError,
    DeadlineError,
    Engine,
    Job,
    NotReadyError,
    OverloadedError,
    WorkersLostError,
)
from service.metrics import Metrics
from service.settings import Settings

T = TypeVar("T")

RETRY_SECONDS = 1
# No standard status says that the client has left; nobody reads this one.
CLIENT_LEFT = 499


@dataclass(frozen=True)
class Predictions:
    """The way of a picture through the front process: bytes to pixels to engine to answer."""

    settings: Settings
    catalogue: Catalogue
    engine: Engine
    metrics: Metrics
    pool: ThreadPoolExecutor

    async def predict(
        self,
        data: bytes,
        options: Options,
        arrived: float,
        on_look: Callable[[Look], None] | None = None,
    ) -> Answer:
        """Answer for one picture.

        Args:
            data: the picture file.
            options: what the client chose.
            arrived: when the request came, by ``time.monotonic``.
            on_look: told at every look before the last what the answer is so far.

        Raises:
            Problem: anything that keeps the picture from being answered.
        """
        served = self._find(options.model)
        asked = resolve(options, served, self.settings)
        begun = time.monotonic()
        loop = asyncio.get_running_loop()
        limits = images.Limits(self.settings.max_pixels)
        try:
            picture = await loop.run_in_executor(self.pool, images.decode, data, limits)
            preparation = plan(
                picture.width,
                picture.height,
                picture.mode,
                picture.bits,
                served.bundle.manifest.input.shape,
            )
        except images.NotAPicture as error:
            raise Problem("not-a-picture", str(error)) from None
        except images.TooManyPixels as error:
            raise Problem("too-many-pixels", str(error), limit_pixels=error.limit) from None
        except (images.CannotCertifyPicture, CannotCertify) as error:
            raise Problem("cannot-certify-preprocessing", str(error)) from None
        self._check_reach(served, asked, preparation, picture.values)
        decoded = time.monotonic()
        job = Job(
            model=served.index,
            picture=picture,
            question=asked.question,
            scores=asked.scores,
            deadline=arrived + asked.timeout_ms / 1000,
            high=options.priority == "high",
        )
        try:
            result = await self.engine.predict(
                job, on_look and (lambda so_far: on_look(look(so_far, served.bundle)))
            )
        except NotReadyError as error:
            raise Problem("not-ready", f"{error}.", retry_after_s=RETRY_SECONDS) from None
        except (OverloadedError, WorkersLostError) as error:
            raise Problem("overloaded", f"{error}.", retry_after_s=RETRY_SECONDS) from None
        except DeadlineError:
            detail = f"No look was reached within timeout_ms={asked.timeout_ms}."
            raise Problem("deadline-before-first-look", detail) from None
        except CannotEncodeError as error:
            raise Problem("cannot-certify-preprocessing", str(error)) from None
        stages = {
            "decode": decoded - begun,
            "queue": result.queue_seconds,
            "compute": result.compute_seconds,
        }
        answered = answer(
            result.conclusion,
            result.granted,
            served.bundle,
            asked,
            picture,
            preparation,
            Compute(device=result.device, precision=result.precision),
            Timing(
                **{stage: _milliseconds(seconds) for stage, seconds in stages.items()},
                total=_milliseconds(time.monotonic() - arrived),
            ),
            options.evidence,
        )
        self._count(answered, stages)
        return answered

    def _find(self, name: str | None) -> Served:
        try:
            return self.catalogue.find(name)
        except UnknownModelError as error:
            raise Problem("unknown-model", str(error.args[0])) from None

    def _check_reach(
        self, served: Served, asked: Asked, preparation: Preprocessing, values: int
    ) -> None:
        """Refuse a confidence at which not even agreeing draws certify anything."""
        manifest = served.bundle.manifest
        norm = manifest.sensitivity.input_norm
        terms = Terms(
            mechanism=manifest.noise.mechanism,
            scale=manifest.noise.scale,
            sensitivity=manifest.sensitivity.value * preparation.sensitivity(norm, norm),
            norm=norm,
            values=values,
        )
        question = asked.question
        if reachable_size(question, terms, manifest.scoring) > 0:
            return
        anything = Question(question.confidence, question.max_draws, None, question.norm)
        needed = draws_needed(anything, terms, manifest.scoring)
        takes = "no budget suffices" if needed is None else f"it takes at least {needed:,}"
        raise Problem(
            "confidence-out-of-reach",
            f"At confidence {asked.confidence} nothing can be certified with {asked.max_draws:,} "
            f"draws, even if all agree: {takes}.",
            option="confidence",
            draws_needed=needed,
        )

    def _count(self, answered: Answer, stages: dict[str, float]) -> None:
        name = answered.model.name
        robust = {True: "true", False: "false", None: "unknown"}[answered.robust]
        self.metrics.predictions.labels(name, robust, answered.stopped).inc()
        self.metrics.draws.labels(name).observe(answered.draws)
        self.metrics.size.labels(name, answered.norm).observe(answered.certified_size)
        for stage, seconds in stages.items():
            self.metrics.stage.labels(stage).observe(seconds)


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)


_PICTURE = {"type": "string", "contentMediaType": "image/*"}
_BASE64 = {"type": "string", "contentEncoding": "base64"}


def _request_body(name: str, single: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    """Describe the ways to send pictures; the options of a JSON body are those of the query."""
    options = Options.model_json_schema()["properties"]
    content: dict[str, Any] = {
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"image": form}, "required": ["image"]}
        },
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {name: single, **options},
                "required": [name],
                "additionalProperties": False,
            }
        },
    }
    if name == "image":
        raw = {"schema": {"type": "string", "format": "binary"}}
        content = {"image/png": raw, "image/jpeg": raw, **content}
    return {"requestBody": {"required": True, "content": content}}


router = APIRouter(tags=["predictions"])
_ERRORS = (400, 404, 413, 415, 422, 500, 503, 504)


@router.post(
    "/predict",
    response_model=Answer,
    responses={
        406: {"model": Answer, "description": "The answer is not robust, as `require` asked."},
        **problems.responses(*_ERRORS),
    },
    openapi_extra=_request_body("image", _BASE64, _PICTURE),
)
async def predict(request: Request, query: Annotated[Options, Query()]) -> Response:
    """Say what is in a picture, and how far it could have been altered without changing that."""
    predictions: Predictions = request.app.state.predictions
    arrived: float = request.scope["arrived"]
    body = await read_one(request, predictions.settings.max_bytes)
    options = _merge(query, body)
    answered = await _unless_client_leaves(
        request, predictions.predict(body.pictures[0], options, arrived)
    )
    if answered is None:
        return Response(status_code=CLIENT_LEFT)
    robust = answered.certified_size > 0 if answered.robust is None else answered.robust
    status = 406 if options.require == "robust" and not robust else 200
    return Response(
        answered.model_dump_json(), status, answered.headers(), media_type="application/json"
    )


@router.post(
    "/predict/batch",
    responses={
        200: {
            "description": "An answer, or an error, for each picture in order.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        **problems.responses(*_ERRORS),
    },
    openapi_extra=_request_body(
        "images",
        {"type": "array", "items": _BASE64, "minItems": 1},
        {"type": "array", "items": _PICTURE},
    ),
)
async def predict_batch(request: Request, query: Annotated[Options, Query()]) -> Response:
    """Do the same for several pictures; one that fails does not disturb the others."""
    predictions: Predictions = request.app.state.predictions
    settings = predictions.settings
    arrived: float = request.scope["arrived"]
    body = await read_many(request, settings.max_bytes, settings.max_batch)
    options = _merge(query, body)
    _refuse_require(options, "each answer of a batch")
    resolve(options, predictions._find(options.model), settings)

    async def one(picture: bytes) -> dict[str, Any]:
        try:
            answered = await predictions.predict(picture, options, arrived)
        except Problem as problem:
            return {"error": problem.document()}
        return answered.model_dump(mode="json")

    answers = await _unless_client_leaves(request, asyncio.gather(*map(one, body.pictures)))
    if answers is None:
        return Response(status_code=CLIENT_LEFT)
    return JSONResponse({"predictions": answers})


@router.post(
    "/predict/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events: `look` at every look, then `answer`, or `error`.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems.responses(*_ERRORS),
    },
    openapi_extra=_request_body("image", _BASE64, _PICTURE),
)
async def predict_stream(request: Request, query: Annotated[Options, Query()]) -> Response:
    """Do what /predict does, and tell at every look what the answer is so far."""
    predictions: Predictions = request.app.state.predictions
    arrived: float = request.scope["arrived"]
    body = await read_one(request, predictions.settings.max_bytes)
    options = _merge(query, body)
    _refuse_require(options, "a stream")
    looks: asyncio.Queue[Look | None] = asyncio.Queue()
    work = asyncio.ensure_future(
        predictions.predict(body.pictures[0], options, arrived, looks.put_nowait)
    )
    work.add_done_callback(lambda _: looks.put_nowait(None))
    # Until there is something to send, errors are answered as errors.
    first = await _unless_client_leaves(request, looks.get())
    if not work.done() and first is None:
        work.cancel()
        return Response(status_code=CLIENT_LEFT)
    if first is None:
        await work

    async def events() -> AsyncIterator[str]:
        try:
            reached = first
            while reached is not None:
                yield _event("look", reached.model_dump_json())
                reached = await looks.get()
            try:
                yield _event("answer", (await work).model_dump_json())
            except Problem as problem:
                yield _event("error", json.dumps(problem.document()))
        finally:
            work.cancel()  # the client has left; its slots are free

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), headers=headers, media_type="text/event-stream")


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


def _refuse_require(options: Options, what: str) -> None:
    if options.require is not None:
        detail = f"require is for single pictures; {what} says by itself whether it is robust."
        raise Problem("option-out-of-range", detail, option="require", allowed="none")


def _merge(query: Options, body: Body) -> Options:
    """Join the options of the query and of the body; none may be given in both."""
    given = query.model_dump(exclude_unset=True)
    for name in body.options:
        if name in given:
            detail = f"{name} is given both in the query and in the body; give it once."
            raise Problem("option-out-of-range", detail, option=name)
    return parse(given | body.options)


async def _unless_client_leaves(request: Request, work: Awaitable[T]) -> T | None:
    """Await ``work``, but cancel it and return None as soon as the client hangs up."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_client_leaves(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        leaving.cancel()
        task.cancel()


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
