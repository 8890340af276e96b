"""Clients can be generated from the OpenAPI document."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from models.images.decoding import decode
from service.http.api.options import Options, parse
from service.http.app import create_app
from service.http.problems import PROBLEMS
from service.settings import Settings


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = create_app(Settings(), on_broken=print).openapi()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for member in part.values():
            yield from references(member)
    elif isinstance(part, list):
        for member in part:
            yield from references(member)


def test_every_component_exists_and_is_used(document: dict[str, Any]) -> None:
    names = set(document["components"]["schemas"])
    assert {
        reference.removeprefix("#/components/schemas/") for reference in references(document)
    } == names


def test_operations_are_named_after_what_they_do(document: dict[str, Any]) -> None:
    names = {path: operation["operationId"] for path, operation in operations(document)}
    assert names["/predict"] == "predict"
    assert names["/predict/batch"] == "predict_batch"
    assert len(set(names.values())) == len(list(operations(document)))
    assert not any("_post" in name or "_get" in name for name in names.values())


def test_errors_share_a_schema_and_have_an_example_each(document: dict[str, Any]) -> None:
    seen = set()
    for path, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400 or status == "406":
                continue
            [(kind, content)] = answer["content"].items()
            assert kind == "application/problem+json", (path, status)
            assert content["schema"] == {"$ref": "#/components/schemas/ProblemDocument"}
            for name, example in content["examples"].items():
                assert example["value"]["type"] == f"/problems/{name}"
                assert example["value"]["status"] == PROBLEMS[name].status == int(status)
                seen.add(name)
    assert {"not-a-picture", "overloaded", "no-key", "unknown-model"} <= seen
    schema = document["components"]["schemas"]["ProblemDocument"]
    assert schema["additionalProperties"] is True


def test_pictures_are_files_in_forms_and_alone(document: dict[str, Any]) -> None:
    binary = {"type": "string", "format": "binary"}
    for path in ("/predict", "/predict/stream"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        fields = content["multipart/form-data"]["schema"]["properties"]
        assert fields["image"] == binary
        assert fields.keys() == {"image", *Options.model_fields}
        # Forms have no null, and generated clients would send defaults.
        assert all("type" in field and "default" not in field for field in fields.values())
        assert content["application/octet-stream"]["schema"] == binary
    batch = document["paths"]["/predict/batch"]["post"]["requestBody"]["content"]
    assert batch["multipart/form-data"]["schema"]["properties"]["image"]["items"] == binary
    assert "application/octet-stream" not in batch


def test_options_have_no_defaults_that_a_client_would_send(document: dict[str, Any]) -> None:
    for path in ("/predict", "/predict/batch", "/predict/stream"):
        operation = document["paths"][path]["post"]
        told = {one["name"]: one["schema"] for one in operation["parameters"]}
        assert told.keys() == Options.model_fields.keys()
        assert not any("default" in schema for schema in told.values())
    for name in ("PredictRequest", "PredictBatchRequest"):
        schema = document["components"]["schemas"][name]
        image = "image" if name == "PredictRequest" else "images"
        assert schema["required"] == [image]
        assert schema["properties"].keys() == Options.model_fields.keys() | {image}
        assert not any("default" in member for member in schema["properties"].values())


def test_the_example_request_is_valid(document: dict[str, Any]) -> None:
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    example = json.loads(json.dumps(content["application/json"]["examples"]["seven"]["value"]))
    assert decode(base64.b64decode(example.pop("image"))).width == 28
    assert parse(example).target == 0.5
