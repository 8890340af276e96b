"""Real nginx with the shipped configuration, between a client, the service and a real fallback."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.deploy.conftest import Operated, free_port
from tests.deploy.proxy import FALLBACK_STATUS, Fallback, Proxy
from tests.deploy.tools import ROOT

pytestmark = pytest.mark.slow

PNG = {"Content-Type": "image/png"}
# No answer of the shipped model reaches it, as the first look already shows.
NEVER = {"target": 30, "require": "robust"}


@pytest.fixture
def fallback() -> Iterator[Fallback]:
    running = Fallback()
    yield running
    running.stop()


@pytest.fixture
def proxy(operated: Operated, fallback: Fallback, tmp_path: Path) -> Iterator[Proxy]:
    running = Proxy(tmp_path, operated.authority, f"127.0.0.1:{fallback.port}")
    running.client.headers["Authorization"] = f"Bearer {operated.client_key}"
    yield running
    running.stop()


@pytest.fixture(scope="module")
def seven() -> bytes:
    return (ROOT / "examples" / "7.png").read_bytes()


def test_a_robust_answer_goes_to_the_client(proxy: Proxy, fallback: Fallback, seven: bytes) -> None:
    options = {"target": 0.3, "require": "robust"}
    answer = proxy.client.post("/predict", params=options, content=seven, headers=PNG)
    assert answer.status_code == 200
    assert answer.json()["robust"] is True
    assert answer.headers["Certified-Robust"] == "true"
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "Answered-By" not in answer.headers
    assert fallback.asked == []


def test_a_non_robust_answer_goes_to_the_fallback(
    proxy: Proxy, fallback: Fallback, seven: bytes
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    given = {
        **PNG,
        "X-Request-Id": "picture-17",
        "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
    }
    answer = proxy.client.post("/predict", params=NEVER, content=seven, headers=given)
    assert answer.status_code == FALLBACK_STATUS
    assert answer.json() == {"label": "ask a person"}
    assert answer.headers["Answered-By"] == "fallback"
    assert answer.headers.get_list("X-Request-Id") == ["picture-17"]
    # Whatever the fallback claims, nothing in its answer is certified.
    assert answer.headers.get_list("Certified-Robust") == ["false"]
    assert "Certified-Size" not in answer.headers
    assert "Certified-Set" not in answer.headers

    [asked] = fallback.asked
    assert asked.path == "/predict?target=30&require=robust"
    assert asked.body == seven
    assert asked.headers["content-type"] == "image/png"
    assert asked.headers["x-request-id"] == "picture-17"
    assert trace in asked.headers["traceparent"]
    assert asked.headers["certified-robust"] == "false"
    size, norm, _ = asked.headers["certified-size"].split("; ")
    assert 0 <= float(size) < 30
    assert norm == "norm=l2"
    assert asked.headers["certified-set"].endswith("; allowed=unknown")
    assert "authorization" not in asked.headers

    line = json.loads(proxy.logged())
    assert line["id"] == "picture-17"
    assert line["upstream"] == f"406 : {FALLBACK_STATUS}"


def test_a_set_of_allowed_labels_is_answered_and_others_go_to_the_fallback(
    proxy: Proxy, fallback: Fallback, seven: bytes
) -> None:
    asked = {"target": 0.3, "require": "robust"}
    for allow, status in (("1,7", 200), ("1,2", FALLBACK_STATUS)):
        answer = proxy.client.post(
            "/predict", params={**asked, "allow": allow}, content=seven, headers=PNG
        )
        assert answer.status_code == status
        assert answer.headers.get("Certified-Set") == ("7; allowed=true" if status == 200 else None)
    [sent] = fallback.asked
    assert sent.headers["certified-set"] == "7; allowed=false"


def test_a_picture_too_large_for_nginxs_memory_reaches_the_fallback_whole(
    proxy: Proxy, fallback: Fallback
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 700 * 700, np.uint8).tobytes()
    picture = b"P5 700 700 255\n" + noise
    headers = {"Content-Type": "image/x-portable-graymap"}
    answer = proxy.client.post("/predict", params=NEVER, content=picture, headers=headers)
    assert answer.status_code == FALLBACK_STATUS
    [asked] = fallback.asked
    assert asked.body == picture


def test_without_require_robust_every_answer_reaches_the_client(
    proxy: Proxy, fallback: Fallback, seven: bytes
) -> None:
    answer = proxy.client.post("/predict", params={"target": 30}, content=seven, headers=PNG)
    assert answer.status_code == 200
    assert answer.json()["robust"] is False
    stream = proxy.client.post("/predict/stream", content=seven, headers=PNG)
    assert "event: answer" in stream.text
    assert fallback.asked == []


def test_refusals_of_the_service_pass_unchanged(
    proxy: Proxy, fallback: Fallback, seven: bytes
) -> None:
    del proxy.client.headers["Authorization"]
    refused = proxy.client.post("/predict", params=NEVER, content=seven, headers=PNG)
    assert refused.status_code == 401
    assert refused.json()["type"] == "/problems/no-key"
    assert fallback.asked == []


def test_what_is_not_for_the_outside(proxy: Proxy, seven: bytes) -> None:
    assert proxy.client.get("/metrics").status_code == 404
    for path in ("/v2/repository/index", "/v2/repository/models/mnist-cnn/unload"):
        refused = proxy.client.post(path)
        check(refused, 404, "not-found")
    for path in ("/metrics%0a", "/metrics%0d", "/metrics/", "/%6detrics", "/metrics%00"):
        assert proxy.client.get(path).status_code in (400, 404), path
    for path in ("/v2/repository%0a/index", "/v2//repository/index", "/v2%2frepository/index"):
        assert proxy.client.post(path).status_code == 404, path
    assert proxy.client.get("/health/ready%0a").status_code == 404
    assert proxy.client.get("/health/ready").status_code == 200
    plain = httpx.post(f"http://127.0.0.1:{proxy.plain}/predict?target=1", content=seven)
    assert plain.status_code == 308
    assert plain.headers["Location"] == "https://127.0.0.1/predict?target=1"
    # Above the service's limit but not nginx's: the service's own answer explains itself.
    large = proxy.client.post("/predict", content=bytes(20 * 2**20 + 1), headers=PNG)
    assert large.status_code == 413
    assert large.json()["type"] == "/problems/too-many-bytes"
    for path in ("/predict", "/predict/batch"):
        check(proxy.client.post(path, content=bytes(22 * 2**20)), 413, "too-many-bytes")


def check(answer: httpx.Response, status: int, name: str) -> None:
    """Nginx's own errors are problem documents, like those of the service."""
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == f"/problems/{name}"
    assert answer.json()["status"] == status


