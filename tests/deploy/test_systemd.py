"""deploy/systemd: the unit starts an existing command, and gives it enough time to stop."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from service.settings import Settings
from tests.deploy.tools import ROOT
from tests.e2e.test_documents import parse

UNIT = ROOT / "deploy" / "systemd" / "pixeldp.service"
SECTIONS = ("Unit", "Service", "Install")


def directives() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_it_starts_the_command() -> None:
    [start] = directives()["ExecStart"]
    program, *arguments = shlex.split(start)
    assert Path(program).name == "pixeldp"
    parse(arguments)
    sections = [line for line in UNIT.read_text().splitlines() if line.startswith("[")]
    assert sections == [f"[{section}]" for section in SECTIONS]


def test_a_stop_waits_for_pictures_in_flight() -> None:
    unit = directives()
    environment = dict(assigned.split("=") for assigned in unit["Environment"])
    settings = {name.removeprefix("PIXELDP_").lower() for name in environment}
    assert {name for name in settings if not name.startswith("torch")} <= set(Settings.model_fields)
    limit = int(environment["PIXELDP_TIMEOUT_MS_LIMIT"]) / 1000
    delay = Settings.model_fields["stop_delay_seconds"].default
    assert int(unit["TimeoutStopSec"][0]) > limit + delay


def test_files_that_its_comments_name_exist() -> None:
    text = UNIT.read_text()
    assert "make -C /opt/pixeldp install" in text
    assert re.search("^install:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in ("deploy/systemd/pixeldp.service", "docs/operate.md"):
        assert f"/opt/pixeldp/{name}" in text
        assert (ROOT / name).is_file()


def test_systemd_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    """Only the program is in another place here."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("NOT TESTED: systemd-analyze is not here; install systemd")
    [start] = directives()["ExecStart"]
    (tmp_path / "pixeldp").write_text("#!/bin/sh\n")
    (tmp_path / "pixeldp").chmod(0o755)
    unit = tmp_path / UNIT.name
    there = shlex.split(start)[0]
    unit.write_text(UNIT.read_text().replace(there, str(tmp_path / "pixeldp")))
    # Only this unit counts, not the machine's other units.
    environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning", "SYSTEMD_LOG_TARGET": "console"}
    command = [program, "verify", "--man=no", "--recursive-errors=no", str(unit)]
    checked = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
