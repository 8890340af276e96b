"""Reading a request's pictures: raw, as a multipart form, or as JSON with base64."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.api import base64_text
from service.api.apart import apart
from service.api.encoding import decompress, find_encoding
from service.api.problems import Problem

T = TypeVar("T")

# In a JSON body: far more than options and pictures there can be.
_MOST_PARTS = 10_000
_READ_AS_RAW = ("image/", "application/octet-stream", "binary/octet-stream")
_CURLS_OWN = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Body:
    """The pictures of a request as they were sent, and the options beside them."""

    pictures: list[bytes]
    options: dict[str, Any]


async def read_one(request: Request, limit: int, seconds: float) -> Body:
    """Read a request for one picture.

    Args:
        request: not yet read.
        limit: the largest body, in bytes.
        seconds: how long receiving it may take.

    Raises:
        Problem: the body is too large, of a wrong type, or malformed.
    """
    kind = _media_type(request)
    pool = request.app.state.predictions.pool
    async with whole(request, limit, seconds) as content:
        kind = kind or _look(content)
        if kind.startswith(_READ_AS_RAW):
            return Body([content], {})
        if kind == "application/json":
            return await apart(pool, len(content), lambda: _one_of_json(content))
        if kind == "multipart/form-data":
            pictures = await apart(pool, len(content), lambda: _form(request.headers, content, 1))
            if len(pictures) != 1:
                detail = "The form must have one field image; for several use /predict/batch."
                raise Problem("malformed-request", detail)
            return Body(pictures, {})
    raise _unsupported(kind, "image/png (or another image type), ")


async def read_many(request: Request, limit: int, seconds: float, most: int) -> Body:
    """Read a request for up to ``most`` pictures; otherwise as :func:`read_one`."""
    kind = _media_type(request)
    pool = request.app.state.predictions.pool
    async with whole(request, limit, seconds) as content:
        kind = kind or _look(content)
        if kind == "application/json":
            return await apart(pool, len(content), lambda: _many_of_json(content, most))
        if kind == "multipart/form-data":
            form = await apart(pool, len(content), lambda: _form(request.headers, content, most))
            if not form:
                detail = "The form has no field image; send one a picture."
                raise Problem("malformed-request", detail)
            return Body(form, {})
    raise _unsupported(kind, "")


def _one_of_json(content: bytes) -> Body:
    members = _json(content)
    return Body([_base64(members.pop("image", None), "image")], members)


def _many_of_json(content: bytes, most: int) -> Body:
    members = _json(content)
    images = members.pop("images", None)
    if not isinstance(images, list) or not images:
        detail = "The member images must be a list of pictures in base64, with at least one."
        raise Problem("malformed-request", detail)
    _check_count(len(images), most)
    return Body([_base64(image, f"images[{i}]") for i, image in enumerate(images)], members)


def _check_count(count: int, most: int) -> None:
    if count > most:
        detail = f"There are {count} pictures; a batch has at most {most}."
        raise Problem("malformed-request", detail, limit_pictures=most)


def _media_type(request: Request) -> str:
    """Return the media type that the request states, in lower case; ``""`` if it states none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind.startswith("application/") and kind.endswith("+json")
    return "application/json" if is_json else kind


def _look(content: bytes) -> str:
    """Tell the media type of a body that comes without one, as RFC 9110, section 8.3, allows."""
    if content[:100].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
        return "application/json"
    return "application/octet-stream"


def _unsupported(kind: str, raw: str) -> Problem:
    expected = f"expected {raw}multipart/form-data or application/json"
    hint = ""
    if kind == _CURLS_OWN:
        hint = ", curl's own choice: add -H 'Content-Type: image/png'"
    return Problem("unsupported-media-type", f"The body is said to be {kind}{hint}; {expected}.")


@asynccontextmanager
async def whole(request: Request, limit: int, seconds: float) -> AsyncIterator[bytes]:
    """Read the whole body, stopping as soon as it is too large or takes too long; decompress it.

    It counts as being received for as long as the block runs, which is to take it apart.

    Raises:
        Problem: it does.
    """
    encoding = find_encoding(request.headers)
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limit:
        raise _too_large(limit)
    with request.app.state.uploads.body() as upload:
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(seconds):
                async for part in request.stream():
                    parts.append(part)
                    if upload.add(len(part)) > limit:
                        raise _too_large(limit)
        except TimeoutError:
            detail = f"The request was not received whole within {seconds:g} s."
            raise Problem("deadline-before-first-look", detail) from None
        content = b"".join(parts)
        parts.clear()
        if encoding:
            pool, packed = request.app.state.predictions.pool, content
            content = await apart(pool, limit, lambda: decompress(packed, encoding, limit))
            upload.add(len(content))
            del packed
        yield content


def _too_large(limit: int) -> Problem:
    detail = f"The body has more than {limit:,} bytes, the most that is read."
    return Problem("too-many-bytes", detail, limit_bytes=limit)


def _json(content: bytes) -> dict[str, Any]:
    # Parsing a million small parts holds up every thread for seconds; a request has few.
    if content.count(b":") > _MOST_PARTS:
        detail = "The body has more members than there are options."
        raise Problem("option-out-of-range", detail, option="options")
    if content.count(b",") > _MOST_PARTS or content.count(b"[") > _MOST_PARTS:
        raise Problem("malformed-request", "The body has more parts than any request needs.")
    try:
        members = json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Problem("malformed-request", f"The body is not JSON: {error}.") from None
    if not isinstance(members, dict):
        raise Problem("malformed-request", "The body must be one JSON object.")
    return members


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is given twice")
    return members


def _base64(value: object, name: str) -> bytes:
    if not isinstance(value, str):
        detail = f"The member {name} must be the picture's bytes in base64, as a string."
        raise Problem("malformed-request", detail)
    try:
        return base64_text.decode(value)
    except ValueError as error:
        raise Problem("malformed-request", f"The member {name} {error}.") from None


class _Files(MultiPartParser):
    """A parser of forms for which every part is a file, whether or not it has a file name.

    Others it would take for text, whose bytes may not be those that were sent; and a name may be
    given as ``filename*`` alone (RFC 6266), which it does not know.
    """

    def on_headers_finished(self) -> None:
        """Begin a part."""
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if b"filename" not in options:
            part.content_disposition = (part.content_disposition or b"") + b'; filename=""'
        super().on_headers_finished()


def _form(headers: Headers, content: bytes, most: int) -> list[bytes]:
    """Return the files of a form's fields ``image``."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield content

    parser = _Files(headers, stream(), max_files=most, max_fields=most)
    parser.spool_max_size = len(content) + 1  # never onto a disk
    try:
        items = _run(parser.parse()).multi_items()
    except MultiPartException as error:
        raise Problem("malformed-request", f"The form cannot be read: {error.message}.") from None
    except (ValueError, LookupError, OverflowError) as error:  # charsets and headers of strangers
        raise Problem("malformed-request", f"The form cannot be read ({error}).") from None
    pictures = []
    for name, value in items:
        if name != "image":
            detail = f"The form has a field {name!r}; only image is read. Options go in the query."
            raise Problem("malformed-request", detail)
        assert isinstance(value, UploadFile)
        pictures.append(value.file.read())
    return pictures


def _run(parsing: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that has nothing to wait for, as its input is there and stays in memory."""
    try:
        parsing.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    parsing.close()
    raise RuntimeError("the parser of forms waited for something")
