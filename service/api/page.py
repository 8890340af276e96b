"""``GET /``: the page on which a person tries a certificate, and what it is made of."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parents[1] / "page"

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
