"""Reading a request's pictures: raw, as a multipart form, or as JSON with base64."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.decoding.queue import FullError
from service.http.api.options import Options
from service.http.exceptions import problem_for
from service.http.guards import base64_text
from service.http.guards.auth import charge_bytes
from service.http.guards.bodies import SMALL, Bodies
from service.http.guards.budget import File, Holding
from service.http.guards.content_encoding import MOST_TIMES, decompress, find_encoding
from service.http.problems import Problem, malformed

T = TypeVar("T")

# The most parts of a JSON body: far more than there can be options and pictures.
_MOST_PARTS = 10_000
# The most fields of a form besides its pictures, and the most bytes of one.
_MOST_FIELDS, _MOST_TEXT = 64, 1000
_READ_AS_RAW = ("image/", "application/octet-stream", "binary/octet-stream")
_CURLS_OWN = "application/x-www-form-urlencoded"
# The memory for parsing a large body, times its size: as text, decoded, and in parts.
_APART_TIMES = 4


@dataclass(frozen=True)
class Body:
    """The pictures of a request as they were sent, and the options beside them.

    Those of a ``form`` are text.
    """

    pictures: list[File]
    options: dict[str, Any]
    form: bool = False


async def read_pictures(
    request: Request, limit: int, seconds: float, most: int | None = None
) -> Body:
    """Read a request for one picture, or for a batch.

    Args:
        request: not yet read.
        limit: the largest body, in bytes.
        seconds: the time in which it must be received.
        most: the number of pictures that a batch may have; None for one picture.

    Raises:
        Problem: the body is too large, of a wrong type, or malformed.
    """
    kind = _media_type(request)
    async with read_body(request, limit, seconds) as content:
        kind = kind or _look(content)
        if most is None and kind.startswith(_READ_AS_RAW):
            return _hold(request, [content], {})
        if kind == "application/json":
            return _hold(request, *await _apart(request, content, partial(_of_json, most=most)))
        if kind == "multipart/form-data":
            work = partial(_of_form, request.headers, most=most)
            return _hold(request, *await _apart(request, content, work), form=True)
    raise _unsupported(kind, "image/png (or another image type), " if most is None else "")


def _hold(
    request: Request, pictures: list[bytes], options: dict[str, Any], form: bool = False
) -> Body:
    holding: Holding = request.scope["holding"]
    return Body([held(picture, holding) for picture in pictures], options, form)


def held(content: bytes, holding: Holding) -> File:
    """Return a picture file, whose bytes its request holds from now on."""
    holding.count(len(content))
    return File(content, holding)


async def _apart(request: Request, content: bytes, work: Callable[[bytes], T]) -> T:
    """Take a body apart; a large one in a thread, after making sure that there is room."""
    with room(request, _APART_TIMES * len(content) if len(content) > SMALL else 0):
        return await in_turn(request, len(content), lambda: work(content))


async def in_turn(request: Request, size: int, work: Callable[[], T]) -> T:
    """Return what ``work`` returns; with input of a large size, when it is the caller's turn.

    Raises:
        Problem: ``overloaded``, ``rate-limited``.
    """
    state = request.app.state
    try:
        bodies: Bodies = state.predictions.bodies
        return await bodies.run(size, work)
    except FullError as error:
        detail = "Too many large bodies wait to be parsed."
        raise problem_for(error, state.engine, detail) from None


@contextmanager
def room(request: Request, size: int) -> Iterator[None]:
    """Have ``size`` bytes to work with as long as the block runs.

    Raises:
        NoRoomError: there is no room for them.
    """
    holding: Holding = request.scope["holding"]
    holding.take(size)
    try:
        yield
    finally:
        holding.count(-size)


def _of_json(content: bytes, most: int | None) -> tuple[list[bytes], dict[str, Any]]:
    """Return the pictures of a JSON object, and its other members."""
    members = _json(content)
    if most is None:
        return [_base64(members.pop("image", None), "image")], members
    images = members.pop("images", None)
    if not isinstance(images, list) or not images:
        raise malformed(
            "The member images must be a list of pictures in base64, with at least one."
        )
    _check_count(len(images), most)
    return [_base64(image, f"images[{i}]") for i, image in enumerate(images)], members


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise malformed(
            f"There are {count} pictures; a batch has at most {most}.", limit_pictures=most
        )


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
        hint = ", curl's own choice: send it by --data-binary, add -H 'Content-Type: image/png'"
    return Problem("unsupported-media-type", f"The body is said to be {kind}{hint}; {expected}.")


@asynccontextmanager
async def read_body(request: Request, limit: int, seconds: float) -> AsyncIterator[bytes]:
    """Read the whole body, stopping as soon as it is too large or takes too long; decompress it.

    Its request holds it while the block runs, which parses it.

    Raises:
        Problem: it does.
        NoRoomError: there is no room for it.
    """
    encoding = find_encoding(request.headers)
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limit:
        raise _too_large(limit)
    holding: Holding = request.scope["holding"]
    parts: list[bytes] = []
    received = 0
    try:
        try:
            async with asyncio.timeout(seconds):
                async for part in request.stream():
                    holding.take(len(part))
                    parts.append(part)
                    received += len(part)
                    if received > limit:
                        raise _too_large(limit)
        except TimeoutError:
            detail = f"The request was not received whole within {seconds:g} s."
            raise Problem("deadline-before-first-look", detail) from None
        finally:
            charge_bytes(request.app.state.predictions.engine, received)
        content = b"".join(parts)
        parts.clear()
        if encoding:
            content = await _unpacked(request, content, encoding, limit)
            holding.count(len(content) - received)
            received = len(content)
        yield content
    finally:
        holding.count(-received)


async def _unpacked(request: Request, packed: bytes, encoding: str, limit: int) -> bytes:
    """Decompress a body, after checking that there is room for its content."""
    most = min(limit, MOST_TIMES * len(packed))
    with room(request, most):
        plain = await in_turn(request, most, lambda: decompress(packed, encoding, limit))
        charge_bytes(request.app.state.predictions.engine, len(plain))
    return plain


def _too_large(limit: int) -> Problem:
    detail = f"The body has more than {limit:,} bytes, the most that is read."
    return Problem("too-many-bytes", detail, limit_bytes=limit)


def _json(content: bytes) -> dict[str, Any]:
    # Parsing a million small parts holds up every thread for seconds; a request has few.
    if content.count(b":") > _MOST_PARTS:
        detail = "The body has more members than there are options."
        raise Problem("option-out-of-range", detail, option="options")
    if content.count(b",") > _MOST_PARTS or content.count(b"[") > _MOST_PARTS:
        raise malformed("The body has more parts than any request needs.")
    try:
        members = json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise malformed(f"The body is not JSON: {error}.") from None
    if not isinstance(members, dict):
        raise malformed("The body must be one JSON object.")
    return members


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is given twice")
    return members


def _base64(value: object, name: str) -> bytes:
    if not isinstance(value, str):
        raise malformed(f"The member {name} must be the picture's bytes in base64, as a string.")
    try:
        return base64_text.decode(value)
    except ValueError as error:
        raise malformed(f"The member {name} {error}.") from None


class _Files(MultiPartParser):
    """A parser of forms for which every part is a file, whether or not it has a file name.

    The original would treat other parts as text, whose bytes may differ from those sent; and a name
    may be given only as ``filename*`` (RFC 6266), which it does not know.
    """

    def on_headers_finished(self) -> None:
        """Begin a part."""
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if b"filename" not in options:
            part.content_disposition = (part.content_disposition or b"") + b'; filename=""'
        super().on_headers_finished()


def _of_form(
    headers: Headers, content: bytes, most: int | None
) -> tuple[list[bytes], dict[str, Any]]:
    """Return the files of a form's fields ``image``, and the options in its other fields."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield content

    fields = (most or 1) + _MOST_FIELDS
    parser = _Files(headers, stream(), max_files=fields, max_fields=fields)
    parser.spool_max_size = len(content) + 1  # never onto a disk
    try:
        items = _run(parser.parse()).multi_items()
    except MultiPartException as error:
        raise malformed(f"The form cannot be read: {error.message}.") from None
    except (ValueError, LookupError, OverflowError) as error:  # strangers' charsets and headers
        raise malformed(f"The form cannot be read ({error}).") from None
    pictures: list[bytes] = []
    options: dict[str, Any] = {}
    for name, value in items:
        if not isinstance(value, UploadFile):  # swallowed by an open quote
            raise malformed("The form has a part whose Content-Disposition cannot be read.")
        if name == "image":
            pictures.append(value.file.read())
        elif name not in Options.model_fields:
            there = ", ".join(Options.model_fields)
            raise malformed(
                f"The form has a field {name[:40]!r}; there are image, and the options {there}."
            )
        elif (text := _text(name, value.file.read(_MOST_TEXT + 1))) != options.get(name, text):
            raise malformed(
                f"The form has two fields {name} with different values; give it once.", option=name
            )
        elif text:  # browsers also send empty fields
            options[name] = text
    if most is None and len(pictures) != 1:
        raise malformed("The form must have one field image; for several use /predict/batch.")
    if not pictures:
        raise malformed("The form has no field image; send one for each picture.")
    _check_count(len(pictures), most or 1)
    return pictures, options


def _text(name: str, value: bytes) -> str:
    """Return the text of a form's field."""
    try:
        if len(value) <= _MOST_TEXT:
            return value.decode().strip()
    except UnicodeDecodeError:
        pass
    raise malformed(
        f"The field {name} of the form is no option's text; pictures are in the field image.",
        option=name,
    )


def _run(parsing: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing, because its input is complete and in memory."""
    try:
        parsing.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    parsing.close()
    raise RuntimeError("the parser of forms waited for something")
