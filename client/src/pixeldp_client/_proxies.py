"""How requests reach the service: through the proxy that the environment names, or directly.

httpx reads the same variables. But for an entry that it cannot parse it raises an error in its own
words, for every address, whether or not the entry concerns that address.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.request import getproxies

import httpx

T = TypeVar("T")


def transport(kind: type[T], address: str) -> T:
    """Return a transport of httpx for ``address``.

    Raises:
        ValueError: the proxy cannot be used, or the certificates that the environment names cannot
            be read; says which variable.
    """
    try:
        return kind(**_arguments(address))
    except ImportError:
        raise ValueError(
            f"{address}: the environment names a SOCKS proxy, which needs another package: "
            "pip install 'httpx[socks]', or name the service's host in NO_PROXY"
        ) from None
    except OSError as error:
        reason = f"certificates cannot be read ({error}); see SSL_CERT_FILE"
        raise ValueError(f"{address}: {reason}") from None


def _arguments(address: str) -> dict[str, Any]:
    url = httpx.URL(address)
    proxies = getproxies()
    name = next((one for one in (url.scheme, "all") if proxies.get(one)), None)
    found: dict[str, Any] = {}
    # Certificates have to be read only if there is something to verify.
    if url.scheme == "http":
        found["verify"] = False
    if name and not bypasses(proxies, url.host, url.port):
        found["proxy"] = _proxy(proxies[name], f"{name}_proxy", url.host)
    return found


def bypasses(proxies: Mapping[str, str], host: str, port: int | None) -> bool:
    """Say whether requests to ``host`` use no proxy: this machine's, and those in ``NO_PROXY``.

    Its entries are names (with all their subdomains), addresses (also in brackets) or networks
    such as 10.0.0.0/8, each with or without a port; ``*`` matches everything. Other entries match
    nothing.
    """
    host = host.strip("[]").lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address and address.is_loopback):
        return True
    entries = (entry.strip().lower() for entry in proxies.get("no", "").split(","))
    return any(_matches(entry, host, address, port) for entry in entries if entry)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _matches(entry: str, host: str, address: Address | None, port: int | None) -> bool:
    if entry == "*":
        return True
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal() and (name.endswith("]") or ":" not in name):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    if address:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    entry = entry.lstrip("*").lstrip(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _proxy(text: str, variable: str, host: str) -> httpx.Proxy:
    try:
        # As other programs read it.
        proxy = httpx.Proxy(text if "://" in text else f"http://{text}")
        if re.fullmatch(rb"[A-Za-z0-9._:-]+", proxy.url.raw_host):
            return proxy
        raise ValueError
    except (ValueError, httpx.InvalidURL):
        # Not the whole text: it may contain a password.
        scheme = text.partition("://")[0] if "://" in text else ""
        raise ValueError(
            f"the proxy that {variable} names in the environment cannot be used"
            f"{f' ({scheme}://…)' if scheme else ''}; correct it, or name {host} in NO_PROXY"
        ) from None
