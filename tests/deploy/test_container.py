"""The image and the compose file: linted, confined, and complete."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.settings import Settings
from tests.deploy.tools import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Continued lines are joined and comments removed: one instruction a line.
INSTRUCTIONS = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", "")
COMPOSE = [ROOT / "docker-compose.yml", *sorted((ROOT / "deploy").glob("docker-compose.*.yml"))]
USER = 10001


def instructions(name: str, text: str = INSTRUCTIONS) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", text, re.MULTILINE)


def last_stage() -> str:
    return INSTRUCTIONS[INSTRUCTIONS.rindex("\nFROM ") :]


def load(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


def known_setting(variable: str) -> bool:
    name = variable.removeprefix("PIXELDP_").lower()
    return name in Settings.model_fields


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint, "hadolint comes with the dev extra: make test installs it"
    result = subprocess.run(
        [hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert result.stdout + result.stderr == ""


def test_the_image_is_built_in_stages_and_runs_as_an_ordinary_user() -> None:
    bases = [base.removesuffix(" AS build") for base in instructions("FROM")]
    assert len(bases) == 2
    assert re.fullmatch(r"python:3\.12\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", bases[0])
    assert bases[0] == bases[1]
    assert instructions("USER") == [str(USER)]
    assert "ARG TORCH_BACKEND=cpu" in INSTRUCTIONS
    # Build tools stay behind: nothing is installed into the final stage.
    assert not re.search(r"\b(pip|uv|apt-get)\b", last_stage().partition("HEALTHCHECK")[0])
    for variable in re.findall(r"PIXELDP_\w+(?==)", last_stage()):
        assert known_setting(variable), variable


def test_the_context_has_everything_that_is_copied_and_no_secrets() -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    assert rules[0] == "**", "everything is left out except what is named"
    named = {rule[1:] for rule in rules if rule.startswith("!")}
    own = [copied for copied in instructions("COPY") if "--from" not in copied]
    sources = {source for copied in own for source in copied.split()[:-1]}
    assert sources == named
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not fnmatch("deploy/secrets/metrics_key", f"{source}*")


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_keeps_to_its_schema(path: Path) -> None:
    schema = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    jsonschema.validate(load(path), json.loads(schema.read_text()))


def test_compose_confines_every_container_and_publishes_on_loopback_only() -> None:
    compose = load(COMPOSE[0])
    assert set(compose["services"]) == {"pixeldp", "prometheus", "alertmanager", "grafana"}
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "user"} & set(service), name
        assert service["ports"], name
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), (name, port)
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
    environment = compose["services"]["pixeldp"]["environment"]
    assert all(map(known_setting, environment))
    # The keys and the scraper's secret are files that are not in git.
    assert environment["PIXELDP_KEYS"].startswith("/run/pixeldp/")
    assert compose["secrets"]["metrics_key"]["file"].startswith("./deploy/secrets/")
    assert (ROOT / "deploy/secrets/.gitignore").read_text().splitlines()[1] == "*"


def test_ones_own_model_can_replace_the_shipped_one() -> None:
    service = load(ROOT / "deploy" / "docker-compose.model.yml")["services"]["pixeldp"]
    [mount] = service["volumes"]
    assert mount["source"].startswith("${MODEL:?")
    assert mount["read_only"] is True
    assert service["command"] == ["serve", mount["target"]]


def test_what_compose_mounts_exists_and_is_read_only() -> None:
    for name, service in load(COMPOSE[0])["services"].items():
        for volume in service.get("volumes", []):
            if isinstance(volume, dict):
                assert volume["read_only"] is True
                assert volume["source"].startswith("./deploy/secrets/")  # made by hand
            elif volume.startswith("."):
                source, _, mode = volume.split(":")
                assert (ROOT / source).is_dir(), (name, source)
                assert mode == "ro", (name, source)
