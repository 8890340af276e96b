"""``pixeldp health``: asks a service on this machine whether it answers pictures.

The image's health check runs it every few seconds, so it imports almost nothing.
"""

import json
import os
from http.client import HTTPConnection, HTTPException
from typing import Annotated

import typer

from service.http.address import clean, near, resolve, url

HOST, PORT = "127.0.0.1", 8000
SECONDS = 2.0
READY = 200


def health(
    host: Annotated[
        str | None, typer.Option(help="The service's address (PIXELDP_HOST, or 127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Its port (PIXELDP_PORT, or 8000).")
    ] = None,
) -> None:
    """Ask a service on this machine whether it answers pictures; if not, end with status 1.

    No proxy is used. A service that listens on every address is asked on loopback.
    """
    given = os.environ.get("PIXELDP_PORT", "").strip()
    # Kubernetes sets a variable of the same name, whose value is not a number.
    port = port or (int(given) if given.isdecimal() else PORT)
    host = clean(host or os.environ.get("PIXELDP_HOST", "").strip() or HOST)
    reasons = []
    for one in near(resolve(host, port)):
        reason = _reason(one, port)
        if reason is None:
            return
        reasons.append(reason)
    raise ValueError("; ".join(reasons))


def _reason(host: str, port: int) -> str | None:
    """Return why the service at an address is not ready; None if it is."""
    connection = HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", "/health/ready")
        response = connection.getresponse()
        content = response.read()
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"{url(host, port)} does not answer ({reason})"
    finally:
        connection.close()
    if response.status == READY:
        return None
    try:
        return str(json.loads(content)["detail"])
    except (ValueError, LookupError, TypeError):
        return f"{url(host, port)} answers with status {response.status}"
