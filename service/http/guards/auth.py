"""Keys and their scopes, as a dependency of routes, and the cost of an answer.

    router = APIRouter(dependencies=[requires("predict")], responses=REFUSALS)

Probes, the page and the documentation have no such dependency. Without a file of keys everything is
open; the service allows this only on loopback, or if the operator says so.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from service.http import problems
from service.http.backend import Answering
from service.http.exceptions import problem_for
from service.http.guards.budget import Holding, NoRoomError
from service.http.guards.keys import UNLIMITED, Allowance, Keys, Scope
from service.http.guards.sites import refuse_other_sites
from service.http.problems import Problem
from service.http.usage import current

# The least cost of a picture in draws, even if it is refused: reading and decoding it is work, too.
LEAST_COST = 64
# Other processor time is charged as the draws that a worker could make meanwhile: these seconds for
# each pixel that decoding processes, and for each byte that is received, parsed and decoded.
PIXEL_SECONDS, BYTE_SECONDS = 1e-7, 2e-8
# And these seconds for each picture, for which the front is busy with it. If draws are fast, a few
# draws cost almost nothing compared with it.
PICTURE_SECONDS = 1e-3

REFUSALS = problems.responses(401, 403, 429)

# Neither refuses by itself: only the code below knows whether there are keys at all.
_BEARER = HTTPBearer(auto_error=False, description="A key of this service.")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")


@dataclass
class Caller:
    """The sender of a request: what the key may still draw, and its scopes; None means all.

    ``received`` is what its body was charged, in draws; this is no debt for which it is refused.
    """

    allowance: Allowance = UNLIMITED
    scopes: frozenset[Scope] | None = None
    received: float = 0.0


ANYBODY = Caller()
# The caller of the running request. A context variable, so that no code between a route and a
# picture can forget to pass it on: the tasks of a request inherit it.
_caller: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)


def requires(scope: Scope) -> Any:
    """Return a dependency that admits only callers whose key has ``scope``.

    It answers before the body is read: 401 without a known key, 403 if the key lacks the scope, 429
    while it has used up its draws.
    """

    async def check(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
        header: Annotated[str | None, Depends(_HEADER)],
    ) -> None:
        _check(request, scope, bearer.credentials if bearer else header)

    return Depends(check)


async def check_key(request: Request, scope: Scope) -> None:
    """Admit a request as the dependency does, where dependencies are not looked up."""
    secret = None
    if request.app.state.keys is not None:
        bearer = await _BEARER(request)
        secret = bearer.credentials if bearer else await _HEADER(request)
    _check(request, scope, secret)


def _check(request: Request, scope: Scope, secret: str | None) -> None:
    keys: Keys | None = request.app.state.keys
    if keys is None:
        refuse_other_sites(request)
        return
    caller = admit(keys, secret, scope)
    _caller.set(caller)
    holding: Holding = request.scope["holding"]
    try:
        holding.belong(caller.allowance)
    except NoRoomError as error:
        engine = request.app.state.engine
        raise problem_for(error, engine, f"The {error}.", retry_after_s=1) from None


def admit(keys: Keys, secret: str | None, scope: Scope) -> Caller:
    """Return the caller with this secret.

    Raises:
        Problem: ``no-key``, ``not-allowed``, or ``rate-limited`` if the caller is in debt.
    """
    if not secret:
        detail = "Send a key as Authorization: Bearer KEY, or as X-API-Key: KEY."
        raise Problem("no-key", detail, headers={"WWW-Authenticate": "Bearer"})
    found = keys.find(secret)
    if found is None:
        challenge = 'Bearer error="invalid_token"'
        raise Problem("no-key", "The key is unknown.", headers={"WWW-Authenticate": challenge})
    key, allowance = found
    current().key = key.name
    if scope not in key.scopes:
        raise _lacking(scope)
    if scope == "predict":
        _refuse_debt(allowance)
    return Caller(allowance, key.scopes)


def check_priority() -> None:
    """Admit high priority only for keys that have it.

    Raises:
        Problem: ``not-allowed``.
    """
    scopes = _caller.get().scopes
    if scopes is not None and "priority" not in scopes:
        raise _lacking("priority")


def owner() -> int:
    """Return the owner of the caller's shares: the key's number, or 0 without a key."""
    return _caller.get().allowance.number


def refuse_debt() -> None:
    """Refuse a caller in debt, not counting what its own request was charged so far.

    Raises:
        Problem: ``rate-limited``.
    """
    caller = _caller.get()
    _refuse_debt(caller.allowance, caller.received)


def charge_bytes(engine: Answering, size: int) -> None:
    """Charge the caller for bytes that were received."""
    caller, draws = _caller.get(), BYTE_SECONDS * size * engine.speed()
    caller.allowance.take(draws)
    caller.received += draws
    current().charged += draws


def _lacking(scope: Scope) -> Problem:
    challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
    detail = f"The key lacks the scope {scope}."
    return Problem("not-allowed", detail, headers={"WWW-Authenticate": challenge}, scope=scope)


class Bill:
    """The cost of an answer: ``taken`` draws, until ``draws`` says how many were used."""

    def __init__(self, caller: Caller, budget: int, taken: float) -> None:
        self._allowance, self._usage = caller.allowance, current()
        self._own = caller.received + taken
        self.draws = budget

    def add_work(self, pixels: int, size: int, speed: float) -> None:
        """Charge for decoding a picture, which is never refunded.

        Args:
            pixels: the pixels that decoding processes.
            size: of the file, in bytes.
            speed: the draws per second of a worker with the model.

        Raises:
            Problem: ``rate-limited``, if the caller is in debt, not counting this picture's draws.
        """
        _refuse_debt(self._allowance, self._own)
        self.take((PIXEL_SECONDS * pixels + BYTE_SECONDS * size) * speed)

    def take(self, draws: float) -> None:
        """Charge ``draws``, or refund them if negative."""
        self._allowance.take(draws)
        self._usage.charged += draws


@contextmanager
def charge(budget: int, speed: float) -> Iterator[Bill]:
    """Charge the caller of the running request ``budget`` draws, and refund the unused ones.

    A client that does not wait for its answer pays the whole budget: its draws may have been made.

    Args:
        budget: draws.
        speed: the draws per second of a worker with the model.

    Raises:
        Problem: ``rate-limited``, if the caller is in debt.
    """
    caller = _caller.get()
    least = max(LEAST_COST, PICTURE_SECONDS * speed)
    taken = max(budget, least)
    bill = Bill(caller, budget, taken)
    _refuse_debt(caller.allowance, caller.received)
    bill.take(taken)
    try:
        yield bill
    except Problem:
        bill.draws = 0
        raise
    finally:
        bill.take(max(bill.draws, least) - taken)


def _refuse_debt(allowance: Allowance, own: float = 0.0) -> None:
    seconds = allowance.wait(own)
    if seconds > 0:
        raise Problem(
            "rate-limited",
            f"The key has used up its {allowance.rate:g} draws per second.",
            retry_after_s=math.ceil(seconds),
        )
