"""A service that lies below a path of its proxy's, as ``https://example.org/pixeldp/``."""

import re

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import forwarded_prefix

# What proxies that take a path off, as Traefik does, say it was. It only says where links lead, and
# only in the answer to whoever sent it; nothing but plain paths comes through.
_HEADER = b"x-forwarded-prefix"
_PLAIN = re.compile(rb"(?=.{1,200}$)(/[A-Za-z0-9._~-]+)+/?")


class Prefix:
    """Finds out where a request's links are to lead, and takes off what the proxy has left there.

    Args:
        app: what answers.
        root_path: where the service lies, ``/…`` without a slash at the end; ``""`` at the top, or
            where the header says.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == _HEADER]
        if len(given) == 1 and _PLAIN.fullmatch(given[0]):
            forwarded_prefix.set(given[0].decode().rstrip("/"))
        if self._root and scope["path"] == self._root:
            # The page's own links are relative: without the slash they would lead elsewhere.
            await RedirectResponse(f"{self._root}/", 308)(scope, receive, send)
            return
        if self._root and scope["path"].startswith(f"{self._root}/"):
            scope["path"] = scope["path"].removeprefix(self._root)
            scope["raw_path"] = scope["raw_path"].removeprefix(self._root.encode())
        await self._app(scope, receive, send)
