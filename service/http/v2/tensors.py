"""From tensors of pictures to picture files.

A tensor's shape is checked before its values are read, and the number of its values before anything
is made of them.
"""

import struct
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

from service.http.guards import base64_text
from service.http.problems import malformed

# The magic numbers of PGM and PPM: a header before the same values.
_PNM = {1: b"P5", 3: b"P6"}


@dataclass(frozen=True)
class Tensor:
    """A batch of pictures of the right shape; ``picture``: (height, width, channels), if fixed."""

    name: str
    shape: tuple[int, ...]
    picture: tuple[int, int, int] | None

    @property
    def batch(self) -> int:
        """The number of pictures."""
        return self.shape[0]


def shape_of(
    name: str, datatype: str, shape: list[int], model: tuple[int, int, int], most: int
) -> Tensor:
    """Check a request's statements about an input.

    Args:
        name: of the input.
        datatype: of the input.
        shape: of the input.
        model: (channels, height, width) of the model's input.
        most: the largest batch.

    Raises:
        Problem: there is no such input, or its type or shape is wrong.
    """
    channels, height, width = model
    inputs = {
        "IMAGE": ("UINT8", (height, width, channels)),
        "IMAGE_BYTES": ("BYTES", (1,)),
    }
    if name not in inputs:
        raise malformed(f"There is no input {name!r}; there are IMAGE and IMAGE_BYTES.")
    kind, rest = inputs[name]
    if datatype != kind:
        raise malformed(f"{name} is {kind}, not {datatype[:16]!r}.")
    # An element of bytes is a picture, so n of them may also have the shape [n].
    flat = name == "IMAGE_BYTES" and len(shape) == 1
    if not flat and (not shape or tuple(shape[1:]) != rest):
        expected = ["batch", *rest]
        or_flat = "" if name == "IMAGE" else " or [batch]"
        other = " Other pictures can be sent as files in IMAGE_BYTES." if name == "IMAGE" else ""
        raise malformed(
            f"{name} must have the shape {expected}{or_flat}, not {shape[:8]}.".replace("'", "")
            + other
        )
    if not 1 <= shape[0] <= most:
        raise malformed(f"{name} has a batch of {shape[0]}; expected 1 to {most}.")
    if name == "IMAGE" and channels not in _PNM:
        raise malformed(f"The model takes {channels} channels; pictures have 1 or 3.")
    return Tensor(name, tuple(shape), (height, width, channels) if name == "IMAGE" else None)


def from_binary(tensor: Tensor, blob: bytes) -> list[bytes]:
    """Return the picture files in a tensor's bytes: row-major; BYTES as 32-bit lengths and bytes.

    Raises:
        Problem: they are more or fewer than the shape needs.
    """
    if tensor.picture is not None:
        height, width, channels = tensor.picture
        each = height * width * channels
        if len(blob) != tensor.batch * each:
            needed = f"{tensor.batch * each} bytes for the shape {list(tensor.shape)}"
            raise malformed(f"{tensor.name} has {len(blob)} bytes; expected {needed}.")
        starts = range(0, len(blob), each)
        return [_pnm(tensor.picture, blob[start : start + each]) for start in starts]
    files, position = [], 0
    for number in range(tensor.batch):
        if position + 4 > len(blob):
            raise malformed(f"{tensor.name} ends before element {number} of {tensor.batch}.")
        (length,) = struct.unpack_from("<I", blob, position)
        position += 4
        if length > len(blob) - position:
            left = len(blob) - position
            raise malformed(
                f"{tensor.name}: element {number} states {length} bytes; {left} are left."
            )
        files.append(blob[position : position + length])
        position += length
    if position != len(blob):
        left = len(blob) - position
        raise malformed(f"{tensor.name} has {left} bytes after its {tensor.batch} elements.")
    return files


def from_json(tensor: Tensor, data: list[Any]) -> list[bytes]:
    """Return the picture files in a tensor's JSON values, nested as its shape or flat.

    UINT8 are whole numbers from 0 to 255; BYTES are strings in base64.

    Raises:
        Problem: they are of another kind, or more or fewer than the shape needs.
    """
    values = _flat(tensor, data)
    if tensor.picture is None:
        return [_file(tensor.name, value) for value in values]
    try:
        if not set(map(type, values)) <= {int}:
            raise TypeError
        blob = bytes(values)
    except (TypeError, ValueError):
        raise malformed(
            f"{tensor.name} holds values that are not whole numbers from 0 to 255."
        ) from None
    return from_binary(tensor, blob)


def _flat(tensor: Tensor, data: list[Any]) -> list[Any]:
    """Return the values in one list, as many as the shape has."""
    shape, rows = tensor.shape, [data]
    nested = bool(data) and isinstance(data[0], list)
    lengths = shape if nested else (prod(shape),)
    for depth, length in enumerate(lengths):
        if depth:
            rows = list(chain.from_iterable(rows))
        if not (set(map(type, rows)) <= {list} and set(map(len, rows)) <= {length}):
            raise malformed(f"{tensor.name}'s data is neither flat nor nested as {list(shape)}.")
    return rows[0] if len(rows) == 1 else list(chain.from_iterable(rows))


def _pnm(picture: tuple[int, int, int], values: bytes) -> bytes:
    height, width, channels = picture
    return b"%b\n%d %d\n255\n" % (_PNM[channels], width, height) + values


def _file(name: str, value: object) -> bytes:
    try:
        if isinstance(value, str):
            return base64_text.decode(value)
    except ValueError:
        pass
    raise malformed(
        f"{name} holds a value that is not a string in base64; send files as binary tensors."
    )
