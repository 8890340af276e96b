"""Build the files of a release: distributions of service and client, bill of materials, checksums.

    python -m tools.dist [FOLDER]

The default folder is ``dist``. Each distribution is built from a copy, so that nothing of earlier
builds gets into it, and each wheel from the unpacked source distribution, which is therefore
complete. No package index is used: the environment's own setuptools builds. SHA256SUMS has the
digest of each file; a release signs it.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tools import sbom

ROOT = Path(__file__).parents[1]
# What is copied of each project; the license goes into both.
SERVICE = ("CHANGELOG.md", "MANIFEST.in", "README.md", "SECURITY.md", "constraints.txt")
SERVICE_FOLDERS = ("locks", "models", "service")
CLIENT_FOLDERS = ("src",)


def build(folder: Path) -> list[Path]:
    """Build both projects into ``folder``, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        service, client = Path(name, "service"), Path(name, "client")
        _copy(ROOT, service, SERVICE, SERVICE_FOLDERS)
        _copy(ROOT / "client", client, ("README.md",), CLIENT_FOLDERS)
        return [made for project in (service, client) for made in _build(project, folder)]


def _copy(source: Path, target: Path, files: tuple[str, ...], folders: tuple[str, ...]) -> None:
    target.mkdir()
    shutil.copy(ROOT / "LICENSE", target)
    for name in ("pyproject.toml", *files):
        shutil.copy(source / name, target)
    for name in folders:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source / name, target / name, ignore=ignored)


def _build(project: Path, folder: Path) -> list[Path]:
    source = folder / _hook("build_sdist", project, folder)
    with tarfile.open(source) as archive:
        archive.extractall(project / "unpacked", filter="data")
    [unpacked] = (project / "unpacked").iterdir()
    return [source, folder / _hook("build_wheel", unpacked, folder)]


def _hook(name: str, project: Path, folder: Path) -> str:
    """Call a PEP 517 hook of the project's build backend; return the file's name."""
    code = f"from setuptools import build_meta; print(build_meta.{name}({str(folder.resolve())!r}))"
    done = subprocess.run(  # noqa: S603 - a fixed command line
        [sys.executable, "-P", "-c", code], cwd=project, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"dist: {name} failed in {project.name}:\n{done.stdout}{done.stderr}")
    return done.stdout.splitlines()[-1]


def add_sums(folder: Path, files: list[Path]) -> Path:
    """Write the SHA-256 of files of the folder to its SHA256SUMS, as ``sha256sum`` reads them."""
    sums = folder / "SHA256SUMS"
    lines = [f"{hashlib.sha256(one.read_bytes()).hexdigest()}  {one.name}\n" for one in files]
    sums.write_text("".join(lines), encoding="utf-8")
    return sums


def main(folder: Path) -> list[Path]:
    """Make all files of a release in ``folder``, and return them."""
    made = build(folder)
    made.append(sbom.write(ROOT, folder))
    return [*made, add_sums(folder, made)]


if __name__ == "__main__":
    for made in main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "dist"):
        print(made)
