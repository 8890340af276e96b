"""Clients that are slow, broken or gone, over real sockets; the limits are made short."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import h11
import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.http import connections
from service.http.connections import Connection, check_connections
from service.http.guards.budget import SMALL, Budget, Holding
from service.http.metrics import Metrics

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"


class App:
    """Answers with the length of the body, or with as many bytes as the path says."""

    def __init__(self) -> None:
        self.state = self
        self.metrics = Metrics()
        self.budget = Budget(2**24)
        self.begun = self.left = self.crowded = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        finally:
            if "refused" in scope:  # as the service's outermost middleware counts it
                status, name = scope["refused"]
                self.metrics.requests.answered.labels("/", str(status), name).inc()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        self.crowded += "crowded" in scope
        request = Request(scope, receive)
        if scope["path"] == "/wait":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left += 1
            return
        try:
            size = len(await request.body()) if scope["method"] == "POST" else 0
        except ClientDisconnect:
            self.left += 1
            return
        answer = "x" * int(scope["query_string"] or 0) or str(size)
        await PlainTextResponse(answer)(scope, receive, send)

    @property
    def counted(self) -> dict[str, float]:
        """How many requests were refused, by name of the problem."""
        samples = next(iter(self.metrics.requests.answered.collect())).samples
        return {one.labels["outcome"]: one.value for one in samples if one.name.endswith("_total")}


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def connect(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], socket.socket]]:
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.02)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**15)
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        config = uvicorn.Config(app, http=Connection, log_config=None)
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(config, state, {}), sock=listener
        )
        checking = asyncio.create_task(check_connections(lambda: state.connections, app.budget))
        ready.set()
        await asyncio.to_thread(stop.wait)
        checking.cancel()
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    opened: list[socket.socket] = []

    def client() -> socket.socket:
        opened.append(socket.create_connection(listener.getsockname(), timeout=300))
        return opened[-1]

    yield client
    for one in opened:
        one.close()
    stop.set()
    thread.join(10)
    listener.close()


def rest(client: socket.socket) -> bytes:
    """Read until the end."""
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def one(client: socket.socket) -> bytes:
    """Read one answer of the application."""
    received = b""
    while not received.partition(b"\r\n\r\n")[2]:
        data = client.recv(65536)
        assert data, "the connection was closed"
        received += data
    return received


def check(answer: bytes, status: int, name: str, below: str = "") -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().splitlines()
    assert lines[0].startswith(f"http/1.1 {status} ")
    assert "content-type: application/problem+json" in lines
    assert "connection: close" in lines
    assert "x-content-type-options: nosniff" in lines
    problem: dict[str, Any] = json.loads(body)
    assert problem["type"] == f"{below}/problems/{name}"
    assert problem["status"] == status
    return problem


@pytest.mark.parametrize(
    "content",
    [
        b"\0\1 hello\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"\r\n\r\n\r\n",
    ],
)
def test_malformed_http_is_answered_with_a_problem(
    connect: Callable[[], socket.socket], app: App, content: bytes
) -> None:
    client = connect()
    client.sendall(content)
    assert check(rest(client), 400, "malformed-request")["detail"].startswith("This is not HTTP")
    assert app.counted == {"malformed-request": 1}
    assert app.begun == 0


def test_an_empty_line_before_a_request_is_skipped(
    connect: Callable[[], socket.socket], app: App
) -> None:
    client = connect()
    for start in (b"\r\n", b"", b"\r\n"):
        for part in (start, GET):
            client.sendall(part)
        assert one(client).startswith(b"HTTP/1.1 200")
    client.sendall(POST + 100 * b"x" + b"\r\n" + GET)
    assert one(client).startswith(b"HTTP/1.1 200")
    client.sendall(b"\r\n\r\n" + GET)
    assert rest(client).partition(b"HTTP/1.1 400 ")[1]
    assert app.begun == 5


def test_a_body_that_turns_into_nonsense(connect: Callable[[], socket.socket], app: App) -> None:
    client = connect()
    client.sendall(
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz"
    )
    client.sendall(b"\r\n")
    check(rest(client), 400, "malformed-request")
    assert (app.begun, app.left) == (1, 1)


def test_a_large_head(connect: Callable[[], socket.socket]) -> None:
    client = connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000)
    assert "65,536" in check(rest(client), 431, "head-too-large")["detail"]


@pytest.mark.parametrize(
    "more",
    [
        b"X: " + b"y" * 65_536 + b"\r\n",
        b"X: y\r\n" * 20_000,
        b"X:" + b" " * 100_000 + b"y\r\n",
    ],
)
def test_a_large_head_that_comes_at_once(more: bytes) -> None:
    parser = connections._Parser(h11.SERVER, connections.MAX_HEADER_BYTES)
    parser.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n")
    with pytest.raises(h11.RemoteProtocolError) as caught:
        parser.next_event()
    assert caught.value.error_status_hint == 431


def test_a_head_of_the_largest_size_and_what_follows_it() -> None:
    parser = connections._Parser(h11.SERVER, connections.MAX_HEADER_BYTES)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nX: \r\n\r\n"
    padding = b"y" * (connections.MAX_HEADER_BYTES - len(head))
    parser.receive_data(head.replace(b"X: ", b"X: " + padding) + bytes(100_000))
    assert isinstance(parser.next_event(), h11.Request)
    assert len(parser.next_event().data) == 100_000


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"http://example.org:80/a/b?c=d", b"/a/b", b"c=d", b"example.org:80"),
        (b"HTTP://example.org", b"/", b"", b"example.org"),
        (b"https://example.org?c", b"/", b"c", b"example.org"),
        (b"http://user@example.org/", b"/", b"", b"example.org"),
        (b"http://[::1]:8000/a", b"/a", b"", b"[::1]:8000"),
        (b"/http://example.org/", b"/http://example.org/", b"", b"x"),
        (b"*", b"*", b"", b"x"),
    ],
)
def test_a_target_may_be_a_whole_url(target: bytes, path: bytes, query: bytes, host: bytes) -> None:
    parser = connections._Parser(h11.SERVER, connections.MAX_HEADER_BYTES)
    parser.receive_data(b"GET " + target + b" HTTP/1.1\r\nA: b\r\nHost: x\r\n\r\n")
    event = parser.next_event()
    assert event.target.partition(b"?")[::2] == (path, query)
    assert dict(event.headers) == {b"host": host, b"a": b"b"}


def test_a_request_for_a_whole_url_is_answered(connect: Callable[[], socket.socket]) -> None:
    client = connect()
    client.sendall(b"GET http://example.org/?7 HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = one(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b"x" * 7


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(size: int, count: int) -> bytes:
    return (b"%x\r\n" % size + b"x" * size + b"\r\n") * count


PREFIX = b"X-Forwarded-Prefix: /tools/pixeldp/\r\n"
# Requests that are refused before they are complete, and the answers.
BROKEN = [
    (b"GET /x HTTP/1.1\r\nHost: x\r\n" + PREFIX + b"A b: c\r\n\r\n", 400, "malformed-request"),
    (b"GET /x HTTP/1.1\r\n" + PREFIX.lower() + b"\r\n", 400, "malformed-request"),
    (b"GET /x HTTP/1.1\r\nHost: x\r\n" + PREFIX + b"X: y\r\n" * 20_000, 431, "head-too-large"),
    (b"GET /x HTTP/1.1\r\nHost: x\r\n" + PREFIX + b"X: y\r\n", 408, "too-slow"),
    (POST.replace(b"Content", PREFIX + b"Content") + b"some", 408, "too-slow"),
]


@pytest.mark.parametrize(("request_", "status", "name"), BROKEN)
def test_problems_of_broken_requests_lead_below_the_prefix_of_a_proxy(
    connect: Callable[[], socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    request_: bytes,
    status: int,
    name: str,
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.5)
    client = connect()
    client.sendall(request_)
    check(rest(client), status, name, "/tools/pixeldp")
    other = connect()
    # The prefix of one request says nothing about another.
    other.sendall(request_.replace(b"Prefix", b"Suffix").replace(b"prefix", b"suffix"))
    check(rest(other), status, name)


@pytest.mark.parametrize(
    "line",
    [
        b"X-Forwarded-Prefix: //evil.example\r\n",
        b"X-Forwarded-Prefix: /a\r\nX-Forwarded-Prefix: /b\r\n",
        b"X-Forwarded-Prefix:" + b" " * 60_000 + b"/a b\r\n",
        b"Y: X-Forwarded-Prefix: /a\r\n",
    ],
)
def test_only_plain_prefixes_of_broken_requests_are_accepted(
    connect: Callable[[], socket.socket], line: bytes
) -> None:
    client = connect()
    client.sendall(b"GET / HTTP/1.1\r\n" + line + b"\r\n")
    check(rest(client), 400, "malformed-request")


@pytest.mark.parametrize("target", [b"/v2/models/a/infer", b"http://x/v2/models/a/infer"])
@pytest.mark.parametrize(("request_", "status", "name"), BROKEN)
def test_broken_requests_of_the_inference_protocol_have_its_errors(
    connect: Callable[[], socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    request_: bytes,
    status: int,
    name: str,
    target: bytes,
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.5)
    client = connect()
    method, _, version = request_.partition(b"\r\n")[0].split()
    line = b"%b %b %b" % (method, target, version)
    client.sendall(line + b"\r\n" + request_.partition(b"\r\n")[2])
    head, _, body = rest(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/json" in head.lower()
    assert json.loads(body)["error"].startswith(f"{name}: ")


@pytest.mark.parametrize(("size", "count"), [(1, 900), (600, 3000)])
def test_a_body_in_chunks(connect: Callable[[], socket.socket], size: int, count: int) -> None:
    client = connect()
    last = GET.replace(b"Host: x", b"Host: x\r\nConnection: close")
    client.sendall(CHUNKED + chunks(size, count) + b"0\r\n\r\n" + last)
    answers = rest(client)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert str(size * count).encode() in answers


@pytest.mark.parametrize("path", [b"POST / ", b"GET / "])
def test_a_body_in_tiny_chunks(connect: Callable[[], socket.socket], app: App, path: bytes) -> None:
    """Each takes as long to read as a large one, so a flood of them would stop everything else."""
    client = connect()
    head = CHUNKED.replace(b"POST / ", path)
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            client.sendall(head + chunks(1, 20_000))
            head = b""
    with contextlib.suppress(ConnectionError):
        rest(client)  # it is closed, not read to an end that never comes
    assert app.counted["malformed-request"] == 1


def test_a_body_of_two_lengths(connect: Callable[[], socket.socket], app: App) -> None:
    client = connect()
    head = CHUNKED.replace(b"Host: x", b"Host: x\r\nContent-Length: 5")
    client.sendall(head + b"0\r\n\r\n" + GET)
    detail = check(rest(client), 400, "malformed-request")["detail"]
    assert "Content-Length and Transfer-Encoding" in detail
    assert app.begun == 0


def test_nonsense_after_a_request_does_not_harm_its_answer(
    connect: Callable[[], socket.socket],
) -> None:
    client = connect()
    client.sendall(GET + b"nonsense\r\n\r\n")
    first, _, second = rest(client).partition(b"\r\n\r\n0")
    assert first.startswith(b"HTTP/1.1 200")
    check(second, 400, "malformed-request")


def test_connections_that_ask_nothing_are_closed(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch, app: App
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    bare, partial, second = connect(), connect(), connect()
    partial.sendall(GET[:-2])
    second.sendall(GET)
    assert one(second).startswith(b"HTTP/1.1 200")
    second.sendall(b"G")
    assert rest(bare) == b""
    check(rest(partial), 408, "too-slow")
    check(rest(second), 408, "too-slow")
    assert app.counted == {"too-slow": 2}


def test_a_head_that_comes_drop_by_drop_gets_no_more_time(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    client = connect()
    client.settimeout(0.02)
    for byte in GET[:-2] + b"X: " + b"y" * 3_000:
        try:
            client.send(bytes([byte]))
            answer = client.recv(4096)
        except TimeoutError:
            continue
        except ConnectionError:  # this ends it for a client that goes on sending
            return
        assert answer.startswith(b"HTTP/1.1 408")
        return
    raise AssertionError("the service kept waiting")


def test_a_connection_may_rest_between_requests(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    client = connect()
    for _ in range(2):
        client.sendall(GET)
        assert one(client).startswith(b"HTTP/1.1 200")
        threading.Event().wait(0.8)


def test_a_body_that_does_not_come(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch, app: App
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.2)
    client = connect()
    client.sendall(POST + b"some")
    check(rest(client), 408, "too-slow")
    assert app.left == 1, "the application that waits for the body is told"
    assert app.counted == {"too-slow": 1}


def test_a_slow_but_steady_body_gets_its_time(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(connections, "LEAST_BYTES_A_SECOND", 20.0)
    client = connect()
    client.sendall(POST)
    for _ in range(10):
        client.sendall(b"x" * 10)
        threading.Event().wait(0.1)
    assert one(client).startswith(b"HTTP/1.1 200")


def test_the_rest_of_a_body_is_not_waited_for(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REST_SECONDS", 0.2)
    client = connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nsome")
    assert one(client).startswith(b"HTTP/1.1 200")
    assert rest(client) == b""


def test_an_answer_that_is_not_read(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.2)
    client = connect()
    size = 50 * 2**20
    client.sendall(GET.replace(b"/ ", b"/?%d " % size))
    threading.Event().wait(1)
    assert len(rest(client)) < size


def test_a_large_answer_that_is_read_arrives_whole(
    connect: Callable[[], socket.socket],
) -> None:
    client = connect()
    client.sendall(
        GET.replace(b"/ ", b"/?5000000 ").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )
    assert rest(client).endswith(b"\r\n\r\n" + b"x" * 5_000_000)


def test_requests_of_a_client_that_has_left_are_dropped(
    connect: Callable[[], socket.socket], app: App
) -> None:
    client = connect()
    client.sendall(GET.replace(b"/ ", b"/wait ") * 10)
    while not app.begun:
        threading.Event().wait(0.01)
    client.close()
    for _ in range(200):
        if app.left:
            break
        threading.Event().wait(0.02)
    assert (app.begun, app.left) == (1, 1)


def test_pipelined_requests_of_a_client_that_stays_are_answered(
    connect: Callable[[], socket.socket], app: App
) -> None:
    client = connect()
    client.sendall(GET * 10)
    received = b""
    while received.count(b"HTTP/1.1 200") < 10:
        received += client.recv(65536)
    assert app.begun == 10


@pytest.mark.parametrize("times", [1, 3])
def test_a_client_may_close_its_end_and_wait_for_its_answers(
    connect: Callable[[], socket.socket], times: int
) -> None:
    client = connect()
    client.sendall(GET * times)
    client.shutdown(socket.SHUT_WR)
    assert rest(client).count(b"HTTP/1.1 200") == times


def test_a_waiting_client_is_distinguished_from_one_that_has_left(
    connect: Callable[[], socket.socket], app: App
) -> None:
    stays, leaves = connect(), connect()
    for client in (stays, leaves):
        client.sendall(GET.replace(b"/ ", b"/wait "))
    stays.shutdown(socket.SHUT_WR)
    while app.begun < 2:
        threading.Event().wait(0.01)
    leaves.close()
    while not app.left:
        threading.Event().wait(0.01)
    threading.Event().wait(0.3)
    assert app.left == 1
    assert stays.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_an_incomplete_request_is_not_waited_for_after_its_connection_ends(
    connect: Callable[[], socket.socket], app: App
) -> None:
    for part in (GET[:-2], POST + b"some"):
        client = connect()
        client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b""


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came"
        threading.Event().wait(0.01)


def test_what_connections_hold_is_counted(connect: Callable[[], socket.socket], app: App) -> None:
    """An incomplete head, requests that wait for their turn, an answer that is not read."""
    head, turn, answer = connect(), connect(), connect()
    head.sendall(GET[:-2] + b"X: " + b"x" * 30_000)
    wait_for(lambda: app.budget.connections > 30_000)
    turn.sendall(GET.replace(b"/ ", b"/wait ") + GET * 500)
    wait_for(lambda: app.budget.connections > 30_000 + 400 * len(GET))
    answer.sendall(GET.replace(b"/ ", b"/?3000000 "))
    wait_for(lambda: app.budget.connections > 100_000)
    for client in (head, turn, answer):
        client.close()
    wait_for(lambda: app.budget.connections == 0)


def test_the_slowest_are_closed_when_all_together_hold_too_much(
    connect: Callable[[], socket.socket], app: App
) -> None:
    share = app.budget.connections_share
    first = connect()
    first.sendall(GET.replace(b"/ ", b"/?%d " % (share // 2)))
    wait_for(lambda: app.budget.connections > 0)
    greedy = [connect() for _ in range(30)]
    for client in greedy:
        client.sendall(GET.replace(b"/ ", b"/?%d " % (share // 4)))
    wait_for(lambda: app.begun == 31)
    wait_for(lambda: app.budget.connections <= share)
    assert len(rest(first)) < share // 2, "it has waited longest"
    assert one(connect_and_ask(connect)).startswith(b"HTTP/1.1 200")


def connect_and_ask(connect: Callable[[], socket.socket]) -> socket.socket:
    client = connect()
    client.sendall(GET)
    return client


def test_stalled_bodies_make_room_when_there_is_none(
    connect: Callable[[], socket.socket], app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.1)
    client = connect()
    client.sendall(POST + b"some")
    wait_for(lambda: app.begun == 1)
    threading.Event().wait(0.3)
    assert app.left == 0, "there is room"
    others = [Holding(app.budget) for _ in range(1000)]
    for other in others:
        if not app.budget.full:
            other.count(SMALL)
    assert rest(client) == b""


def test_connections_that_ask_nothing_make_room_for_others(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 8)
    idle = [connect() for _ in range(8)]
    busy = connect()
    busy.sendall(GET.replace(b"/ ", b"/wait "))
    for _ in range(20):
        assert one(connect_and_ask(connect)).startswith(b"HTTP/1.1 200")
    assert idle[0].recv(1) == b"", "the oldest went first"


def test_beyond_the_limit_of_connections_probes_are_answered(
    connect: Callable[[], socket.socket], app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 4)
    busy = [connect() for _ in range(5)]
    for client in busy:
        client.sendall(GET.replace(b"/ ", b"/wait "))
    wait_for(lambda: app.begun >= 4)
    assert one(connect_and_ask(connect)).startswith(b"HTTP/1.1 200")
    assert app.crowded >= 1, "the application is told that it is only for probes"
