"""What docs/ray.md tells readers to type."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_cli
from ray.serve.scripts import cli as serve_cli

from tests.e2e.conftest import ROOT
from tests.ray.conftest import Watched

TEXT = (ROOT / "docs" / "ray.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]


@pytest.mark.parametrize("words", [one for one in COMMANDS if one[0] in ("ray", "serve")], ids=str)
def test_ray_knows_every_command(words: list[str]) -> None:
    program, name, *arguments = words
    command = {"ray": ray_cli, "serve": serve_cli}[program].commands[name]
    command.make_context(name, arguments[: arguments.index(">") if ">" in arguments else None])


def test_the_other_commands_name_what_there_is() -> None:
    others = [one for one in COMMANDS if one[0] not in ("ray", "serve")]
    assert {one[0] for one in others} == {"make", "set", "kubectl"}
    for words in others:
        for word in words:
            path = word.rstrip(";")
            if path.startswith("deploy/") and "secrets" not in path:
                assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]*ray)", TEXT):
        assert re.search(rf"^{target}:.*## ", makefile, re.M), target


@pytest.mark.parametrize("words", [one for one in COMMANDS if one[0] == "serve"], ids=str)
def test_commands_of_serve_work_on_a_cluster(words: list[str], on_ray: Watched) -> None:
    here = str(on_ray.folder / "serve.yaml")
    arguments = [here if word == "deploy/ray/serve.yaml" else word for word in words[1:]]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ray.serve.scripts", *arguments, "-a", on_ray.dashboard.url],
        env=on_ray.variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pixeldp" in done.stdout or "Sent" in done.stdout + done.stderr


def test_variables_that_the_page_names_exist() -> None:
    from ray.serve._private import constants

    source = (ROOT / "deploy" / "ray" / "ray.env").read_text() + Path(
        constants.__file__
    ).read_text()
    for name in re.findall(r"`(RAY_SERVE_\w+)", TEXT):
        assert name in source, name
