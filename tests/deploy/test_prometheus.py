"""Real Prometheus with the shipped configuration scrapes a real service and evaluates the rules."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.http.problems import PROBLEMS
from tests.deploy import promql
from tests.deploy.conftest import Operated, free_port, replaced, start, stop
from tests.deploy.tools import ROOT, tool

pytestmark = pytest.mark.slow

FOLDER = ROOT / "deploy" / "prometheus"
ALERTS = Path(__file__).parent / "alerts.yml"
PNG = {"Content-Type": "image/png"}
WAIT_SECONDS = 300


def promtool(*arguments: str | Path) -> str:
    command = [str(tool("promtool")), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_promtool_finds_nothing_wrong() -> None:
    promtool("check", "rules", "--lint-fatal", FOLDER / "rules.yml")
    promtool("check", "config", "--syntax-only", FOLDER / "prometheus.yml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", ALERTS)
    cases: dict[str, set[bool]] = {
        rule["alert"]: set() for rule in promql.rules() if "alert" in rule
    }
    for group in yaml.safe_load(ALERTS.read_text())["tests"]:
        for case in group.get("alert_rule_test", []):
            cases[case["alertname"]].add(bool(case["exp_alerts"]))
    # Alerts that fire without delay are tested not to fire beside one that does.
    assert {name for name, seen in cases.items() if True not in seen} == set()
    assert {name for name, seen in cases.items() if False not in seen} <= {
        "PixelDPErrorBudgetBurnsFast"
    }


def test_every_alert_has_a_severity_and_a_link() -> None:
    for rule in promql.rules():
        if "alert" in rule:
            name = rule["alert"]
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert rule["annotations"]["summary"]
            link = rule["annotations"]["runbook_url"]
            assert re.sub(r"{{.*}}", "docs/operate.md", link) == f"docs/operate.md#{name.lower()}"


def test_what_is_recorded_is_used_and_what_is_used_is_recorded() -> None:
    made = {rule["record"] for rule in promql.rules() if "record" in rule}
    used = set().union(*map(promql.recorded, promql.every_query().values()))
    assert used <= made


class Prometheus:
    """A running Prometheus that scrapes the service five times a second."""

    def __init__(self, folder: Path, operated: Operated) -> None:
        credentials = folder / "metrics_key"
        credentials.write_text(operated.metrics_key + "\n")
        self.port = free_port()
        changes = {
            "scrape_interval: 15s": "scrape_interval: 200ms",
            "evaluation_interval: 15s": "evaluation_interval: 200ms\n  scrape_timeout: 200ms",
            "/run/secrets/metrics_key": str(credentials),
            "pixeldp:8000": operated.authority,
            "localhost:9090": f"127.0.0.1:{self.port}",
            "alertmanager:9093": f"127.0.0.1:{free_port()}",
        }
        configuration = folder / "prometheus.yml"
        configuration.write_text(replaced((FOLDER / "prometheus.yml").read_text(), changes))
        (folder / "rules.yml").write_text((FOLDER / "rules.yml").read_text())
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/v1", timeout=300)
        self.process = start(
            [
                str(tool("prometheus")),
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            folder / "prometheus.log",
            self._up,
        )

    def _up(self) -> bool:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/-/ready")
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    def get(self, path: str, **parameters: str) -> Any:
        answer = self.client.get(path, params=parameters)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def query(self, query: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get("/query", query=query)["result"]
        return result

    def stop(self) -> None:
        self.client.close()
        stop(self.process)


def traffic(operated: Operated) -> None:
    """Make requests that produce every kind of number: robust or not, without a target, refused."""
    picture = (ROOT / "examples" / "7.png").read_bytes()
    with httpx.Client(base_url=operated.service.address, headers=PNG, timeout=300) as client:
        for path in ("/predict", "/predict?target=0.3", "/predict?target=30"):
            key = {"Authorization": f"Bearer {operated.client_key}"}
            assert client.post(path, content=picture, headers=key).status_code == 200
            assert client.post(path, content=b"no picture", headers=key).status_code == 400
            assert client.post(path, content=picture).status_code == 401


@pytest.fixture(scope="module")
def exposition(operated: Operated) -> str:
    """Return the service's metrics as it exposes them."""
    traffic(operated)
    headers = {"Authorization": f"Bearer {operated.metrics_key}"}
    with httpx.Client(base_url=operated.service.address, headers=headers) as client:
        client.get("/metrics")  # this is itself a request, which the next one counts
        return client.get("/metrics").text


