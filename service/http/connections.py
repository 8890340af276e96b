"""A client's connection, with limits on slow and broken clients.

uvicorn speaks HTTP; this module adds the limits that it lacks. A connection that makes the service
wait is closed: one that sends nothing, that sends a head or a body drop by drop, or that does not
read its answer. Input that is not HTTP is answered with a problem document, like every error. The
service does not work on a request whose client has left.

The bytes of a connection are counted (``service/http/guards/budget.py``): those that were received
but not yet read by a request, and answers that the client has not read. When all connections
together hold too much, those whose clients have been slow for longest are cut.

File descriptors are reserved for probes: at the limit of connections, idle ones make room, the
oldest first. If none is idle, further connections are answered only if they are probes.
"""

import asyncio
import contextlib
import re
import resource
import secrets
import select
import sys
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from typing import Any, Literal

import h11
import structlog
from fastapi import Response
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.http.guards.budget import Budget
from service.http.prefix import find_prefix, look_at_head
from service.http.problems import PROBLEMS, Problem, forwarded_prefix
from service.http.security import HEADERS
from service.http.v2.errors import answer_in_form

log = structlog.get_logger(__name__)

MAX_HEADER_BYTES = 64 * 1024
# From the connection, or from the first byte of a further request, to the end of its head.
HEAD_SECONDS = 10.0
# A body has this long, and one more second for each of these numbers of bytes.
BODY_SECONDS = 20.0
LEAST_BYTES_A_SECOND = 1000.0
# Beyond this many chunks, the chunks of a body must have this many bytes on average.
FREE_CHUNKS = 1000
LEAST_CHUNK = 512
# The time for the rest of a body after its answer, and for an answer that is not read.
REST_SECONDS = 5.0
ANSWER_SECONDS = 30.0
# Files that are reserved for everything except connections: workers, libraries, the log.
SPARE_FILES = 128
# Connections that are reserved for probes.
PROBE_FILES = 64
# The service does not start with fewer files than this in all: a page, a proxy and a few clients
# together have this many connections.
LEAST_FILES = SPARE_FILES + PROBE_FILES + 320
# The seconds between two checks of all connections.
CHECK_SECONDS = 0.5
# The time from the end of a client's data until it is checked whether the client has left.
LEAVER_SECONDS = 0.05
# A client that has made the service wait for this long is cut first when there is no room.
STALLED_SECONDS = 1.0
# One in this many of the connections that could make room is cut at a time.
CUT_ONE_IN = 8

Phase = Literal["idle", "head", "body", "rest", "working"]


class _Parser(h11.Connection):
    """h11's parser, which also refuses input that no honest client sends."""

    _chunks = _chunked = 0
    _skipped = False
    head = b""  # the head of a request that could not be read

    def next_event(self) -> Any:
        """Return the next event.

        Raises:
            h11.RemoteProtocolError: as h11 does; for a body whose length is stated in two ways, of
                which a proxy may have used the other; and for a body in tiny chunks, each of which
                takes as much time as a large one.
        """
        unread = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        # One empty line before a request, as after a body by old clients (RFC 9112, section 2.2).
        if unread.startswith(b"\r\n") and not self._skipped:
            self._skipped, unread = True, unread[2:]
            self._receive_buffer.maybe_extract_at_most(2)
        try:
            return self._checked(super().next_event(), unread)
        except h11.RemoteProtocolError:
            self.head = unread
            raise

    def _checked(self, event: Any, unread: bytes) -> Any:
        if isinstance(event, h11.Request):
            # h11 itself checks only incomplete heads, and accepts any that arrives in one piece.
            if len(unread) - len(self.trailing_data[0]) > MAX_HEADER_BYTES:
                raise h11.RemoteProtocolError("the head is too large", error_status_hint=431)
            event = _in_origin_form(event)
            self._chunks = self._chunked = 0
            self._skipped = False
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding together")
        elif isinstance(event, h11.Data) and event.chunk_end:
            self._chunks, self._chunked = self._chunks + 1, self._chunked + len(event.data)
            if self._chunked < (self._chunks - FREE_CHUNKS) * LEAST_CHUNK:
                raise h11.RemoteProtocolError(f"chunks of less than {LEAST_CHUNK} bytes on average")
        return event


