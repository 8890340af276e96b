"""The OpenAPI document, written so that generated clients work.

Schemas that several operations share are components: generators make a type of each schema that
they find, and name it after the place where they found it.
"""

import base64
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from models.bundle import SAMPLES, ZOO
from service.http.api.answers import Answer
from service.http.api.options import Options
from service.http.problems import MEDIA_TYPE, ProblemDocument

_REFERENCE = "#/components/schemas/{model}"
# Schemas that FastAPI adds for its own errors, with which this service never answers.
_NOT_OURS = ("HTTPValidationError", "ValidationError")
_SEVEN = "01-a-clear-7.png"
_BINARY = {"type": "string", "format": "binary"}
Base64 = Annotated[
    str,
    Field(
        description="The bytes of a picture file in base64, in lines or not, or a data: URL.",
        json_schema_extra={"contentEncoding": "base64"},
    ),
]


def _optional(schema: dict[str, Any]) -> None:
    """Remove defaults: generators would treat members with a default as required."""
    for member in schema["properties"].values():
        member.pop("default", None)


class PredictRequest(Options):
    """A picture, and options beside it; null means that an option is not given."""

    model_config = ConfigDict(json_schema_extra=_optional)

    image: Base64


class PredictBatchRequest(Options):
    """Pictures, and options for each of them."""

    model_config = ConfigDict(json_schema_extra=_optional)

    images: Annotated[list[Base64], Field(min_length=1)]


class Failed(BaseModel):
    """A picture of a batch that could not be answered."""

    error: ProblemDocument


class Predictions(BaseModel):
    """An answer, or an error, for each picture in order."""

    predictions: list[Answer | Failed]


def one_picture() -> dict[str, Any]:
    """Describe the body of a request for one picture."""
    seven = base64.b64encode((ZOO / "mnist-cnn" / SAMPLES / _SEVEN).read_bytes()).decode()
    return _body(
        {
            "application/json": {
                "schema": _reference("PredictRequest"),
                "examples": {
                    "seven": {
                        "summary": "A handwritten 7",
                        "value": {"image": seven, "target": 0.5},
                    }
                },
            },
            "multipart/form-data": _form(_BINARY),
            "application/octet-stream": {"schema": _BINARY},
        }
    )


def several_pictures() -> dict[str, Any]:
    """Describe the body of a request for several pictures."""
    return _body(
        {
            "application/json": {"schema": _reference("PredictBatchRequest")},
            "multipart/form-data": _form({"type": "array", "items": _BINARY, "minItems": 1}),
        }
    )


def _body(content: dict[str, Any]) -> dict[str, Any]:
    # The types of pictures are not listed: generators know few of them, and omit the others.
    description = (
        "Files may be sent as application/octet-stream or as any image type, and compressed."
    )
    return {"requestBody": {"required": True, "description": description, "content": content}}


def _form(image: dict[str, Any]) -> dict[str, Any]:
    """Describe a form inline: generators that make no type of forms cannot find a component."""
    properties = {"image": image, **_fields()}
    return {"schema": {"type": "object", "properties": properties, "required": ["image"]}}


def _fields() -> dict[str, Any]:
    """Describe the options as fields of a form, which has no null: an empty field is not given.

    An option of several kinds is text, which generators write into a form unchanged.
    """
    fields: dict[str, Any] = {}
    for name, schema in Options.model_json_schema()["properties"].items():
        kinds = [kind for kind in schema["anyOf"] if kind != {"type": "null"}]
        kind = kinds[0] if len(kinds) == 1 else {"type": "string"}
        fields[name] = {**kind, "description": schema["description"]}
    return fields


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=name)}


class Described(FastAPI):
    """An application whose document has the components that its routes refer to."""

    def openapi(self) -> dict[str, Any]:
        """Return the document, which never changes."""
        if self.openapi_schema is None:
            document = super().openapi()
            models = (PredictRequest, PredictBatchRequest, Predictions, ProblemDocument)
            _, schemas = models_json_schema(
                [(model, "validation") for model in models], ref_template=_REFERENCE
            )
            components = document["components"]["schemas"]
            components |= schemas["$defs"] | components
            for name in _NOT_OURS:
                components.pop(name, None)
            for operations in document["paths"].values():
                for operation in operations.values():
                    _drop_foreign_errors(operation)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _drop_foreign_errors(operation: dict[str, Any]) -> None:
    """Remove the status that FastAPI adds for options, where there are none."""
    answers = operation["responses"]
    if "422" in answers and MEDIA_TYPE not in answers["422"].get("content", {}):
        del answers["422"]
