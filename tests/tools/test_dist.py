"""The distributions are complete: installed without the checkout, they predict."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

from models.bundle import DENOISER, describe
from models.denoiser import describe_denoiser
from tools.dist import ROOT, add_sums, build
from tools.lock import read
from tools.release import PLACES, release, versions
from tools.sbom import LAYERS, bill

pytestmark = pytest.mark.slow

PACKAGES = {"pixeldp": (ROOT, ("models", "service")), "client": (ROOT / "client/src", (".",))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(tmp_path_factory.mktemp("dist"))


def files(folder: Path, packages: tuple[str, ...]) -> set[str]:
    """Return the files in the checkout's packages, except those that Python and pip put there."""
    return {
        path.relative_to(folder).as_posix()
        for package in packages
        for path in (folder / package).rglob("*")
        if path.is_file() and not {"__pycache__"} & set(path.parts) and ".egg-info" not in str(path)
    }


def test_a_source_distribution_and_a_wheel_of_each(made: list[Path]) -> None:
    version = versions(ROOT)["pyproject.toml"]
    assert [path.name for path in made] == [
        f"pixeldp-{version}.tar.gz",
        f"pixeldp-{version}-py3-none-any.whl",
        f"pixeldp_client-{version}.tar.gz",
        f"pixeldp_client-{version}-py3-none-any.whl",
    ]


def test_they_hold_every_file_of_the_packages_and_the_license(made: list[Path]) -> None:
    for (folder, packages), source, wheel in zip(
        PACKAGES.values(), made[::2], made[1::2], strict=True
    ):
        with zipfile.ZipFile(wheel) as archive:
            inside = {name for name in archive.namelist() if ".dist-info/" not in name}
            assert inside == files(folder, packages)
            assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
        with tarfile.open(source) as unpacked:
            names = {name.partition("/")[2] for name in unpacked.getnames()}
            assert {"LICENSE", "README.md", "pyproject.toml"} <= names
            if source.name.startswith("pixeldp-"):
                locks = {f"locks/{path.name}" for path in (ROOT / "locks").iterdir()}
                assert locks <= names


