"""``GET /models``: what is served."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from service.api import problems
from service.api.answers import NoisePart, model_name, noise_part
from service.api.problems import Problem
from service.catalogue import Served, UnknownModelError


class Calibration(BaseModel):
    """How the model is run here, as measured at start."""

    precision: str
    pass_size: int
    draws_per_second: float | None


class Model(BaseModel):
    """One served model."""

    name: str
    version: str
    digest: str
    input_shape: tuple[int, int, int]
    labels: list[str]
    noise: NoisePart
    card: str
    evaluation: dict[str, Any]
    calibration: Calibration


class Models(BaseModel):
    """All served models; the first is the default."""

    models: list[Model]


router = APIRouter(tags=["models"])


def _describe(request: Request, served: Served) -> Model:
    predictions = request.app.state.predictions
    settings, speeds = predictions.settings, predictions.engine.speeds
    manifest = served.bundle.manifest
    return Model(
        **model_name(served.bundle).model_dump(),
        input_shape=manifest.input.shape,
        labels=list(manifest.labels),
        noise=noise_part(served.bundle),
        card=served.bundle.card,
        evaluation=manifest.evaluation,
        calibration=Calibration(
            precision=settings.precision,
            pass_size=settings.pass_size,
            draws_per_second=round(speeds[served.index]) if speeds else None,
        ),
    )


@router.get("/models")
async def list_models(request: Request) -> Models:
    """List the served models."""
    catalogue = request.app.state.predictions.catalogue
    return Models(models=[_describe(request, served) for served in catalogue.models])


@router.get("/models/{name}", responses=problems.responses(404))
async def show_model(request: Request, name: str) -> Model:
    """Describe one model, by name or name:version."""
    try:
        return _describe(request, request.app.state.predictions.catalogue.find(name))
    except UnknownModelError as error:
        raise Problem("unknown-model", str(error.args[0])) from None
