"""An inference request of the Open Inference Protocol, checked against its data.

A request is JSON, or, with the header ``Inference-Header-Content-Length: n``, n bytes of JSON and
then the inputs' values, each of the length that the JSON states. With n = 0 it is only one
picture's raw values.
"""

from dataclasses import dataclass
from math import prod
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.catalogue import UnknownModelError
from service.http.guards.bodies import SMALL
from service.http.problems import Problem, malformed
from service.http.v2.errors import Unsupported
from service.http.v2.response import OUTPUTS
from service.http.v2.tensors import from_binary, from_json, shape_of

# Parameters that are options of /predict, by the same names.
_OPTIONS = ("target", "norm", "confidence", "max_draws", "allow")
_UNSUPPORTED = ("shared_memory_region", "classification", "sequence_id")
# Parameters that are stated elsewhere, or have no meaning here: MLServer puts its codecs' names
# into content_type.
_PASSED_OVER = ("binary_data_output", "content_type", "headers")
# The memory for each byte of values' text while they are read: a value has two bytes or more, and
# is in up to three lists with eight bytes in each.
_TEXT_TIMES = 12
# The most parts of a request's JSON besides the values.
_OTHERS = 1000


def full_name(name: str, version: str | None) -> str:
    """Return the catalogue's name for a model in a path.

    Raises:
        UnknownModelError: the name itself has a version.
    """
    if ":" in name:
        raise UnknownModelError(f"No model {name[:80]!r} is served.")
    return name if version is None else f"{name}:{version}"


class _Nullable(BaseModel):
    """Null members are not given: some clients send every member that they know."""

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        given = {name: member for name, member in value.items() if member is not None}
        if isinstance(parameters := given.get("parameters"), dict):
            given["parameters"] = {k: v for k, v in parameters.items() if v is not None}
        return given


class _Part(_Nullable):
    name: Annotated[str, Field(max_length=64)]
    parameters: dict[str, Any] = {}


class Input(_Part):
    """An input tensor; its values are in ``data``, or follow the JSON."""

    datatype: str
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=8)]
    data: list[Any] | None = None


class Output(_Part):
    """A requested output tensor."""


class _Body(_Nullable):
    id: Annotated[str, Field(max_length=256)] = ""
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[Input], Field(min_length=1, max_length=8)]
    outputs: Annotated[list[Output], Field(max_length=16)] = []


@dataclass(frozen=True)
class Inference:
    """The request: picture files, options of a prediction, and the outputs (name: binary)."""

    id: str
    pictures: list[bytes]
    options: dict[str, Any]
    outputs: dict[str, bool]


def room_apart(size: int, header: str | None) -> int:
    """Return how many bytes of memory reading a request needs, in addition to the request.

    Args:
        size: of its body.
        header: of ``Inference-Header-Content-Length``, if there is one.
    """
    if size <= SMALL:
        return 0
    binary = header is not None and header.isascii() and header.isdecimal() and len(header) <= 12
    text = min(int(header), size) if binary and header else size
    return 2 * size + _TEXT_TIMES * text


def read_inference(
    content: bytes, header: str | None, shape: tuple[int, int, int], most: int
) -> Inference:
    """Read an inference request.

    Args:
        content: the whole body.
        header: of ``Inference-Header-Content-Length``, if there is one.
        shape: (channels, height, width) of the model's input.
        most: the largest batch.

    Raises:
        Problem: anything about it is wrong.
        Unsupported: it asks for something that this service does not have.
    """
    split = len(content)
    if header is not None:
        if not (header.isascii() and header.isdecimal() and len(header) <= 12):
            raise malformed(f"Inference-Header-Content-Length is {header[:40]!r}, not a length.")
        split = int(header)
        if split == 0:
            whole = Input(name="IMAGE", datatype="UINT8", shape=[1, *shape[1:], shape[0]])
            checked = shape_of(whole.name, whole.datatype, whole.shape, shape, most)
            return Inference("", from_binary(checked, content), {}, dict.fromkeys(OUTPUTS, True))
        if split > len(content):
            has = f"{split}, and the body has {len(content)} bytes"
            raise malformed(f"Inference-Header-Content-Length is {has}.")
    _check_parts(content[:split], prod(shape) * most)
    try:
        body = _Body.model_validate_json(content[:split])
    except ValidationError as error:
        raise _malformed(error) from None
    pictures = _pictures(body.inputs, content[split:], shape, most)
    return Inference(body.id, pictures, _options(body.parameters), _outputs(body))


