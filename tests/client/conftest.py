"""A real service that asks the client for a key, and a server that misbehaves."""

import contextlib
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pixeldp_client import Client
from service.http.guards.keys import add
from tests.e2e.conftest import PLAIN, ROOT, Service, Start

Behaviour = Callable[["Handler"], None]


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="session")
def key(key_file: Path) -> str:
    return add(key_file, "tests", ["predict"], None)


@pytest.fixture(scope="session")
def service(start: Start, key: str, key_file: Path) -> Iterator[Service]:
    running = start(environment={**PLAIN, "PIXELDP_KEYS": str(key_file)})
    yield running
    assert running.stop() == 0, running.log


@pytest.fixture
def client(service: Service, key: str) -> Iterator[Client]:
    with Client(service.address, api_key=key) as one:
        yield one


@pytest.fixture(scope="session")
def seven() -> bytes:
    """A handwritten seven, 28 × 28 grey."""
    return (ROOT / "examples" / "7.png").read_bytes()


class Handler(socketserver.BaseRequestHandler):
    """Reads requests and hands each to the next behaviour; the last behaviour stays."""

    server: "Misbehaving"
    request: socket.socket

    def handle(self) -> None:
        while received := self._read():
            self.received = received
            self.server.requests.append(received)
            behaviours = self.server.behaviours
            (behaviours.pop(0) if len(behaviours) > 1 else behaviours[0])(self)

    def _read(self) -> bytes:
        data = b""
        try:
            while b"\r\n\r\n" not in data:
                if not (part := self.request.recv(65536)):
                    return b""
                data += part
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: (\d+)", head + b"\ncontent-length: 0")[1])
            while len(body) < length:
                body += self.request.recv(65536)
        except OSError:  # dropped by a behaviour, or by the client
            return b""
        return head + b"\r\n\r\n" + body

    def send(self, data: bytes) -> None:
        self.request.sendall(data)

    def answer(self, status: int, body: bytes, *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
        self.send("\r\n".join(lines).encode() + body)

    def drop(self) -> None:
        with contextlib.suppress(OSError):  # the client was faster
            self.request.shutdown(socket.SHUT_RDWR)


class Misbehaving(socketserver.ThreadingTCPServer):
    """A server that answers its requests as it is told, one after another."""

    daemon_threads = True

    def __init__(self, *behaviours: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours, self.requests = list(behaviours), []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def misbehave() -> Iterator[Callable[..., Misbehaving]]:
    servers: list[Misbehaving] = []

    def start(*behaviours: Behaviour) -> Misbehaving:
        servers.append(Misbehaving(*behaviours))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def relay(service: Service) -> Behaviour:
    """Behaviour: pass the request to the real service, and its answer back."""
    host, port = service.address.removeprefix("http://").split(":")

    def behave(handler: Handler) -> None:
        received = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", handler.received)
        received = received.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        with socket.create_connection((host, int(port)), timeout=300) as upstream:
            upstream.sendall(received)
            while part := upstream.recv(65536):
                handler.send(part)
        handler.drop()

    return behave


def drop(handler: Handler) -> None:
    handler.drop()


def silent(handler: Handler) -> None:
    handler.server.over.wait(30)


def status(code: int, body: bytes = b"{}", *headers: str) -> Behaviour:
    return lambda handler: handler.answer(code, body, *headers)


def dripping(handler: Handler) -> None:
    """Send an answer of a thousand bytes, one at a time, for as long as anybody listens."""
    try:
        handler.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            handler.send(b" ")
            time.sleep(0.02)
    except OSError:
        handler.drop()
