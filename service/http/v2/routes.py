"""``/v2``: the Open Inference Protocol V2, as ``tritonclient[http]`` and KServe's clients speak it.

The input is the tensor IMAGE (pixels in the model's own size) or IMAGE_BYTES (picture files). The
outputs are the label, the scores with their bounds, and the certified size. Everything takes the
way of ``POST /predict``.
"""

import asyncio
import json
from importlib.metadata import version as version_of
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.catalogue import Served, ServedFamily, UnknownModelError
from service.http.api.answers import Answer, headers_together
from service.http.api.options import Options, parse, resolve
from service.http.exceptions import READY_SECONDS
from service.http.guards.auth import requires
from service.http.guards.budget import File
from service.http.guards.client_gone import unless_client_leaves
from service.http.guards.uploads import held, in_turn, read_body, room
from service.http.predictions import Predictions
from service.http.problems import Problem
from service.http.v2.errors import V2Route
from service.http.v2.request import full_name, read_inference, room_apart
from service.http.v2.response import OUTPUTS, respond

PLATFORM = "pytorch_pixeldp"
EXTENSIONS = ["binary_tensor_data", "model_repository"]
_LIST = " and ".join(EXTENSIONS)
# What Triton has and this service does not, by the path's last part, and where to find the
# equivalent.
ELSEWHERE = {
    "config": "A model's inputs and outputs are at GET /v2/models/NAME, its noise at "
    "GET /models/NAME.",
    "stats": "Counts and times are at GET /metrics.",
    "generate": "Pictures are sent to POST /v2/models/NAME/infer.",
    "generate_stream": "To stream an answer's looks, use POST /predict/stream.",
    "models": "Models are listed at GET /models, and at POST /v2/repository/index.",
    "setting": "Set traces by OTEL_EXPORTER_OTLP_ENDPOINT.",
    "logging": "Set the log by PIXELDP_LOG_LEVEL and PIXELDP_LOG_FORMAT.",
    "status": "Tensors are sent in the request, not by shared memory.",
    "register": "Tensors are sent in the request, not by shared memory.",
    "unregister": "Tensors are sent in the request, not by shared memory.",
}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

router = APIRouter(prefix="/v2", route_class=V2Route, include_in_schema=False)


def _served(request: Request) -> Served:
    """Return the model that the path names."""
    name, version = request.path_params["name"], request.path_params.get("version")
    predictions: Predictions = request.app.state.predictions
    try:
        return predictions.catalogue.find(full_name(name, version))
    except UnknownModelError:
        if name in ELSEWHERE:  # such as /v2/models/stats, for all models
            raise _nothing(request) from None
        raise


Model = Annotated[Served, Depends(_served)]
_PREDICTS = [requires("predict")]


