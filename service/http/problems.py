"""Errors as clients read them: ``application/problem+json`` (RFC 9457), each with a page.

Every problem that the service can answer with is in ``PROBLEMS``; the page under its ``type``
explains what happened and what to do.
"""

import html
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from service.http.security import policy

MEDIA_TYPE = "application/problem+json"


class _Kind(NamedTuple):
    status: int
    title: str
    explanation: str


PROBLEMS: dict[str, _Kind] = {
    "not-a-picture": _Kind(
        400,
        "The bytes are not a picture that can be read",
        "The body was empty, truncated, or not in one of the accepted formats. Send the bytes of a "
        "PNG, JPEG, WebP, BMP, GIF, TIFF, PGM or PPM file.",
    ),
    "malformed-request": _Kind(
        400,
        "The request cannot be understood",
        "The JSON or the multipart form is broken, or a part of it is missing. The detail says "
        "which.",
    ),
    "no-key": _Kind(
        401,
        "A key is needed",
        "This service answers only requests with one of its keys: as Authorization: Bearer KEY, or "
        "as X-API-Key: KEY. Ask the operator of the service for one.",
    ),
    "not-allowed": _Kind(
        403,
        "The key does not allow this",
        "Keys have scopes: predict, priority, metrics, admin. The member scope says which one is "
        "needed here. Ask the operator of the service for a key that has it.",
    ),
    "unknown-model": _Kind(404, "No such model is served", "GET /models lists the models served."),
    "not-found": _Kind(404, "Nothing is served here", "GET /docs lists all routes."),
    "method-not-allowed": _Kind(
        405, "The route does not accept this method", "GET /docs lists the methods of every route."
    ),
    "too-slow": _Kind(
        408,
        "The request came too slowly",
        "A request must arrive completely within some seconds; a large body has longer. The "
        "connection was closed.",
    ),
    "too-many-bytes": _Kind(
        413,
        "The request is too large",
        "The body is larger than the service accepts (limit_bytes). Send a smaller picture.",
    ),
    "too-many-pixels": _Kind(
        413,
        "The picture has too many pixels",
        "Its header states more pixels than the service decodes. Nothing was decoded. Send a "
        "smaller picture.",
    ),
    "unsupported-media-type": _Kind(
        415,
        "The body's media type is not accepted",
        "Send the picture as the raw body with its media type (image/png, …), as multipart/form-"
        "data in the field image, or as JSON with the member image in base64.",
    ),
    "option-out-of-range": _Kind(
        422,
        "An option has a value that cannot be used",
        "The member option names it, and allowed says what it may be.",
    ),
    "cannot-certify-preprocessing": _Kind(
        422,
        "No certificate is possible for this picture",
        "There is no proven bound on how much the steps from this picture to the model's input can "
        "enlarge a change. The service refuses it rather than answer with a size that might be "
        "wrong. The detail says what to send instead.",
    ),
    "cannot-load": _Kind(
        422,
        "The model cannot be loaded",
        "Its bundle cannot be trusted, or a worker failed with it. The models served before still "
        "are. The detail says what was wrong.",
    ),
    "confidence-out-of-reach": _Kind(
        422,
        "The confidence is out of reach for this budget",
        "Even if every draw agreed, max_draws draws could not certify any size at this confidence. "
        "draws_needed says how many would be enough.",
    ),
    "rate-limited": _Kind(
        429,
        "The key has used up its draws",
        "A key may be limited to a number of draws per second. A picture is charged its max_draws, "
        "and refunded what its answer did not use. Try again after the seconds in Retry-After "
        "(retry_after_s), or ask for fewer draws.",
    ),
    "head-too-large": _Kind(
        431,
        "The head of the request is too large",
        "The request line and the headers together are larger than the service accepts. Send fewer "
        "headers, or shorter ones.",
    ),
    "internal-error": _Kind(
        500,
        "The service failed",
        "This is a fault of the service, not of the request. Its log has the details under the "
        "X-Request-Id of the answer.",
    ),
    "model-failed": _Kind(
        500,
        "The model failed on this picture",
        "The network raised an error for this picture under noise, before there was anything to "
        "answer. Other pictures are not affected. The detail has the first line of the error. Tell "
        "the operator of the service.",
    ),
    "overloaded": _Kind(
        503,
        "Too many pictures are waiting",
        "Try again after the seconds in Retry-After (retry_after_s).",
    ),
    "workers-lost": _Kind(
        503,
        "Workers died while they ran this picture",
        "Two worker processes ended while they worked on this picture, so it is given up. Others "
        "are not affected. The log names it by its digest. It may have been chance: try again "
        "after the seconds in Retry-After (retry_after_s). If it happens again, report it.",
    ),
    "not-ready": _Kind(
        503,
        "The service is not ready",
        "Its workers are starting, or it is shutting down. Try again after the seconds in "
        "Retry-After (retry_after_s).",
    ),
    "deadline-before-first-look": _Kind(
        504,
        "The deadline came before there was anything to answer",
        "Not even the first look at the draws was reached within timeout_ms. Allow more time, or "
        "try again when the service is less busy.",
    ),
}


