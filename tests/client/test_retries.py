"""Servers that misbehave, over real sockets: what is retried, and until when."""

import asyncio
import json
import pickle
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from pixeldp_client import (
    AsyncClient,
    BadRequest,
    Client,
    PixelDPError,
    Prediction,
    Retries,
    ServiceError,
    Timeout,
    TooBusy,
    Unauthorized,
    Unreachable,
)
from pixeldp_client._retries import Attempts
from tests.client.conftest import Behaviour, Handler, Misbehaving, dripping, drop, silent, status

QUICK = Retries(most=5, base=0.001)
Start = Callable[..., Misbehaving]


def problem(code: int, name: str, **members: Any) -> bytes:
    document = {"type": f"/problems/{name}", "title": "T", "status": code, "detail": "So it is."}
    return json.dumps({**document, **members}).encode()


def half(handler: Handler) -> None:
    handler.send(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"label": ')
    handler.drop()


def nonsense(handler: Handler) -> None:
    handler.send(b"SSH-2.0-OpenSSH_9.2\r\n")
    handler.drop()


PASSING: dict[str, Behaviour] = {
    "dropped": drop,
    "broken off": half,
    "no HTTP": nonsense,
    "overloaded": status(503, problem(503, "overloaded"), "Retry-After: 0"),
    "rate limited": status(429, problem(429, "rate-limited"), "Retry-After: 0"),
    "bad gateway": status(502, b"<html>nginx</html>"),
    "gateway timeout": status(504, b""),
    "odd Retry-After": status(503, b"", "Retry-After: soon"),
}


@pytest.mark.parametrize("passing", PASSING)
def test_passing_failures_are_retried(
    misbehave: Start, relay: Behaviour, key: str, seven: bytes, passing: str
) -> None:
    server = misbehave(PASSING[passing], PASSING[passing], relay)
    with Client(server.address, api_key=key, retries=QUICK) as client:
        assert client.predict(seven, target=0.5).robust
    assert len(server.requests) == 3
    # Each attempt sends the same picture and the key.
    assert {request.partition(b"\r\n\r\n")[2] for request in server.requests} == {seven}
    assert all(f"Authorization: Bearer {key}".encode() in one for one in server.requests)


@pytest.mark.parametrize("passing", PASSING)
def test_the_asynchronous_client_does_the_same(
    misbehave: Start, relay: Behaviour, key: str, seven: bytes, passing: str
) -> None:
    async def ask(address: str) -> Prediction:
        async with AsyncClient(address, api_key=key, retries=QUICK) as client:
            return await client.predict(seven, target=0.5)

    server = misbehave(PASSING[passing], PASSING[passing], relay)
    assert asyncio.run(ask(server.address)).robust
    assert len(server.requests) == 3


def test_batches_and_streams_are_retried(
    misbehave: Start, relay: Behaviour, key: str, seven: bytes
) -> None:
    server = misbehave(drop, relay, status(503), relay)
    with Client(server.address, api_key=key, retries=QUICK) as client:
        [prediction] = client.predict_batch([seven])
        assert isinstance(prediction, Prediction)
        *_, answer = client.stream(seven)
        assert isinstance(answer, Prediction)
    assert len(server.requests) == 4


FINAL: list[tuple[int, bytes, type[PixelDPError], str]] = [
    (400, problem(400, "not-a-picture"), BadRequest, "not-a-picture: So it is."),
    (401, problem(401, "no-key"), Unauthorized, "no-key"),
    (403, problem(403, "not-allowed", scope="predict"), Unauthorized, "not-allowed"),
    (404, b"<html>", BadRequest, "404: Not Found"),
    (413, problem(413, "too-many-bytes"), BadRequest, "too-many-bytes"),
    (500, problem(500, "internal-error"), ServiceError, "internal-error"),
    (301, b"", ServiceError, "redirects to https://elsewhere"),
    (200, b"<html>", ServiceError, "not JSON: is this a PixelDP service"),
    (200, b"[]", ServiceError, "the answer is list, expected an object"),
    (200, b"{}", ServiceError, "the answer has no member model"),
    (200, b'{"model": {"name": 1}}', ServiceError, r"the answer\.model\.name is int, expected str"),
]


@pytest.mark.parametrize(("code", "body", "kind", "text"), FINAL)
def test_lasting_failures_are_not_retried(
    misbehave: Start, code: int, body: bytes, kind: type[PixelDPError], text: str
) -> None:
    server = misbehave(status(code, body, "Location: https://elsewhere/", "X-Request-Id: r-7"))
    with Client(server.address, retries=QUICK) as client, pytest.raises(kind, match=text) as caught:
        client.predict(b"picture")
    assert type(caught.value) is kind
    assert len(server.requests) == 1
    if code >= 400:
        assert (caught.value.status, caught.value.request_id) == (code, "r-7")


def test_it_gives_up_after_the_last_attempt(misbehave: Start) -> None:
    overloaded = status(503, problem(503, "overloaded", retry_after_s=0), "Retry-After: 0")
    server = misbehave(overloaded)
    retries = Retries(most=3, base=0.001)
    with Client(server.address, retries=retries) as client, pytest.raises(TooBusy) as caught:
        client.predict(b"picture")
    assert len(server.requests) == 4
    assert caught.value.__notes__ == ["attempts made: 4"]
    assert caught.value.retry_after == 0
    assert caught.value.members == {"retry_after_s": 0}


def test_errors_can_be_pickled(misbehave: Start) -> None:
    server = misbehave(status(429, problem(429, "rate-limited"), "Retry-After: 3600"))
    with Client(server.address) as client, pytest.raises(TooBusy) as caught:
        client.predict(b"picture")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), vars(copied)) == (str(caught.value), vars(caught.value))


