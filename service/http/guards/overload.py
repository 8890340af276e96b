"""Refusing pictures while the queue is full, before anything else is done about them.

The cost of a refusal is lost to the pictures that are answered: at ten times the load that the
service can bear, nine of ten requests end here.
"""

from functools import lru_cache
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.backend import Answering
from service.http.metrics import Metrics
from service.http.problems import Problem, root_path
from service.http.v2.errors import answer_in_form

_PATHS = ("/predict", "/predict/batch", "/predict/stream")
_V2_PATH = "/v2/models/{name}/infer"


class _Route(NamedTuple):
    """The route in metrics and logs, as if the request had been routed."""

    path: str


class Gate:
    """Answers 503 for pictures while the engine's queue is full; other requests pass.

    Args:
        app: the application.
        engine: the engine with the queue.
        metrics: count refusals.
    """

    def __init__(self, app: ASGIApp, engine: Answering, metrics: Metrics) -> None:
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
        scope["problem"], scope["route"] = "overloaded", _Route(path)
        self._metrics.pictures.refused.labels("overloaded").inc()
        await _answer(path, self._engine.retry_seconds, root_path())(scope, receive, send)


@lru_cache
def _answer(path: str, retry: int, below: str) -> Response:
    """Return the refusal at ``path``; its link leads below the path ``below``."""
    problem = Problem("overloaded", "As many pictures are waiting as may.", retry_after_s=retry)
    assert problem.document()["type"].startswith(f"{below}/")
    return answer_in_form(problem, path)