# The service's path behind its proxy: as PIXELDP_ROOT_PATH says, or else as the request says.
_root_path = ""
forwarded_prefix: ContextVar[str] = ContextVar("forwarded_prefix", default="")


def lie_at(root_path: str) -> None:
    """Let the types of all problems lead to their pages below ``root_path``."""
    global _root_path
    _root_path = root_path


def root_path() -> str:
    """Return the path below which links are, without a slash at the end; ``""`` at the top."""
    return _root_path or forwarded_prefix.get()


class ProblemDocument(BaseModel):
    """The body of every error; further members help a program."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An error to answer with.

    Args:
        name: a key of ``PROBLEMS``.
        detail: what was wrong, what was expected, what to do.
        headers: of the answer.
        members: further members of the document; ``retry_after_s`` also becomes a header.
    """

    def __init__(
        self, name: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.name, self.detail, self.members = name, detail, members
        self.headers = dict(headers or {})
        if "retry_after_s" in members:
            self.headers["Retry-After"] = str(members["retry_after_s"])

    @property
    def status(self) -> int:
        """The HTTP status."""
        return PROBLEMS[self.name].status

    def document(self) -> dict[str, Any]:
        """Return the problem document."""
        kind = PROBLEMS[self.name]
        return {
            "type": f"{root_path()}/problems/{self.name}",
            "title": kind.title,
            "status": kind.status,
            "detail": _writable(self.detail),
            **{name: _writable(value) for name, value in self.members.items()},
        }

    def response(self) -> Response:
        """Return the HTTP answer."""
        return JSONResponse(self.document(), self.status, self.headers, MEDIA_TYPE)


def internal_error() -> Problem:
    """Return the problem for a fault of the service, whose details only the log has."""
    return Problem("internal-error", "The service failed while it worked on this request.")


def malformed(detail: str, **members: Any) -> Problem:
    """Return the problem of a request that cannot be understood."""
    return Problem("malformed-request", detail, **members)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe these statuses for OpenAPI."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = {name: kind for name, kind in PROBLEMS.items() if kind.status == status}
        described[status] = {
            "description": "; ".join(kind.title for kind in kinds.values()),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemDocument"},
                    "examples": {name: _example(name) for name in kinds},
                }
            },
        }
    return described


def _example(name: str) -> dict[str, Any]:
    kind = PROBLEMS[name]
    return {"summary": kind.title, "value": Problem(name, kind.explanation).document()}


def _writable(value: Any) -> Any:
    """Replace characters in strangers' text that no encoding can write: halves of pairs."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def out_of_range(errors: list[Any]) -> Problem:
    """Turn pydantic's errors about the first wrong option into a problem."""
    option = _option(errors[0])
    about = [error for error in errors if _option(error) == option]
    # If a value may be of several kinds, the message says what each of them needs.
    messages = dict.fromkeys(str(error["msg"]).removeprefix("Input ") for error in about)
    allowed = " or ".join(messages)
    given = _short(about[0].get("input"))
    detail = f"{option} {allowed}, not {given}."
    return Problem("option-out-of-range", detail, option=option, allowed=allowed)


def _option(error: Any) -> str:
    return str(next((part for part in error["loc"] if part not in ("query", "body")), "options"))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


router = APIRouter(include_in_schema=False)


@router.get("/problems/{name}")
def page(name: str) -> HTMLResponse:
    """Explain a problem to a person."""
    kind = PROBLEMS.get(name)
    if kind is None:
        raise Problem("not-found", f"There is no problem named {name}.")
    title, text = html.escape(kind.title), html.escape(kind.explanation)
    content = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<meta name=viewport content='width=device-width'><meta name=color-scheme content="
        "'light dark'><style>body{font:16px/1.5 system-ui;max-width:40rem;margin:3rem auto;"
        f"padding:0 1rem}}</style><h1>{title}</h1><p>{text}</p>"
        f"<p>Status {kind.status}, type <code>{root_path()}/problems/{name}</code>.</p></html>"
    )
    return HTMLResponse(content, headers={"Content-Security-Policy": policy(content)})
