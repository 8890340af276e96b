"""One client's connection: what may be slow, what may be broken, and for how long.

uvicorn speaks HTTP; here are the limits that it lacks. A connection that keeps the service waiting
is closed: one that sends nothing, or a head or a body drop by drop, or that does not take its
answer. What is no HTTP is answered by a problem document, as every error is. And no request is
worked on for a client who has left.
"""

import asyncio
import contextlib
import json
import re
import resource
import secrets
import select
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Literal

import h11
import structlog
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api.problems import MEDIA_TYPE, PROBLEMS, Problem
from service.api.security import HEADERS

log = structlog.get_logger(__name__)

MAX_HEADER_BYTES = 64 * 1024
# From the connection, or from the first byte of a further request, to the end of its head.
HEAD_SECONDS = 10.0
# A body has this long and one second more for each so many bytes.
BODY_SECONDS = 20.0
LEAST_BYTES_A_SECOND = 1000.0
# Beyond so many chunks, a body must have chunks of so many bytes on average.
FREE_CHUNKS = 1000
LEAST_CHUNK = 512
# What is left of a body after its answer, and an answer that is not taken.
REST_SECONDS = 5.0
ANSWER_SECONDS = 30.0
# Files that are kept for all that is not a connection: workers, libraries, the log.
SPARE_FILES = 128
# How often all connections are looked at.
CHECK_SECONDS = 0.5

Phase = Literal["idle", "head", "body", "rest", "working"]


class _Parser(h11.Connection):
    """h11's parser, but for what no honest client sends."""

    _chunks = _chunked = 0

    def next_event(self) -> Any:
        """Return the next event.

        Raises:
            h11.RemoteProtocolError: as h11 does; for a body whose length is stated in two ways,
                which those before the service may have read in the other; and for a body in tiny
                chunks, each of which takes as much time as a large one.
        """
        before = len(self.trailing_data[0]) if self.their_state is h11.IDLE else 0
        event = super().next_event()
        if isinstance(event, h11.Request):
            # By itself h11 judges heads that are not there yet, and takes any that comes at once.
            if before - len(self.trailing_data[0]) > MAX_HEADER_BYTES:
                raise h11.RemoteProtocolError("the head is too large", error_status_hint=431)
            event = _in_origin_form(event)
            self._chunks = self._chunked = 0
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding together")
        elif isinstance(event, h11.Data) and event.chunk_end:
            self._chunks, self._chunked = self._chunks + 1, self._chunked + len(event.data)
            if self._chunked < (self._chunks - FREE_CHUNKS) * LEAST_CHUNK:
                raise h11.RemoteProtocolError(f"chunks of less than {LEAST_CHUNK} bytes on average")
        return event


_ABSOLUTE = re.compile(rb"https?://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)


def _in_origin_form(event: h11.Request) -> h11.Request:
    """Return a request for a whole URL, as proxies are sent, as one for its path at its host.

    Servers have to take both (RFC 9112, section 3.2.2), and the URL's host counts.
    """
    match = _ABSOLUTE.fullmatch(event.target)
    if match is None:
        return event
    host, path = match[1].rpartition(b"@")[2], match[2]
    others = [(name, value) for name, value in event.headers if name != b"host"]
    return h11.Request(
        method=event.method,
        target=path if path.startswith(b"/") else b"/" + path,
        headers=[(b"host", host), *others],
        http_version=event.http_version,
    )


class Connection(H11Protocol):
    """uvicorn's connection, with limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Parser(h11.SERVER, MAX_HEADER_BYTES)
        self._phase: Phase = "idle"
        self._begun = self.loop.time()
        self._received = 0
        self._taken = self._begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; the client must send a request soon."""
        super().connection_made(transport)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self.connections) > files - SPARE_FILES:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        self._received += len(data)
        super().data_received(data)

    def announce_close(self) -> None:
        """Say in the answer that is under way that it is the connection's last."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]

    def shutdown(self) -> None:
        """Close if no request is under way, else after its answer."""
        with contextlib.suppress(h11.LocalProtocolError):  # it is being closed already
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Close after a while without a further request."""
        with contextlib.suppress(h11.LocalProtocolError):
            super().timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        """Go on with the next request, if the client is still there to read its answer."""
        if self.conn.trailing_data[0] and self._client_left():
            self.transport.abort()
        super().on_response_complete()

    def check(self, now: float) -> None:
        """Close a connection that keeps the service waiting; called every ``CHECK_SECONDS``."""
        phase = self._find_phase()
        if phase != self._phase or (phase == "body" and self.flow.read_paused):
            self._phase, self._begun, self._received = phase, now, 0
        waited = now - self._begun
        if not self.transport.get_write_buffer_size():
            self._taken = now
        if now - self._taken > ANSWER_SECONDS or (phase == "rest" and waited > REST_SECONDS):
            self.transport.abort()
        elif phase == "head" and waited > HEAD_SECONDS:
            if self.conn.trailing_data[0]:
                self._refuse("too-slow", f"No whole head came within {HEAD_SECONDS:g} s.")
            else:
                self.transport.close()
        elif phase == "body" and waited > BODY_SECONDS + self._received / LEAST_BYTES_A_SECOND:
            self._refuse("too-slow", f"{self._received:,} bytes came in {waited:.0f} s.")
        elif phase == "working" and self.flow.read_paused and self._client_left():
            # Further requests wait to be read, so that the loop does not see the end behind them.
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            detail = f"The head of a request may have {MAX_HEADER_BYTES:,} bytes."
            self._refuse("head-too-large", detail)
        else:
            reason, _, _ = str(error or msg).partition(": bytearray")
            self._refuse("malformed-request", f"This is not HTTP/1.1: {reason[:200]}.")

    def _find_phase(self) -> Phase:
        """Say what is waited for."""
        answered = self.cycle is None or self.cycle.response_complete
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            return "rest" if answered else "body"
        if not answered:
            return "working"
        fresh = self.cycle is None or bool(self.conn.trailing_data[0])
        return "head" if fresh else "idle"

    def _client_left(self) -> bool:
        """Whether the client has closed its end, even if there is more to be read before that."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), _HANGUP)
        return bool(poll.poll(0))

    def _refuse(self, name: str, detail: str) -> None:
        """Answer with a problem, if no answer has begun, and close."""
        begun = False
        if self.cycle is not None and not self.cycle.response_complete:
            begun = self.cycle.response_started
            self.cycle.disconnected = True  # the application need not go on
            self.cycle.message_event.set()
        if not begun:
            document = json.dumps(Problem(name, detail).document()).encode()
            headers = [
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", str(len(document)).encode()),
                (b"connection", b"close"),
                (b"x-request-id", secrets.token_hex(8).encode()),
                *self.server_state.default_headers,
                *HEADERS,
            ]
            status = PROBLEMS[name].status
            reason = HTTPStatus(status).phrase.encode()
            answer = h11.Response(status_code=status, headers=headers, reason=reason)
            with contextlib.suppress(h11.LocalProtocolError):
                for event in (answer, h11.Data(data=document), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            app: Any = self.config.app
            app.state.metrics.requests.labels("other", str(status), name).inc()
        self.transport.close()


# Where the system cannot tell, a client who left is noticed one answer later.
_HANGUP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


async def check_connections(connections: Callable[[], set[Any]]) -> None:
    """Check all connections, again and again."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        now = loop.time()
        for connection in list(connections()):
            try:
                connection.check(now)
            except Exception:  # the others are to be checked all the same
                log.exception("connection failed")
                connection.transport.abort()
