"""One table says which problem an exception is, wherever it occurs and in either protocol."""

import ast
import asyncio
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from models.bundle import BundleError
from models.images.errors import CannotCertifyPicture, NotAPicture, PictureError, TooManyPixels
from models.preprocessing import CannotCertify
from service.decoding.decoders import REFUSALS, RefusedError
from service.engine.check import WrongAnswerError
from service.engine.errors import DeadlineError, EngineError
from service.http.exceptions import ANSWERED, KNOWN, TABLE, install, problem_for
from service.http.problems import PROBLEMS, Problem
from service.http.v2.errors import V2Route
from tests.names import modules

RETRY = 17
ENGINE: Any = SimpleNamespace(retry_seconds=RETRY)
EXAMPLES: dict[type[Exception], Exception] = {
    BundleError: BundleError(Path("model.json"), "name", "is missing"),
    NotAPicture: NotAPicture("there are no bytes"),
    TooManyPixels: TooManyPixels(10, 5),
    CannotCertifyPicture: CannotCertifyPicture("there are two frames", "Send one."),
    RefusedError: RefusedError(TooManyPixels, "There are too many.", 5),
    DeadlineError: DeadlineError("the deadline came", 64),
    Problem: Problem("no-key", "Send a key.", {"WWW-Authenticate": "Bearer"}),
    RequestValidationError: RequestValidationError([{"loc": ("query", "a"), "msg": "is odd"}]),
    HTTPException: HTTPException(400, "That is wrong."),
}
# Base classes that are never raised themselves.
BASES = {EngineError, PictureError}
# Exceptions that end a process, or are caught in the process that raises them.
ELSEWHERE = {"FrontGoneError", "PinError", "_StartAgainError"}


def example(kind: type[Exception]) -> Exception:
    return EXAMPLES.get(kind) or kind("it went wrong")


def raised() -> Iterator[type[Exception]]:
    """Yield the exceptions of all parts that requests reach."""
    parts = ("service.engine", "service.decoding", "service.catalogue", "service.repository")
    parts += ("service.system.confinement", "service.reading", "models.images.errors")
    for name in modules():
        if name.startswith(parts) and not name.endswith("__main__"):
            for _, found in inspect.getmembers(import_module(name), inspect.isclass):
                if issubclass(found, Exception) and found.__module__ == name:
                    yield found


def test_every_exception_that_a_request_can_cause_is_a_problem() -> None:
    found = {kind for kind in raised() if kind.__name__ not in ELSEWHERE} - BASES
    assert {"OverloadedError", "WrongAnswerError", "FullError", "UnknownModelError"} < {
        kind.__name__ for kind in found
    }
    assert [
        kind for kind in found | {CannotCertify, BundleError} if not issubclass(kind, KNOWN)
    ] == []


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_problems_are_known_and_say_what_happened(kind: type[Exception]) -> None:
    problem = problem_for(example(kind), ENGINE)
    assert problem.name in PROBLEMS
    assert len(problem.detail) > 10
    # Clients that may come again are told when.
    assert ("retry_after_s" in problem.members) == (problem.status == 503)


def test_an_exception_gets_the_problem_of_its_class_or_the_nearest_base() -> None:
    assert problem_for(WrongAnswerError("it answered otherwise"), ENGINE).name == "cannot-load"
    assert problem_for(DeadlineError("it came", 96), ENGINE).members == {"draws": 96}


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: kind.__name__)
def test_a_refusal_is_the_same_from_a_process(kind: type[Exception]) -> None:
    here = example(kind)
    there = RefusedError(kind, str(here), getattr(here, "limit", None))
    assert problem_for(there, ENGINE).document() == problem_for(here, ENGINE).document()


def test_known_details_are_added() -> None:
    error = DeadlineError("it came", 64)
    problem = problem_for(error, ENGINE, "Allow more time.", draws_needed=100)
    assert (problem.name, problem.detail) == ("deadline-before-first-look", "Allow more time.")
    assert problem.members == {"draws": 64, "draws_needed": 100}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """An application that fails, in both protocols, with the exception that its path names."""
    kinds = {kind.__name__: kind for kind in (*ANSWERED, KeyError)}

    async def fail(kind: str) -> None:
        raise example(kinds[kind])

    app, own, v2 = FastAPI(), APIRouter(), APIRouter(route_class=V2Route)
    own.add_api_route("/own/{kind}", fail)
    v2.add_api_route("/v2/{kind}", fail)
    app.state.engine = ENGINE
    app.include_router(own)
    app.include_router(v2)
    install(app)
    return app


def get(app: FastAPI, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.__name__)
def test_both_protocols_say_the_same(app: FastAPI, kind: type[Exception]) -> None:
    own, v2 = (get(app, f"/{protocol}/{kind.__name__}") for protocol in ("own", "v2"))
    problem = own.json()
    name = problem["type"].rpartition("/")[2]
    assert own.headers["content-type"] == "application/problem+json"
    assert own.status_code == problem["status"] == PROBLEMS[name].status
    assert v2.json() == {"error": f"{name}: {problem['detail']}"}
    for header in ("retry-after", "www-authenticate"):
        assert own.headers.get(header) == v2.headers.get(header)


def test_other_exceptions_stay_internal_errors(app: FastAPI) -> None:
    assert get(app, "/own/KeyError").status_code == 500
    assert get(app, "/v2/KeyError").json()["error"].startswith("internal-error: ")


def test_a_full_queue_says_when_to_come_again() -> None:
    waits = {
        kind.__name__: problem_for(example(kind), ENGINE).members["retry_after_s"]
        for kind, entry in TABLE.items()
        if entry.name == "overloaded"
    }
    assert set(waits.values()) == {RETRY}
    assert len(waits) == 4


def test_only_the_table_says_which_problem_an_exception_is() -> None:
    """Code that knows more asks the table, and adds its details."""
    names = {kind.__name__ for kind in KNOWN}
    handlers = [
        (name, handler)
        for name, module in modules().items()
        if name.startswith("service.http")
        for handler in ast.walk(module.tree)
        if isinstance(handler, ast.ExceptHandler)
        and handler.type
        and names & {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    ]
    assert len(handlers) > 3
    wrong = [
        (name, handler.lineno)
        for name, handler in handlers
        for node in ast.walk(handler)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Problem"
    ]
    assert wrong == []
