"""What a service shows: metrics, request ids, traces, headers for browsers."""

import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import PLAIN, Service, Start

PNG = {"Content-Type": "image/png"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def own(start: Start) -> Iterator[Service]:
    environment = {
        **PLAIN,
        "PIXELDP_CORS_ORIGINS": '["https://shop.example"]',
        "PIXELDP_HOST": "0.0.0.0",
        "PIXELDP_ALLOW_KEYLESS": "true",
    }
    running = start(environment=environment)
    yield running
    assert running.stop() == 0, running.log


def samples(running: Service) -> dict[str, float]:
    text = httpx.get(f"{running.address}/metrics").text
    return {
        f"{sample.name}{dict(sorted(sample.labels.items()))}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_outcome_is_counted(own: Service, seven: bytes) -> None:
    url = f"{own.address}/predict"
    for query, content in (
        ("?target=0.5", seven),
        ("?target=50", seven),
        ("", seven),
        ("?target=50&require=robust", seven),
        ("?target=0", seven),
        ("", b"no picture"),
    ):
        httpx.post(url + query, content=content, headers=PNG, timeout=300)
    counted = samples(own)

    def count(status: int, outcome: str) -> float:
        labels = {"outcome": outcome, "route": "/predict", "status": str(status)}
        return counted[f"pixeldp_requests_total{labels}"]

    assert count(200, "robust") == 1
    assert count(200, "not-robust") == 1
    assert count(200, "certified") == 1
    assert count(406, "not-robust") == 1
    assert count(422, "option-out-of-range") == 1
    assert count(400, "not-a-picture") == 1
    refused = {"reason": "not-a-picture"}
    assert counted[f"pixeldp_predictions_refused_total{refused}"] == 1
    for stage in ("decode", "queue", "compute", "total"):
        assert counted[f"pixeldp_stage_duration_seconds_count{ {'stage': stage} }"] == 4


def test_workers_report_what_they_do(own: Service, seven: bytes) -> None:
    httpx.post(f"{own.address}/predict?max_draws=2000", content=seven, headers=PNG, timeout=300)
    worker = {"worker": "worker0"}
    end = time.monotonic() + 300  # an idle worker reports after it has answered
    counted = samples(own)
    while counted[f"pixeldp_draws_total{worker}"] < 2000 and time.monotonic() < end:
        counted = samples(own)
    draws, slots = counted[f"pixeldp_draws_total{worker}"], counted[f"pixeldp_slots_total{worker}"]
    assert 2000 <= draws <= slots
    passes = counted[f"pixeldp_passes_total{worker}"]
    assert counted[f"pixeldp_worker_passes_since_start{worker}"] == passes > 0
    used = counted[f"pixeldp_device_memory_used_bytes{worker}"]
    assert 1e8 < used < counted[f"pixeldp_device_memory_bytes{worker}"]
    assert counted["pixeldp_ready{}"] == 1
    assert counted[f"pixeldp_worker_restarts_total{worker}"] == 0


def test_strangers_cannot_create_time_series(own: Service) -> None:
    def ask(client: httpx.Client, number: int) -> None:
        for path in ("nothing", "models", "problems", "v2/nothing", "page", "v2/models"):
            client.get(f"/{path}/{number}")
            client.request(f"METHOD{number}", f"/{path}/{number}")
        headers = {"X-Request-Id": f"id-{number}", "Host": f"host{number}"}
        client.get(f"/health/live?q={number}", headers=headers)

    with httpx.Client(base_url=own.address) as client:
        ask(client, 0)
        before = set(samples(own))
        for number in range(1, 20):
            ask(client, number)
        assert set(samples(own)) == before


def test_a_trace_is_continued_or_started(own: Service) -> None:
    url = f"{own.address}/models"
    for flags, sampled in (("01", "01"), ("00", "00"), ("ff", "01")):
        given = {"traceparent": f"00-{TRACE}-{SPAN}-{flags}"}
        answered = httpx.get(url, headers=given).headers["traceparent"]
        assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-{sampled}", answered)
        assert SPAN not in answered
    seen = set()
    for wrong in ("", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "x" * 55):
        answered = httpx.get(url, headers={"traceparent": wrong}).headers["traceparent"]
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", answered)
        assert TRACE not in answered
        seen.add(answered)
    assert len(seen) == 4


def test_each_request_is_one_line_of_json_with_its_ids(own: Service, seven: bytes) -> None:
    headers = PNG | {"X-Request-Id": "find-me", "traceparent": f"00-{TRACE}-{SPAN}-01"}
    answered = httpx.post(
        f"{own.address}/predict?target=0.5", content=seven, headers=headers, timeout=300
    )
    httpx.get(f"{own.address}/health/live", headers={"X-Request-Id": "a-probe"})
    httpx.get(f"{own.address}/a%0a%1b[31mpath", headers={"X-Request-Id": "strange"})
    end = time.monotonic() + 300  # lines come through a pipe, after the answers
    while "strange" not in own.log and time.monotonic() < end:
        time.sleep(0.01)
    logged = [json.loads(line) for line in own.log.splitlines() if line.startswith("{")]
    [line] = [line for line in logged if line.get("request_id") == "find-me"]
    assert (line["event"], line["route"], line["status"]) == ("request", "/predict", 200)
    assert (line["outcome"], line["trace_id"]) == ("robust", TRACE)
    assert line["milliseconds"] > 0
    assert (line["model"], line["answers"]) == ("mnist-cnn:1", 1)
    assert line["draws"] == answered.json()["draws"]
    assert (line["received_bytes"], line["sent_bytes"]) == (len(seven), len(answered.content))
    assert "key" not in line, "this service asks for no keys"
    assert not [line for line in logged if line.get("request_id") == "a-probe"]
    [line] = [line for line in logged if line.get("request_id") == "strange"]
    assert (line["route"], line["outcome"]) == ("other", "not-found")
    assert "model" not in line


def test_the_log_line_of_a_batch_has_sums(own: Service, seven: bytes) -> None:
    files = [("image", ("7.png", seven, "image/png"))] * 2 + [("image", ("x", b"x", "image/png"))]
    headers = {"X-Request-Id": "several"}
    url = f"{own.address}/predict/batch"
    answered = httpx.post(url, files=files, headers=headers, timeout=300).json()["predictions"]
    line = logged(own, request_id="several")
    assert (line["model"], line["answers"]) == ("mnist-cnn:1", 2)
    assert line["draws"] == sum(one["draws"] for one in answered if "draws" in one)


def test_metrics_name_routes_in_full(own: Service) -> None:
    """Rules and dashboards select routes by these names, including those of ``/v2``."""
    asked = {
        "/v2": ("GET", "/v2"),
        "/v2/models/{name}": ("GET", "/v2/models/mnist-cnn"),
        "/v2/models/{name}/versions/{version}/infer": ("POST", "/v2/models/x/versions/1/infer"),
        "/v2/repository/index": ("POST", "/v2/repository/index"),
        "/v2/repository/models/{name}/load": ("POST", "/v2/repository/models/x/load"),
        "/v2/{path:path}": ("GET", "/v2/nothing/of/this"),
        "/problems/{name}": ("GET", "/problems/no-key"),
    }
    for method, path in asked.values():
        httpx.request(method, own.address + path)
    text = httpx.get(f"{own.address}/metrics").text
    routes = set(re.findall(r'pixeldp_requests_total{[^}]*route="([^"]*)"', text))
    assert set(asked) <= routes


def logged(running: Service, **members: str | int) -> dict[str, Any]:
    """Wait for a log line with these members; return the first."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for line in running.log.splitlines():
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                if members.items() <= found.items():
                    return found
        time.sleep(0.01)
    raise AssertionError(f"no line has {members}: {running.log}")


@pytest.mark.slow
def test_a_stop_is_logged_step_by_step() -> None:
    environment = {**PLAIN, "PIXELDP_STOP_DELAY_SECONDS": "0.5"}
    running = Service(environment=environment).wait_ready()
    host, port = running.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx"
        client.sendall(head.encode())
        running.process.terminate()
        assert logged(running, event="asked to stop")["signal"] == "SIGTERM"
        assert logged(running, event="requests are still taken")["seconds"] == 0.5
        assert logged(running, event="drain begins")["requests"] == 1
        client.sendall(b"y")
        assert client.recv(2**16).startswith(b"HTTP/1.1 4")
    assert running.stop() == 0
    assert logged(running, event="drain ended")["pictures"] == 0
    assert logged(running, event="stopped")["status"] == 0


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/health/live", "/metrics", "/predict", "/nothing", "/problems/no-key"]
)
def test_headers_tell_browsers_what_to_refuse(own: Service, path: str) -> None:
    headers = httpx.get(own.address + path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers


def test_without_keys_other_sites_cannot_use_their_visitors_browsers(
    own: Service, seven: bytes
) -> None:
    """The service is open to all who reach it, but other sites must not send browsers there."""
    url = f"{own.address}/predict?target=0.5"

    def ask(origin: str, site: str) -> httpx.Response:
        headers = PNG | {"Sec-Fetch-Site": site, "Origin": origin}
        return httpx.post(url, content=seven, headers=headers, timeout=300)

    for site in ("cross-site", "same-site"):
        refused = ask("https://evil.example", site)
        assert (refused.status_code, refused.json()["type"]) == (403, "/problems/not-allowed")
    assert ask(own.address, "same-origin").status_code == 200
    assert ask("https://shop.example", "cross-site").status_code == 200


def test_other_sites_are_let_in_only_by_name(own: Service, service: Service) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    let_in = httpx.options(f"{own.address}/predict", headers=asked)
    assert let_in.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    other = asked | {"Origin": "https://evil.example"}
    assert (
        "Access-Control-Allow-Origin"
        not in httpx.options(f"{own.address}/predict", headers=other).headers
    )
    # By default none is.
    refused = httpx.options(f"{service.address}/predict", headers=asked)
    assert refused.status_code == 405
    assert "Access-Control-Allow-Origin" not in refused.headers