def _check_parts(text: bytes, values: int) -> None:
    """Refuse JSON with more parts than the largest batch of ``values``, before it is parsed.

    Every value, list and object takes about a dozen bytes of memory, but as few as two bytes of
    text. Values nested to the innermost axis are in about as many lists.
    """
    if text.count(b",") > values + _OTHERS or (
        text.count(b"[") + text.count(b"{") > 2 * values + _OTHERS
    ):
        raise malformed(
            f"The JSON has more parts than a batch of {values:,} values, the largest, needs."
        )


def _pictures(
    inputs: list[Input], blobs: bytes, shape: tuple[int, int, int], most: int
) -> list[bytes]:
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs)
        raise malformed(f"Give one of the inputs IMAGE and IMAGE_BYTES; there are {names}.")
    [tensor] = inputs
    _refuse_unsupported(tensor.parameters)
    size = tensor.parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise malformed(f"The binary_data_size of {tensor.name} is {size!r:.40}, not a length.")
    if size is not None and tensor.data is not None:
        raise malformed(f"{tensor.name} has both data and binary_data_size; give one.")
    if len(blobs) != (size or 0):
        raise malformed(f"{len(blobs)} bytes follow the JSON, which states {size or 0}.")
    checked = shape_of(tensor.name, tensor.datatype, tensor.shape, shape, most)
    if size is not None:
        return from_binary(checked, blobs)
    if tensor.data is None:
        raise malformed(f"{tensor.name} has neither data nor binary_data_size.")
    return from_json(checked, tensor.data)


def _options(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a prediction in the parameters."""
    _refuse_unsupported(parameters)
    options: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in _OPTIONS:
            options[name] = value
        elif name == "timeout":
            microseconds = _whole(name, value)
            if microseconds:  # 0 means none
                options["timeout_ms"] = max(1, microseconds // 1000)
        elif name == "priority":
            options["priority"] = "high" if _whole(name, value) == 1 else "normal"
        elif name not in _PASSED_OVER:
            known = ", ".join((*_OPTIONS, "timeout", "priority", "binary_data_output"))
            raise malformed(f"There is no parameter {name[:40]!r}; there are {known}.")
    return options


def _outputs(body: _Body) -> dict[str, bool]:
    """Return the names of the requested outputs, and whether each shall be binary."""
    binary = _flag("binary_data_output", body.parameters.get("binary_data_output", False))
    if not body.outputs:
        return dict.fromkeys(OUTPUTS, binary)
    wanted: dict[str, bool] = {}
    for output in body.outputs:
        _refuse_unsupported(output.parameters)
        if output.name not in OUTPUTS:
            raise malformed(f"There is no output {output.name!r}; there are {', '.join(OUTPUTS)}.")
        if output.name in wanted:
            raise malformed(f"The output {output.name} is requested twice.")
        value = output.parameters.get("binary_data", binary)
        wanted[output.name] = _flag(f"binary_data of {output.name}", value)
    return wanted


def _refuse_unsupported(parameters: dict[str, Any]) -> None:
    for name in _UNSUPPORTED:
        if parameters.get(name):
            raise Unsupported(f"{name} is an extension that this service does not have")


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise malformed(f"The parameter {name} must be true or false.")
    return value


def _whole(name: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise malformed(
            f"The parameter {name} must be a whole number of at least 0, not {value!r:.40}."
        )
    return value


def _malformed(error: ValidationError) -> Problem:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return malformed(
        f"The JSON cannot be used: {where + ': ' if where else ''}{first['msg'].lower()}."
    )
