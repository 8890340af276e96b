"""The errors of this package, and which error an answer of the service stands for.

::

    PixelDPError
    ├── NotRobust         the prediction is not robust, and robust was required
    ├── BadRequest        the picture or an option cannot be used; asking again will not help
    │   └── Unauthorized  the API key is missing, unknown, or not allowed to do this
    ├── ServiceError      the service failed, or the address is not that of a PixelDP service
    └── Unavailable       the failure may pass: raised only after attempts until the deadline
        ├── TooBusy       overloaded, not ready, or the key's rate is used up
        ├── Timeout       no answer by the deadline
        └── Unreachable   no connection, or one that broke off
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from pixeldp_client._results import Prediction


class PixelDPError(Exception):
    """Every error of this package.

    ``problem`` is the name of the service's problem (``not-a-picture``, …; its page is at
    ``/problems/<name>``), and ``members`` are the other members of its document (``option``,
    ``allowed``, ``draws_needed``, …). ``request_id`` identifies the request in the service's log.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        problem: str | None = None,
        members: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.problem, self.request_id = status, problem, request_id
        self.members = dict(members or {})
        self.retry_after = retry_after


class NotRobust(PixelDPError):  # noqa: N818 - code reads better with these names
    """The prediction does not reach its target, or without a target has no certified size.

    With ``allow``: other labels than those may be first.
    """

    def __init__(self, prediction: "Prediction") -> None:
        asked = "any size" if prediction.target is None else f"the target {prediction.target:g}"
        said = (
            f"its certified size in {prediction.norm} is {prediction.certified_size:g}, and "
            f"{asked} was required"
        )
        if prediction.certain and prediction.certain.within_allowed is False:
            labels = len(prediction.certain.labels)
            said = f"{labels} labels may be first up to {asked}, and not all of them are allowed"
        super().__init__(f"the prediction {prediction.label.name!r} is not robust: {said}")
        self.prediction = prediction

    def __reduce__(self) -> tuple[type["NotRobust"], tuple["Prediction"]]:
        """Allow this error to be pickled, and so to pass between processes."""
        return NotRobust, (self.prediction,)


class BadRequest(PixelDPError):  # noqa: N818
    """The picture or an option cannot be used; asking again will not help."""


class Unauthorized(BadRequest):
    """The API key is missing, unknown, or not allowed to do this."""


class ServiceError(PixelDPError):
    """The service failed, or the address is not that of a PixelDP service."""


class Unavailable(PixelDPError):  # noqa: N818
    """The failure may pass. Raised only after attempts until the deadline."""


class TooBusy(Unavailable):
    """Overloaded, not ready, or the key's rate is used up; ``retry_after`` in seconds, if known."""


class Timeout(Unavailable):
    """No answer by the deadline."""


class Unreachable(Unavailable):
    """No connection, or one that broke off."""


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> PixelDPError:
    """Return the error for an answer with this status, which is neither 200 nor 406."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {}
    name = str(document.get("type", "")).rpartition("/")[2] or None
    detail = document.get("detail") or httpx.codes.get_reason_phrase(status) or "no explanation"
    if 300 <= status < 400:
        detail = f"it redirects to {headers.get('Location')}; use that address"
    return _kind(status)(
        f"{name or status}: {detail}",
        status=status,
        problem=name,
        members={key: value for key, value in document.items() if key not in _STANDARD},
        request_id=headers.get("X-Request-Id"),
        retry_after=_seconds(headers.get("Retry-After")),
    )


_STANDARD = ("type", "title", "status", "detail")


def _kind(status: int) -> type[PixelDPError]:
    match status:
        case 401 | 403:
            return Unauthorized
        case 429 | 503:
            return TooBusy
        case 408 | 504:
            return Timeout
        case 502:
            return Unreachable
        case _ if 400 <= status < 500:
            return BadRequest
        case _:
            return ServiceError


def _seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


@contextmanager
def transport_errors(address: str) -> Iterator[None]:
    """Turn exceptions of the transport into errors of this package."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        raise Timeout(f"{address} did not answer in time") from error
    except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as error:
        raise Unreachable(f"{address} cannot be reached ({error})") from error
    except httpx.RequestError as error:
        raise ServiceError(f"{address} cannot be used ({error})") from error
