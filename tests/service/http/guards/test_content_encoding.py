"""Compressed bodies come out whole, within the limit, or are refused."""

import gzip
import zlib

import pytest
from starlette.datastructures import Headers

from service.http.guards.content_encoding import decompress, find_encoding
from service.http.problems import Problem

DATA = bytes(range(256)) * 40
BARE = zlib.compressobj(wbits=-15)
FORMS = {
    "gzip": ("gzip", gzip.compress(DATA)),
    "several members": (
        "gzip",
        b"".join(gzip.compress(DATA[i : i + 99]) for i in range(0, 10240, 99)),
    ),
    "zlib": ("deflate", zlib.compress(DATA)),
    "bare deflate": ("deflate", BARE.compress(DATA) + BARE.flush()),
}


@pytest.mark.parametrize("form", FORMS)
def test_compressed_bodies_are_decompressed(form: str) -> None:
    encoding, content = FORMS[form]
    assert decompress(content, encoding, len(DATA)) == DATA
    with pytest.raises(Problem) as caught:
        decompress(content, encoding, len(DATA) - 1)
    assert caught.value.name == "too-many-bytes"
    with pytest.raises(Problem, match="ends before its"):
        decompress(content[:-1], encoding, len(DATA))
    with pytest.raises(Problem, match="continues after it"):
        decompress(content + b"x", encoding, len(DATA))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("content", [b"", b"x", b"\x1f\x8b", b"hello, world"])
def test_bodies_that_are_not_compressed(encoding: str, content: bytes) -> None:
    with pytest.raises(Problem) as caught:
        decompress(content, encoding, 1000)
    assert caught.value.name == "malformed-request"


def test_a_bomb_is_not_decompressed() -> None:
    bomb = gzip.compress(bytes(2**26))
    with pytest.raises(Problem, match="more than 1,000 bytes"):
        decompress(bomb, "gzip", 1000)
    with pytest.raises(Problem):
        decompress(gzip.compress(b"") * 10_000, "gzip", 1000)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], None),
        ([""], None),
        (["identity"], None),
        (["gzip"], "gzip"),
        ([" GZip "], "gzip"),
        (["x-gzip"], "gzip"),
        (["deflate"], "deflate"),
        (["identity", "gzip"], "gzip"),
        (["identity, gzip"], "gzip"),
    ],
)
def test_supported_encodings(values: list[str], found: str | None) -> None:
    headers = Headers(raw=[(b"content-encoding", value.encode()) for value in values])
    assert find_encoding(headers) == found


@pytest.mark.parametrize("values", [["br"], ["zstd"], ["gzip, gzip"], ["gzip", "deflate"], ["*"]])
def test_other_encodings_are_answered_with_the_supported_ones(values: list[str]) -> None:
    headers = Headers(raw=[(b"content-encoding", value.encode()) for value in values])
    with pytest.raises(Problem) as caught:
        find_encoding(headers)
    assert caught.value.status == 415
    assert caught.value.headers["Accept-Encoding"] == "gzip, deflate"
