"""Pages of other sites: what they may make their visitors' browsers do here.

Without keys, everybody who can send a request may use the service, and any page can make its
visitor's browser send one. Three headers reveal this, and a page can set none of them:

- ``Host`` is the name that the browser looked up. A stranger's name can be made to lead here (DNS
  rebinding), and then the browser regards a page of that name as one of ours. So the name must be
  an address, a name without a dot, which no stranger can own, or one of ``PIXELDP_HOSTS``.
- ``Sec-Fetch-Site`` says whether the page is ours; browsers send it where the connection is
  trusted: over https, and to this machine.
- ``Origin`` names the page's site with every request that does more than read.
"""

import ipaddress
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from fastapi import Request

from service.http.problems import Problem

# Longer names are looked at each time.
_REMEMBERED = 100
_READING = ("GET", "HEAD", "OPTIONS")


def refuse_other_sites(request: Request) -> None:
    """Refuse pages of other sites, and host names that a stranger may own.

    Raises:
        Problem: ``not-allowed``.
    """
    invited: Collection[str] = request.app.state.cors_origins
    if "*" in invited:
        return
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if origin in invited:
        return
    if not is_ours(host, request.app.state.hosts):
        raise Problem(
            "not-allowed",
            f"The service does not know the name {host[:80]!r}; without keys it answers only to "
            "addresses, names without a dot, and those in PIXELDP_HOSTS.",
        )
    if request.method in _READING:
        return
    site = request.headers.get("sec-fetch-site")
    own = site in ("same-origin", "none") if site else origin is None or _site(origin) == host
    if not own:
        raise Problem("not-allowed", "Pages of other sites may not use this service.")


def is_ours(host: str, names: Collection[str]) -> bool:
    """Whether no stranger can make a browser call the service by this name.

    Args:
        host: the header ``Host``, a name or an address, with or without a port.
        names: those that the operator has listed.
    """
    look = _look if len(host) <= _REMEMBERED else _look.__wrapped__
    name, ours = look(host)
    return ours or name in names


@lru_cache(maxsize=256)
def _look(host: str) -> tuple[str | None, bool]:
    """Return the name in a ``Host``, None if it has none, and whether no stranger can own it."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        urlsplit(f"//{host}").port  # noqa: B018 - raises if it is none
    except ValueError:
        return None, False
    name = name.removesuffix(".")
    if name.endswith(".localhost"):
        return name, True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name, bool(name) and "." not in name
    return name, True


def _site(origin: str) -> str:
    return origin.partition("://")[2]
