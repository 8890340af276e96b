"""What the documents tell readers to type works, and prints what the documents show."""

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.reference import FILE, document
from service.cli.main import app
from tests.e2e.conftest import ROOT, Service
from tests.models.importing.onnx_files import classifier, saved
from tests.models.importing.test_hugging_face import made

NAMES = (
    "README.md",
    "client/README.md",
    "docs/tutorial.md",
    "docs/choose-a-target.md",
    "docs/comparisons.md",
    "docs/fallback.md",
    "docs/bring-a-model.md",
    "docs/certificates.md",
    "docs/answers.md",
    "docs/open-inference-protocol.md",
    "docs/verification.md",
)
# Files that a reader has but this checkout lacks: commands that name them are parsed, not run.
READERS_OWN = ("DATA", "PICTURES", "DRAWS", "photographs", "runs/mine", "resnet50", "answer.json")
READERS_OWN += ("checkpoint.pth.tar", ".tsv")
LONG = "docs/bring-a-model.md"
BIN = Path(sys.executable).parent


def blocks(language: str) -> Iterator[Any]:
    for name in NAMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for number, body in enumerate(re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)):
            yield pytest.param(body, id=f"{name}-{number}")


def commands() -> Iterator[Any]:
    for block in blocks("sh"):
        for line in block.values[0].replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                # Models are trained there, and libraries of other formats take long to import.
                long = [pytest.mark.slow] if LONG in str(block.id) or "export" in words else []
                yield pytest.param(words, id=f"{block.id}-{' '.join(words)[:40]}", marks=long)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: the files of the checkout, and room for the reader's own."""
    path = tmp_path_factory.mktemp("reader")
    for name in ("examples", "models", "client"):
        (path / name).symlink_to(ROOT / name)
    return path


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_works(words: list[str], folder: Path, service: Service) -> None:
    program, *arguments = words
    if program == "make":
        targets = [word for word in arguments if "=" not in word]
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
    elif program == "docker":
        # tests/deploy tests how the image starts; here only its name is compared.
        built = re.search(r"docker build .*--tag (\w+) ", (ROOT / "Makefile").read_text())
        assert built
        assert (arguments[0], arguments[-1]) == ("run", built[1])
    elif program.endswith("pip") or program == "pip":
        what = arguments[-1]
        pinned = f"\n{what}==" in (ROOT / "constraints.txt").read_text()
        assert pinned or (ROOT / what / "pyproject.toml").is_file()
    elif program == "curl":
        local = [word.replace("http://127.0.0.1:8000", service.address) for word in arguments]
        done = subprocess.run(
            ["curl", "-sS", *local], cwd=folder, capture_output=True, text=True, check=True
        )
        answer = folder / "answer.json"
        if "-o" in arguments:
            assert done.stdout.strip() in ("200", "406")
            assert json.loads(answer.read_text())["robust"] is (done.stdout.strip() == "200")
        else:
            assert json.loads(done.stdout)["label"]["name"] == "7"
    elif program == ".venv/bin/python":
        assert subprocess.run(
            [sys.executable, *arguments[:2], "--help"], cwd=ROOT, capture_output=True, check=False
        ).returncode in (0, 1)
    else:
        assert program == ".venv/bin/pixeldp", words
        parse(arguments)
        write_sources(words, folder)
        if "serve" not in arguments and not any(own in " ".join(words) for own in READERS_OWN):
            subprocess.run([BIN / "pixeldp", *arguments], cwd=folder, check=True)


def write_sources(words: list[str], folder: Path) -> None:
    """Write the small classifiers that a command imports."""
    if "net.onnx" in words:
        saved(classifier(), folder / "net.onnx")
    elif "hf:my-folder" in words:
        made("ResNet", folder / "my-folder")


def parse(arguments: list[str]) -> None:
    """Parse a command line without running it; unknown commands and options are errors."""
    group: Any = typer.main.get_command(app)
    name, *rest = arguments
    while name in getattr(group, "commands", {}):
        group = group.commands[name]
        if not hasattr(group, "commands"):
            break
        name, *rest = rest
    assert not hasattr(group, "commands"), f"no command {name!r}"
    group.make_context(name, rest)


@pytest.mark.parametrize(
    "code", [block for block in blocks("python") if ">>>" not in block.values[0]]
)
def test_every_snippet_runs(code: str, service: Service) -> None:
    local = code.replace("http://127.0.0.1:8000", service.address)
    # Later snippets of a document use the client that its first one opens.
    opened = f"from pixeldp_client import Client\nclient = Client({service.address!r})\n"
    if "from pixeldp_client" not in code:
        local = opened + local
    subprocess.run([sys.executable, "-c", local], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_example_says_what_the_code_says(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    if ">>>" not in text:
        return
    example = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


@pytest.mark.parametrize(
    "name", [*NAMES, "CONTRIBUTING.md", "docs/operate.md", "docs/glossary.md", "SECURITY.md"]
)
def test_every_link_works(name: str) -> None:
    file = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (file.parent / target.partition("#")[0]).exists(), target


def test_the_reference_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIXELDP_")]:
        monkeypatch.delenv(name)
    assert FILE.read_text(encoding="utf-8") == document(), "run python -m docs.reference"
