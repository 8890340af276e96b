"""The problem for each exception: one table for all routes and both protocols."""

from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from models.bundle import BundleError
from models.images.errors import CannotCertifyPicture, NotAPicture, TooManyPixels
from models.masking import SideTooLarge
from models.preprocessing import CannotCertify
from service.catalogue import UnknownModelError
from service.decoding.decoders import DecoderLostError, NoMemoryError, RefusedError
from service.decoding.queue import FullError
from service.engine import errors
from service.http import problems
from service.http.backend import Answering
from service.http.guards.budget import NoRoomError
from service.http.problems import Problem, out_of_range
from service.repository import RepositoryError
from service.system.confinement import NotConfinedError

# The seconds in which workers should become ready.
READY_SECONDS = 1
# Long enough for workers to start again twice.
LOST_SECONDS = 30
# As long as the engine's queue needs.
_QUEUE = 0


class _Entry(NamedTuple):
    """The problem for an exception.

    Attributes:
        name: the problem's name.
        detail: a format for the exception's own text.
        retry: the seconds after which to try again, if that may help.
        members: further members of the document, each with the exception's attribute that it is.
    """

    name: str
    detail: str = "{}"
    retry: int | None = None
    members: tuple[tuple[str, str], ...] = ()


_NO_PLACE = "There is no room to decode another picture."
_NO_MEMORY = "Requests hold all the memory there is for them."

TABLE: dict[type[Exception], _Entry] = {
    errors.NotReadyError: _Entry("not-ready", "{}.", READY_SECONDS),
    errors.OverloadedError: _Entry("overloaded", "{}.", _QUEUE),
    errors.DeadlineError: _Entry(
        "deadline-before-first-look", "{}.", members=(("draws", "draws"),)
    ),
    errors.CannotEncodeError: _Entry("cannot-certify-preprocessing"),
    errors.ModelFailedError: _Entry("model-failed", "{}."),
    errors.ModelGoneError: _Entry("unknown-model", "{}."),
    errors.WorkersLostError: _Entry("workers-lost", "{}.", LOST_SECONDS),
    NotAPicture: _Entry("not-a-picture"),
    TooManyPixels: _Entry("too-many-pixels", members=(("limit_pixels", "limit"),)),
    CannotCertifyPicture: _Entry("cannot-certify-preprocessing"),
    CannotCertify: _Entry("cannot-certify-preprocessing"),
    SideTooLarge: _Entry(
        "option-out-of-range", "{}.", members=(("option", "option"), ("allowed", "allowed"))
    ),
    DecoderLostError: _Entry("workers-lost", "{}.", LOST_SECONDS),
    FullError: _Entry("overloaded", _NO_PLACE, _QUEUE),
    NoMemoryError: _Entry("overloaded", _NO_PLACE, _QUEUE),
    NoRoomError: _Entry("overloaded", _NO_MEMORY, _QUEUE),
    UnknownModelError: _Entry("unknown-model"),
    NotConfinedError: _Entry("unknown-model"),
    errors.LoadError: _Entry("cannot-load"),
    RepositoryError: _Entry("cannot-load"),
    BundleError: _Entry("cannot-load"),
}
# A refusal by a decoder process is the same problem as here.
KNOWN: tuple[type[Exception], ...] = (*TABLE, RefusedError)
# The exceptions with which routes may end, except for faults of the service.
ANSWERED: tuple[type[Exception], ...] = (Problem, RequestValidationError, HTTPException, *KNOWN)


def problem_for(
    error: Exception, engine: Answering, detail: str | None = None, **members: object
) -> Problem:
    """Return the problem for an exception of ``KNOWN``.

    Args:
        error: the exception.
        engine: knows how long its queue is.
        detail: replaces the table's detail if more is known.
        members: further members of the document, which take precedence over the table's.
    """
    kind = error.cause if isinstance(error, RefusedError) else type(error)
    entry = next(TABLE[parent] for parent in kind.__mro__ if parent in TABLE)
    told = {member: getattr(error, name) for member, name in entry.members}
    if entry.retry is not None:
        told["retry_after_s"] = entry.retry or engine.retry_seconds
    return Problem(entry.name, detail or entry.detail.format(error), **(told | members))


def note_problem(request: Request, error: Exception) -> Problem:
    """Return the problem for an exception of ``ANSWERED``, and note it for the metrics."""
    match error:
        case Problem():
            problem = error
        case RequestValidationError():
            problem = out_of_range(list(error.errors()))
        case HTTPException():
            problem = _of_status(request, error)
        case _:
            problem = problem_for(error, request.app.state.engine)
    request.scope["problem"] = problem.name
    return problem


def _of_status(request: Request, error: HTTPException) -> Problem:
    """Return the problem for a request without a route."""
    path, headers = request.url.path, dict(error.headers or {})
    if error.status_code == 404:
        return Problem("not-found", f"There is nothing at {path}.")
    if error.status_code == 405:
        # Every route that accepts GET accepts HEAD.
        if (methods := headers.get("Allow", "")) and "HEAD" not in methods:
            headers["Allow"] = methods.replace("GET", "GET, HEAD")
        return Problem("method-not-allowed", f"{path} does not accept {request.method}.", headers)
    return Problem("malformed-request", str(error.detail), headers)


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem document, and serve the problems' pages."""

    async def answer(request: Request, error: Exception) -> Response:
        return note_problem(request, error).response()

    for kind in ANSWERED:
        app.add_exception_handler(kind, answer)
    app.include_router(problems.router)
