"""Files for developers and their programs: forms, hooks, the dev container, editor settings."""

import configparser
import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml

from tools.lock import ROOT

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_forms_follow_their_schema(form: Path) -> None:
    name = "github-issue-config" if form.stem == "config" else "github-issue-forms"
    schema = resources.files("check_jsonschema") / f"builtin_schemas/vendor/{name}.json"
    jsonschema.validate(yaml.safe_load(form.read_text()), json.loads(schema.read_text()))


def hooks() -> dict[str, list[str]]:
    """Return the command of each hook."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [local] = config["repos"]
    assert local["repo"] == "local", "nothing is fetched that is not in a lock"
    return {hook["id"]: hook["entry"].split() for hook in local["hooks"]}


def test_hooks_run_what_make_check_runs() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    checked = recipe[1].replace("$(BIN)", ".venv/bin")
    for name, entry in hooks().items():
        command = " ".join(word for word in entry if word not in ("--check", "--force-exclude"))
        assert command in checked, name


@pytest.mark.parametrize("name", ["format", "ruff"])
def test_hooks_accept_right_code_and_refuse_wrong_code(name: str, tmp_path: Path) -> None:
    program, *arguments = hooks()[name]
    command = [str(BIN / Path(program).name), *arguments]
    done = subprocess.run(
        [*command, str(ROOT / "tools" / "lock.py")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import os\nx = {  'a':1 }\n")
    assert subprocess.run([*command, wrong], cwd=ROOT, capture_output=True).returncode == 1


def test_the_dev_container_is_based_on_the_image_of_the_service() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    built = ROOT / ".devcontainer" / container["build"]["dockerfile"]
    bases = [
        re.findall(r"^FROM (\S+)", file.read_text(), re.MULTILINE)[0]
        for file in (built, ROOT / "Dockerfile")
    ]
    assert bases[0] == bases[1]
    assert f"useradd --create-home --shell /bin/bash {container['remoteUser']}" in built.read_text()
    done = subprocess.run([BIN / "hadolint", built], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_editors_have_the_line_length_of_ruff() -> None:
    parser = configparser.ConfigParser()
    parser.read_string("[top]\n" + (ROOT / ".editorconfig").read_text())
    assert (
        f"line-length = {parser['*']['max_line_length']}\n" in (ROOT / "pyproject.toml").read_text()
    )


def test_contributing_names_existing_targets_and_folders_of_tests() -> None:
    text, makefile = (ROOT / "CONTRIBUTING.md").read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z0-9-]+)", text + (ROOT / "RELEASE.md").read_text()))
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    [table] = re.findall(r"^\| folder of `tests`.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [re.findall("`([a-z0-9/]+)`", row.split("|")[1]) for row in table.splitlines()[1:]]
    named = {name for row in rows for name in row}
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")} - {ROOT / "tests"}
    there = {folder.relative_to(ROOT / "tests").as_posix() for folder in folders}
    assert named <= there
    for folder in there:
        assert any(folder == name or folder.startswith(f"{name}/") for name in named) or any(
            name.startswith(f"{folder}/") for name in named
        ), folder


@pytest.mark.slow
def test_tests_are_marked_by_their_folders() -> None:
    files = [
        "soundness/test_coverage.py",
        "chaos/test_chaos.py",
        "e2e/test_head.py",
        "models/certification/test_norms.py",
    ]
    paths = [f"tests/{file}" for file in files]
    for chosen, found in {
        "e2e": files[2:3],
        "soundness and slow": files[:1],
        "not slow": files[2:],
    }.items():
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", chosen, *paths]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert set(re.findall(r"^tests/(\S+?\.py)::", done.stdout, re.MULTILINE)) == set(found)
