"""Families of the zoo by their names: taken where a family can answer, or refused with advice."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.bundle import FAMILY, ZOO, locate
from service.cli.main import main
from service.http.checks import read_catalogue
from service.settings import Settings

SEVEN = str(ZOO.parents[1] / "examples" / "7.png")
MNIST = ZOO / f"mnist{FAMILY}"
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a data set."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    names = np.array([str(number) for number in range(10)])
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(4), names=names)
    return tmp_path


def test_a_name_is_that_of_a_family_unless_something_here_has_it(folder: Path) -> None:
    for name in ("mnist", "cifar10"):
        assert locate(Path(name)) == locate(Path(f"{name}{FAMILY}")) == ZOO / f"{name}{FAMILY}"
    for other in ("mnis", "mnist/", "a/mnist", f"mnist{FAMILY}{FAMILY}", "."):
        found = locate(Path(other))
        assert found == (MNIST if other == "mnist/" else Path(other))
    (folder / "mnist").mkdir()
    assert locate(Path("mnist")) == Path("mnist")
    assert locate(Path(MNIST.name)) == MNIST


def test_a_family_is_served_by_its_name() -> None:
    settings = Settings(models=[Path("mnist")])
    assert settings.models == [MNIST]
    family = read_catalogue(settings).family("mnist")
    assert family
    assert ("mnist-cnn", "1") in family.members


def test_a_member_beside_its_family_is_served_once_however_its_path_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ZOO)
    for family in (MNIST, Path(MNIST.name), Path("mnist-cnn", "..", MNIST.name)):
        catalogue = read_catalogue(Settings(models=[ZOO / "mnist-cnn", family]))
        assert len(catalogue.models) == len(catalogue.families["mnist"].members) == 3


@pytest.mark.parametrize("name", ["mnist", MNIST.name])
def test_commands_take_its_name(folder: Path, name: str, capsys: Captured) -> None:
    about = ["--max-draws", "100", "--device", "cpu", "--json"]
    assert main(["predict", SEVEN, "--model", name, "--target", "1.9", *about]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["name"] == "mnist-cnn-100"
    assert main(["models", name]) == 0
    assert capsys.readouterr().out.startswith("mnist  a family, default mnist-cnn: mnist-cnn-025")
    # The first of its members is what cannot have this confidence.
    assert main(["evaluate", "--family", name, "--data", "own.npz", "--confidence", "1"]) == 1
    assert "but mnist-cnn-025 estimates expected scores" in capsys.readouterr().err
    assert main(["compare", name]) == 2
    assert "bundles are measured on pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["export", "NAME", "--to", "onnx", "--out", "out"],
        ["sensitivity", "NAME"],
        ["certify", "own.npz", "--model", "NAME", "--output", "out"],
        ["evaluate", "mnist-cnn", "--data", "own.npz", "--baseline", "NAME"],
        ["train", "digits", "--start", "NAME", "--out", "out"],
        ["train", "digits-denoiser", "--denoiser", "NAME", "--out", "out"],
        ["import", "resnet18", "--denoiser", "NAME", "--out", "out", "--input", "3x28x28"],
    ],
)
def test_where_a_bundle_is_needed_its_members_are_advised(
    folder: Path, command: list[str], capsys: Captured
) -> None:
    for name in ("mnist", MNIST.name, str(MNIST)):
        assert main([name if part == "NAME" else part for part in command]) == 1
        said = capsys.readouterr().err
        assert f"{MNIST}: file: is a family, not a bundle; expected one of its members" in said
        assert f"pixeldp models {MNIST} lists" in said
        assert said.count("\n") == 1


def test_the_wrong_one_of_bundle_and_family_is_told_apart(capsys: Captured) -> None:
    assert main(["evaluate", "mnist", "--data", "digits", "--write"]) == 2
    assert "mnist is a family; give it as --family mnist" in capsys.readouterr().err
    assert main(["evaluate", "--family", "mnist-cnn", "--data", "digits"]) == 1
    said = capsys.readouterr().err
    assert "is not a regular file; expected a file NAME.family.json, or one of the shipped" in said
    assert "(cifar10, mnist)" in said
