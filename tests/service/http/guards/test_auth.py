"""Which routes need a key, read from the application itself, including undocumented routes."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.http.app import create_app
from service.settings import Settings

OPEN = {
    *("/", "/docs", "/openapi.json", "/swagger/{name}", "/problems/{name}"),
    *("/health/live", "/health/ready"),
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/{path:path}"),
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(Settings(devices="cpu"), on_broken=print)


def routes(app: Any) -> Iterator[APIRoute]:
    for route in app.routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):  # included as it is, and resolved for each request
            yield from routes(route.original_router)


def needs_key(route: APIRoute) -> bool:
    calls = [dependency.call for dependency in route.dependant.dependencies]
    return any(getattr(call, "__module__", "") == "service.http.guards.auth" for call in calls)


def test_every_route_needs_a_key_except_those_listed_as_open(app: FastAPI) -> None:
    """Every new route needs a key until somebody lists it above."""
    found = {route.path: needs_key(route) for route in routes(app)}
    assert found["/predict"]
    assert found["/metrics"]
    assert {path for path, needed in found.items() if not needed} == OPEN
