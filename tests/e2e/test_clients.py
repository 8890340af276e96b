"""Requests as real clients write them, over a socket."""

import base64
import gzip
import http.client
import json
import socket
import subprocess
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.http.api.options import Options
from tests.e2e.conftest import Service

PNG = {"Content-Type": "image/png"}
TARGET = {"target": 0.5}


def check_seven(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["label"]["name"] == "7"
    return answer


def bare(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", bare), ("identity", bytes)],
)
def test_bodies_may_be_compressed(
    client: httpx.Client, seven: bytes, encoding: str, pack: Any
) -> None:
    headers = {"Content-Encoding": encoding}
    raw = client.post("/predict", content=pack(seven), headers=PNG | headers, params=TARGET)
    assert check_seven(raw)["robust"] is True
    request = client.build_request("POST", "/predict/batch", files=[("image", ("7", seven))] * 2)
    form = dict(request.headers) | headers
    form.pop("content-length")
    packed = client.post("/predict/batch", content=pack(request.read()), headers=form)
    assert len(packed.json()["predictions"]) == 2
    text = json.dumps({"image": base64.b64encode(seven).decode()}).encode()
    kind = {"Content-Type": "application/json"}
    check_seven(client.post("/predict", content=pack(text), headers=kind | headers))


def test_compressed_bodies_have_the_same_limit(client: httpx.Client) -> None:
    bomb = gzip.compress(bytes(21 * 2**20))
    response = client.post("/predict", content=bomb, headers=PNG | {"Content-Encoding": "gzip"})
    assert response.status_code == 413
    assert response.json()["limit_bytes"] == 20 * 2**20


def test_other_encodings_are_refused_with_those_that_are_read(
    client: httpx.Client, seven: bytes
) -> None:
    for path in ("/predict", "/predict/batch", "/predict/stream"):
        headers = PNG | {"Content-Encoding": "br"}
        response = client.post(path, content=seven, headers=headers)
        assert response.status_code == 415
        assert response.headers["Accept-Encoding"] == "gzip, deflate"
    headers = {"Content-Encoding": "br", "Content-Type": "application/json"}
    response = client.post("/v2/models/mnist-cnn/infer", content=b"{}", headers=headers)
    assert response.status_code == 400
    assert "br" in response.json()["error"]


@pytest.mark.parametrize("kind", [None, "", "binary/octet-stream", "IMAGE/PNG", "image/nonsense"])
def test_a_picture_is_recognised_by_its_bytes(
    service: Service, seven: bytes, kind: str | None
) -> None:
    address = urlsplit(service.address)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=300)
    headers = {} if kind is None else {"Content-Type": kind}
    connection.request("POST", "/predict", body=seven, headers=headers)
    response = connection.getresponse()
    assert response.status == 200
    assert json.load(response)["label"]["name"] == "7"
    connection.close()


@pytest.mark.parametrize(
    "kind", ["", "application/vnd.example+json", "application/json; charset=x"]
)
def test_json_is_recognised_by_its_bytes(client: httpx.Client, seven: bytes, kind: str) -> None:
    text = json.dumps({"image": base64.b64encode(seven).decode()})
    for start in ("", "\n ", "\ufeff"):
        content = (start + text).encode()
        check_seven(client.post("/predict", content=content, headers={"Content-Type": kind}))


def test_a_body_of_neither_kind_is_refused_with_the_reason(client: httpx.Client) -> None:
    response = client.post("/predict", content=b"hello")
    assert (response.status_code, response.json()["type"]) == (400, "/problems/not-a-picture")


