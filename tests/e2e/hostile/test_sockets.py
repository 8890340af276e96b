"""Malformed HTTP on a socket is refused or cut off, and nobody else notices."""

import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.hostile.conftest import PNG, Watched

POST = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"

REFUSED = {
    "no http": b"hello\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200),
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "giant header": GET + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n",
    "countless headers": GET + b"".join(b"X-%d: a\r\n" % i for i in range(20_000)) + b"\r\n",
    "giant path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "length that is no number": POST + b"Content-Length: many\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "unknown transfer coding": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "chunk of no size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
    "chunk of a negative size": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nab\r\n0\r\n\r\n",
    "null in a header": GET + b"X-A: a\0b\r\n\r\n",
    "space before a colon": GET + b"X-A : a\r\n\r\n",
    "no host": b"GET /health/live HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: b\r\n\r\n",
}


def exchange(watched: Watched, content: bytes, end: bool = True) -> bytes:
    """Send bytes, then nothing more; return everything that comes back."""
    address = urlsplit(watched.address)
    answer = b""
    with socket.create_connection((address.hostname, address.port), timeout=300) as connection:
        try:
            connection.sendall(content)
            if end:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        except TimeoutError:
            raise
        except OSError:
            pass  # it may hang up before everything was sent
    return answer


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_requests(watched: Watched, name: str) -> None:
    answer = exchange(watched, REFUSED[name])
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]


def test_a_body_shorter_than_stated(watched: Watched) -> None:
    answer = exchange(watched, POST + b"Content-Length: 1000\r\n\r\nabc")
    assert answer == b""  # a client that has hung up gets no answer


def test_a_body_longer_than_stated_is_cut_off_there(watched: Watched) -> None:
    answer = exchange(
        watched, POST + b"Connection: close\r\nContent-Length: 3\r\n\r\nabc" + GET, False
    )
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_length_and_chunks_are_not_taken_for_two_requests(watched: Watched) -> None:
    """Against request smuggling: proxies and the service must see the same end of the body."""
    smuggled = b"0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    head = POST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(smuggled)
    answer = exchange(watched, head + smuggled)
    if b'{"live":true}' in answer:
        # Chunks take precedence, as RFC 9112 says; but what follows must not be trusted.
        pytest.fail("the rest of an ambiguous body was answered as a request")


def test_large_bodies_that_hang_do_not_fill_the_memory(watched: Watched, seven: bytes) -> None:
    address, size = urlsplit(watched.address), 19_000_000
    with socket.create_connection((address.hostname, address.port), timeout=300) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % size + bytes(size - 1))
        url = f"{watched.address}/predict"
        answer = httpx.post(url, content=bytes(size), headers=PNG, timeout=300)
        assert answer.status_code == 503, "two of them are too many"
        assert answer.json()["type"].endswith("overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        # Small ones come through, and the first one is still taken.
        assert httpx.post(url, content=seven, headers=PNG, timeout=300).status_code == 200
        connection.sendall(b"\0")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert httpx.post(url, content=bytes(size), headers=PNG, timeout=300).status_code == 400
