"""Refusing pictures while the queue is full, before anything else is done about them.

What a refusal costs is taken from the pictures that are answered: at ten times the load that the
service can bear, nine of ten requests end here.
"""

import json
from functools import lru_cache
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from service.engine.engine import Engine
from service.http.metrics import Metrics
from service.http.problems import MEDIA_TYPE, Problem, root_path

_PATHS = ("/predict", "/predict/batch", "/predict/stream")
_V2_PATH = "/v2/models/{name}/infer"


class _Route(NamedTuple):
    """What metrics and logs call it, as if it had been routed."""

    path: str


class Gate:
    """Answers 503 for pictures while the engine has no place for any; all else goes on.

    Args:
        app: what answers otherwise.
        engine: whose queue it is.
        metrics: where refusals are counted.
    """

    def __init__(self, app: ASGIApp, engine: Engine, metrics: Metrics) -> None:
        self._app, self._engine, self._metrics = app, engine, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not self._engine.full:
            await self._app(scope, receive, send)
            return
        path = _V2_PATH if scope["path"].endswith("/infer") else scope["path"]
        if path not in (*_PATHS, _V2_PATH):
            await self._app(scope, receive, send)
            return
        retry = self._engine.retry_seconds
        content, kind = _answer(path == _V2_PATH, retry, root_path())
        scope["problem"], scope["route"] = "overloaded", _Route(path)
        self._metrics.pictures.refused.labels("overloaded").inc()
        headers = [
            (b"content-type", kind),
            (b"content-length", str(len(content)).encode()),
            (b"retry-after", str(retry).encode()),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@lru_cache
def _answer(v2: bool, retry: int, below: str) -> tuple[bytes, bytes]:
    """Return the refusal and its media type; its link leads below the path ``below``."""
    detail = "As many pictures are waiting as may."
    problem = Problem("overloaded", detail, retry_after_s=retry)
    if v2:
        error = {"error": f"{problem.name}: {detail}"}
        return json.dumps(error).encode(), b"application/json"
    document = problem.document()
    assert document["type"].startswith(f"{below}/")
    return json.dumps(document).encode(), MEDIA_TYPE.encode()
