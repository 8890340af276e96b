"""A service below a path of its proxy, such as ``https://example.org/pixeldp/``."""

import re
from collections.abc import Iterable

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import forwarded_prefix, root_path

# Proxies that remove a path, such as Traefik, state it here. It only decides where links lead, and
# only in the answer to its own sender; only plain paths are accepted.
_HEADER = b"x-forwarded-prefix"
_PLAIN = re.compile(rb"(?=.{1,200}$)(/[A-Za-z0-9._~-]+)+/?")

_LINE = re.compile(rb"^x-forwarded-prefix:(.{0,300})$", re.IGNORECASE | re.MULTILINE)
_TARGET = re.compile(rb"\s*\S+ (?:https?://[^/\s]+)?(/\S*)", re.IGNORECASE)


def find_prefix(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the removed path that a request states, if it states one plain path once."""
    return _believed([value for name, value in headers if name == _HEADER])


def look_at_head(head: bytes) -> tuple[str, str]:
    """Return path and prefix of a request that cannot be read, as far as they are recognisable.

    Args:
        head: its bytes, which may be cut off or broken anywhere.
    """
    target = _TARGET.match(head)
    path = target[1].decode("latin-1") if target else ""
    return path.removeprefix(root_path()), _believed([one.strip() for one in _LINE.findall(head)])


def _believed(values: list[bytes]) -> str:
    plain = len(values) == 1 and _PLAIN.fullmatch(values[0])
    return values[0].decode().rstrip("/") if plain else ""


class Prefix:
    """Finds the path below which a request's links lead, and removes it if the proxy left it.

    Args:
        app: the application.
        root_path: the service's path, ``/…`` without a slash at the end; ``""`` at the top, or if
            the header states it.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        forwarded_prefix.set(find_prefix(scope["headers"]))
        if self._root and scope["path"] == self._root:
            # The page's own links are relative: without the slash they would lead elsewhere.
            await RedirectResponse(f"{self._root}/", 308)(scope, receive, send)
            return
        if self._root and scope["path"].startswith(f"{self._root}/"):
            scope["path"] = scope["path"].removeprefix(self._root)
            scope["raw_path"] = scope["raw_path"].removeprefix(self._root.encode())
        await self._app(scope, receive, send)
