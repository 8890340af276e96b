"""``/v2/repository``: which models there are, and loading and unloading them while serving.

All of it needs the scope admin.
"""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, ValidationError

from models.bundle import BundleError
from service.api.auth import requires
from service.api.body import whole
from service.api.predictions import RETRY_SECONDS, Predictions
from service.api.problems import Problem
from service.api.v2_errors import Unsupported, V2Route
from service.catalogue import UnknownModelError
from service.confinement import NotConfinedError
from service.engine.engine import LoadError, NotReadyError
from service.repository import Repository, RepositoryError

MOST_BYTES = 65_536

router = APIRouter(
    prefix="/repository",
    route_class=V2Route,
    include_in_schema=False,
    dependencies=[requires("admin")],
)


class _Body(BaseModel):
    model_config = ConfigDict(strict=True)

    ready: bool = False
    parameters: dict[str, Any] = {}


@router.post("/index")
async def index(request: Request) -> list[dict[str, str]]:
    """List the models that are served, and those of the repository that are not."""
    body = await _read(request)
    predictions: Predictions = request.app.state.predictions
    served = [bundle.manifest for bundle in predictions.catalogue.bundles]
    entries = [_entry(one.name, one.version, "READY") for one in served]
    root = predictions.settings.repository
    if root is None or body.ready:
        return entries
    stored, broken = await asyncio.to_thread(Repository(root).list)
    known = {(one.name, one.version) for one in served}
    entries += [
        _entry(one.name, one.version, "UNAVAILABLE", "not loaded")
        for one in stored
        if (one.name, one.version) not in known
    ]
    return entries + [_entry(name, "", "UNAVAILABLE", why) for name, why in broken.items()]


@router.post("/models/{name}/load")
async def load(request: Request, name: str) -> dict[str, Any]:
    """Load all versions of a model that the repository has."""
    if (await _read(request)).parameters:
        raise Unsupported("a model is loaded as its bundle describes it, without parameters")
    predictions: Predictions = request.app.state.predictions
    root = predictions.settings.repository
    if root is None:
        raise Unsupported("no repository is set to load from (PIXELDP_REPOSITORY)")
    try:
        for stored in await asyncio.to_thread(Repository(root).find, name):
            await predictions.engine.load(stored.path)
    except NotConfinedError as error:
        raise Problem("unknown-model", str(error)) from None
    except NotReadyError as error:
        raise Problem("not-ready", f"{error}.", retry_after_s=RETRY_SECONDS) from None
    except (RepositoryError, BundleError, LoadError) as error:
        raise Problem("cannot-load", str(error)) from None
    return {}


@router.post("/models/{name}/unload")
async def unload(request: Request, name: str) -> dict[str, Any]:
    """Serve no version of a model any longer; what is in flight is answered."""
    await _read(request)
    if ":" in name:
        raise Problem("unknown-model", f"No model {name[:80]!r} is served.")
    predictions: Predictions = request.app.state.predictions
    try:
        await predictions.engine.unload(name)
    except UnknownModelError as error:
        raise Problem("unknown-model", str(error.args[0])) from None
    return {}


async def _read(request: Request) -> _Body:
    """Read the body, which may be empty."""
    settings = request.app.state.predictions.settings
    async with whole(request, MOST_BYTES, settings.timeout_ms / 1000) as content:
        try:
            return _Body.model_validate_json(content or b"{}")
        except ValidationError:
            detail = "The body must be empty, or a JSON object with ready or parameters."
            raise Problem("malformed-request", detail) from None


def _entry(name: str, version: str, state: str, reason: str = "") -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": reason}
