"""docs/answers.md and docs/open-inference-protocol.md name everything that exists, and no more."""

import re
from typing import Any

import httpx
from fastapi.routing import APIRoute

from service.http.v2 import repository as v2_repository
from service.http.v2 import routes as v2
from service.http.v2.response import OUTPUTS
from tests.e2e.conftest import ROOT

ANSWERS = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8")
PROTOCOL = (ROOT / "docs" / "open-inference-protocol.md").read_text(encoding="utf-8")
# The table describes these together.
WHOLE = {"certificate.sizes", "evidence.sums", "evidence.sums_of_squares"}


def members(value: Any, path: str = "") -> set[str]:
    """The paths of all members below ``value``; the path of a list's elements ends in []."""
    if isinstance(value, dict) and path not in WHOLE:
        return {
            found
            for name, inner in value.items()
            for found in members(inner, f"{path}.{name}" if path else name)
        }
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return members(value[0], f"{path}[]")
    return {path}


def test_every_member_of_an_answer_is_described(client: httpx.Client, seven: bytes) -> None:
    options: dict[str, Any] = {"target": 0.5, "evidence": True, "attacks": 3}
    raw = {"Content-Type": "application/octet-stream"}
    answer = client.post("/predict", content=seven, headers=raw, params=options).json()
    asked: dict[str, Any] = {"threat": "sticker", "target": 2}
    sticker = client.post("/predict", content=seven, headers=raw, params=asked).json()
    named = set(re.findall(r"`([a-z][a-z_.\[\]]+)`", ANSWERS))
    assert members(answer) <= named
    # What is named exists: members, their parents, options and values.
    known = members(answer) | members(sticker)
    parents = {path.rsplit(".", count)[0] for path in known for count in range(4)}
    assert members(sticker) <= named | {"scores[].attacked"}, "which is null there"
    paths = {path for path in named if "." in path}
    assert paths <= parents | known


def test_every_route_and_output_of_the_protocol_is_described() -> None:
    routes = {
        (method, route.path)
        for router in (v2.router, v2_repository.router)
        for route in router.routes
        if isinstance(route, APIRoute) and route.endpoint is not v2.nothing
        for method in route.methods
    }
    said = set(re.findall(r"`(GET|POST) (/v2[^`]*)`", PROTOCOL))
    assert said == routes
    assert set(re.findall(r"`([A-Z_]+)`", PROTOCOL)) == {*OUTPUTS, "IMAGE", "IMAGE_BYTES"}
