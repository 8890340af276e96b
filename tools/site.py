"""Build the documents as a site that makes no request to other hosts.

    python -m tools.site [FOLDER]

Documents have the same paths on the site as in the repository, so their links work in both. Source
files and folders to which they link become pages that show them; public modules of
``models.certification`` and of the client get pages written from their docstrings. Any warning,
such as a broken link, fails the build.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "site"
MERMAID = SITE / "node_modules" / "@mermaid-js" / "tiny" / "dist" / "mermaid.tiny.js"
DOCUMENTS = ("*.md", "client/*.md", "docs/**/*.md", "examples/*/*.md", "models/zoo/*/*.md")
PICTURES = "docs/images"
# The folders of public Python modules, and the pages that show them.
MODULES = {"models/certification": "models.certification", "client/src/pixeldp_client": None}
# A name that ends in / stands for all pages in that folder that are not listed elsewhere.
NAVIGATION: list[Any] = [
    "README.md",
    {
        "Use": [
            "docs/tutorial.md",
            "docs/choose-a-target.md",
            "docs/comparisons.md",
            "docs/bulk.md",
            "docs/fallback.md",
            "docs/answers.md",
            "docs/open-inference-protocol.md",
            "client/README.md",
        ]
    },
    {"Models": ["docs/bring-a-model.md", "examples/imagenet/README.md", "models/zoo/"]},
    {"Operate": ["docs/operate.md", "docs/ray.md", "docs/capacity.md", "SECURITY.md"]},
    {"Certificates": ["docs/certificates.md", "docs/verification.md", "docs/glossary.md"]},
    {"Reference": ["docs/reference.md", {"Python": ["api/"]}]},
    {"Project": ["CONTRIBUTING.md", "docs/", "RELEASE.md", "CHANGELOG.md"]},
    {"Sources": ["source/"]},
]
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def documents(root: Path) -> list[Path]:
    """Return the documents of ``root`` that are pages of the site."""
    found = {path for pattern in DOCUMENTS for path in root.glob(pattern)}
    return sorted(path for path in found if "node_modules" not in path.parts)


def stage(root: Path, folder: Path) -> None:
    """Copy what the site shows of ``root`` to an empty folder, and write the pages it adds."""
    shown = {path.relative_to(root).as_posix() for path in documents(root)}
    for name in sorted(shown):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (root / name).read_text(encoding="utf-8")
        target.write_text(_linked(text, name, root, folder, shown), encoding="utf-8")
    shutil.copytree(root / PICTURES, folder / PICTURES)
    for name, code in _interfaces(root):
        (folder / "api").mkdir(exist_ok=True)
        (folder / "api" / f"{name}.md").write_text(code, encoding="utf-8")


def _linked(text: str, name: str, root: Path, folder: Path, shown: set[str]) -> str:
    """Return a document whose links to sources lead to pages of the site that show them."""

    def lead(match: re.Match[str]) -> str:
        there = os.path.normpath(os.path.join(os.path.dirname(name), unquote(match[2])))
        path = root / there
        if there.startswith("..") or there in shown or not path.exists():
            return match[0]
        if there.startswith(f"{PICTURES}/"):
            return match[0]
        page = _show(path, there, folder)
        return f"{match[1]}{os.path.relpath(page, (folder / name).parent)}{match[3]}"

    return LINK.sub(lead, text)


def _show(path: Path, name: str, folder: Path) -> Path:
    """Write the page that shows a source file, or all files of a folder, and return its path."""
    page = folder / "source" / f"{name}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    parts = [f"# {name}\n"]
    for file in files:
        title = f"\n## {file.name}\n" if path.is_dir() else ""
        language = {".py": "python", ".yml": "yaml", ".json": "json"}.get(file.suffix, "text")
        code = file.read_text(encoding="utf-8").rstrip()
        parts.append(f"{title}\n`````{language}\n{code}\n`````\n")
    page.write_text("".join(parts), encoding="utf-8")
    return page


def _interfaces(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each page that is written from docstrings."""
    for name, package in MODULES.items():
        if package is None:
            module = name.rpartition("/")[2]
            yield module, f"::: {module}\n"
            continue
        for path in sorted((root / name).glob("[!_]*.py")):
            module = f"{package}.{path.stem}"
            yield module, f"::: {module}\n"


def navigation(folder: Path) -> list[Any]:
    """Return the navigation over all pages of a staged folder."""
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))
    named = set(_names(NAVIGATION))

    def filled(entries: list[Any]) -> list[Any]:
        found: list[Any] = []
        for entry in entries:
            if isinstance(entry, dict):
                [(title, below)] = entry.items()
                inside = filled(below)
                found += [{title: inside}] if inside else []
            elif entry.endswith("/"):
                found += [page for page in pages if page.startswith(entry) and page not in named]
            else:
                found.append(entry)
        return found

    return filled(NAVIGATION)


def _names(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, dict):
            for below in entry.values():
                yield from _names(below)
        else:
            yield entry


def build(root: Path, site: Path) -> None:
    """Build the site into a folder, which is emptied before.

    Raises:
        SystemExit: what draws the diagrams is not installed, or the build found something wrong.
    """
    if not MERMAID.is_file():
        raise SystemExit("site: npm's packages are not installed in docs/site; make docs does it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "documents")
        folder.mkdir()
        stage(root, folder)
        (folder / "assets").mkdir()
        shutil.copy(MERMAID, folder / "assets" / "mermaid.js")
        config = {
            "INHERIT": str(SITE / "mkdocs.yml"),
            "docs_dir": str(folder),
            "site_dir": str(site.resolve()),
            "theme": {"custom_dir": str(SITE / "theme")},
            "hooks": [str(SITE / "roles.py")],
            "nav": navigation(folder),
        }
        file = Path(name, "mkdocs.yml")
        file.write_text(json.dumps(config), encoding="utf-8")
        paths = os.pathsep.join(map(str, (root, root / "client" / "src")))
        done = subprocess.run(  # noqa: S603 - a fixed command line
            [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(file)],
            env={**os.environ, "PYTHONPATH": paths, "NO_MKDOCS_2_WARNING": "true"},
        )
    if done.returncode:
        raise SystemExit("site: not built; see the errors above")


if __name__ == "__main__":
    made = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "site"
    build(ROOT, made)
    print(made)