_ABSOLUTE = re.compile(rb"https?://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)


def _in_origin_form(event: h11.Request) -> h11.Request:
    """Turn a request for a whole URL, as sent to proxies, into one for its path at its host.

    Servers must accept both (RFC 9112, section 3.2.2), and the URL's host counts.
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
    """uvicorn's connection, with limits.

    Attributes:
        held: bytes that are held for it.
        moved: when its client last made progress, by the loop's clock.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = self._parser = _Parser(h11.SERVER, MAX_HEADER_BYTES)
        self._phase: Phase = "idle"
        self._begun = self.moved = self.loop.time()
        self._received = 0
        self._taken = self._begun
        self._unsent = self.held = 0
        self._half_closed = self._told = self._was_cut = False
        app: Any = self.config.app
        self._budget: Budget = app.state.budget

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; the client must send a request soon."""
        super().connection_made(transport)
        room = most_connections() - len(self.connections)
        if room < 0:
            room += make_room(self.connections - {self})
        if room < -PROBE_FILES:
            transport.abort()
        elif room < 0:
            self.app = _probes_alone(self.app)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; nothing is held any more."""
        self._budget.count_connections(-self.held)
        self.held = 0
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive the client's data."""
        self._received += len(data)
        self.moved = self.loop.time()
        super().data_received(data)
        self._count()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Continue with the requests: a client may close its end and wait for its answers."""
        self._half_closed = True
        if self._find_phase() != "working":
            return False
        self.loop.call_later(LEAVER_SECONDS, self._look_after_leaver)
        return True

    def pause_writing(self) -> None:
        """Note that the client does not read its answer as fast as it is made."""
        super().pause_writing()
        self.moved = self.loop.time()
        self._count()

    def resume_writing(self) -> None:
        """Note that the client reads its answer again."""
        super().resume_writing()
        self.moved = self.loop.time()
        self._count()

    def announce_close(self) -> None:
        """State in the present answer that it is the connection's last."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]

    def shutdown(self) -> None:
        """Close now if no request is in progress, or else after its answer."""
        with contextlib.suppress(h11.LocalProtocolError):  # it is already being closed
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Close after a while without a further request."""
        with contextlib.suppress(h11.LocalProtocolError):
            super().timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        """Continue with the next request, if the client is still there to read its answer."""
        if self._unread:
            self._look_after_leaver()
        super().on_response_complete()
        if self._half_closed and self._find_phase() != "working":
            self.transport.close()  # after the remaining data is sent
        self._count()

    def check(self, now: float) -> None:
        """Close a connection that makes the service wait; called every ``CHECK_SECONDS``."""
        phase = self._find_phase()
        if phase != self._phase or (phase == "body" and self.flow.read_paused):
            self._phase, self._begun, self._received = phase, now, 0
        waited = now - self._begun
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            self._taken = now
        if unsent < self._unsent:
            self.moved = now
        self._unsent = unsent
        self._count()
        if now - self._taken > ANSWER_SECONDS or (phase == "rest" and waited > REST_SECONDS):
            self.transport.abort()
        elif phase == "head" and waited > HEAD_SECONDS:
            if self._unread:
                self._refuse("too-slow", f"No whole head came within {HEAD_SECONDS:g} s.")
            else:
                self.transport.close()
        elif phase == "body" and waited > BODY_SECONDS + self._received / LEAST_BYTES_A_SECOND:
            self._refuse("too-slow", f"{self._received:,} bytes came in {waited:.0f} s.")
        elif phase == "working" and (self.flow.read_paused or self._half_closed):
            # Further requests wait to be read, so the loop does not see the end of data behind
            # them.
            self._look_after_leaver()

    @property
    def _unread(self) -> int:
        """The bytes that wait to be read as HTTP; counted without a copy."""
        return len(self.conn._receive_buffer)

    @property
    def asks_nothing(self) -> bool:
        """Whether no request is in progress, and no answer is being sent."""
        if self._find_phase() not in ("idle", "head"):
            return False
        return not self.transport.get_write_buffer_size()

    @property
    def slow_since(self) -> float:
        """Since when its client makes the service wait; single bytes of a head are no progress."""
        return self._begun if self._find_phase() == "head" else self.moved

    def stalls(self, now: float) -> bool:
        """Whether its client holds up a request: by its body, or by not reading the answer."""
        waits = self._find_phase() == "body" or self.flow.write_paused
        return waits and now - self.moved > STALLED_SECONDS

    def cut(self) -> None:
        """Close at once, whatever is in progress, and free everything that was held for it."""
        self._budget.count_connections(-self.held)
        self.held, self._was_cut = 0, True
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer input that is not HTTP."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            detail = f"The head of a request may have {MAX_HEADER_BYTES:,} bytes."
            self._refuse("head-too-large", detail)
        else:
            reason, _, _ = str(error or msg).partition(": bytearray")
            self._refuse("malformed-request", f"This is not HTTP/1.1: {reason[:200]}.")

    def _find_phase(self) -> Phase:
        """Say what the service waits for."""
        answered = self.cycle is None or self.cycle.response_complete
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            return "rest" if answered else "body"
        if not answered:
            return "working"
        fresh = self.cycle is None or self._unread > 0
        return "head" if fresh else "idle"

    def _count(self) -> None:
        """Count what is held here; if the total is too much, cut the slowest connections."""
        if self._was_cut:
            return
        size = self._unread + self.transport.get_write_buffer_size()
        if self.cycle is not None and not self.cycle.response_complete:
            size += len(self.cycle.body)
        if size != self.held:
            self._budget.count_connections(size - self.held)
        self.held = size
        if self._budget.crowded:
            relieve(self._budget, self.connections)

    def _look_after_leaver(self) -> None:
        """Close if the client is gone; find out whether it is, if it has closed its end.

        A client that only closes its end and a client that leaves look the same until they are sent
        something: the first reads it, the machine of the second reports that nobody is there.
        Clients of HTTP/1.1 expect a 100 at any time before their answer (RFC 9110, section 15.2).
        Those of HTTP/1.0 do not know it, and count as gone.
        """
        if self.transport.is_closing():
            return
        events = self._events()
        begun = self._find_phase() != "working" or self.cycle.response_started
        if events & _GONE:
            self.transport.abort()
        elif (events & _ENDED or self._half_closed) and not (self._told or begun):
            self._told = True
            if self.scope["http_version"] == "1.0":
                self.transport.abort()
            else:
                answer = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
                self.transport.write(self.conn.send(answer) or b"")

    def _events(self) -> int:
        """What the system reports about the client's end, even if data before it is unread."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), _ENDED | _GONE)
        return sum(found for _, found in poll.poll(0))

    def _refuse(self, name: str, detail: str) -> None:
        """Answer with a problem, if no answer has begun, and close."""
        begun = asked = False
        if self.cycle is not None and not self.cycle.response_complete:
            begun, asked = self.cycle.response_started, True
            scope: Any = self.cycle.scope
            path, prefix = scope["path"], find_prefix(scope["headers"])
            scope["refused"] = PROBLEMS[name].status, name
            self.cycle.disconnected = True  # the application need not continue
            self.cycle.message_event.set()
        else:
            path, prefix = look_at_head(self._parser.head or self.conn.trailing_data[0])
        if not begun:
            document = _document(Problem(name, detail), path, prefix)
            headers = [
                *document.raw_headers,
                (b"connection", b"close"),
                (b"x-request-id", secrets.token_hex(8).encode()),
                *self.server_state.default_headers,
                *HEADERS,
            ]
            reason = HTTPStatus(document.status_code).phrase.encode()
            answer = h11.Response(status_code=document.status_code, headers=headers, reason=reason)
            with contextlib.suppress(h11.LocalProtocolError):
                for event in (answer, h11.Data(data=bytes(document.body)), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            if not asked:  # otherwise it is counted as that request
                app: Any = self.config.app
                status = str(PROBLEMS[name].status)
                app.state.metrics.requests.answered.labels("other", status, name).inc()
        self.transport.close()


def _document(problem: Problem, path: str, prefix: str) -> Response:
    """Return the answer to a request for ``path`` that came through a proxy's ``prefix``."""
    token = forwarded_prefix.set(prefix)
    try:
        return answer_in_form(problem, path)
    finally:
        forwarded_prefix.reset(token)


_GONE = select.POLLHUP | select.POLLERR
# If the system cannot tell, a client that left is noticed one answer later.
_ENDED = getattr(select, "POLLRDHUP", 0)


def most_connections() -> int:
    """Return the most connections, not counting those for probes."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = sys.maxsize if files == resource.RLIM_INFINITY else files
    return files - SPARE_FILES - PROBE_FILES


def make_room(connections: Collection[Any]) -> int:
    """Close some idle connections, the oldest first; return how many."""
    idle = sorted((one for one in connections if one.asks_nothing), key=lambda one: one.slow_since)
    # Each search goes through all connections, so it must make room for several new ones.
    cut = idle[: -(-len(idle) // CUT_ONE_IN)]
    for connection in cut:
        connection.cut()
    return len(cut)


def relieve(budget: Budget, connections: Collection[Any]) -> None:
    """Cut connections that hold something, the slowest first, until well below their share.

    The last of them always stays: one answer may be larger than the share of all.
    """
    goal = budget.connections_share * (CUT_ONE_IN - 1) // CUT_ONE_IN
    left = budget.connections
    holding = [one for one in connections if one.held]
    for connection in sorted(holding, key=lambda one: one.slow_since)[:-1]:
        if left <= goal:
            break
        left -= connection.held
        connection.cut()


def _probes_alone(app: Any) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """Return ``app`` for a connection beyond the limit: it answers only probes."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        scope["crowded"] = True
        await app(scope, receive, send)

    return answer


async def check_connections(connections: Callable[[], set[Any]], budget: Budget) -> None:
    """Check all connections, again and again."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        now = loop.time()
        if budget.full:
            waiting = [one for one in connections() if one.stalls(now)]
            stalled = sorted(waiting, key=lambda one: one.slow_since)
            for connection in stalled[: -(-len(stalled) // 2)]:
                connection.cut()
        for connection in list(connections()):
            try:
                connection.check(now)
            except Exception:  # the others must still be checked
                log.exception("connection failed")
                connection.transport.abort()
