"""``GET /docs``: the interactive documentation, without other hosts or a loose policy."""

from importlib import resources

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse

from service.http.problems import Problem, root_path
from service.http.security import policy
from service.http.static import Found, StaticFile, read_file

router = APIRouter(include_in_schema=False)

_RESOURCES = resources.files("fastapi_swagger.resources")
_NAMES = "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"
_FILES = {name: read_file(_RESOURCES.joinpath(name)) for name in _NAMES}
# By default Swagger UI does not store keys in the browser. Links are relative, for a service below
# a path of its proxy.
_PAGE = bytes(
    get_swagger_ui_html(
        openapi_url="openapi.json",
        title="PixelDP",
        swagger_js_url="swagger/swagger-ui-bundle.js",
        swagger_css_url="swagger/swagger-ui.css",
        swagger_favicon_url="swagger/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    ).body
).decode()
# Swagger UI has a dark mode, but does not follow the browser's by itself.
_SCHEME = """<script>
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
</script>"""
_PAGE = _PAGE.replace("</head>", f"{_SCHEME}</head>")
_DOCS = StaticFile(
    _PAGE.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": policy(_PAGE)}
)


@router.get("/docs")
async def docs() -> Response:
    """Return the page that shows the OpenAPI document."""
    return Found(_DOCS)


@router.get("/openapi.json")
async def document(request: Request) -> JSONResponse:
    """Return the OpenAPI document, which states the service's path."""
    servers = [{"url": root_path() or "/", "description": "This service."}]
    return JSONResponse({**request.app.openapi(), "servers": servers})


@router.get("/swagger/{name}")
async def file(name: str) -> Response:
    """Return one of Swagger UI's files."""
    if name not in _FILES:
        raise Problem("not-found", f"There is no file {name}.")
    return Found(_FILES[name])
