"""A service that lies below a path of its proxy's, as ``https://example.org/pixeldp/``."""

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Prefix:
    """Takes the path that the service lies at off every request's, if the proxy has left it there.

    Args:
        app: what answers.
        root_path: ``/…`` without a slash at the end.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not f"{scope['path']}/".startswith(f"{self._root}/"):
            await self._app(scope, receive, send)
        elif scope["path"] == self._root:
            # The page's own links are relative: without the slash they would lead elsewhere.
            await RedirectResponse(f"{self._root}/", 308)(scope, receive, send)
        else:
            scope["path"] = scope["path"].removeprefix(self._root)
            scope["raw_path"] = scope["raw_path"].removeprefix(self._root.encode())
            await self._app(scope, receive, send)
