"""deploy/alertmanager, as its own tool reads it: who is notified, and what is inhibited."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy import promql
from tests.deploy.tools import ROOT, tool

CONFIGURATION = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
ALERTS = {rule["alert"]: rule["labels"] for rule in promql.rules() if "alert" in rule}


def amtool(*arguments: str) -> str:
    command = [str(tool("amtool")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_finds_nothing_wrong() -> None:
    amtool("check-config", str(CONFIGURATION))


def test_compose_starts_it_where_prometheus_looks_for_it() -> None:
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    [manager] = scraped["alerting"]["alertmanagers"]
    [[target]] = [one["targets"] for one in manager["static_configs"]]
    name, port = target.split(":")
    service = COMPOSE[name]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    options = dict(option.split("=", 1) for option in service["command"])
    inside = Path(options["--config.file"])
    [here] = [here for here, there in mounts.items() if there == str(inside.parent)]
    assert ROOT / here / inside.name == CONFIGURATION
    assert options["--storage.path"] in mounts.values()


def test_alerts_that_it_names_exist() -> None:
    named = re.findall(r"PixelDP\w+", CONFIGURATION.read_text())
    assert named
    assert set(named) <= set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_who_is_notified(name: str) -> None:
    labels = {"alertname": name, "job": "pixeldp", **ALERTS[name]}
    said = [f"{label}={value}" for label, value in labels.items()]
    receiver = amtool("config", "routes", "test", f"--config.file={CONFIGURATION}", *said)
    severity = ALERTS[name]["severity"]
    assert receiver.strip() == {"critical": "pager", "warning": "tickets"}[severity]


def test_only_worse_alerts_inhibit_others() -> None:
    for rule in yaml.safe_load(CONFIGURATION.read_text())["inhibit_rules"]:
        [source] = rule["source_matchers"]
        for name in re.findall(r"PixelDP\w+", source):
            assert ALERTS[name]["severity"] == "critical"
        [target] = rule["target_matchers"]
        if target != 'severity = "warning"':
            quiet = re.findall(r"PixelDP\w+", target)
            assert {ALERTS[name]["severity"] for name in quiet} == {"warning"}
        assert "job" in rule["equal"], "alerts of another installation are not inhibited"