@pytest.fixture(scope="module")
def samples(exposition: str) -> dict[str, list[dict[str, str]]]:
    """Return the labels of every sample of every metric."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.fixture(scope="module")
def prometheus(
    operated: Operated, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), operated)
    try:
        wait_for(running, 'up{job="pixeldp"} == 1')
        # Rates need an increase between two scrapes.
        before = answered(running)
        traffic(operated)
        wait_for(running, f"{ANSWERED} > {before} and rate(pixeldp_draws_total[1m]) > 0", "on()")
        yield running
    finally:
        running.stop()


ANSWERED = 'sum(pixeldp_requests_total{route="/predict"})'


def answered(running: Prometheus) -> float:
    result = running.query(ANSWERED)
    return float(result[0]["value"][1]) if result else 0.0


def wait_for(running: Prometheus, query: str, on: str = "") -> None:
    query = query.replace(" and ", f" and {on} ")
    end = time.monotonic() + WAIT_SECONDS
    while not running.query(query):
        targets = running.get("/targets")["activeTargets"]
        assert time.monotonic() < end, f"{query} never became true: {targets}"
        time.sleep(0.1)


def test_it_scrapes_the_service_with_its_key(prometheus: Prometheus) -> None:
    targets = prometheus.get("/targets")["activeTargets"]
    assert {target["labels"]["job"]: target["health"] for target in targets} == {
        "pixeldp": "up",
        "prometheus": "up",
    }


def test_it_evaluates_every_rule_and_a_healthy_service_raises_no_alert(
    prometheus: Prometheus,
) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while True:
        groups = prometheus.get("/rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        if all(rule["health"] != "unknown" for rule in rules) or time.monotonic() > end:
            break
        time.sleep(0.1)
    assert len(rules) == len(promql.rules())
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
    assert firing == []


def test_every_metric_and_label_that_is_used_exists(
    samples: dict[str, list[dict[str, str]]],
) -> None:
    named = {query: promql.selectors(query) for query in promql.every_query().values()}
    selectors = [selector for selectors in named.values() for selector in selectors]
    assert {selector.metric for selector in selectors} - promql.OWN_METRICS <= set(samples)
    for metric, matchers in selectors:
        if metric in promql.OWN_METRICS:
            continue
        for label, operator, value in matchers:
            if label in promql.OWN_LABELS:
                continue
            values = {labels[label] for labels in samples[metric] if label in labels}
            assert values, f"{metric} has no label {label}"
            if label == "outcome":
                values |= set(PROBLEMS)
            if label == "status":
                values.add("500")
            if operator == "=":
                assert value in values, f"no {metric} has {label}={value!r}, but {values}"
            else:
                for part in value.split("|"):
                    assert any(re.fullmatch(part, one) for one in values), (metric, label, part)


@pytest.mark.parametrize("name", promql.panel_queries())
def test_every_panel_shows_something(prometheus: Prometheus, name: str) -> None:
    # A rate needs two scrapes of its series, which may have begun later than others.
    wait_for(prometheus, promql.panel_queries()[name])


@pytest.mark.parametrize("query", promql.scaling_queries())
def test_the_autoscaler_gets_one_number(prometheus: Prometheus, query: str) -> None:
    [result] = prometheus.query(query.replace(', namespace="pixeldp"', ""))
    assert float(result["value"][1]) >= 0
