"""Errors in the form of the Open Inference Protocol: ``{"error": "…"}``."""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from service.http.exceptions import ANSWERED, note_problem
from service.http.problems import Problem, internal_error

log = structlog.get_logger(__name__)

# All faults of a request have one status there.
_BAD_INPUT = (406, 413, 415, 422)


class Unsupported(Exception):  # noqa: N818 - an answer, not a fault
    """An extension of the protocol that this service does not have."""


class V2Route(APIRoute):
    """A route whose errors are in the protocol's form; its clients cannot read others."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with its errors caught."""
        handle = super().get_route_handler()

        async def handle_in_form(request: Request) -> Response:
            try:
                return await handle(request)
            except ClientDisconnect:
                raise
            except Unsupported as error:
                return JSONResponse({"error": str(error)}, 501)
            except ANSWERED as error:
                return as_v2(note_problem(request, error))
            except Exception:
                log.exception("request failed", route=self.path)
                return as_v2(note_problem(request, internal_error()))

        return handle_in_form


def answer_in_form(problem: Problem, path: str) -> Response:
    """Return the answer to a problem in the form of the protocol to which ``path`` belongs."""
    return as_v2(problem) if path.startswith("/v2/") else problem.response()


def as_v2(problem: Problem) -> Response:
    """Return the answer to a problem in the protocol's form."""
    status = 400 if problem.status in _BAD_INPUT else problem.status
    text = f"{problem.name}: {problem.detail}"
    return JSONResponse({"error": text}, status, problem.headers)
