"""``GET /health/live``, ``GET /health/ready`` and ``GET /metrics``: for probes and scrapers."""

from fastapi import APIRouter, Request, Response

from service.http import problems
from service.http.guards.auth import requires
from service.http.metrics import CONTENT_TYPE
from service.http.predictions import Predictions
from service.http.problems import Problem

router = APIRouter(tags=["operations"])


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Say that the process answers."""
    return {"live": True}


@router.get("/health/ready", responses=problems.responses(503))
async def ready(request: Request) -> dict[str, bool]:
    """Say whether the service answers pictures now."""
    if detail := trouble(request.app.state.predictions):
        raise Problem("not-ready", detail, retry_after_s=1)
    return {"ready": True}


def trouble(predictions: Predictions) -> str:
    """Say why pictures are not answered now; empty if they are."""
    if predictions.ready:
        return ""
    if predictions.engine.ready:
        doing = predictions.decoders.trouble or "as many wait as may, or decoders start again"
        return f"Large pictures are not decoded: {doing}."
    doing = predictions.engine.trouble or "they are loading the models, or the service is stopping"
    return f"No worker is ready: {doing}."


@router.get(
    "/metrics",
    response_class=Response,
    dependencies=[requires("metrics")],
    responses={200: {"content": {"text/plain": {}}}, **problems.responses(401, 403)},
)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus's text format."""
    state = request.app.state
    return Response(await state.backend.metrics(state.metrics), media_type=CONTENT_TYPE)