@pytest.fixture(scope="module")
def installed(made: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the two wheels, and with their dependencies from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    [packages] = folder.glob("lib/python*/site-packages")
    # Only a path: files that make a checkout importable do not work through it.
    here = [path for path in sys.path if path.endswith("-packages")]
    (packages / "dependencies.pth").write_text("\n".join(here) + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    wheels = [str(path) for path in made if path.suffix == ".whl"]
    subprocess.run(
        [*pip, "install", "-qq", "--no-deps", "--no-index", "--force-reinstall", *wheels],
        check=True,
    )
    return folder


def run(installed: Path, *command: str | Path) -> str:
    """Run a program of the environment in an empty folder."""
    words = [str(installed / "bin" / command[0]), *map(str, command[1:])]
    empty = installed / "empty"
    empty.mkdir(exist_ok=True)
    done = subprocess.run(words, cwd=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_predicts_without_the_checkout(installed: Path) -> None:
    code = "import models, service, pixeldp_client as c; print(models, service, c)"
    for path in run(installed, "python", "-c", code).split("from ")[1:]:
        assert path.startswith(repr(str(installed))[:-1])
    assert run(installed, "pixeldp", "--version").strip().endswith(versions(ROOT)["pyproject.toml"])
    picture = ROOT / "examples" / "7.png"
    answer = json.loads(run(installed, "pixeldp", "predict", picture, "--json"))
    assert answer["label"]["name"] == "7"


def test_there_is_one_version() -> None:
    found = versions(ROOT)
    assert len(set(found.values())) == 1, found
    [version] = set(found.values())
    assert f"\n## [{version}] - 20" in (ROOT / "CHANGELOG.md").read_text(), "it has a section"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in (*PLACES, "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    text = (
        "# Changelog\n\n## [Unreleased]\n\n### Fixed\n\n- This.\n\n## [0.0.1] - 2020-01-01\n\n- x\n"
    )
    (tmp_path / "CHANGELOG.md").write_text(text)
    return tmp_path


def test_a_release_changes_every_place(project: Path) -> None:
    before = {name: (project / name).read_text() for name in PLACES}
    old = versions(project)["pyproject.toml"]
    release(project, "12.3.45", "2030-01-02")
    assert set(versions(project).values()) == {"12.3.45"}
    for name, text in before.items():
        assert (project / name).read_text() == text.replace(f"{old}", "12.3.45", 1)
    changelog = (project / "CHANGELOG.md").read_text()
    assert "## [Unreleased]\n\n## [12.3.45] - 2030-01-02\n\n### Fixed\n\n- This." in changelog
    assert changelog.endswith("## [0.0.1] - 2020-01-01\n\n- x\n")


@pytest.mark.parametrize(("version", "said"), [("1.2", "three numbers"), ("0.0.1", "already")])
def test_versions_that_cannot_be_released(project: Path, version: str, said: str) -> None:
    before = versions(project)
    with pytest.raises(ValueError, match=said):
        release(project, version, "2030-01-02")
    assert versions(project) == before


def test_without_changes_there_is_no_release(project: Path) -> None:
    release(project, "1.0.0", "2030-01-02")
    with pytest.raises(ValueError, match="nothing"):
        release(project, "1.0.1", "2030-01-03")


def test_the_bill_of_materials_has_every_package_image_and_model() -> None:
    found = json.loads(bill(ROOT))
    assert found["bomFormat"] == "CycloneDX"
    assert found["metadata"]["component"]["version"] == versions(ROOT)["pyproject.toml"]
    parts = {part["bom-ref"]: part for part in found["components"]}
    pins = [pin for layer in LAYERS for pin in read(ROOT / f"locks/{layer}.txt").values()]
    for pin in pins:
        [files] = parts[f"pkg:pypi/{pin.name}@{pin.version}"]["externalReferences"]
        assert {one["content"] for one in files["hashes"]} == set(pin.hashes)
    [base] = [part for part in parts.values() if part["type"] == "container"]
    assert f"@sha256:{base['hashes'][0]['content']}" in (ROOT / "Dockerfile").read_text()
    models = [part for part in parts.values() if part["type"] == "machine-learning-model"]
    folders = [path for path in (ROOT / "models/zoo").iterdir() if path.is_dir()]
    denoisers = {path for path in folders if (path / DENOISER).exists()}
    bundles = [describe_denoiser(one) if one in denoisers else describe(one) for one in folders]
    assert {f"sha256:{model['hashes'][0]['content']}" for model in models} == {
        bundle.digest for bundle in bundles
    }
    assert len(parts) == len(pins) + 1 + len(bundles)


def commands(section: str) -> str:
    """Return the shell commands of a section of RELEASE.md, unchanged."""
    text = (ROOT / "RELEASE.md").read_text()
    [block] = re.findall(rf"{section}.*?\n *```sh\n(.*?)```", text, re.DOTALL)
    return textwrap.dedent(block)


@pytest.mark.parametrize("altered", [None, "pixeldp-1.whl", "SHA256SUMS"])
def test_the_checksums_are_signed_and_verified_as_documented(
    tmp_path: Path, altered: str | None
) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("NOT TESTED: ssh-keygen is missing; install openssh-client")

    def shell(command: str, folder: Path) -> int:
        environment = {**os.environ, "KEY": str(tmp_path / "key")}
        shell = ["sh", "-e", "-c", command]
        return subprocess.run(shell, cwd=folder, env=environment, capture_output=True).returncode

    dist = tmp_path / "dist"
    dist.mkdir()
    (dist / "pixeldp-1.whl").write_bytes(b"wheel")
    add_sums(dist, [dist / "pixeldp-1.whl"])
    assert shell('ssh-keygen -q -t ed25519 -N "" -f "$KEY"', tmp_path) == 0
    assert shell(commands("6. Sign the checksums"), tmp_path) == 0
    signer = 'echo "you@example.com $(cat "$KEY.pub")" >> release-signers'
    assert f"`{signer}`" in (ROOT / "RELEASE.md").read_text()
    assert shell(signer, dist) == 0
    if altered is not None:
        with (dist / altered).open("ab") as file:
            file.write(b"0" * 64 + b"  other\n")
    assert (shell(commands("## Verifying a release"), dist) == 0) is (altered is None)
