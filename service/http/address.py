"""Where the service listens: a host as people write it, its socket, and how probes reach it."""

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Connections that may wait to be accepted.
BACKLOG = 2048
# The bytes of each answer that the system buffers before its client has read them (it doubles the
# number). They count as the service's memory where that is limited.
SEND_BYTES = 2**15

ADDRESSES_ONLY = (
    "the service listens only at an address and a port; put nginx before it, which listens at a "
    "socket and passes requests to http://127.0.0.1:8000"
)
_SOCKET = re.compile(r"/|@|\.{1,2}/|(unix|uds|fd|file|systemd)(:|$)", re.IGNORECASE)
_WITH_PORT = re.compile(r"[^:]*:\d*|\[.*\]:\d*")
# Every address of a family, including loopback.
_EVERY_IPV4, _EVERY_IPV6 = "0.0.0.0", "::"  # noqa: S104 - the operator's choice
_OWN = {_EVERY_IPV4: ["127.0.0.1"], _EVERY_IPV6: ["::1", "127.0.0.1"]}


class CannotListenError(ValueError):
    """The address does not exist here, or its port is in use: says why."""


@dataclass(frozen=True)
class Address:
    """An address and a port, in the system's form."""

    family: socket.AddressFamily
    place: Any  # in the form of Python's sockets for the family

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        address = ipaddress.ip_address(str(self.place[0]))
        mapped = getattr(address, "ipv4_mapped", None)
        return bool((mapped or address).is_loopback)


def clean(host: str) -> str:
    """Return a host without the brackets around IPv6 addresses in URLs.

    Raises:
        ValueError: it is a socket's path, a URL, or has a port; says in half a sentence what is
            expected.
    """
    host = host.strip()
    if not host:
        raise ValueError("expected an address or a name")
    if _SOCKET.match(host):
        raise ValueError(ADDRESSES_ONLY)
    if "/" in host or _WITH_PORT.fullmatch(host):
        raise ValueError(
            "expected only an address or a name; the port is set by --port or PIXELDP_PORT"
        )
    bare = host[1:-1] if host[0] == "[" and host[-1] == "]" else host
    if ":" in bare or host[0] == "[":
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise ValueError("expected an address or a name; this is not an IPv6 address") from None
    return bare


def refuse_passed_sockets(variables: Mapping[str, str]) -> None:
    """Refuse sockets that systemd has opened for this process (``sd_listen_fds``).

    If they were ignored, clients would wait for ever to be accepted.

    Args:
        variables: the environment.

    Raises:
        CannotListenError: there are some.
    """
    if variables.get("LISTEN_PID") == str(os.getpid()) and variables.get("LISTEN_FDS"):
        raise CannotListenError(
            f"systemd has passed sockets (LISTEN_FDS), which cannot be used: {ADDRESSES_ONLY}, "
            "and start the service itself, without a socket unit"
        )


def resolve(host: str, port: int) -> Address:
    """Look up a host; if a name has several addresses, the first is used.

    On a system without IPv6, ``::``, which means every address, is every IPv4 address.

    Raises:
        CannotListenError: there is no such name.
    """
    try:
        family, *_, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise _cannot(host, port, error) from None
    if place[0] == _EVERY_IPV6 and not _has_ipv6():
        return Address(socket.AF_INET, (_EVERY_IPV4, port))
    return Address(family, place)


def listen(address: Address) -> socket.socket:
    """Return a socket on which clients wait from now on instead of being refused.

    Raises:
        CannotListenError: this machine does not have the address, or the port is in use.
    """
    host, port = str(address.place[0]), int(address.place[1])
    try:
        listener = socket.socket(address.family, socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot(host, port, error) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # connections inherit it
    if address.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # :: includes IPv4
    try:
        listener.bind(address.place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot(host, port, error) from None
    return listener


def url(host: str, port: int) -> str:
    """Return the URL without a path (RFC 6874 for the zone of an IPv6 address)."""
    shown = f"[{host.replace('%', '%25')}]" if ":" in host else host
    return f"http://{shown}:{port}"


def near(address: Address) -> list[str]:
    """Return hosts by which this machine reaches a service that listens on an address.

    A service on every address is asked on loopback, by IPv4 if there is no IPv6.
    """
    host, _ = socket.getnameinfo(address.place, socket.NI_NUMERICHOST)
    return _OWN.get(host, [host])


def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError as error:
        return error.errno != errno.EAFNOSUPPORT
    return True


def _cannot(host: str, port: int, error: Exception) -> CannotListenError:
    reason = error.strerror if isinstance(error, OSError) else error
    return CannotListenError(
        f"cannot listen on {url(host, port).removeprefix('http://')} ({reason}); choose another "
        "port (--port, PIXELDP_PORT) or address (--host, PIXELDP_HOST)"
    )
