"""docs/operate.md: its commands run, its links work, and its names are right."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.http.guards import keys
from service.settings import Settings
from tests.deploy import promql
from tests.deploy.tools import ROOT

TEXT = (ROOT / "docs" / "operate.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
HEADINGS = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", TEXT, flags=re.M | re.S), re.M)
# Stands in for tools that need a daemon or a cluster: records its arguments and its input.
RECORDER = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case " $* " in *" -f - "*) cat > "$CALLS.input";; esac
"""


def anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    alerts = [rule["alert"] for rule in promql.rules() if "alert" in rule]
    assert [heading for heading in HEADINGS if heading.startswith("PixelDP")] == alerts
    anchors = set(map(anchor, HEADINGS))
    assert set(re.findall(r"\]\(#(.*?)\)", TEXT)) <= anchors


def test_names_are_those_of_the_service_and_the_dashboard() -> None:
    for variable in re.findall(r"PIXELDP_([A-Z_]+)", TEXT):
        assert variable.lower() in Settings.model_fields, variable
    titles = {panel["title"] for panel in promql.panels()}
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    emphasised = {re.sub(r"\s+", " ", name) for name in re.findall(r"(?<!\*)\*([^*]+)\*", prose)}
    assert emphasised - {"Targets"} <= titles
    for path in re.findall(r"`((?:deploy|docs)/[^`]*)`", TEXT):
        assert (ROOT / path).exists(), path


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all commands in order, in a copy of what they need, and return the folder."""
    folder = tmp_path_factory.mktemp("operate")
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("secrets"))
    shutil.copy(ROOT / "docker-compose.yml", folder)
    tools = folder / "tools"
    tools.mkdir()
    for name in ("docker", "kubectl"):
        (tools / name).write_text(RECORDER)
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CALLS": str(folder / "calls"),
    }
    for block in BLOCKS:
        run = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
    return folder


def test_the_keys_are_what_compose_mounts(after: Path) -> None:
    made = after / "deploy" / "secrets" / "service" / "keys.json"
    by_name = {key.name: key for key in keys.read(made)}
    assert by_name["app"].scopes == {"predict"}
    assert by_name["prometheus"].scopes == {"metrics"}
    secret = after / "deploy" / "secrets" / "metrics_key"
    assert keys.digest(secret.read_text()) == by_name["prometheus"].sha256
    # The containers' users can read it, but no other user of this machine can reach it.
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in (made, secret))
    assert stat.S_IMODE((after / "deploy" / "secrets").stat().st_mode) == 0o700

    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    [mount] = compose["services"]["pixeldp"]["volumes"]
    assert (after / mount["source"]).is_dir()
    inside = compose["services"]["pixeldp"]["environment"]["PIXELDP_KEYS"]
    assert (after / mount["source"] / Path(inside).relative_to(mount["target"])) == made
    assert (after / compose["secrets"]["metrics_key"]["file"]) == secret


def test_files_that_commands_name_exist(after: Path) -> None:
    calls = (after / "calls").read_text()
    assert {line.split()[0] for line in calls.splitlines()} == {"docker", "kubectl"}
    named = re.findall(r"(?: -[fk] |--from-file=(?:\w+=)?)([^\s=]+)", calls)
    assert len(named) >= 6
    for path in named:
        assert path == "-" or (after / path).exists(), path
    manifests = (ROOT / "deploy" / "kubernetes").rglob("*.yaml")
    secrets = set(re.findall(r"create secret generic (\S+)", calls))
    wanted = "".join(path.read_text() for path in manifests)
    assert secrets == set(re.findall(r"pixeldp-(?:metrics-)?keys?\b", wanted))


def test_the_rules_become_a_resource_of_the_prometheus_operator(after: Path) -> None:
    applied = yaml.safe_load((after / "calls.input").read_text())
    assert applied["kind"] == "PrometheusRule"
    assert applied["spec"] == yaml.safe_load(promql.RULES.read_text())
