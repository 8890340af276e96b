"""Every file of the corpus, by every route: answered, or refused for the right reason."""

import base64
import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

from service.http.problems import PROBLEMS
from tests.e2e.hostile.conftest import PNG, Watched
from tests.e2e.hostile.corpus import Hostile, corpus

pytestmark = pytest.mark.slow

CORPUS = corpus()
QUERY = {"max_draws": "64"}


def frame(contents: list[bytes]) -> tuple[bytes, dict[str, str]]:
    """A request of the Open Inference Protocol with these files as binary BYTES."""
    blob = b"".join(struct.pack("<I", len(content)) + content for content in contents)
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "IMAGE_BYTES",
                    "datatype": "BYTES",
                    "shape": [len(contents), 1],
                    "parameters": {"binary_data_size": len(blob)},
                }
            ],
            "parameters": {"max_draws": 64},
        }
    ).encode()
    return header + blob, {"Inference-Header-Content-Length": str(len(header))}


def check(response: httpx.Response, problem: str | None) -> None:
    if problem is None:
        assert response.status_code == 200, response.text
        return
    assert response.status_code == PROBLEMS[problem].status, response.text
    assert response.json()["type"] == f"/problems/{problem}"


@pytest.mark.parametrize("name", CORPUS)
def test_each_file_by_every_route(watched: Watched, name: str) -> None:
    content, problem = CORPUS[name]
    encoded = base64.b64encode(content).decode()
    with httpx.Client(base_url=watched.address, timeout=300, params=QUERY) as client:
        check(client.post("/predict", content=content, headers=PNG), problem)
        check(client.post("/predict", files={"image": ("a", content)}), problem)
        check(client.post("/predict", json={"image": encoded}), problem)
        stream = client.post("/predict/stream", content=content, headers=PNG)
        check(stream, problem)
        if problem is None:
            assert "event: answer" in stream.text
        batch = client.post("/predict/batch", json={"images": [encoded]})
        [only] = batch.json()["predictions"]
        assert (only.get("error") or {}).get("type") == (problem and f"/problems/{problem}")
        body, headers = frame([content])
        url = f"{watched.address}/v2/models/mnist-cnn/infer"
        inferred = client.post(url, content=body, headers=headers)
    if problem is None:
        assert inferred.status_code == 200, inferred.text
    else:
        assert inferred.status_code == 400
        assert inferred.json()["error"].startswith(problem)


def test_all_files_at_once_beside_a_sound_one(watched: Watched, seven: bytes) -> None:
    files = [("image", ("a", hostile.content)) for hostile in CORPUS.values()]
    files.append(("image", ("seven.png", seven)))
    response = httpx.post(
        f"{watched.address}/predict/batch", files=files, params=QUERY, timeout=300
    )
    *others, last = response.json()["predictions"]
    assert last["label"]["name"] == "7"
    for hostile, answer in zip(CORPUS.values(), others, strict=True):
        assert ("error" in answer) == (hostile.problem is not None)


def test_no_address_is_ever_fetched(watched: Watched) -> None:
    asked: list[str] = []

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Trap) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/x.png"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{address}"/></svg>'
        url = f"{watched.address}/predict"
        for content in (address, svg, f"%PDF-1.7 /URI ({address})"):
            httpx.post(url, content=content.encode(), headers=PNG)
        for member in ("image", "url", "image_url"):
            httpx.post(url, json={member: address})
        httpx.post(url, files={"image": ("a", address.encode())})
        httpx.get(f"{watched.address}/models/{address}")
        server.shutdown()
        thread.join()
    assert asked == []


TENSORS: dict[str, dict[str, Any]] = {
    "nan in json": {"datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [float("nan")] * 784},
    "infinity": {"datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [float("inf")] * 784},
    "floats": {"datatype": "FP32", "shape": [1, 28, 28, 1], "data": [0.5] * 784},
    "too large": {"datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [256] * 784},
    "negative": {"datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [-1] * 784},
    "booleans": {"datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [True] * 784},
    "too few": {"datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [0] * 783},
    "negative shape": {"datatype": "UINT8", "shape": [-1, 28, 28, 1], "data": []},
    "huge shape": {"datatype": "UINT8", "shape": [2**31, 28, 28, 1], "data": []},
    "endless shape": {"datatype": "UINT8", "shape": [10**400], "data": []},
    "no picture": {"datatype": "UINT8", "shape": [0, 28, 28, 1], "data": []},
    "ragged": {"datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [[[0]], 1]},
    "deep": {"datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [[[[[[[[[0]]]]]]]]]},
}


@pytest.mark.parametrize("name", TENSORS)
def test_malformed_tensors(watched: Watched, name: str) -> None:
    content = json.dumps({"inputs": [{"name": "IMAGE", **TENSORS[name]}]})
    url = f"{watched.address}/v2/models/mnist-cnn/infer"
    response = httpx.post(url, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json().keys() == {"error"}


def test_frames_that_state_wrong_lengths(watched: Watched, seven: bytes) -> None:
    body, headers = frame([seven])
    url = f"{watched.address}/v2/models/mnist-cnn/infer"
    name = "Inference-Header-Content-Length"
    right = int(headers[name])
    assert httpx.post(url, content=body, headers=headers, timeout=300).status_code == 200
    for length in ("-1", "0", "1", str(right - 1), str(right + 1), str(len(body) + 1), "9" * 20):
        response = httpx.post(url, content=body, headers={name: length})
        assert response.status_code == 400, (length, response.text)
    for wrong in ("x", "1e3", "٣", "+5", "0x10", ""):
        response = httpx.post(url, content=body, headers={name: wrong.encode()})
        assert response.status_code == 400, (wrong, response.text)
    for cut in (body[:-1], body + b"\0", body[:right], body[: right + 3]):
        assert httpx.post(url, content=cut, headers=headers).status_code == 400
    for stated in (0, len(seven) - 1, len(seven) + 1, 2**32 - 1):
        wrong_blob = body[:right] + struct.pack("<I", stated) + body[right + 4 :]
        assert httpx.post(url, content=wrong_blob, headers=headers).status_code == 400


def test_the_corpus_has_what_it_should() -> None:
    assert all(isinstance(one, Hostile) for one in CORPUS.values())
    assert {one.problem for one in CORPUS.values()} == {
        None,
        "not-a-picture",
        "too-many-pixels",
        "cannot-certify-preprocessing",
    }
