"""From JSON to dataclasses, by their annotations."""

import dataclasses
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pixeldp_client._errors import ServiceError

T = TypeVar("T")


def read(kind: type[T], value: Any) -> T:
    """Return ``value`` as the dataclass ``kind``.

    Members that ``kind`` does not know are ignored, so that newer services can be used. A field
    called ``raw`` receives the whole object.

    Raises:
        ServiceError: a member is missing or of another type.
    """
    result: T = _read(kind, value, "the answer")
    return result


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise _unexpected(where, "an object", value)
        members = {}
        for name, hint in _hints(kind).items():
            if name == "raw":
                members[name] = value
            elif name in value:
                members[name] = _read(hint, value[name], f"{where}.{name}")
            else:
                raise ServiceError(f"{where} has no member {name}: is this a PixelDP service?")
        return kind(**members)
    if origin is UnionType:  # only ever X | None here
        return None if value is None else _read(arguments[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _unexpected(where, "a list", value)
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    plain = origin or kind
    if plain is float and type(value) is int:
        return float(value)
    if plain is not Any and type(value) is not plain:
        raise _unexpected(where, "nothing" if plain is NoneType else plain.__name__, value)
    return value


def _unexpected(where: str, expected: str, value: Any) -> ServiceError:
    return ServiceError(f"{where} is {type(value).__name__}, expected {expected}")
