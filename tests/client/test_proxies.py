"""The client and proxies: this machine is asked directly, and errors name the variable."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from pixeldp_client import AsyncClient, Client
from pixeldp_client._proxies import bypasses

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
ELSEWHERE = "http://service.example:8000"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class _Proxy(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        asked = self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        assert isinstance(self.server, _Server)
        self.server.asked.append(asked)
        body = b'{"models": []}'
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.asked: list[bytes] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def proxy() -> Iterator[_Server]:
    server = _Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_other_machines_are_asked_through_the_proxy(
    variable: str, proxy: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"127.0.0.1:{proxy.server_address[1]}")
    monkeypatch.setenv("NO_PROXY", "[::1],other.example,10.0.0.0/8")
    with Client(ELSEWHERE) as client:
        assert client.models() == []
    assert proxy.asked == [b"GET http://service.example:8000/models HTTP/1.1\r\n"]


@pytest.mark.parametrize("proxies", ["http://127.0.0.1:9", "socks5://a:1", "bogus://x", "http://["])
def test_this_machine_is_asked_directly(
    proxies: str, proxy: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxies)
    monkeypatch.setenv("NO_PROXY", "[::1]")
    with Client(f"http://127.0.0.1:{proxy.server_address[1]}") as client:
        assert client.models() == []
    assert proxy.asked == [b"GET /models HTTP/1.1\r\n"]
    AsyncClient("http://localhost:1")
    AsyncClient("http://[::1]:1")


@pytest.mark.parametrize(
    ("proxies", "said"),
    [
        ("bogus://user:secret@x", r"http_proxy.*\(bogus://…\).*NO_PROXY"),
        ("http://[", "http_proxy.*NO_PROXY"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_unusable_proxy_is_named_without_its_password(
    kind: type[Client | AsyncClient], proxies: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxies)
    with pytest.raises(ValueError, match=said) as caught:
        kind(ELSEWHERE)
    assert "secret" not in str(caught.value)


def test_certificates_are_read_only_if_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with closing(Client(ELSEWHERE)):
        pass
    with pytest.raises(ValueError, match="SSL_CERT_FILE"):
        Client("https://service.example")


@pytest.mark.parametrize("address", ["http://[::1", "http://a:b", "ftp://a", "a", "http://"])
def test_an_invalid_address(address: str) -> None:
    with pytest.raises(ValueError, match="not the address of a service"):
        Client(address)


@pytest.mark.parametrize("key", ["a\nb", "ключ"])
def test_an_invalid_key(key: str) -> None:
    with pytest.raises(ValueError, match="API key"):
        Client(api_key=key)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "straight"),
    [
        ("", "a.example", None, False),
        ("*", "a.example", None, True),
        ("example", "a.example", None, True),
        (".example", "a.example", None, True),
        ("*.example", "a.example", None, True),
        ("ample", "a.example", None, False),
        ("A.EXAMPLE", "a.example", None, True),
        ("a.example:80", "a.example", 80, True),
        ("a.example:81", "a.example", 80, False),
        ("x, 10.0.0.0/8", "10.1.2.3", None, True),
        ("10.1.2.3", "10.1.2.3", None, True),
        ("[fd00::1]", "fd00::1", None, True),
        ("[fd00::1]:80", "fd00::1", 80, True),
        ("[fd00::1]:81", "fd00::1", 80, False),
        ("fd00::/8", "fd00::1", None, True),
        ("[,]:, ::/x", "10.1.2.3", None, False),
        ("", "LOCALHOST", None, True),
        ("", "127.8.8.8", None, True),
        ("", "::1", None, True),
    ],
)
def test_which_addresses_are_asked_directly(
    no_proxy: str, host: str, port: int | None, straight: bool
) -> None:
    assert bypasses({"no": no_proxy}, host, port) is straight