@pytest.mark.parametrize(
    "more", ["", "; filename*=UTF-8''%37.png", '; filename=""', "; filename=7.png"]
)
def test_form_parts_are_recognised_by_their_bytes(
    client: httpx.Client, seven: bytes, more: str
) -> None:
    parts = [
        f"--x\r\nContent-Disposition: form-data; name=image{more}\r\n\r\n".encode() + seven,
        f'--x\r\nContent-Disposition: form-data; name="image"{more}\r\n'
        "Content-Type: text/plain; charset=utf-16\r\n\r\n".encode()
        + seven,
    ]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    content = b"\r\n".join([*parts, b"--x--\r\n"])
    answers = client.post("/predict/batch", content=content, headers=headers).json()["predictions"]
    assert [answer["label"]["name"] for answer in answers] == ["7", "7"]
    single = b"\r\n".join([parts[0], b"--x--\r\n"])
    check_seven(client.post("/predict", content=single, headers=headers))


def test_base64_as_clients_write_it(client: httpx.Client, seven: bytes) -> None:
    lines = base64.encodebytes(seven).decode()
    for text in (lines, base64.urlsafe_b64encode(seven).decode().rstrip("=")):
        for start in ("", "data:image/png;base64,"):
            check_seven(client.post("/predict", json={"image": start + text}))
            answer = client.post("/predict/batch", json={"images": [start + text]})
            assert answer.json()["predictions"][0]["label"]["name"] == "7"
    response = client.post("/predict", json={"image": "data:image/png,%89PNG"})
    assert response.status_code == 400
    assert "data: URL" in response.json()["detail"]


def test_null_is_an_option_that_is_not_given(client: httpx.Client, seven: bytes) -> None:
    names = ("model", "target", "norm", "confidence", "max_draws", "timeout_ms", "scores")
    names += ("require", "attacks", "evidence", "priority")
    image = base64.b64encode(seven).decode()
    answer = check_seven(client.post("/predict", json={"image": image} | dict.fromkeys(names)))
    assert answer["confidence"] == 0.95
    response = client.post("/predict", json={"image": image, "tarrget": None})
    assert response.json()["option"] == "tarrget"


def test_equal_values_are_no_contradiction(client: httpx.Client, seven: bytes) -> None:
    image = base64.b64encode(seven).decode()
    body = {"image": image, "target": 0.5, "max_draws": 400, "evidence": True, "norm": None}
    query = "target=0.50&max_draws=400&evidence=true&target=0.50&norm=l2"
    answer = check_seven(client.post(f"/predict?{query}", json=body))
    assert answer["target"] == 0.5
    for given in ("target=0.1", "target=0.5&target=0.1", "max_draws=500"):
        response = client.post(f"/predict?{given}", json=body)
        assert response.status_code == 422
        assert response.json()["option"] == given.partition("=")[0]


def test_options_may_be_fields_of_a_form(client: httpx.Client, seven: bytes) -> None:
    """curl -F target=0.5 and pages send them so; a field that is left empty counts as not given."""
    fields = {"target": "0.5", "max_draws": " 400\n", "evidence": "true", "scores": "all"}
    fields |= {"norm": "", "confidence": ""}
    for query in ("", "?target=0.50&max_draws=400"):
        answer = check_seven(
            client.post(f"/predict{query}", data=fields, files={"image": ("7.png", seven)})
        )
        assert answer["target"] == 0.5
        assert answer["budget"]["asked"] == 400
        assert answer["evidence"]
        assert len(answer["scores"]) == 10
    files = [("image", ("7.png", seven)), ("image", ("8.png", seven))]
    batch = client.post("/predict/batch", data=fields, files=files).json()["predictions"]
    assert [one["target"] for one in batch] == [0.5, 0.5]
    stream = client.post("/predict/stream", data=fields, files=files[:1]).text
    assert '"target":0.5' in stream.split("event: answer")[1]


