"""What documents name in code type exists: files, classes, settings, routes, commands."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from docs.reference import document
from tests.names import ROOT, classes, members, modules

DOCUMENTS = [
    ROOT / "docs" / "architecture.md",
    ROOT / "docs" / "glossary.md",
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]
# Names that belong to others: HTTP's, PyTorch's, a package that is not installed.
FOREIGN = {"Upgrade: h2c", "httptools", "nn.Sequential"}
# A dotted Python name, as opposed to a sentence in code type.
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# Names written in camel case that are not classes.
WRITTEN_IN_ONE = {"FastAPI", "GitHub", "KubeRay", "OpenAPI", "PixelDP", "PyTorch"}

MODULES = modules()


def files() -> set[str]:
    """Return the paths of the checkout's files and of their folders."""
    tops = [top for top in ROOT.iterdir() if not top.name.startswith(".")]
    found = [path for top in tops for path in (top, *top.rglob("*")) if path.is_file()]
    paths = [path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts]
    return {str(each) for path in paths for each in (path, *path.parents)}


FILES = files()


def defined() -> set[str]:
    """Return what modules and their classes define, as ``name`` and as ``Class.name``."""
    found: set[str] = set()
    for module in MODULES.values():
        for name, body in members(module.tree.body):
            found |= {name, *(f"{name}.{member}" for member, _ in members(body))}
            found |= {member for member, _ in members(body)}
        for node in classes(module):
            own = re.findall(r"\bself\.(\w+)", ast.unparse(node))
            found |= {f"{node.name}.{attribute}" for attribute in own}
    return found


def strings() -> set[str]:
    """Return every string constant in the code: names of problems, files, events."""
    return {
        node.value
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


DEFINED, STRINGS = defined(), strings()
REFERENCE = document()


def exists(word: str) -> bool:
    """Return whether a word in code type names something that exists."""
    program, _, rest = word.partition(" ")
    if word in FOREIGN | DEFINED | STRINGS | MODULES.keys() | FILES:
        return True
    if program == "make":
        return re.search(rf"^{rest}:", (ROOT / "Makefile").read_text(), re.M) is not None
    if program == "pixeldp":
        return f"### pixeldp {rest}\n" in REFERENCE or rest == "--help"
    if program == "python":
        return rest.startswith("-m ") and f"{rest[3:].replace('.', '/')}.py" in FILES
    if program in ("GET", "POST") or word.startswith(("/", "PIXELDP_")):
        return word in REFERENCE
    if "/" in word or Path(word).suffix in {".md", ".json", ".py", ".safetensors", ".toml"}:
        return any(file.endswith(f"/{word}") for file in FILES)
    if ": " in word:  # a member of an answer, and a value of it
        return word.partition(": ")[0] in DEFINED
    if not DOTTED.fullmatch(word):
        return False
    parent, _, name = word.rpartition(".")
    if parent in MODULES:
        return name in {member for member, _ in members(MODULES[parent].tree.body)}
    top = word.partition(".")[0]
    return top not in ("models", "service") and importlib.util.find_spec(top) is not None


def words(text: str) -> list[str]:
    """Return everything in code type."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.findall(r"`([^`]+)`", prose)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_everything_a_document_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [word for word in words(text) if not exists(word)] == []
    camel = set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", text)) - WRITTEN_IN_ONE
    assert {name for name in camel if name not in DEFINED} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_everything_a_document_links_to_exists(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []


@pytest.mark.parametrize(
    "word",
    [
        "service/engine/crew.py",
        "service/engine",
        "crew.py",
        "Crew",
        "Supervisor.crew",
        "models.certification.crew",
        "models.crew",
        "PIXELDP_CREW",
        "GET /crew",
        "/crew",
        "make crew",
        "pixeldp crew",
        "python -m docs.crew",
        "a crew",
    ],
)
def test_only_existing_names_pass(word: str) -> None:
    assert exists(word) == (word == "service/engine")


def test_every_record_of_a_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}[^)]*)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))