def test_a_service_under_a_path(misbehave: Start) -> None:
    server = misbehave(status(200, b'{"models": []}'))
    for end in ("", "/"):
        with Client(f"{server.address}/gateway{end}") as client:
            assert client.models() == []
    assert [one.split()[1] for one in server.requests] == [b"/gateway/models"] * 2


def test_retry_after_is_waited_for(
    misbehave: Start, relay: Behaviour, key: str, seven: bytes
) -> None:
    busy = status(503, problem(503, "overloaded"), "Retry-After: 1")
    server = misbehave(busy, relay)
    begun = time.monotonic()
    with Client(server.address, api_key=key, retries=QUICK) as client:
        assert client.predict(seven, target=0.5).robust
    assert time.monotonic() - begun >= 1


@pytest.mark.parametrize("as_a_date", [False, True])
def test_no_wait_goes_beyond_the_deadline(misbehave: Start, as_a_date: bool) -> None:
    later = formatdate(time.time() + 3600, usegmt=True) if as_a_date else "3600"
    server = misbehave(status(429, b"", f"Retry-After: {later}"))
    with Client(server.address) as client, pytest.raises(TooBusy) as caught:
        client.predict(b"picture")
    assert len(server.requests) == 1
    assert caught.value.retry_after == pytest.approx(3600, abs=300)


def test_a_silent_server_is_abandoned_at_the_deadline(misbehave: Start) -> None:
    server = misbehave(silent)
    with Client(server.address, timeout=0.3) as client, pytest.raises(Timeout):
        client.predict(b"picture")
    with Client(server.address) as client, pytest.raises(Timeout):
        client.predict(b"picture", timeout=0.3)
    assert b"timeout_ms" not in server.requests[0]
    assert 0 < int(server.requests[1].split(b"timeout_ms=")[1].split()[0]) <= 240
    assert len(server.requests) == 2


def test_a_dripping_server_is_abandoned_at_the_deadline(misbehave: Start) -> None:
    server = misbehave(dripping)
    with Client(server.address, timeout=0.5) as client, pytest.raises(Timeout):
        client.predict(b"picture")

    async def ask() -> None:
        async with AsyncClient(server.address, timeout=0.5) as client:
            await client.predict(b"picture")

    with pytest.raises(Timeout):
        asyncio.run(ask())
    assert len(server.requests) == 2


def test_a_refused_connection() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with Client(address, retries=QUICK) as client, pytest.raises(Unreachable) as caught:
            client.predict(b"picture")
        assert caught.value.__notes__ == ["attempts made: 6"]


def test_a_service_that_starts_later() -> None:
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{late.getsockname()[1]}"

        def come_up() -> None:
            late.listen()
            connection, _ = late.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"models":[]}')

        retries = Retries(most=1000, base=0.01, longest=0.05)
        with Client(address, retries=retries, timeout=300) as client:
            timer = threading.Timer(0.2, come_up)
            timer.start()
            assert client.models() == []
            timer.join()


def stream_of(*events: str) -> Behaviour:
    body = "".join(events).encode()

    def behave(handler: Handler) -> None:
        handler.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
        handler.drop()

    return behave


LOOK = json.dumps(
    {
        "draws": 96,
        "label": {"index": 7, "name": "7\u2028"},
        "certified_size": 0.5,
        "certain": None,
        "scores": [],
    },
    ensure_ascii=False,
)


def test_an_interrupted_stream_is_not_started_again(misbehave: Start) -> None:
    """The looks of two runs would not hold together."""
    server = misbehave(stream_of(f"event: look\ndata: {LOOK}\n\n"))
    with Client(server.address, retries=QUICK) as client:
        stream = client.stream(b"picture")
        look = next(stream)
        assert look.label.name == "7\u2028"
        with pytest.raises(Unreachable, match="before its answer"):
            next(stream)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("event", "kind", "text"),
    [
        ("event: error\ndata: " + problem(503, "overloaded").decode(), TooBusy, "overloaded"),
        ("event: error\ndata: {}", ServiceError, "without a status"),
        ("event: look\ndata: {", ServiceError, "not JSON"),
        ("event: answer\ndata: {}", ServiceError, "no member model"),
        (": a comment\n\nevent: other\ndata: {}", Unreachable, "before its answer"),
    ],
)
def test_malformed_events(
    misbehave: Start, event: str, kind: type[PixelDPError], text: str
) -> None:
    server = misbehave(stream_of(event, "\n\n"))
    with Client(server.address, retries=QUICK) as client, pytest.raises(kind, match=text):
        list(client.stream(b"picture"))

    async def ask() -> None:
        async with AsyncClient(server.address, retries=QUICK) as client:
            async for _ in client.stream(b"picture"):
                pass

    with pytest.raises(kind, match=text):
        asyncio.run(ask())
    assert len(server.requests) == 2


def test_waits_grow_within_bounds_and_respect_the_deadline() -> None:
    now = 0.0
    attempts = Attempts(Retries(9, base=1, longest=5), 100, lambda: now, lambda: 1.0)
    assert [attempts.wait_after(Unreachable("x")) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert attempts.wait_after(TooBusy("x", retry_after=30)) == 35
    now = 96.0
    assert attempts.left() == 4
    with pytest.raises(Unreachable):
        attempts.wait_after(Unreachable("x"))
    now = 100.0
    with pytest.raises(Timeout, match="within 100 s"):
        attempts.left()
    spread = {Attempts(Retries(), 100).wait_after(Unreachable("x")) for _ in range(50)}
    assert len(spread) > 1
    assert all(0 <= wait <= 0.1 for wait in spread)
