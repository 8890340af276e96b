"""The middleware around every request: id, trace, headers, metrics, log, and failures.

Plain ASGI: middleware that wraps the body streams would hide that a client has left.
"""

import re
import secrets
import time
from collections.abc import Mapping

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.guards.budget import REQUEST_BYTES, Budget, Holding
from service.http.metrics import Metrics
from service.http.problems import Problem, internal_error
from service.http.security import HEADERS
from service.http.tracing import Tracing
from service.http.turns import Turns
from service.http.usage import begin
from service.http.v2.errors import answer_in_form

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# W3C Trace Context, level 1. A version after 00 may have more after the flags, and ff is none.
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# Strangers may send any method; metrics and logs know only these.
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
# Requested every few seconds by machines: no span, and no line in the log.
_PROBES = ("/health/", "/v2/health/", "/metrics")
# No honest path has these. The routes' patterns would accept a line break at the end, and a proxy
# that protects a path from strangers would not recognise it.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Under overload and attack a line for each refusal would only add to it; metrics count them.
_QUIET = {401, 403, 429, 503}
# What is counted when the client has left: there is no standard status for it.
_CLIENT_LEFT = 499, "client-left"


class Envelope:
    """Gives every answer a request id and a trace, counts it, and turns failures into a 500.

    Args:
        app: the application.
        metrics: count requests.
        tracing: traces them, if it is on.
        budget: the memory budget of requests.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None, budget: Budget
    ) -> None:
        self._app, self._metrics, self._tracing = app, metrics, tracing
        self._budget = budget
        self._turns = Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._tracing)
        refusal = self._refusal(scope, exchange.probe)
        try:
            with Holding(self._budget) as scope["holding"]:
                scope["holding"].count(REQUEST_BYTES)
                if not exchange.probe:
                    await self._turns.begin()
                await (refusal or self._app)(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass  # the client has left
        except Exception:
            log.exception("request failed", route=_route(scope))
            if exchange.status:
                raise
            await _answer(scope, internal_error())(scope, receive, exchange.send)
        finally:
            exchange.end(self._metrics)

    def _refusal(self, scope: Scope, probe: bool) -> ASGIApp | None:
        """Return the answer to a request that is refused at once."""
        if _CONTROL.search(scope["path"]):
            detail = "There is nothing at a path with control characters."
            return _answer(scope, Problem("not-found", detail))
        if not probe and (self._budget.full or "crowded" in scope):
            detail = "There are too many connections, or requests in progress."
            close = {"Connection": "close"}
            return _answer(scope, Problem("overloaded", detail, close, retry_after_s=1))
        return None


class _Exchange:
    """A request and its answer in progress, and what is counted and logged at their end.

    Attributes:
        probe: whether the request is a probe.
        status: of the answer; 0 until it begins.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, tracing: Tracing | None) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._arrived = scope["arrived"] = time.monotonic()
        self._id = dict(scope["headers"]).get(b"x-request-id", b"")
        chance = secrets.token_hex(32).encode()
        if not _REQUEST_ID.fullmatch(self._id):
            self._id = chance[:16]
        self.probe = scope["path"].startswith(_PROBES)
        parent = parse_traceparent([v for k, v in scope["headers"] if k == b"traceparent"])
        self._span = tracing.begin(parent) if tracing and not self.probe else None
        self._trace = self._span.traceparent if self._span else _continue(parent, chance[16:])
        self.status, self._outcome = 0, "ok"
        self._usage = begin()
        structlog.contextvars.bind_contextvars(
            request_id=self._id.decode(), trace_id=self._trace.split(b"-")[1].decode()
        )

    async def receive(self) -> Message:
        """Receive a part of the request, and count it."""
        message = await self._receive()
        self._usage.received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer, with the headers of every answer, and count it."""
        if message["type"] == "http.response.start":
            self.status, headers = message["status"], dict(message["headers"])
            self._outcome = _outcome(self.status, headers, self._scope)
            own = [(b"x-request-id", self._id), (b"traceparent", self._trace)]
            own += [one for one in HEADERS if one[0] not in headers]
            message = {**message, "headers": [*message["headers"], *own]}
        self._usage.sent += len(message.get("body", b""))
        await self._send(message)

    def end(self, metrics: Metrics) -> None:
        """Count the request, and write its outcome into the trace and the log."""
        seconds = time.monotonic() - self._arrived
        scope, status, outcome, usage = self._scope, self.status, self._outcome, self._usage
        method = scope["method"] if scope["method"] in _METHODS else "other"
        if status == 0:
            status, outcome = scope.get("refused", _CLIENT_LEFT)
        route = _route(scope)
        metrics.requests.answered.labels(route, str(status), outcome).inc()
        metrics.requests.latency.labels(route).observe(seconds)
        metrics.keys.count(usage, str(status))
        if self._span:
            self._span.end(method, route, status, outcome, usage.key)
        (log.debug if self.probe or status in _QUIET else log.info)(
            "request",
            method=method,
            route=route,
            status=status,
            outcome=outcome,
            milliseconds=round(1000 * seconds, 1),
            **usage.told(),
        )
        structlog.contextvars.clear_contextvars()


def _answer(scope: Scope, problem: Problem) -> ASGIApp:
    """Return the answer to a problem, and note its name for the metrics."""
    scope["problem"] = problem.name
    return answer_in_form(problem, scope["path"])


def _route(scope: Scope) -> str:
    """Return the route as it is declared, never the path as it was sent."""
    return getattr(scope.get("route"), "path", "other")


def _outcome(status: int, headers: Mapping[bytes, bytes], scope: Scope) -> str:
    robust = headers.get(b"certified-robust")
    if robust == b"unknown":
        nothing = headers.get(b"certified-size", b"").startswith(b"0;")
        return "not-certified" if nothing else "certified"
    if robust:
        return "robust" if robust == b"true" else "not-robust"
    if status < 400:
        return "ok"
    return str(scope.get("problem", "refused" if status < 500 else "failed"))


def parse_traceparent(values: list[bytes]) -> tuple[bytes, bytes, bytes] | None:
    """Return trace id, parent id and flags of a valid ``traceparent``; None if there is none.

    Args:
        values: of all headers of that name.
    """
    match = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or (match[1] == b"00" and match[5]):
        return None
    trace, parent, flags = match[2], match[3], match[4]
    return None if set(trace) == set(b"0") or set(parent) == set(b"0") else (trace, parent, flags)


def _continue(parent: tuple[bytes, bytes, bytes] | None, chance: bytes) -> bytes:
    """Continue the caller's trace with our own span, or begin a trace.

    Args:
        parent: the caller's.
        chance: 48 digits in hexadecimal.
    """
    trace, _, flags = parent or (chance[:32], b"", b"00")
    # Only the first flag has a meaning: sampled.
    return b"00-%b-%b-%02x" % (trace, chance[32:48], int(flags, 16) & 1)
