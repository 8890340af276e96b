"""A service with keys: who gets in, who does not, and what a key may cost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.http.guards.keys import add, remove
from tests.e2e.conftest import PLAIN, ROOT, Start
from tests.e2e.test_visibility import logged

PNG = {"Content-Type": "image/png"}


class Keyed:
    """A service that asks for keys, with some of its keys."""

    def __init__(self, start: Start, path: Path) -> None:
        self.path = path
        self.predict = add(path, "predict", ["predict"], None)
        self.metrics = add(path, "metrics", ["metrics"], None)
        # A rate so slow that nothing is added while the tests run.
        self.slow = add(path, "slow", ["predict"], 1e-6)
        environment = {**PLAIN, "PIXELDP_HOST": "0.0.0.0", "PIXELDP_KEYS": str(path)}
        self.service = start(environment=environment)
        self.client = httpx.Client(base_url=self.service.address, timeout=300)


@pytest.fixture(scope="module")
def keyed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    one = Keyed(start, tmp_path_factory.mktemp("keys") / "keys.json")
    yield one
    one.client.close()
    if one.service.process.poll() is None:
        assert one.service.stop() == 0


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def check(response: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"/problems/{name}"
    return problem


def test_showing_a_picture_needs_a_key_like_predicting(keyed: Keyed, seven: bytes) -> None:
    headers = PNG | bearer(keyed.predict)
    assert keyed.client.post("/page/picture", content=seven, headers=headers).status_code == 200
    headers = PNG | bearer(keyed.metrics)
    check(keyed.client.post("/page/picture", content=seven, headers=headers), 403, "not-allowed")
    check(keyed.client.post("/page/picture", content=seven, headers=PNG), 401, "no-key")


def test_a_key_opens_what_its_scopes_allow(keyed: Keyed, seven: bytes) -> None:
    for headers in (bearer(keyed.predict), {"X-API-Key": keyed.predict}):
        response = keyed.client.post("/predict", content=seven, headers=PNG | headers)
        assert response.status_code == 200
        assert keyed.client.get("/models", headers=headers).status_code == 200
        refused = keyed.client.get("/metrics", headers=headers)
        assert check(refused, 403, "not-allowed")["scope"] == "metrics"
        assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    assert keyed.client.get("/metrics", headers=bearer(keyed.metrics)).status_code == 200
    refused = keyed.client.post("/predict", content=seven, headers=PNG | bearer(keyed.metrics))
    assert check(refused, 403, "not-allowed")["scope"] == "predict"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        bearer("pixeldp_wrong"),
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"X-API-Key": ""},
        {"X-API-Key": "pixeldp_wrong"},
    ],
)
def test_without_a_known_key_nothing_is_answered(
    keyed: Keyed, seven: bytes, headers: dict[str, str]
) -> None:
    for method, path in (
        ("POST", "/predict"),
        ("POST", "/predict/batch"),
        ("POST", "/predict/stream"),
        ("GET", "/models"),
        ("GET", "/models/mnist-cnn"),
        ("GET", "/metrics"),
    ):
        content = seven if method == "POST" else None
        response = keyed.client.request(method, path, content=content, headers=PNG | headers)
        check(response, 401, "no-key")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_open_inference_protocol_has_the_same_locks(keyed: Keyed) -> None:
    for method, path, scope in (
        ("GET", "/v2/models/mnist-cnn", "predict"),
        ("GET", "/v2/models/none/ready", "predict"),
        ("POST", "/v2/models/mnist-cnn/infer", "predict"),
        ("POST", "/v2/repository/index", "admin"),
        ("POST", "/v2/repository/models/mnist-cnn/unload", "admin"),
    ):
        response = keyed.client.request(method, path)
        assert response.status_code == 401, path
        assert response.json()["error"].startswith("no-key")
        assert response.headers["WWW-Authenticate"] == "Bearer"
        refused = keyed.client.request(method, path, headers=bearer(keyed.metrics))
        assert refused.status_code == 403, path
        assert f'scope="{scope}"' in refused.headers["WWW-Authenticate"]


def test_routes_that_the_document_locks_are_locked(keyed: Keyed) -> None:
    document = keyed.client.get("/openapi.json").json()
    closed = {
        (method, path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if operation.get("security")
    }
    assert len(closed) >= 6
    for method, path in closed:
        filled = path.replace("{", "").replace("}", "")
        assert keyed.client.request(method, filled).status_code == 401, path


def test_probes_and_pages_are_open(keyed: Keyed) -> None:
    for path in ("/health/live", "/health/ready", "/docs", "/openapi.json", "/problems/no-key"):
        assert keyed.client.get(path).status_code == 200, path


def test_a_key_without_draws_left_must_wait(keyed: Keyed, seven: bytes) -> None:
    headers = PNG | bearer(keyed.slow)
    first = keyed.client.post("/predict?max_draws=64", content=seven, headers=headers)
    assert first.status_code == 200
    for path in ("/predict", "/predict/batch", "/predict/stream"):
        refused = keyed.client.post(path, content=seven, headers=headers)
        problem = check(refused, 429, "rate-limited")
        assert int(refused.headers["Retry-After"]) == problem["retry_after_s"] > 1000
    other = keyed.client.post("/predict", content=seven, headers=PNG | bearer(keyed.predict))
    assert other.status_code == 200


def test_the_pictures_of_a_batch_are_charged_one_by_one(keyed: Keyed, seven: bytes) -> None:
    key = add(keyed.path, "batch", ["predict"], 1e-6)
    files = [("image", ("a.png", seven, "image/png"))] * 3
    response = keyed.client.post("/predict/batch", files=files, headers=bearer(key))
    first, second, third = response.json()["predictions"]
    assert first["label"]["name"] == "7"
    assert second["error"]["type"] == third["error"]["type"] == "/problems/rate-limited"


def test_even_a_refused_picture_costs_something(keyed: Keyed) -> None:
    key = add(keyed.path, "careless", ["predict"], 1e-6)
    headers = PNG | bearer(key)
    check(keyed.client.post("/predict", content=b"no", headers=headers), 400, "not-a-picture")
    check(keyed.client.post("/predict", content=b"no", headers=headers), 429, "rate-limited")


def test_keys_come_and_go_without_a_restart(keyed: Keyed) -> None:
    key = add(keyed.path, "guest", ["predict"], None)
    assert keyed.client.get("/models", headers=bearer(key)).status_code == 200
    remove(keyed.path, "guest")
    check(keyed.client.get("/models", headers=bearer(key)), 401, "no-key")


def test_refusals_are_counted(keyed: Keyed) -> None:
    check(keyed.client.get("/models"), 401, "no-key")
    text = keyed.client.get("/metrics", headers=bearer(keyed.metrics)).text
    assert 'pixeldp_requests_total{outcome="no-key",route="/models",status="401"}' in text


def numbers(keyed: Keyed) -> dict[str, dict[str, float]]:
    """Return the metrics of each key, by name and by metric, with requests by status."""
    found: dict[str, dict[str, float]] = {}
    text = keyed.client.get("/metrics", headers=bearer(keyed.metrics)).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "key" in sample.labels:
                name = sample.name.removeprefix("pixeldp_key_") + sample.labels.get("status", "")
                found.setdefault(sample.labels["key"], {})[name] = sample.value
    return found


def test_metrics_and_log_say_which_key_uses_what(keyed: Keyed, seven: bytes) -> None:
    before = numbers(keyed)
    assert before["predict"].keys() >= {"predictions_total", "draws_total", "charged_draws_total"}
    headers = PNG | bearer(keyed.predict) | {"X-Request-Id": "whose"}
    answered = keyed.client.post("/predict?max_draws=500", content=seven, headers=headers)
    refused = keyed.client.post("/predict", content=b"no picture", headers=headers)
    assert refused.status_code == 400
    after = numbers(keyed)
    used = {
        name: value - before["predict"].get(name, 0) for name, value in after["predict"].items()
    }
    draws = answered.json()["draws"]
    assert (used["requests_total200"], used["requests_total400"]) == (1, 1)
    assert (used["predictions_total"], used["draws_total"]) == (1, draws)
    assert used["charged_draws_total"] > draws + 64, "a refused picture costs something, too"
    assert used["received_bytes_total"] == len(seven) + len(b"no picture")
    assert before["slow"]["draws_total"] == after["slow"]["draws_total"]
    line = logged(keyed.service, request_id="whose", status=200)
    assert (line["key"], line["draws"]) == ("predict", draws)
    assert logged(keyed.service, request_id="whose", status=400)["answers"] == 0


def test_strangers_and_removed_keys_have_no_metrics(keyed: Keyed, seven: bytes) -> None:
    secret = add(keyed.path, "brief", ["predict"], None)
    assert numbers(keyed)["brief"]["draws_total"] == 0, "from its creation"
    remove(keyed.path, "brief")
    before = numbers(keyed)
    for key in (secret, "pixeldp_" + 43 * "A", "strange"):
        answered = keyed.client.post("/predict", content=seven, headers=PNG | bearer(key))
        assert answered.status_code == 401
    after = numbers(keyed)
    assert before.keys() == after.keys()
    assert before["brief"] == after["brief"]


def test_no_log_line_has_a_key(keyed: Keyed, seven: bytes) -> None:
    """This comes last, as it stops the service. The log then has all that the tests above sent."""
    wrong = "pixeldp_" + "w" * 43
    for key in (keyed.predict, wrong):
        headers = PNG | bearer(key) | {"X-Request-Id": key}
        keyed.client.post(f"/predict?model={key}", content=seven, headers=headers)
        keyed.client.get(f"/{key}?key={key}", headers={"Cookie": key, "User-Agent": key})
    assert keyed.service.stop() == 0
    log = keyed.service.log
    assert log.count('"event": "request"') > 10
    for key in (keyed.predict, keyed.metrics, keyed.slow, wrong):
        assert key not in log
    assert "Bearer" not in log


def refusal(*arguments: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-P", "-m", "service.cli.main", "serve", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=300,
    )
    assert run.returncode == 2, run.stderr
    [line] = run.stderr.splitlines()
    return line


def test_without_keys_other_machines_are_not_served() -> None:
    line = refusal("--host", "0.0.0.0")
    assert "pixeldp keys add" in line
    assert "PIXELDP_ALLOW_KEYLESS=true" in line


def test_it_does_not_start_with_unreadable_keys(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("{")
    assert "is not a file of keys" in refusal(PIXELDP_KEYS=str(broken))
