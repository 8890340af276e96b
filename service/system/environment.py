"""Checks the environment variables ``PIXELDP_…``.

A misspelt name would be ignored silently, and with it, for example, the keys. So only known names
are accepted, except for those that Kubernetes sets in every container beside a Service whose name
begins with ``pixeldp``: its addresses, also as ``PIXELDP_PORT``.
"""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

PREFIX = "PIXELDP_"
# Other variables of the project, which are not settings of the service.
_OTHERS = (
    "BUILDERS CACHE DATA FUZZ FUZZ_SEED SCREENSHOTS SOUNDNESS SOUNDNESS_ATTACKED SOUNDNESS_DRAWS"
)
OTHERS = frozenset(PREFIX + name for name in _OTHERS.split())
# Examples use it for a client's key. Any other value may be meant for PIXELDP_KEYS.
CLIENT_KEY = f"{PREFIX}KEY"

_OF_SERVICE = re.compile(
    r"PIXELDP_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_PORT_OF_SERVICE = re.compile(r"PIXELDP_(\w+_)?PORT")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")


class UnknownVariableError(ValueError):
    """An environment variable looks like a setting, and is none."""


class Environment(EnvSettingsSource):
    """Reads settings from the environment: lists as ``a,b``, empty variables as not set."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of a variable, unless it is one of Kubernetes'."""
        value, key, is_complex = super().get_field_value(field, field_name)
        if isinstance(value, str):
            value = value.strip() or None
        if isinstance(value, str) and of_kubernetes(PREFIX + field_name.upper(), value):
            value = None
        return value, key, is_complex

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Split a list at its commas; in JSON its parts may have commas."""
        return split(value)


def split(text: str) -> list[str]:
    """Return the parts of a list ``a,b``, or of one in JSON."""
    with suppress(ValueError):
        parts = json.loads(text)
        if isinstance(parts, list):
            return parts
    return [part.strip() for part in text.split(",") if part.strip()]


def of_kubernetes(name: str, value: str) -> bool:
    """Say whether Kubernetes has set a variable, for a Service named ``pixeldp`` or similar."""
    address = _PORT_OF_SERVICE.fullmatch(name) and _ADDRESS.fullmatch(value)
    return bool(address or _OF_SERVICE.fullmatch(name))


def check(variables: Mapping[str, str], settings: Iterable[str]) -> list[str]:
    """Return the names of variables that are ignored because Kubernetes has set them.

    Args:
        variables: the environment.
        settings: names of settings, in lower case and without prefix.

    Raises:
        UnknownVariableError: one is neither of these, nor another variable of the project.
    """
    known = [PREFIX + name.upper() for name in settings]
    passed_over = []
    for name, value in sorted(variables.items()):
        upper = name.upper()
        if not upper.startswith(PREFIX) or not value.strip():
            continue
        if of_kubernetes(upper, value):
            passed_over.append(name)
        elif upper not in known and upper not in OTHERS and not _client_key(upper, value):
            # All have the same prefix.
            names = [one.removeprefix(PREFIX) for one in (*known, *OTHERS)]
            near = get_close_matches(upper.removeprefix(PREFIX), names, 1)
            meant = (
                f"did you mean {PREFIX}{near[0]}?"
                if near
                else "docs/reference.md lists all settings"
            )
            raise UnknownVariableError(
                f"{name} is set in the environment, but there is no such setting; {meant}"
            )
    return passed_over


def _client_key(name: str, value: str) -> bool:
    return name == CLIENT_KEY and value.startswith("pixeldp_")
