"""The locks have every installed package by its digest, and agree with pyproject.toml."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.lock import BASE, LAYERS, ROOT, check, read

LOCKS = sorted((ROOT / "locks").glob("*.txt"))
FILES = ("pyproject.toml", "client/pyproject.toml", "constraints.txt")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the files that the check reads."""
    (tmp_path / "client").mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert re.search(old, text, re.MULTILINE), old
    file.write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE))


def test_the_locks_agree() -> None:
    assert check(ROOT) == []
    done = subprocess.run(
        [sys.executable, "-m", "tools.lock", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("pyproject.toml", '"numpy>=2.2"', '"numpy>=99"', "numpy: pyproject.toml asks >=99"),
        ("pyproject.toml", '"numpy>=2.2"', '"novel>=1"', "novel: pyproject.toml asks it for serve"),
        ("pyproject.toml", '"setuptools>=77"', '"hatchling"', "hatchling: pyproject.toml asks"),
        ("pyproject.toml", '"mypy>=1.16"', '"mypy>=99"', "mypy: pyproject.toml asks >=99"),
        ("pyproject.toml", '"litserve>=0.2"', '"novel"', "novel: pyproject.toml asks it for bench"),
        ("client/pyproject.toml", "httpx>=0.28", "httpx<0.1", "httpx: pyproject.toml asks <0.1"),
        ("constraints.txt", "^numpy==.*$", "numpy==1.0", "numpy: locks/serve.txt has"),
        ("constraints.txt", "^numpy==.*\n", "", "numpy: locks/serve.txt has"),
        ("constraints.txt", "^numpy==", "novel==1\nnumpy==", "novel: in constraints.txt"),
        ("locks/serve.txt", r"^numpy==\S+", "numpy==1.0", "numpy: locks/serve.txt has 1.0"),
        ("locks/serve.txt", r"^numpy==\S+", "numpy>=1.0", "serve.txt does not pin 'numpy>=1.0'"),
        ("locks/serve.txt", r"^(pillow==\S+) \\\n(    --.*\n)+", r"\1\n", "pillow has no hash"),
        ("locks/serve.txt", "^numpy", "pillow==1\nnumpy", "serve.txt has pillow twice"),
        ("locks/torch-cpu.txt", r"==\S+\+cpu", "==1.0+cpu", "no build of what locks/torch.txt"),
        ("locks/torch-cpu.txt", r"sha256:\w{4}", "sha256:0000", "no build of what locks/torch"),
    ],
)
def test_disagreements_are_reported(
    project: Path, file: str, old: str, new: str, said: str
) -> None:
    change(project / file, old, new)
    assert said in "\n".join(check(project))


@pytest.mark.parametrize("name", [path.name for path in LOCKS])
def test_a_missing_lock_is_reported(project: Path, name: str) -> None:
    (project / "locks" / name).unlink()
    assert check(project) == [f"locks/{name}: expected, but not there"]


def test_every_layer_has_all_its_packages_requirements() -> None:
    """By the packages' metadata, for this machine: pip installs locks without dependencies."""
    for layer in ("serve", "tracing", "openvino", "dev"):
        there = {name for lower in (*BASE, *LAYERS[layer], layer) for name in locked(lower)}
        for name in locked(layer):
            needed = [Requirement(text) for text in requires(name) or []]
            plain = [one for one in needed if one.marker is None or one.marker.evaluate()]
            assert {canonicalize_name(one.name) for one in plain} <= {*there, "pip"}, name


def locked(layer: str) -> set[str]:
    """Return the packages that a lock installs on this machine."""
    pins = read(ROOT / f"locks/{layer}.txt").items()
    markers = {name: pin.marker.removeprefix(" ; ") for name, pin in pins}
    return {name for name, marker in markers.items() if not marker or Marker(marker).evaluate()}


def test_no_lock_says_where_packages_come_from() -> None:
    for path in (*LOCKS, ROOT / "constraints.txt"):
        assert "://" not in path.read_text(), path.name
        assert not re.search(r"^\s*(-i|--(extra-)?index-url|--find-links|-f)\b", path.read_text())


def test_pip_refuses_a_file_of_another_digest(tmp_path: Path) -> None:
    """Called as in the Makefile, on a wheel made here: pip itself checks the hash."""
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing.py", "")
        described = "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"
        archive.writestr("thing-1.0.dist-info/METADATA", described)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("thing-1.0.dist-info/WHEEL", tags)
        archive.writestr("thing-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    [options] = re.findall(r"^LOCKED := \$\(PIP\) (.*)$", (ROOT / "Makefile").read_text(), re.M)
    for hashed, refused in ((digest, False), (digest[::-1], True)):
        lock = tmp_path / "lock.txt"
        lock.write_text(f"thing==1.0 --hash=sha256:{hashed}\n")
        where = ["--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "out")]
        command = [sys.executable, "-m", "pip", *options.split(), "--dry-run", "-r", str(lock)]
        done = subprocess.run([*command, *where], capture_output=True, text=True)
        assert (done.returncode != 0) is refused, done.stderr
        assert ("DO NOT MATCH" in done.stderr) is refused, done.stderr


def test_makefile_and_image_install_only_by_digest() -> None:
    makefile, dockerfile = (ROOT / "Makefile").read_text(), (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"^\t.*(?:pip|PIP).* install\b.*$", makefile, re.M)
    # An older PyTorch is only tested with, where pip's source has it; a machine with a GPU gets the
    # wheels that were packed for it; an example has its own digests.
    packed = "$(TORCH_2_11)", "--no-index --no-deps \\"
    packed += ("--require-hashes --no-deps -r examples/imagenet/requirements.txt",)
    assert [line for line in installs if not line.endswith(packed)] == [], "not by a lock"
    for name in re.findall(r"locks/([a-z]+)\.txt", makefile + dockerfile):
        assert (ROOT / f"locks/{name}.txt").is_file()
    assert "UV_REQUIRE_HASHES=1" in dockerfile
    installs = re.findall(r"(?:UV_REQUIRE_HASHES=0 )?uv pip install [^\n]*", dockerfile)
    assert all("--no-deps" in line for line in installs)
    [own] = [line for line in installs if "UV_REQUIRE_HASHES=0" in line]
    assert own.endswith("--no-build-isolation .")
