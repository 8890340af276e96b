"""API keys: the file of their digests, the key of a secret, and how much each may draw.

A key has 256 bits from the system's entropy, so a plain SHA-256 of it is all that must be stored:
slow, salted hashes (bcrypt, argon2) are for passwords that people choose, which can be guessed.
2^256 keys cannot be guessed, however fast the hash, and no table can list their digests. A slow
hash would only let strangers keep a core busy by sending wrong keys.

The file is read again whenever it changes, so adding and removing keys needs no restart.
"""

import hashlib
import hmac
import itertools
import math
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.files import locked, write_whole

log = structlog.get_logger(__name__)

Scope = Literal["predict", "priority", "metrics", "admin"]
# Distinguishes a key from other secrets, for people and for scanners that look for leaked ones.
PREFIX = "pixeldp_"
# How much a key that was idle may draw at once, in seconds of its rate.
BURST_SECONDS = 2.0


class KeysError(ValueError):
    """The file of keys cannot be read or is not one; or a key is missing, or already exists."""


class Key(BaseModel):
    """The stored form of a key. ``rate`` is in draws per second; None means no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    created: datetime


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[Key]


class Allowance:
    """A token bucket of draws, which are what answers cost: passes have only so many slots.

    Processor time before the first draw, for receiving and decoding, is counted in draws, too
    (``service.http.guards.auth``).

    A picture's whole budget is taken before its first draw, and the unused draws are refunded with
    the answer, so that many requests at once cannot pass before the first is counted. A caller that
    is not in debt may ask with any budget, and then waits until the debt is paid off.

    Args:
        rate: draws per second; None means no limit.

    Attributes:
        number: identifies it; 0 is ``UNLIMITED``, which all callers without a key share.
    """

    _numbers = itertools.count()

    def __init__(self, rate: float | None) -> None:
        self.number = next(self._numbers)
        self.rate = rate
        self._most = math.inf if rate is None else rate * BURST_SECONDS
        self._level, self._at = self._most, time.monotonic()

    def wait(self, own: float = 0.0) -> float:
        """Return the seconds until there is no debt, apart from ``own`` draws; 0 means now."""
        if self.rate is None:
            return 0.0
        now = time.monotonic()
        self._level = min(self._most, self._level + self.rate * (now - self._at))
        self._at = now
        return max(0.0, -(self._level + own) / self.rate)

    def take(self, draws: float) -> None:
        """Take a picture's budget, even into debt; a negative number is a refund."""
        self._level = min(self._most, self._level - draws)


UNLIMITED = Allowance(None)


def own_allowance(key: Key) -> Allowance:
    """Return what a key may draw from this process alone."""
    return Allowance(key.rate)


def digest(secret: str) -> str:
    """Return the stored digest of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read(path: Path) -> list[Key]:
    """Read a file of keys.

    Raises:
        KeysError: the file is missing or broken.
    """
    try:
        keys = _File.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        reason = f"cannot read the keys in {path} ({error.strerror})"
        raise KeysError(f"{reason}; make one with pixeldp keys add NAME --keys {path}") from None
    except ValidationError as error:
        # Only the location: the content of such a file must not be logged.
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise KeysError(f"{path} is not a file of keys ({where}: {first['msg']})") from None
    if len({key.name for key in keys}) < len(keys):
        raise KeysError(f"{path} has two keys of the same name")
    return keys


@contextmanager
def _changing(path: Path, *, made: bool = False) -> Iterator[list[Key]]:
    """Yield the keys to change, and replace the file in one step: nobody ever reads half of it.

    Keeps other commands from changing the file meanwhile.

    Args:
        path: the file.
        made: whether it is made if it is missing.

    Raises:
        KeysError: it cannot be read or written; it is unchanged.
    """
    try:
        with locked(path):
            keys = [] if made and not path.exists() else read(path)
            yield keys
            content = _File(keys=keys).model_dump_json(indent=2) + "\n"
            write_whole(path, content.encode(), mode=0o600)  # only for its owner
    except OSError as error:
        raise KeysError(f"cannot write the keys in {path} ({error.strerror})") from None


def add(path: Path, name: str, scopes: list[str], rate: float | None) -> str:
    """Make a key, and return its secret, which is stored nowhere.

    Raises:
        KeysError: the name is in use, or a value is not possible.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    try:
        key = Key.model_validate(
            {
                "name": name,
                "sha256": digest(secret),
                "scopes": scopes,
                "rate": rate,
                "created": datetime.now(UTC).replace(microsecond=0),
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise KeysError(f"{first['loc'][0]}: {first['msg']}") from None
    with _changing(path, made=True) as keys:
        if any(one.name == name for one in keys):
            raise KeysError(f"there is already a key {name}; remove it first")
        keys.append(key)
    return secret


def remove(path: Path, name: str) -> None:
    """Remove a key.

    Raises:
        KeysError: there is none of that name.
    """
    with _changing(path) as keys:
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise KeysError(f"there is no key {name} in {path}; there are: {names}")
        keys[:] = left


class Keys:
    """The keys of a running service.

    Args:
        path: the file of keys.
        allow: returns what a key may draw.

    Raises:
        KeysError: it cannot be read.
    """

    def __init__(self, path: Path, allow: Callable[[Key], Allowance] = own_allowance) -> None:
        self._path, self._allow = path, allow
        self._allowances: dict[str, Allowance] = {}
        self._stamp = self._look()
        self._take(read(path))

    def find(self, secret: str) -> tuple[Key, Allowance] | None:
        """Return the key with this secret, and what it may still draw; or None."""
        self._refresh()
        given, found = digest(secret), None
        # Every key is compared, each in constant time, so that the duration reveals nothing.
        for key in self._keys:
            if hmac.compare_digest(given, key.sha256):
                found = key
        return (found, self._allowances[found.sha256]) if found else None

    def names(self) -> list[str]:
        """Return the names of all keys."""
        return [key.name for key in self._keys]

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        if stamp is None:
            # An operator who removes the file wants to refuse everybody.
            log.error("the file of keys is gone; every key is refused", path=str(self._path))
            self._take([])
            return
        try:
            self._take(read(self._path))
        except KeysError as error:
            log.error("the keys stay as they were", reason=str(error))

    def _take(self, keys: list[Key]) -> None:
        former, now = self._allowances, {}
        for key in keys:
            allowance = former.get(key.sha256)
            same = allowance is not None and allowance.rate == key.rate
            now[key.sha256] = allowance if allowance and same else self._allow(key)
        self._keys, self._allowances = keys, now
        log.info("keys read", path=str(self._path), keys=[key.name for key in keys])
