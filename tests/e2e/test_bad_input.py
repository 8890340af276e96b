"""Bad input gets a clear answer: a problem document, never a 500; neighbours are undisturbed."""

import base64
import html
import io
import json
import socket
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.http.api.options import Options
from service.http.problems import PROBLEMS

PNG = {"Content-Type": "image/png"}


def check(response: httpx.Response, name: str, **members: Any) -> dict[str, Any]:
    assert response.headers["Content-Type"] == "application/problem+json", response.text
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"/problems/{name}"
    assert problem["status"] == response.status_code == PROBLEMS[name].status
    assert problem["title"] == PROBLEMS[name].title
    assert problem["detail"]
    for member, value in members.items():
        assert problem[member] == value
    return problem


def header_only(width: int, height: int) -> bytes:
    """A PNG that states a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]
)
def test_bodies_that_are_not_pictures(client: httpx.Client, content: bytes) -> None:
    check(client.post("/predict", content=content, headers=PNG), "not-a-picture")


def test_a_truncated_picture(client: httpx.Client, seven: bytes) -> None:
    for end in range(0, len(seven) - 12, 7):
        check(client.post("/predict", content=seven[:end], headers=PNG), "not-a-picture")


def test_a_bomb_is_refused_from_its_header(client: httpx.Client) -> None:
    response = client.post("/predict", content=header_only(60_000, 60_000), headers=PNG)
    check(response, "too-many-pixels")
    assert response.elapsed.total_seconds() < 1


def test_too_many_bytes(client: httpx.Client) -> None:
    response = client.post("/predict", content=bytes(21 * 2**20), headers=PNG)
    problem = check(response, "too-many-bytes")
    assert problem["limit_bytes"] == 20 * 2**20


def test_too_many_bytes_without_a_stated_length(client: httpx.Client) -> None:
    def chunks() -> Any:
        for _ in range(25):
            yield bytes(2**20)

    check(client.post("/predict", content=chunks(), headers=PNG), "too-many-bytes")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_unsupported_media_types(client: httpx.Client, seven: bytes, kind: str) -> None:
    response = client.post("/predict", content=seven, headers={"Content-Type": kind})
    detail = check(response, "unsupported-media-type")["detail"]
    assert kind in detail
    assert ("-H 'Content-Type: image/png'" in detail) == ("form" in kind)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("confidence", "1"),
        ("confidence", "0"),
        ("confidence", "nan"),
        ("confidence", "inf"),
        ("confidence", "high"),
        ("target", "0"),
        ("target", "-1"),
        ("target", "1e51"),
        ("target", "inf"),
        ("target", "nan"),
        ("norm", "l3"),
        ("norm", ""),
        ("max_draws", "63"),
        ("max_draws", "100001"),
        ("max_draws", "1e99"),
        ("timeout_ms", "0"),
        ("timeout_ms", "99999999999"),
        ("scores", "0"),
        ("scores", "most"),
        ("require", "anything"),
        ("evidence", "perhaps"),
        ("priority", "highest"),
        ("confidance", "0.9"),
    ],
)
def test_options_out_of_range(client: httpx.Client, seven: bytes, option: str, value: str) -> None:
    response = client.post("/predict", content=seven, headers=PNG, params={option: value})
    problem = check(response, "option-out-of-range")
    assert problem["option"] == option
    encoded = base64.b64encode(seven).decode()
    body = {"image": encoded, option: value}
    check(client.post("/predict", json=body), "option-out-of-range", option=option)


def test_unknown_options_are_answered_with_the_known_ones(
    client: httpx.Client, seven: bytes
) -> None:
    encoded = base64.b64encode(seven).decode()
    for name in ("targett", "x" * 1000, "\N{GREEK SMALL LETTER ALPHA}"):
        query = client.post("/predict", content=seven, headers=PNG, params={name: "1"})
        batch = client.post("/predict/batch", json={"images": [encoded], name: 1})
        bodies = [client.post("/predict", json={"image": encoded, name: value}) for value in VALUES]
        for response in (query, batch, *bodies):
            problem = check(response, "option-out-of-range")
            assert problem["allowed"] == ", ".join(Options.model_fields)
            assert problem["allowed"] in problem["detail"]
            assert len(problem["option"]) <= 40


VALUES = (1, None, [], {}, True)


def test_nan_in_json(client: httpx.Client, seven: bytes) -> None:
    encoded = base64.b64encode(seven).decode()
    content = f'{{"image": "{encoded}", "confidence": NaN}}'
    response = client.post(
        "/predict", content=content, headers={"Content-Type": "application/json"}
    )
    check(response, "option-out-of-range", option="confidence")


def test_an_option_given_twice(client: httpx.Client, seven: bytes) -> None:
    body = {"image": base64.b64encode(seven).decode(), "target": 0.5}
    response = client.post("/predict?target=0.1", json=body)
    check(response, "option-out-of-range", option="target")


def test_a_confidence_out_of_reach_names_the_draws(client: httpx.Client, seven: bytes) -> None:
    options = {"confidence": 1 - 1e-12, "max_draws": 64}
    response = client.post("/predict", content=seven, headers=PNG, params=options)
    problem = check(response, "confidence-out-of-reach")
    needed = problem["draws_needed"]
    assert needed > 64
    fewer = client.post(
        "/predict", content=seven, headers=PNG, params={**options, "max_draws": needed - 1}
    )
    check(fewer, "confidence-out-of-reach", draws_needed=needed)
    enough = client.post(
        "/predict", content=seven, headers=PNG, params={**options, "max_draws": needed}
    )
    assert enough.status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"a"',
        b"{}",
        b'{"image": 3}',
        b'{"image": "***"}',
        b"\xff\xfe",
        b"[" * 9999,
    ],
)
def test_malformed_json(client: httpx.Client, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    check(client.post("/predict", content=content, headers=headers), "malformed-request")
    check(client.post("/predict/batch", content=content, headers=headers), "malformed-request")


def test_malformed_forms(client: httpx.Client, seven: bytes) -> None:
    two = client.post("/predict", files=[("image", seven), ("image", seven)])
    check(two, "malformed-request")
    check(client.post("/predict", files={"picture": seven}), "malformed-request")
    headers = {"Content-Type": "multipart/form-data"}
    check(client.post("/predict", content=seven, headers=headers), "malformed-request")
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    check(client.post("/predict", content=b"--x\r\nbroken", headers=headers), "malformed-request")
    check(client.post("/predict/batch", content=b"--x--", headers=headers), "malformed-request")
    part = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n\xff\r\n--x--\r\n'
    for charset in ("undefined", "no-such-charset", "idna", "utf-16"):
        headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
        response = client.post("/predict", content=part, headers=headers)
        assert response.status_code == 400, charset
        assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("head", ['name="image', 'name=image; x="', 'name="image\\"'])
def test_a_quote_left_open_in_the_head_of_a_part(client: httpx.Client, head: str) -> None:
    part = f"--x\r\nContent-Disposition: form-data; {head}\r\n\r\nabc\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for path in ("/predict", "/predict/batch"):
        check(client.post(path, content=part, headers=headers), "malformed-request")


def test_batches_with_unusable_options(client: httpx.Client, seven: bytes) -> None:
    encoded = base64.b64encode(seven).decode()
    response = client.post("/predict/batch", json={"images": [encoded], "require": "robust"})
    check(response, "option-out-of-range", option="require")
    response = client.post("/predict/batch", json={"images": [encoded] * 257})
    check(response, "malformed-request", limit_pictures=256)
    response = client.post("/predict/batch", json={"images": [encoded], "model": "no"})
    check(response, "unknown-model")


def test_unknown_models(client: httpx.Client, seven: bytes) -> None:
    for name in ("resnet", "mnist-cnn:2", ":", "../etc"):
        response = client.post("/predict", content=seven, headers=PNG, params={"model": name})
        assert "mnist-cnn" in check(response, "unknown-model")["detail"]
    check(client.get("/models/resnet"), "unknown-model")


def test_pictures_that_cannot_be_certified(client: httpx.Client) -> None:
    stream = io.BytesIO()
    Image.new("CMYK", (28, 28)).save(stream, "JPEG")
    response = client.post("/predict", content=stream.getvalue(), headers=PNG)
    check(response, "cannot-certify-preprocessing")
    frames = [Image.fromarray(np.full((28, 28), i * 90, dtype=np.uint8)) for i in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    response = client.post("/predict", content=stream.getvalue(), headers=PNG)
    check(response, "cannot-certify-preprocessing")


def test_unknown_routes_and_methods(client: httpx.Client) -> None:
    check(client.get("/nothing"), "not-found")
    response = client.get("/predict")
    check(response, "method-not-allowed")
    assert "POST" in response.headers["Allow"]


def test_a_bad_picture_does_not_disturb_its_neighbours(client: httpx.Client, seven: bytes) -> None:
    encoded = base64.b64encode(seven).decode()
    bad = base64.b64encode(header_only(50_000, 50_000)).decode()
    response = client.post(
        "/predict/batch", json={"images": [encoded, bad, encoded], "target": 0.5}
    )
    first, second, third = response.json()["predictions"]
    assert first["robust"] is third["robust"] is True
    assert second["error"]["type"] == "/problems/too-many-pixels"


def test_every_problem_has_a_page(client: httpx.Client) -> None:
    for name, kind in PROBLEMS.items():
        response = client.get(f"/problems/{name}")
        assert response.status_code == 200
        assert kind.title in html.unescape(response.text)
    check(client.get("/problems/none"), "not-found")


def test_long_thin_pictures_are_refused_at_once(client: httpx.Client) -> None:
    stream = io.BytesIO()
    Image.new("L", (1_000_000, 1)).save(stream, "PNG")
    response = client.post("/predict", content=stream.getvalue(), headers=PNG)
    check(response, "cannot-certify-preprocessing")


def test_a_body_of_a_million_unknown_options(client: httpx.Client, seven: bytes) -> None:
    members = ",".join(f'"{i}":0' for i in range(1_000_000))
    content = f'{{"image":"{base64.b64encode(seven).decode()}",{members}}}'
    headers = {"Content-Type": "application/json"}
    problem = check(
        client.post("/predict", content=content, headers=headers), "option-out-of-range"
    )
    assert len(str(problem)) < 500


def test_half_a_surrogate_pair(client: httpx.Client, seven: bytes) -> None:
    """JSON can name one, but no encoding can write it into an answer."""
    picture = base64.b64encode(seven).decode()
    headers = {"Content-Type": "application/json"}
    for path, member in (("/predict", "image"), ("/predict/batch", "images")):
        for option in ({"\ud800": 1}, {"model": "\ud800"}, {"norm": "\ud800"}):
            content = json.dumps({member: picture if member == "image" else [picture], **option})
            response = client.post(path, content=content, headers=headers)
            assert response.status_code in (404, 422), response.text


def test_options_given_twice_or_of_a_wrong_kind(client: httpx.Client, seven: bytes) -> None:
    response = client.post("/predict?target=1&target=2", content=seven, headers=PNG)
    check(response, "option-out-of-range", option="target")
    encoded = base64.b64encode(seven).decode()
    content = f'{{"image":"{encoded}","target":1,"target":2}}'
    headers = {"Content-Type": "application/json"}
    check(client.post("/predict", content=content, headers=headers), "malformed-request")
    for name, value in (("target", True), ("timeout_ms", True), ("target", [0.5]), ("norm", {})):
        response = client.post("/predict", json={"image": encoded, name: value})
        check(response, "option-out-of-range", option=name)


def test_an_offer_to_upgrade_does_not_lose_the_body(service: Any, seven: bytes) -> None:
    """curl --http2 and Java's client make such offers; the answer comes over HTTP/1.1."""
    host, port = service.address.removeprefix("http://").split(":")
    head = (
        f"POST /predict?target=0.5 HTTP/1.1\r\nHost: {host}\r\n"
        "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
        "HTTP2-Settings: AAMAAABkAARAAAAA\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(seven)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=300) as connection:
        connection.sendall(head.encode() + seven)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
    assert b'"robust":true' in answer


def test_an_endless_upload_is_given_up(service: Any) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    head = (
        f"POST /predict?timeout_ms=500 HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
        "Content-Length: 5000\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=300) as connection:
        connection.sendall(head.encode() + b"some")
        assert connection.recv(65536).startswith(b"HTTP/1.1 504")
