"""Who may ask what: keys and their scopes, as a dependency of routes, and what an answer costs.

    router = APIRouter(dependencies=[requires("predict")], responses=REFUSALS)

Probes, the page and the documentation have no such dependency. Without a file of keys everything
is open, which the service is only on loopback or where an operator said so.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from service.api import problems
from service.api.problems import Problem
from service.keys import UNLIMITED, Allowance, Keys, Scope

# What a picture costs at least, in draws, be it refused: reading and decoding it is work, too.
LEAST_COST = 64

REFUSALS = problems.responses(401, 403, 429)

# Neither refuses by itself: only below is it known whether there are keys at all.
_BEARER = HTTPBearer(auto_error=False, description="A key of this service.")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")

# What the caller of the running request may still draw. A context variable, so that no way from a
# route to a picture can forget to pass it on: the tasks of a request inherit it.
_allowance: ContextVar[Allowance] = ContextVar("allowance", default=UNLIMITED)


def requires(scope: Scope) -> Any:
    """Return a dependency that lets in only callers whose key has ``scope``.

    It answers before the body is read: 401 without a key that is known, 403 if the key lacks the
    scope, 429 while it has used up its draws.
    """

    async def check(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
        header: Annotated[str | None, Depends(_HEADER)],
    ) -> None:
        keys: Keys | None = request.app.state.keys
        if keys is None:
            _refuse_other_sites(request)
        else:
            _allowance.set(admit(keys, bearer.credentials if bearer else header, scope))

    return Depends(check)


def _refuse_other_sites(request: Request) -> None:
    """Where no key is needed, have no page of another site act through its visitor's browser.

    Browsers let any page send forms anywhere, and only keep the answers from it.
    """
    foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
    invited = request.headers.get("origin") in request.app.state.cors_origins
    if request.method == "POST" and foreign and not invited:
        raise Problem("not-allowed", "Pages of other sites may not use this service.")


def admit(keys: Keys, secret: str | None, scope: Scope) -> Allowance:
    """Return what the owner of ``secret`` may still draw.

    Raises:
        Problem: ``no-key``, ``not-allowed``, or ``rate-limited`` for a caller who is in debt.
    """
    if not secret:
        detail = "Send a key as Authorization: Bearer KEY, or as X-API-Key: KEY."
        raise Problem("no-key", detail, headers={"WWW-Authenticate": "Bearer"})
    found = keys.find(secret)
    if found is None:
        challenge = 'Bearer error="invalid_token"'
        raise Problem("no-key", "The key is unknown.", headers={"WWW-Authenticate": challenge})
    key, allowance = found
    if scope not in key.scopes:
        challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
        detail = f"The key {key.name} lacks the scope {scope}."
        raise Problem("not-allowed", detail, headers={"WWW-Authenticate": challenge}, scope=scope)
    if scope == "predict":
        _refuse_debt(allowance)
    return allowance


class Bill:
    """What an answer costs its caller: the whole budget, until ``draws`` says what was used."""

    def __init__(self, budget: int) -> None:
        self.draws = budget


@contextmanager
def charge(budget: int) -> Iterator[Bill]:
    """Take ``budget`` draws from the caller of the running request; give back what stays unused.

    A client that does not wait for its answer pays the budget: its draws may have been made.

    Raises:
        Problem: ``rate-limited``, if the caller is in debt.
    """
    allowance, bill = _allowance.get(), Bill(budget)
    _refuse_debt(allowance)
    allowance.take(max(budget, LEAST_COST))
    try:
        yield bill
    except Problem:
        bill.draws = 0
        raise
    finally:
        allowance.take(max(bill.draws, LEAST_COST) - max(budget, LEAST_COST))


def _refuse_debt(allowance: Allowance) -> None:
    seconds = allowance.wait()
    if seconds > 0:
        raise Problem(
            "rate-limited",
            f"The key has used up its {allowance.rate:g} draws a second.",
            retry_after_s=math.ceil(seconds),
        )
