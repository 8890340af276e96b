"""``POST /predict``, ``/predict/batch`` and ``/predict/stream``."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from service.http import problems
from service.http.api import openapi
from service.http.api.answers import Answer, AnyAnswer, AnyLook, headers_together
from service.http.api.options import Options, parse, resolve
from service.http.api.quick import PicturesRoute
from service.http.guards.auth import REFUSALS, requires
from service.http.guards.budget import File, Holding
from service.http.guards.client_gone import unless_client_leaves
from service.http.guards.uploads import Body, read_pictures
from service.http.predictions import Predictions
from service.http.problems import Problem

_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["look", "restart", "answer", "error"]},
        "data": {"type": "string"},
    },
    "required": ["event", "data"],
}
# Draws of two runs are not counted together, so the looks of the first are void.
_RESTART = (
    'event: restart\ndata: {"detail": "The picture begins again; earlier looks are void."}\n\n'
)
router = APIRouter(
    route_class=PicturesRoute,
    tags=["predictions"],
    dependencies=[requires("predict")],
    responses=REFUSALS,
)
_ERRORS = (400, 404, 413, 415, 422, 500, 503, 504)


@router.post(
    "/predict",
    response_model=AnyAnswer,
    responses={
        406: {
            "model": AnyAnswer,
            "description": "The answer is not robust, as `require` asked, or with `allow` other "
            "labels may be first.",
        },
        **problems.responses(*_ERRORS),
    },
    openapi_extra=openapi.one_picture(),
)
async def predict(request: Request, query: Annotated[Options, Query()]) -> Response:
    """Say what is in a picture, and how far it could be altered without changing the answer."""
    predictions: Predictions = request.app.state.predictions
    arrived: float = request.scope["arrived"]
    [picture], options = await _read(request, query)
    answered = await unless_client_leaves(request, predictions.predict(picture, options, arrived))
    enough = _enough(answered, options)
    status = 406 if options.require == "robust" and not enough else 200
    return Response(
        answered.model_dump_json(), status, answered.headers(), media_type="application/json"
    )


def _enough(answered: AnyAnswer, options: Options) -> bool:
    """Say whether an answer is what ``require=robust`` asks for."""
    if not isinstance(answered, Answer):
        return answered.robust
    if options.allow is not None:
        # With allow, what is robust is that none but these labels can be first.
        return answered.certain is not None and bool(answered.certain.within_allowed)
    return answered.certified_size > 0 if answered.robust is None else answered.robust


@router.post(
    "/predict/batch",
    responses={
        200: {
            "description": "An answer, or an error, for each picture in order.",
            "model": openapi.Predictions,
        },
        **problems.responses(*_ERRORS),
    },
    openapi_extra=openapi.several_pictures(),
)
async def predict_batch(request: Request, query: Annotated[Options, Query()]) -> Response:
    """Answer several pictures; one that fails does not affect the others."""
    predictions: Predictions = request.app.state.predictions
    settings = predictions.settings
    arrived: float = request.scope["arrived"]
    pictures, options = await _read(request, query, settings.max_batch)
    _refuse_require(options, "each answer of a batch")
    asked = resolve(options, predictions.catalogue.find(options.model), settings)

    async def one(picture: File) -> AnyAnswer | Problem:
        try:
            return await predictions.predict(picture, options, arrived)
        except Problem as problem:
            return problem

    outcomes = await unless_client_leaves(request, asyncio.gather(*map(one, pictures)))
    answers = [None if isinstance(outcome, Problem) else outcome for outcome in outcomes]
    content = [
        json.dumps({"error": outcome.document()})
        if isinstance(outcome, Problem)
        else outcome.model_dump_json()
        for outcome in outcomes
    ]
    return Response(
        f'{{"predictions":[{",".join(content)}]}}',
        headers=headers_together(answers, asked),
        media_type="application/json",
    )


@router.post(
    "/predict/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events: `look` at every look, then `answer`, or `error`. After "
            "`restart` the picture begins again: all earlier looks are void.",
            "content": {"text/event-stream": {"schema": _EVENT}},
        },
        **problems.responses(*_ERRORS),
    },
    openapi_extra=openapi.one_picture(),
)
async def predict_stream(request: Request, query: Annotated[Options, Query()]) -> Response:
    """Answer like /predict, with an event for the answer so far at every look."""
    predictions: Predictions = request.app.state.predictions
    arrived: float = request.scope["arrived"]
    [picture], options = await _read(request, query)
    _refuse_require(options, "a stream")
    looks: asyncio.Queue[str | None] = asyncio.Queue()
    holding: Holding = request.scope["holding"]

    def put(look: AnyLook | None) -> None:
        event = _event("look", look.model_dump_json()) if look else _RESTART
        holding.count(len(event))  # until the client has read it
        looks.put_nowait(event)

    work = asyncio.ensure_future(predictions.predict(picture, options, arrived, put))
    work.add_done_callback(lambda _: looks.put_nowait(None))
    # Before the first event, errors are still answered with their status.
    try:
        first = await unless_client_leaves(request, looks.get())
    except ClientDisconnect:
        work.cancel()
        raise
    if first is None:
        await work

    async def events() -> AsyncIterator[str]:
        try:
            reached = first
            while reached is not None:
                yield reached
                holding.count(-len(reached))
                reached = await looks.get()
            try:
                yield _event("answer", (await work).model_dump_json())
            except Problem as problem:
                yield _event("error", json.dumps(problem.document()))
        finally:
            work.cancel()  # the client has left; its slots are free

    # Headers are sent before the answer is known, so they do not describe it.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), headers=headers, media_type="text/event-stream")


async def _read(
    request: Request, query: Options, most: int | None = None
) -> tuple[list[File], Options]:
    settings = request.app.state.predictions.settings
    patience = min(query.timeout_ms or settings.timeout_ms, settings.timeout_ms_limit) / 1000
    body = await read_pictures(request, settings.max_bytes, patience, most)
    return body.pictures, _merge(request, query, body)


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


def _refuse_require(options: Options, what: str) -> None:
    if options.require is not None:
        detail = f"require is for single pictures; {what} says by itself whether it is robust."
        raise Problem("option-out-of-range", detail, option="require", allowed="none")


def _merge(request: Request, query: Options, body: Body) -> Options:
    """Join the options of the query and of the body; where they agree, both may give one."""
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if values.setdefault(name, value) != value:
            detail = (
                f"{name} is given more than once in the query, with other values; give it once."
            )
            raise Problem("option-out-of-range", detail, option=name)
    if not body.options:
        return query
    given = query.model_dump(exclude_unset=True)
    others = parse(body.options).model_dump(exclude_unset=True)
    for name in given.keys() & others.keys():
        if given[name] != others[name]:
            detail = f"{name} is one value in the query and another in the body; give it once."
            kind = "malformed-request" if body.form else "option-out-of-range"
            raise Problem(kind, detail, option=name)
    return parse(given | others)
