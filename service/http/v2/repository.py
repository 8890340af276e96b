"""``/v2/repository``: lists models, and loads and unloads them while the service runs.

All routes need the scope admin.
"""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, ValidationError

from service import reading
from service.http.guards.auth import requires
from service.http.guards.uploads import read_body
from service.http.predictions import Predictions
from service.http.problems import malformed
from service.http.v2.errors import Unsupported, V2Route
from service.http.v2.request import full_name
from service.system.confinement import NotConfinedError

MOST_BYTES = 65_536

router = APIRouter(
    # The whole path, because metrics and logs take it from the route itself.
    prefix="/v2/repository",
    route_class=V2Route,
    include_in_schema=False,
    dependencies=[requires("admin")],
)


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    ready: bool = False
    parameters: dict[str, Any] = {}

    def dependents(self) -> bool:
        """Return the parameter ``unload_dependents``.

        Raises:
            Problem: it is not true or false.
        """
        told = self.parameters.get("unload_dependents", False)
        if type(told) is not bool:
            raise malformed("The parameter unload_dependents must be true or false.")
        return told

    def version(self, known: tuple[str, ...] = ()) -> str | None:
        """Return the parameter ``version``.

        Args:
            known: the names of other parameters, which are read elsewhere.

        Raises:
            Unsupported: there are other parameters.
            Problem: it is not a version.
        """
        if others := self.parameters.keys() - {"version", *known}:
            raise Unsupported(
                f"a model is loaded as its bundle describes it, without parameters but version "
                f"(not {min(others)[:40]!r})"
            )
        version = self.parameters.get("version")
        if version is None or (type(version) in (str, int) and str(version).isdecimal()):
            return None if version is None else str(version)
        raise malformed("The parameter version must be a number.")


@router.post("/index")
async def index(request: Request) -> list[dict[str, str]]:
    """List the models that are served, and those of the repository that are not."""
    body = await _read(request)
    predictions: Predictions = request.app.state.predictions
    served = [bundle.manifest for bundle in predictions.catalogue.bundles]
    keys = [(one.name, one.version) for one in served]
    keys += [(name, "") for name in predictions.catalogue.families]
    entries = {key: _entry(*key, "READY") for key in keys}
    if body.ready:
        return list(entries.values())
    root = predictions.settings.repository
    stored, broken = await reading.index(root) if root else ([], {})
    known = [(one.name, one.version) for one in stored]
    for key in [*known, *predictions.catalogue.folders]:
        entries.setdefault(key, _entry(*key, "UNAVAILABLE", "not loaded"))
    faults = [_entry(name, "", "UNAVAILABLE", why) for name, why in broken.items()]
    return [*entries.values(), *faults]


@router.post("/models/{name}/load")
@router.post("/models/{name}/versions/{version}/load")
async def load(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Load all versions of a model that the repository has or that were served before, or one.

    If one of them cannot be loaded, nothing changes.
    """
    body = await _read(request)
    version = version or body.version()
    predictions: Predictions = request.app.state.predictions
    await predictions.engine.load_all(await _folders(predictions, name, version))
    return {}


async def _folders(predictions: Predictions, name: str, version: str | None) -> list[Path]:
    """Return the folders of the versions of a model, the lowest first, or of one version.

    Of a family it is the file.

    Raises:
        Unsupported: there is no repository, and the model was never served.
        NotConfinedError: there is no such version.
        RepositoryError: one of them has another name or version in its description.
        LoadError: they were not read in time.
    """
    root = predictions.settings.repository
    found = {
        of: path for (named, of), path in predictions.catalogue.folders.items() if named == name
    }
    if root is None and not found:
        raise Unsupported("no repository is set to load from (PIXELDP_REPOSITORY)")
    if root is not None:
        try:
            found |= {one.version: one.path for one in await reading.find(root, name)}
        except NotConfinedError:
            if not found:
                raise
    if version is None:
        return [found[""]] if "" in found else [found[of] for of in sorted(found, key=int)]
    if version not in found:
        raise NotConfinedError(f"There is no version {version[:20]} of {name}.")
    return [found[version]]


@router.post("/models/{name}/unload")
@router.post("/models/{name}/versions/{version}/unload")
async def unload(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Stop serving all versions of a model, or one; pictures in flight are answered.

    A family's members stay, unless ``unload_dependents`` is set.
    """
    body = await _read(request)
    version = version or body.version(known=("unload_dependents",))
    predictions: Predictions = request.app.state.predictions
    await predictions.engine.unload(full_name(name, version), body.dependents())
    return {}


async def _read(request: Request) -> _Body:
    """Read the body, which may be empty."""
    settings = request.app.state.predictions.settings
    async with read_body(request, MOST_BYTES, settings.timeout_ms / 1000) as content:
        try:
            return _Body.model_validate_json(content or b"{}")
        except ValidationError:
            raise malformed(
                "The body must be empty, or a JSON object with ready or parameters."
            ) from None


def _entry(name: str, version: str, state: str, reason: str = "") -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": reason}
