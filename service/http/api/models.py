"""``GET /models``: the models served."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from models.execution import Calibration, Execution
from service.catalogue import Served, ServedFamily
from service.http import problems
from service.http.api.answers import ModelName, NoisePart, model_name, noise_part
from service.http.guards.auth import REFUSALS, requires


@dataclass(frozen=True)
class Calibrated(Execution):
    """How some workers run the model, as measured at start, and their total speed.

    ``small_pass`` is the size of the passes in which pictures are drawn that come while few are in
    flight, if there are such. ``deviation`` says why they run it differently from the other workers
    on their kind of device.
    """

    small_pass: int | None
    draws_per_second: float
    workers: int
    deviation: str | None


class Model(ModelName):
    """One served model."""

    default: bool
    input_shape: tuple[int, int, int]
    labels: list[str]
    samples: list[str]
    noise: NoisePart
    card: str
    evaluation: dict[str, Any]
    calibrations: list[Calibrated]


class FamilyMember(BaseModel):
    """A member of a family, and the least target that it answers."""

    model: str
    least_target: float


class FamilyPart(BaseModel):
    """A name under which the target chooses the model; ``default`` answers without one."""

    name: str
    default: str
    members: list[FamilyMember]


class Models(BaseModel):
    """All served models and families; the default answers requests that name none."""

    models: list[Model]
    families: list[FamilyPart]


router = APIRouter(tags=["models"], dependencies=[requires("predict")], responses=REFUSALS)


def _describe(request: Request, served: Served) -> Model:
    predictions = request.app.state.predictions
    manifest = served.bundle.manifest
    return Model(
        **model_name(served.bundle).model_dump(),
        default=predictions.catalogue.is_default(served),
        input_shape=manifest.input.shape,
        labels=list(manifest.labels),
        samples=served.bundle.samples,
        noise=noise_part(served.bundle),
        card=served.bundle.card,
        evaluation=manifest.evaluation,
        calibrations=_together(predictions.engine.running(served.index)),
    )


def _describe_family(served: ServedFamily) -> FamilyPart:
    members = zip(served.members, served.family.file.members, strict=True)
    return FamilyPart(
        name=served.name,
        default=":".join(served.default),
        members=[
            FamilyMember(model=":".join(key), least_target=member.least_target)
            for key, member in members
        ],
    )


def _together(workers: list[tuple[Calibration, str | None]]) -> list[Calibrated]:
    """Sum workers that run it in the same way; at first none is ready."""
    alike: dict[tuple[Execution, int | None, str | None], list[float]] = {}
    for one, deviation in workers:
        small = one.small.pass_size if one.small else None
        alike.setdefault((one.execution, small, deviation), []).append(one.draws_per_second)
    return [
        Calibrated(
            **vars(way),
            small_pass=small,
            draws_per_second=float(round(sum(speeds))),
            workers=len(speeds),
            deviation=deviation,
        )
        for (way, small, deviation), speeds in alike.items()
    ]


@router.get("/models")
async def list_models(request: Request) -> Models:
    """List the served models."""
    catalogue = request.app.state.predictions.catalogue
    return Models(
        models=[_describe(request, served) for served in catalogue.models],
        families=[_describe_family(family) for family in catalogue.families.values()],
    )


@router.get("/models/{name}", responses=problems.responses(404))
async def show_model(request: Request, name: str) -> Model:
    """Describe one model, by name or name:version."""
    return _describe(request, request.app.state.predictions.catalogue.find(name))
