"""What surrounds every request: its id, its trace, its numbers, and what happens when it fails.

Plain ASGI: a middleware that wraps the body streams would hide that a client has left.
"""

import re
import secrets
import time

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import Problem
from service.metrics import Metrics

log = structlog.get_logger(__name__)

_TRACEPARENT = re.compile(rb"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,128}$")


class Envelope:
    """Gives every answer a request id and a trace, counts it, and turns failures into a 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = scope["arrived"] = time.monotonic()
        given = dict(scope["headers"])
        request_id = given.get(b"x-request-id", b"")
        if not _REQUEST_ID.match(request_id):
            request_id = secrets.token_hex(8).encode()
        trace = _trace(given.get(b"traceparent", b""))
        status = 0

        async def send_enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(b"x-request-id", request_id), (b"traceparent", trace)]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id.decode())
        try:
            await self._app(scope, receive, send_enveloped)
        except ClientDisconnect:
            pass  # nobody is left to answer
        except Exception:
            log.exception("request failed", path=scope["path"])
            if status:
                raise
            detail = "The service failed while it worked on this request."
            await Problem("internal-error", detail).response()(scope, receive, send_enveloped)
        finally:
            structlog.contextvars.clear_contextvars()
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status or 499)).inc()
            self._metrics.latency.labels(route).observe(time.monotonic() - arrived)


def _trace(given: bytes) -> bytes:
    """Continue the caller's W3C trace with a span of our own, or begin one."""
    match = _TRACEPARENT.match(given)
    trace, flags = (match[1], match[3]) if match else (secrets.token_hex(16).encode(), b"00")
    return b"00-%b-%b-%b" % (trace, secrets.token_hex(8).encode(), flags)
