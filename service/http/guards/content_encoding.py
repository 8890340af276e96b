"""``Content-Encoding`` of requests: gzip and deflate, within the limit of a body."""

import zlib

from starlette.datastructures import Headers

from service.http.problems import Problem, malformed

READ = "gzip, deflate"
# Deflate makes at most this many bytes of one: a match of 258 bytes takes two bits.
MOST_TIMES = 1032
_NAMES = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_GZIP, _ZLIB, _RAW = 31, 15, -15
# The bytes given to zlib at a time: it copies all input that it has not used.
_PIECE = 2**14
# Several concatenated gzip files are one (RFC 1952, section 2.2); some programs write them.
_MOST_MEMBERS = 1000


def find_encoding(headers: Headers) -> str | None:
    """Return ``gzip`` or ``deflate``, or None for a body without encoding.

    Raises:
        Problem: ``unsupported-media-type`` for another encoding, or several.
    """
    given = ",".join(headers.getlist("content-encoding")).lower().split(",")
    named = [name for one in given if (name := one.strip()) not in ("", "identity")]
    if not named:
        return None
    if len(named) > 1 or named[0] not in _NAMES:
        found = ", ".join(named)
        detail = f"The Content-Encoding {found[:40]!r} is not read; use gzip or deflate."
        raise Problem("unsupported-media-type", detail, headers={"Accept-Encoding": READ})
    return _NAMES[named[0]]


def decompress(content: bytes, encoding: str, limit: int) -> bytes:
    """Decompress ``encoding`` to at most ``limit`` bytes.

    Raises:
        Problem: the body is too large, or broken.
    """
    parts: list[bytes] = []
    view, position, room = memoryview(content), 0, limit
    for _ in range(_MOST_MEMBERS):
        stream = zlib.decompressobj(_window(bytes(view[position : position + 2]), encoding))
        while not stream.eof and position < len(view):
            piece = view[position : position + _PIECE]
            try:
                parts.append(stream.decompress(piece, room + 1))
            except zlib.error as error:
                raise malformed(f"The body is not {encoding} ({error}).") from None
            room -= len(parts[-1])
            if room < 0:
                raise _too_large(limit)
            position += len(piece) - len(stream.unused_data)
        if not stream.eof:
            break
        if position == len(view):
            return b"".join(parts)
        if encoding != "gzip" or bytes(view[position : position + 2]) != b"\x1f\x8b":
            break
    raise malformed(f"The body ends before its {encoding} data does, or continues after it.")


def _too_large(limit: int) -> Problem:
    detail = f"The body has more than {limit:,} bytes decompressed, the most that is read."
    return Problem("too-many-bytes", detail, limit_bytes=limit)


def _window(content: bytes, encoding: str) -> int:
    """Return zlib's window bits for the form: deflate means zlib, but some clients send it raw."""
    if encoding == "gzip":
        return _GZIP
    head = int.from_bytes(content[:2])
    return _ZLIB if content[:1] and content[0] & 15 == 8 and head % 31 == 0 else _RAW
