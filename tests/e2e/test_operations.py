"""What operators see: health, metrics, documentation, starts, stops, and dying processes."""

import asyncio
import os
import re
import socket
import time
from urllib.parse import urljoin

import httpx
import pytest

from tests.chaos.processes import title, workers
from tests.e2e.conftest import PLAIN, Service, Start

PNG = {"Content-Type": "image/png"}


def test_health(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"live": True}
    assert client.get("/health/ready").json() == {"ready": True}


def test_processes_name_themselves(service: Service) -> None:
    assert title(service.process.pid) == "pixeldp-front"
    assert sorted(map(title, workers(service.process.pid)))[0] == "pixeldp-worker0"


def test_workers_have_lower_priority_than_the_front(service: Service) -> None:
    front = os.getpriority(os.PRIO_PROCESS, service.process.pid)
    pids = workers(service.process.pid)
    while not all(os.getpriority(os.PRIO_PROCESS, pid) > front for pid in pids):
        time.sleep(0.1)  # each once it is loaded; the service is ready with the first


def test_the_models_are_listed(client: httpx.Client) -> None:
    [model] = client.get("/models").json()["models"]
    assert model["name"] == "mnist-cnn"
    assert model["input_shape"] == [1, 28, 28]
    assert model["labels"] == list("0123456789")
    assert model["noise"]["mechanism"] == "gaussian"
    assert model["digest"].startswith("sha256:")
    assert "pixeldp train" in model["card"]
    assert model["evaluation"]["accuracy"] > 0.9
    assert sum(one["workers"] for one in model["calibrations"]) >= 1
    assert all(one["draws_per_second"] > 0 for one in model["calibrations"])
    assert client.get("/models/mnist-cnn").json() == model
    assert client.get("/models/mnist-cnn:1").json() == model


def test_metrics_count_what_happens(client: httpx.Client, seven: bytes) -> None:
    def value(line: str) -> float:
        found = re.search(rf"^{re.escape(line)} ([0-9.e+]+)$", client.get("/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    answered = 'pixeldp_requests_total{outcome="robust",route="/predict",status="200"}'
    about = 'model="mnist-cnn",robust="true",stopped="target_certified"'
    robust = f'pixeldp_predictions_total{{{about},threat="norm"}}'
    refused = 'pixeldp_requests_total{outcome="not-a-picture",route="/predict",status="400"}'
    before = value(answered), value(robust), value(refused)
    client.post("/predict?target=0.5", content=seven, headers=PNG)
    client.post("/predict?target=0.5", content=b"", headers=PNG)
    assert value(answered) == before[0] + 1
    assert value(robust) == before[1] + 1
    assert value(refused) == before[2] + 1
    assert value('pixeldp_worker_up{worker="worker0"}') == 1


def test_robust_answers_are_counted_by_threat(client: httpx.Client, seven: bytes) -> None:
    def counted(threat: str) -> float:
        series = rf'^pixeldp_predictions_total\{{model="mnist-cnn",.*,threat="{threat}"\}} (.+)$'
        return sum(map(float, re.findall(series, client.get("/metrics").text, re.M)))

    sizes, stickers = counted("norm"), counted("sticker")
    asked = {"threat": "sticker", "target": "2"}
    assert client.post("/predict", content=seven, headers=PNG, params=asked).status_code == 200
    assert (counted("norm"), counted("sticker")) == (sizes, stickers + 1)


def test_the_documentation_needs_no_other_host(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    links = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert links
    for link in links:
        assert urljoin(str(page.url), link).startswith(str(client.base_url)), link
        assert client.get(link).status_code == 200
    schema = client.get("/openapi.json").json()
    assert "/predict" in schema["paths"]
    assert {"200", "406", "422", "503", "504"} <= set(
        schema["paths"]["/predict"]["post"]["responses"]
    )


def test_requests_carry_ids_and_traces(client: httpx.Client) -> None:
    given = {
        "X-Request-Id": "abc-1",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    headers = client.get("/health/live", headers=given).headers
    assert headers["X-Request-Id"] == "abc-1"
    trace, span = headers["traceparent"].split("-")[1:3]
    assert trace == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert span != "00f067aa0ba902b7"
    headers = client.get(
        "/health/live", headers={"X-Request-Id": "a b\tc", "traceparent": "x"}
    ).headers
    assert re.fullmatch(r"[0-9a-f]{16}", headers["X-Request-Id"])
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", headers["traceparent"])


def test_a_port_in_use_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{port}"):
            Service("--port", str(port))


def granted_ratio(metrics: str) -> float:
    return float(re.findall(r"^pixeldp_budget_granted_ratio (.*)$", metrics, re.M)[0])


@pytest.mark.slow
def test_under_overload_budgets_shrink_and_then_pictures_are_refused(
    start: Start, seven: bytes
) -> None:
    """Certificates stay true and only get smaller; probes are answered throughout."""
    environment = {
        "PIXELDP_QUEUE": "64",
        **PLAIN,
        "PIXELDP_CORS_ORIGINS": '["https://shop.example"]',
    }
    running = start(environment=environment)

    async def flood() -> tuple[list[httpx.Response], list[int], float]:
        limits = httpx.Limits(max_connections=None)
        headers = PNG | {"Origin": "https://shop.example"}
        options = {"max_draws": 2000, "confidence": 0.999, "timeout_ms": 600_000}
        async with httpx.AsyncClient(
            base_url=running.address, timeout=700, limits=limits
        ) as client:
            asked = [
                asyncio.create_task(
                    client.post(
                        "/predict",
                        content=seven,
                        headers=headers | {"X-Forwarded-Prefix": f"/proxy{number % 2}"},
                        params=options,
                    )
                )
                for number in range(120)
            ]
            probes, ratio = [], 1.0
            while ratio == 1 and not all(task.done() for task in asked):
                probes.append((await client.get("/health/ready")).status_code)
                ratio = granted_ratio((await client.get("/metrics")).text)
            return await asyncio.gather(*asked), probes, ratio

    try:
        responses, probes, ratio = asyncio.run(flood())
        assert set(probes) == {200}
        answered = [response.json() for response in responses if response.status_code == 200]
        refused = [response for response in responses if response.status_code != 200]
        assert {response.status_code for response in refused} == {503}
        # Each link has the prefix of its own request.
        for number, response in enumerate(responses):
            kind = f"/proxy{number % 2}/problems/overloaded"
            assert response.status_code == 200 or response.json()["type"] == kind
        assert all(int(response.headers["Retry-After"]) >= 1 for response in refused)
        # Pages of an allowed site can read them; otherwise they would only see that something
        # failed.
        assert all("Access-Control-Allow-Origin" in response.headers for response in refused)
        assert all(
            "Retry-After" in response.headers["Access-Control-Expose-Headers"]
            for response in refused
        )
        granted = {answer["budget"]["granted"] for answer in answered}
        assert min(granted) < 2000
        assert {answer["budget"]["asked"] for answer in answered} == {2000}
        assert all(answer["draws"] <= answer["budget"]["granted"] for answer in answered)
        assert all(answer["certified_size"] > 0 for answer in answered)
        assert ratio < 1
        assert granted_ratio(httpx.get(f"{running.address}/metrics").text) == 1
    finally:
        assert running.stop() == 0