def test_requests_that_nginx_cannot_read_get_a_problem_document(proxy: Proxy) -> None:
    check(proxy.client.get("/" + "x" * 20_000), 400, "malformed-request")
    check(proxy.client.get("/", headers={"X": "x" * 70_000}), 400, "malformed-request")
    plain = httpx.get(f"http://127.0.0.1:{proxy.tls}/")
    check(plain, 400, "malformed-request")


def test_a_refusal_for_its_size_is_the_services_own(proxy: Proxy) -> None:
    many = b"P5 20000 20000 255\n"
    answer = proxy.client.post("/predict", params=NEVER, content=many, headers=PNG)
    check(answer, 413, "too-many-pixels")
    assert answer.json()["limit_pixels"] > 0


def test_ids_that_the_service_would_not_accept_are_replaced(proxy: Proxy) -> None:
    given = {"X-Request-Id": "a b"}
    assert len(proxy.client.get("/health/live", headers=given).headers["X-Request-Id"]) == 32


def test_without_its_fallback_a_non_robust_answer_is_an_error_that_says_so(
    operated: Operated, tmp_path: Path, seven: bytes
) -> None:
    proxy = Proxy(tmp_path, operated.authority, f"127.0.0.1:{free_port()}")
    try:
        headers = {**PNG, "Authorization": f"Bearer {operated.client_key}"}
        answer = proxy.client.post("/predict", params=NEVER, content=seven, headers=headers)
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["title"] == "No robust answer, and no fallback"
        assert answer.headers["Certified-Robust"] == "false"
        assert float(answer.headers["Certified-Size"].split(";")[0]) < 30
        assert "allowed=" in answer.headers["Certified-Set"]
    finally:
        proxy.stop()


def test_without_the_service_the_fallback_does_not_stand_in(
    fallback: Fallback, tmp_path: Path, seven: bytes
) -> None:
    changes = {"rate=100r/s": "rate=1r/m", "burst=200": "burst=1"}
    down = f"127.0.0.1:{free_port()}"
    proxy = Proxy(tmp_path, down, f"127.0.0.1:{fallback.port}", changes)
    try:
        answers = [
            proxy.client.post("/predict", params=NEVER, content=seven, headers=PNG)
            for _ in range(3)
        ]
        # The third is one more than this nginx allows a minute.
        assert [answer.status_code for answer in answers] == [503, 503, 429]
        names = [answer.json()["type"] for answer in answers]
        assert names == ["/problems/not-ready"] * 2 + ["/problems/rate-limited"]
        for answer in answers:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.headers["Retry-After"] == "1"
            assert answer.json()["status"] == answer.status_code
        assert fallback.asked == []
    finally:
        proxy.stop()
