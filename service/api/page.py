"""``GET /``: the page on which a person tries a certificate, and what it is made of."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.api.auth import requires
from service.api.body import read_one
from service.api.leaving import CLIENT_LEFT, unless_client_leaves
from service.api.predictions import Predictions

FOLDER = Path(__file__).parents[1] / "page"
# As long as a screen is likely to need.
SHOWN_SIDE = 1024

router = APIRouter(include_in_schema=False)


class _Files(StaticFiles):
    """Files with an ETag that browsers keep, but ask about each time: an upgrade shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


files = _Files(directory=FOLDER)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """Return the page."""
    return await files.get_response("index.html", request.scope)


@router.post("/page/picture", dependencies=[requires("predict")])
async def picture(request: Request) -> Response:
    """Return the pixels that would be certified, as a PNG file.

    Browsers read fewer formats, and the same ones otherwise: they turn by other metadata, and
    convert colours by embedded profiles.
    """
    predictions: Predictions = request.app.state.predictions
    settings = predictions.settings
    body = await read_one(request, settings.max_bytes, settings.timeout_ms / 1000)
    shown = await unless_client_leaves(request, predictions.show(body.pictures[0], SHOWN_SIDE))
    if shown is None:
        return Response(status_code=CLIENT_LEFT)
    return Response(shown, media_type="image/png", headers={"Cache-Control": "no-store"})
