"""Files that come with the service, served from memory: once, however many clients are slow.

An answer is sent in pieces, each after the client has read most of the previous one. All clients
share the same pieces.
"""

import hashlib
import mimetypes
from importlib.resources.abc import Traversable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_PIECE = 2**14


class StaticFile:
    """One file, as an ASGI application that answers GET and HEAD.

    Browsers cache it, but check it each time, so that an upgrade shows at once.

    Args:
        content: of the file.
        media_type: of the file.
        headers: further ones of the answer.
    """

    def __init__(
        self, content: bytes, media_type: str, headers: dict[str, str] | None = None
    ) -> None:
        starts = range(0, len(content), _PIECE)
        self._pieces = [content[start : start + _PIECE] for start in starts] or [b""]
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        always = {"Cache-Control": "no-cache", "ETag": self._tag, **(headers or {})}
        whole = Response(media_type=media_type, headers=always)
        whole.headers["Content-Length"] = str(len(content))
        self._headers, self._unchanged = (
            whole.raw_headers,
            Response(status_code=304, headers=always),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        known = Headers(scope=scope).get("if-none-match", "")
        if self._tag in known.replace("W/", "").replace(" ", "").split(",") or known == "*":
            await self._unchanged(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        pieces = self._pieces if scope["method"] != "HEAD" else [b""]
        for piece in pieces:
            more = piece is not pieces[-1]
            await send({"type": "http.response.body", "body": piece, "more_body": more})


class Found(Response):
    """A file as a route's answer."""

    def __init__(self, file: StaticFile) -> None:
        super().__init__()
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await self._file(scope, receive, send)


def read_folder(folder: Path) -> dict[str, StaticFile]:
    """Read all files below a folder; by their paths in it, with slashes."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = read_file(path)
    return files


def read_file(path: Traversable) -> StaticFile:
    """Read a file, and tell its kind by its name."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return StaticFile(path.read_bytes(), "text/javascript" if path.name.endswith(".js") else kind)
