"""Base64 in all forms that clients write, and nothing else."""

import base64
import random

import pytest

from service.http.guards.base64_text import decode

DATA = bytes(range(256)) * 5 + b"\xfb\xff\xfe"


def lines(text: str, end: str) -> str:
    return end.join(text[start : start + 76] for start in range(0, len(text), 76)) + end


PLAIN = base64.b64encode(DATA).decode()
FORMS = {
    "plain": PLAIN,
    "mime lines": lines(PLAIN, "\r\n"),
    "lines": lines(PLAIN, "\n"),
    "spaces": f"  {PLAIN[:10]} \t{PLAIN[10:]} ",
    "url-safe": base64.urlsafe_b64encode(DATA).decode(),
    "unpadded": base64.urlsafe_b64encode(DATA).decode().rstrip("="),
    "data url": f"data:image/png;base64,{PLAIN}",
    "data url with parameters": f"data:image/png;charset=utf-8;base64,{lines(PLAIN, chr(10))}",
    "data url without a type": f"DATA:;BASE64,{PLAIN}",
    "data url in lines": f"\n data:image/webp;base64,{lines(PLAIN, chr(10))}",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_bytes(form: str) -> None:
    assert decode(FORMS[form]) == DATA


def test_every_length_with_and_without_padding() -> None:
    for length in range(10):
        data = DATA[-length:] if length else b""
        text = base64.b64encode(data).decode()
        assert decode(text) == decode(text.rstrip("=")) == data


def test_long_base64_in_lines() -> None:
    data = random.Random(0).randbytes(3 * 2**20 + 1)
    assert decode(lines(base64.b64encode(data).decode(), "\n")) == data


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("***", "is not base64"),
        ("abc\0", "is not base64"),
        ("a", "is not base64"),
        ("ab=c", "is not base64"),
        ("aGk=aGk=", "is not base64"),
        ("äöü", "is not base64"),
        ("\ud800", "is not base64"),
        ("data:image/png;base64,*", "is not base64"),
        ("data:image/svg+xml,%3Csvg/%3E", "is a data: URL that is not in base64"),
    ],
)
def test_malformed_base64(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        decode(text)