@pytest.mark.parametrize(
    ("query", "fields", "status", "name"),
    [
        ("target=0.1", {"target": "0.5"}, 400, "malformed-request"),
        ("", {"target": ["0.5", "0.1"]}, 400, "malformed-request"),
        ("", {"target": "-1"}, 422, "option-out-of-range"),
        ("", {"target": "0.5 m"}, 422, "option-out-of-range"),
        ("", {"target": "9" * 2000}, 400, "malformed-request"),
        ("", {"target": ["0.5"] * 400}, 400, "malformed-request"),
        ("", {"max_draws": "1e9"}, 422, "option-out-of-range"),
    ],
)
def test_fields_of_a_form_that_cannot_be_used(
    client: httpx.Client, seven: bytes, query: str, fields: Any, status: int, name: str
) -> None:
    for path in ("/predict", "/predict/batch", "/predict/stream"):
        response = client.post(f"{path}?{query}", data=fields, files={"image": seven})
        assert (response.status_code, response.json()["type"]) == (status, f"/problems/{name}")


def test_unknown_fields_are_answered_with_the_known_options(
    client: httpx.Client, seven: bytes
) -> None:
    for fields in ({"tarrget": "0.5"}, {"images": "x"}):
        response = client.post("/predict", data=fields, files={"image": seven})
        assert response.status_code == 400
        assert next(iter(fields)) in response.json()["detail"]
        for option in ("image", *Options.model_fields):
            assert option in response.json()["detail"]


def test_curl_sends_options_as_fields(service: Service, tmp_path: Path, seven: bytes) -> None:
    (tmp_path / "7.png").write_bytes(seven)
    command = ["curl", "-sS", "-F", f"image=@{tmp_path}/7.png", "-F", "target=0.5"]
    done = subprocess.run([*command, f"{service.address}/predict"], capture_output=True, check=True)
    assert json.loads(done.stdout)["robust"] is True


def test_a_target_may_be_a_whole_url(service: Service, seven: bytes) -> None:
    address = urlsplit(service.address)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=300)
    connection.request("POST", f"{service.address}/predict?target=0.5", body=seven, headers=PNG)
    assert connection.getresponse().status == 200
    connection.close()


def send(service: Service, target: str, *lines: str, version: str = "1.1", body: bytes) -> bytes:
    """Send a request exactly as given; return everything that comes back."""
    address = urlsplit(service.address)
    assert address.hostname
    assert address.port
    head = [f"POST {target} HTTP/{version}", f"Host: {address.netloc}", "Connection: close", *lines]
    with socket.create_connection((address.hostname, address.port), timeout=300) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize(
    "lines",
    [
        ["Expect: 100-continue"],
        ["Content-Type: image/jpeg; charset=binary"],
        ["Content-Type: IMAGE/PNG", "Accept: text/html"],
        ["Content-Encoding: identity"],
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_heads_that_change_nothing(
    service: Service, seven: bytes, lines: list[str], version: str
) -> None:
    lines = [*lines, f"Content-Length: {len(seven)}"]
    answer = send(service, "/%70redict?target=0.5", *lines, version=version, body=seven)
    expected = b"HTTP/1.1 100 Continue\r\n" if "Expect" in lines[0] and version == "1.1" else b""
    assert answer.startswith(expected)
    assert b"HTTP/1.1 200 OK" in answer
    assert b'"robust":true' in answer


def test_chunks_may_have_extensions_and_trailers(service: Service, seven: bytes) -> None:
    chunks = b"%x;a=b\r\n" % len(seven) + seven + b"\r\n0\r\nX-Trailer: a\r\n\r\n"
    lines = ["Transfer-Encoding: Chunked", "Trailer: X-Trailer"]
    assert b'"robust":true' in send(service, "/predict?target=0.5", *lines, body=chunks)


@pytest.mark.parametrize("path", ["//predict", "/predict/", "/./predict", "/pr%ZZ", "/%FF"])
def test_paths_that_look_alike_are_different(service: Service, path: str) -> None:
    answer = send(service, path, "Content-Length: 0", body=b"")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"type":"/problems/not-found"' in answer


def test_curl_without_a_type_is_told_what_to_add(client: httpx.Client, seven: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = client.post("/predict", content=seven, headers=headers)
    assert response.status_code == 415
    assert "--data-binary, add -H 'Content-Type: image/png'" in response.json()["detail"]
