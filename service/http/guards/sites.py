"""Pages of other sites: what browsers may be made to do here on somebody's behalf.

Where no key is asked, whoever can send a request may use the service, and any page can have its
visitor's browser send one. Three headers tell, and a page can set none of them:

- ``Host`` is the name that the browser looked up. A name that belongs to a stranger can be made to
  lead here (DNS rebinding), and then a page of that name counts as one of ours to the browser. So
  the name must be an address, a name without a dot, which no stranger can own, or one of
  ``PIXELDP_HOSTS``.
- ``Sec-Fetch-Site`` says whether the page is ours; browsers send it where the connection is
  trusted: over https, and to this machine.
- ``Origin`` names the page's site with everything that is no plain reading.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import Request

from service.http.problems import Problem

_READING = ("GET", "HEAD", "OPTIONS")


def refuse_other_sites(request: Request) -> None:
    """Let neither pages of other sites in nor names that a stranger may own.

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
        names: that the operator has named.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        urlsplit(f"//{host}").port  # noqa: B018 - raises if it is none
    except ValueError:
        return False
    name = name.removesuffix(".")
    if name in names or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and "." not in name
    return True


def _site(origin: str) -> str:
    return origin.partition("://")[2]
