"""``GET /``: the page on which a person tries a certificate, and its files."""

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from starlette._utils import get_route_path
from starlette.types import Receive, Scope, Send

from models.bundle import SAMPLE_KINDS, BundleError
from service.http.guards.auth import requires
from service.http.guards.client_gone import unless_client_leaves
from service.http.guards.uploads import read_pictures
from service.http.predictions import Predictions
from service.http.static import Found, read_folder

# The longest side of a shown picture: as much as a screen needs.
SHOWN_SIDE = 1024
FOLDER = Path(__file__).parents[2] / "page"
FILES = read_folder(FOLDER)

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def page() -> Response:
    """Return the page."""
    return Found(FILES["index.html"])


@router.post("/page/picture", dependencies=[requires("predict")])
async def picture(request: Request) -> Response:
    """Return the pixels that would be certified, as a PNG file.

    Browsers read fewer formats, and read them differently: they rotate by other metadata, and
    convert colours by embedded profiles.
    """
    predictions: Predictions = request.app.state.predictions
    settings = predictions.settings
    body = await read_pictures(request, settings.max_bytes, settings.timeout_ms / 1000)
    shown = await unless_client_leaves(request, predictions.show(body.pictures[0], SHOWN_SIDE))
    return Response(shown, media_type="image/png", headers={"Cache-Control": "no-store"})


@router.get("/page/samples/{model}/{name}", dependencies=[requires("predict")])
async def sample(request: Request, model: str, name: str) -> Response:
    """Return one of the samples in a model's bundle."""
    predictions: Predictions = request.app.state.predictions
    try:
        content = predictions.catalogue.find(model).bundle.sample(name)
    except BundleError:
        raise HTTPException(404) from None
    kind = SAMPLE_KINDS[Path(name).suffix.lower()]
    return Response(content, media_type=kind, headers={"Cache-Control": "no-store"})


async def files(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with one of the page's files; mounted at ``/page``."""
    if scope["method"] != "GET":
        raise HTTPException(405, headers={"Allow": "GET, HEAD"})
    name = get_route_path(scope).removeprefix("/")
    if name not in FILES:
        raise HTTPException(404)
    await FILES[name](scope, receive, send)