@router.get("")
async def server() -> dict[str, Any]:
    """Describe the service."""
    return {"name": "pixeldp", "version": version_of("pixeldp"), "extensions": EXTENSIONS}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Say that the process answers."""
    return {"live": True}


@router.get("/health/ready")
async def ready(request: Request) -> dict[str, bool]:
    """Say whether the service answers pictures now."""
    _check_ready(request)
    return {"ready": True}


@router.get("/models/{name}/ready", dependencies=_PREDICTS)
@router.get("/models/{name}/versions/{version}/ready", dependencies=_PREDICTS)
async def model_ready(request: Request, model: Model) -> dict[str, Any]:
    """Say whether a model answers pictures now."""
    _check_ready(request)
    return {"name": request.path_params["name"], "ready": True}


@router.get("/models/{name}", dependencies=_PREDICTS)
@router.get("/models/{name}/versions/{version}", dependencies=_PREDICTS)
async def model_metadata(request: Request, model: Model) -> dict[str, Any]:
    """Describe a model's tensors."""
    manifest, name = model.bundle.manifest, request.path_params["name"]
    catalogue = request.app.state.predictions.catalogue
    named = [bundle.manifest for bundle in catalogue.bundles]
    channels, height, width = manifest.input.shape
    labels = len(manifest.labels)
    family = catalogue.family(name)
    return {
        "name": name,
        "versions": sorted((one.version for one in named if one.name == name), key=int),
        "platform": PLATFORM,
        "inputs": [
            {"name": "IMAGE", "datatype": "UINT8", "shape": [-1, height, width, channels]},
            {"name": "IMAGE_BYTES", "datatype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [
            {"name": output.name, "datatype": output.datatype, "shape": [-1, output.width(labels)]}
            for output in OUTPUTS.values()
        ],
        **({"parameters": _of_family(family)} if family else {}),
    }


def _of_family(family: ServedFamily) -> dict[str, str]:
    """Return which members answer which targets; parameters are plain values, so lists are JSON."""
    return {
        "default": ":".join(family.default),
        "members": json.dumps([":".join(key) for key in family.members]),
        "least_targets": json.dumps([one.least_target for one in family.family.file.members]),
    }


@router.post("/models/{name}/infer", dependencies=_PREDICTS)
@router.post("/models/{name}/versions/{version}/infer", dependencies=_PREDICTS)
async def infer(request: Request, model: Model) -> Response:
    """Answer a batch of pictures; if one of them cannot be answered, none is."""
    predictions: Predictions = request.app.state.predictions
    settings, manifest = predictions.settings, model.bundle.manifest
    arrived: float = request.scope["arrived"]
    header = request.headers.get("inference-header-content-length")
    async with read_body(request, settings.max_bytes, settings.timeout_ms / 1000) as content:
        with room(request, room_apart(len(content), header)):
            inference = await in_turn(
                request,
                len(content),
                lambda: read_inference(content, header, manifest.input.shape, settings.max_batch),
            )
        files = [held(picture, request.scope["holding"]) for picture in inference.pictures]
        inference.pictures.clear()
    # A family, or the very model whose input was checked.
    family = predictions.catalogue.family(request.path_params["name"])
    name = family.name if family else ":".join(model.key)
    options = parse(inference.options | {"model": name, "scores": "all"})
    asked = resolve(options, model, settings)
    work = _predict(predictions, files, options, arrived)
    answers = await unless_client_leaves(request, work)
    headers = headers_together([*answers], asked)
    return respond(inference.id, inference.outputs, answers, headers, name)


@router.api_route("", methods=METHODS)
@router.api_route("/{path:path}", methods=METHODS)
async def nothing(request: Request) -> JSONResponse:
    """Answer all other requests in this protocol's form."""
    raise _nothing(request)


def _nothing(request: Request) -> Problem:
    """Return the problem that the protocol has nothing at the request's path."""
    last = request.url.path.rstrip("/").rpartition("/")[2]
    asked = f"There is no {request.method} {request.url.path}"
    if instead := ELSEWHERE.get(last):
        return Problem("not-found", f"{asked}: of Triton's extensions there are {_LIST}. {instead}")
    return Problem("not-found", f"{asked}.")


async def _predict(
    predictions: Predictions, pictures: list[File], options: Options, arrived: float
) -> list[Answer]:
    """Answer all pictures; as soon as one fails, the others are cancelled."""

    async def one(number: int, picture: File) -> Answer:
        try:
            answered = await predictions.predict(picture, options, arrived)
            assert isinstance(answered, Answer), "there is no parameter for the threat"
            return answered
        except Problem as problem:
            if len(pictures) > 1:
                problem.detail = f"Picture {number} of the batch: {problem.detail}"
            raise

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*numbered)) for numbered in enumerate(pictures)]
        return [task.result() for task in tasks]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        del group, tasks  # they have the error, whose traceback refers to this frame


def _check_ready(request: Request) -> None:
    if not request.app.state.predictions.ready:
        detail = "Pictures are not answered now: workers or decoders start, or the service stops."
        raise Problem("not-ready", detail, retry_after_s=READY_SECONDS)
