"""Where the service listens: a host as people write it, its socket, and where probes ask."""

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
# Of each answer, bytes that the system takes over before its client has read them (it doubles the
# number). They are memory of the service like any other, where its memory is limited.
SEND_BYTES = 2**15

ADDRESSES_ONLY = (
    "the service listens only at an address and a port; put nginx before it, which listens at a "
    "socket and passes requests on to http://127.0.0.1:8000"
)
_SOCKET = re.compile(r"/|@|\.{1,2}/|(unix|uds|fd|file|systemd)(:|$)", re.IGNORECASE)
_WITH_PORT = re.compile(r"[^:]*:\d*|\[.*\]:\d*")
# Every address of a family, and this machine's own among them.
_EVERY_IPV4, _EVERY_IPV6 = "0.0.0.0", "::"  # noqa: S104 - what an operator has chosen
_OWN = {_EVERY_IPV4: ["127.0.0.1"], _EVERY_IPV6: ["::1", "127.0.0.1"]}


class CannotListenError(ValueError):
    """There is no such address here, or its port is taken: says why."""


@dataclass(frozen=True)
class Address:
    """An address and a port, as the system has them."""

    family: socket.AddressFamily
    place: Any  # as Python's socket has it for the family

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        address = ipaddress.ip_address(str(self.place[0]))
        mapped = getattr(address, "ipv4_mapped", None)
        return bool((mapped or address).is_loopback)


def clean(host: str) -> str:
    """Return a host without the brackets that URLs have around IPv6 addresses.

    Raises:
        ValueError: it is a socket's path, a URL, or has a port; says in half a sentence what to do.
    """
    host = host.strip()
    if not host:
        raise ValueError("expected an address or a name")
    if _SOCKET.match(host):
        raise ValueError(ADDRESSES_ONLY)
    if "/" in host or _WITH_PORT.fullmatch(host):
        raise ValueError(
            "expected an address or a name alone; the port is set by --port or PIXELDP_PORT"
        )
    bare = host[1:-1] if host[0] == "[" and host[-1] == "]" else host
    if ":" in bare or host[0] == "[":
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise ValueError("expected an address or a name; this is no IPv6 address") from None
    return bare


def refuse_passed_sockets(variables: Mapping[str, str]) -> None:
    """Refuse sockets that systemd has opened for this process (``sd_listen_fds``).

    Passed over, they would wait for ever for somebody to accept.

    Args:
        variables: the environment.

    Raises:
        CannotListenError: there are some.
    """
    if variables.get("LISTEN_PID") == str(os.getpid()) and variables.get("LISTEN_FDS"):
        raise CannotListenError(
            "systemd has passed sockets (LISTEN_FDS), which are not taken: " + ADDRESSES_ONLY + ", "
            "and start the service itself, without a socket unit"
        )


def resolve(host: str, port: int) -> Address:
    """Look up a host; of several addresses of a name the first is meant.

    Where the system has no IPv6, ``::``, which is every address, is every one of IPv4.

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
    """Return a socket at which clients wait from now on instead of being refused.

    Raises:
        CannotListenError: the address is none of this machine's, or the port is taken.
    """
    host, port = str(address.place[0]), int(address.place[1])
    try:
        listener = socket.socket(address.family, socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot(host, port, error) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # connections inherit it
    if address.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # :: is IPv4, too
    try:
        listener.bind(address.place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot(host, port, error) from None
    return listener


def url(host: str, port: int) -> str:
    """Return where clients ask, without a path (RFC 6874 for the zone of an IPv6 address)."""
    shown = f"[{host.replace('%', '%25')}]" if ":" in host else host
    return f"http://{shown}:{port}"


def near(address: Address) -> list[str]:
    """Return hosts at which this machine reaches a service that listens at an address.

    A service at every address is asked at this machine's own, of IPv4 where it has none of IPv6.
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
