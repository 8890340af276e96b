"""Hosts as people write them, and the sockets that result."""

import errno
import os
import socket

import pytest

from service.http.address import (
    CannotListenError,
    clean,
    listen,
    near,
    refuse_passed_sockets,
    resolve,
    url,
)


def has_ipv6() -> bool:
    """Return whether this machine has the loopback address of IPv6, by binding to it."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[::]", "::"),
        (" 127.0.0.1 ", "127.0.0.1"),
        ("localhost", "localhost"),
        ("a.example", "a.example"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_hosts(given: str, host: str) -> None:
    assert clean(given) == host


@pytest.mark.parametrize(
    "given",
    [
        *("/run/pixeldp.sock", "./pixeldp.sock", "unix:/run/a", "unix:///run/a", "UNIX:a"),
        *("unix:@a", "@a", "fd://3", "fd:3", "uds:/a", "systemd"),
    ],
)
def test_sockets_are_refused_with_advice(given: str) -> None:
    with pytest.raises(ValueError, match="only at an address and a port; put nginx before it"):
        clean(given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "expected an address or a name"),
        (" ", "expected an address or a name"),
        ("127.0.0.1:8000", "--port"),
        ("[::1]:8000", "--port"),
        (":8000", "--port"),
        ("http://127.0.0.1", "--port"),
        ("http://[::1]:8000/", "--port"),
        ("[::1", "not an IPv6 address"),
        ("::1]", "not an IPv6 address"),
        ("[127.0.0.1]", "not an IPv6 address"),
        ("1::2::3", "not an IPv6 address"),
    ],
)
def test_invalid_hosts(given: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        clean(given)


@pytest.mark.parametrize(
    ("host", "on_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("0", False),
        ("::", False),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
    ],
)
def test_who_can_reach_an_address(host: str, on_loopback: bool) -> None:
    assert resolve(host, 0).on_loopback is on_loopback


def test_all_addresses_means_both_families() -> None:
    with listen(resolve("::", 0)) as listener:
        port = listener.getsockname()[1]
        for host in ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]:
            socket.create_connection((host, port), timeout=30).close()


def test_without_ipv6_all_addresses_means_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system whose kernel has no IPv6 although names still have such addresses."""

    class WithoutIPv6(socket.socket):
        def __init__(self, family: int = -1, *more: int, **others: int | None) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *more, **others)

    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    address = resolve("::", 0)
    assert near(address) == ["127.0.0.1"]
    assert not address.on_loopback
    with listen(address) as listener:
        socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=30).close()
    with pytest.raises(CannotListenError, match=r"cannot listen on \[::1\]:0 \("):
        listen(resolve("::1", 0))


def test_a_port_that_is_taken_and_an_address_of_another_machine() -> None:
    with listen(resolve("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(CannotListenError, match=f"127.0.0.1:{port} .*choose another port"):
            listen(resolve("127.0.0.1", port))
    with pytest.raises(CannotListenError, match=r"192\.0\.2\.1:0 "):
        listen(resolve("192.0.2.1", 0))
    with pytest.raises(CannotListenError, match=r"no\.such\.name\.invalid:0 "):
        resolve("no.such.name.invalid", 0)


@pytest.mark.parametrize(
    ("host", "hosts"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("0", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("192.0.2.1", ["192.0.2.1"]),
    ],
)
def test_the_address_that_this_machine_asks(host: str, hosts: list[str]) -> None:
    assert near(resolve(host, 0)) == hosts


def test_addresses_in_urls() -> None:
    assert url("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert url("::1", 80) == "http://[::1]:80"
    assert url("fe80::1%eth0", 80) == "http://[fe80::1%25eth0]:80"


def test_sockets_of_systemd_are_for_the_process_that_they_name() -> None:
    for variables in ({}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}):
        refuse_passed_sockets(variables)
    with pytest.raises(CannotListenError, match=r"LISTEN_FDS.*put nginx before it"):
        refuse_passed_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
