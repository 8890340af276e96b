"""Denoisers that are bundles of their own, by the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.bundle import DENOISER, WEIGHTS, ZOO, read_bundle
from models.denoiser import read_denoiser
from models.networks.foreign.python import ALLOWED
from service.cli.main import main
from tests.models.importing import classifiers

Captured = pytest.CaptureFixture[str]
SHIPPED = ZOO / "photo-denoiser"
CLASSIFIER = f"{classifiers.__name__}:of_any_size"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        patches = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(patches).resize((110, 100)).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("three pictures")
    return folder


@pytest.mark.slow
def test_a_denoiser_is_trained_on_a_folder(
    tmp_path: Path, photographs: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    command = ["train", "photo-denoiser", "--root", str(photographs), "--out", str(out)]
    options = ["--epochs", "8", "--held-out", "1", "--scale", "0.5", "--precision", "float32"]
    assert main([*command, *options]) == 0
    said = capsys.readouterr()
    assert f"{out}: photo-denoiser, a denoiser for gaussian noise of scale 0.5 (image)" in said.out
    assert "1 file is left out" in said.err
    assert sorted(file.name for file in out.iterdir()) == [DENOISER, WEIGHTS]
    assert read_denoiser(out).manifest.training["data"]["pictures"] == 2
    assert main([*command, *options]) == 1
    assert "holds a finished bundle" in capsys.readouterr().err


def test_models_lists_denoisers_apart(capsys: Captured) -> None:
    for name in ("photo", "photo-denoiser", str(SHIPPED)):
        assert main(["models", name]) == 0
        assert capsys.readouterr().out == (
            "photo-denoiser:1  a denoiser, 3 channels, from 32 pixels a side, gaussian 0.25: "
            f"pixeldp import --denoiser  {SHIPPED}\n"
        )
    assert main(["models", "photo", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["path"] == str(SHIPPED)
    assert listed["denoiser"] == read_denoiser(SHIPPED).manifest.model_dump(mode="json")


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "photo-denoiser"],
        ["serve", str(SHIPPED)],
        ["evaluate", "photo-denoiser", "--data", "digits"],
        ["predict", "a.png", "--model", "photo-denoiser"],
        ["sensitivity", "photo-denoiser"],
    ],
)
def test_a_denoiser_alone_answers_nothing(command: list[str], capsys: Captured) -> None:
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "this is a denoiser, which answers nothing alone" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--denoiser", "photo", "--scale", "0.5"], "omit the noise's options"),
        (["--denoiser", "photo", "--input", "1x32x32"], "is for pictures of 3 channels"),
        (["--denoiser", "photo", "--input", "3x31x32"], "at least 32 pixels a side"),
        (["--scale", "0.25", "--denoiser-tune", "."], "needs a denoiser to begin with"),
        (["--denoiser", "photo", "--denoiser-tune", "none"], "none: expected a folder"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    complaint: str,
) -> None:
    monkeypatch.setenv(ALLOWED, "")
    command = ["import", CLASSIFIER, "--input", "3x32x32", "--out", str(tmp_path / "out")]
    assert main([*command, *options]) == 1
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_shipped_denoiser_in_front_of_a_classifier(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED, "")
    out = tmp_path / "out"
    options = ["--input", "3x40x40", "--denoiser", "photo", "--draws", "64", "--out", str(out)]
    assert main(["import", CLASSIFIER, *options]) == 0
    assert "gaussian noise of scale 0.25 (image), sensitivity 1" in capsys.readouterr().out
    denoiser = read_denoiser(SHIPPED)
    assert read_bundle(out).manifest.training["denoiser"]["digest"] == denoiser.digest
