import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from models.bundle import DENOISER, MANIFEST, ZOO, read_bundle
from service.cli.main import main
from tests.e2e.conftest import copy_bundle

SEVEN = Path(__file__).parents[3] / "examples" / "7.png"
NOISE = {"mechanism": "gaussian", "placement": "image"}
Captured = pytest.CaptureFixture[str]


def test_predict_answers_a_file(capsys: Captured) -> None:
    assert main(["predict", str(SEVEN), "--target", "0.3", "--json", "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["file"] == str(SEVEN)
    assert answer["label"] == {"index": 7, "name": "7"}
    assert answer["robust"] is True
    assert answer["certified_size"] >= 0.3
    assert (answer["target"], answer["confidence"], answer["norm"]) == (0.3, 0.95, "l2")
    assert answer["model"]["digest"] == read_bundle(ZOO / "mnist-cnn").digest
    assert answer["compute"]["device"] == "cpu"
    assert answer["compute"]["provider"] == "pytorch"
    assert answer["compute"]["pass_size"] >= 8
    first = answer["scores"][0]
    assert first["name"] == "7"
    assert 0.5 < first["lower"] <= first["expected"] <= first["upper"] <= 1
    assert 0 < answer["draws"] < 1000


def test_predict_says_which_labels_may_be_first(capsys: Captured) -> None:
    asked = ["predict", str(SEVEN), "--target", "0.3", "--device", "cpu", "--allow", "1,7"]
    assert main([*asked, "--json"]) == 0
    certain = json.loads(capsys.readouterr().out)["certain"]
    assert certain == {"labels": [{"index": 7, "name": "7"}], "within_allowed": True}
    assert main(asked) == 0
    assert "7 (allowed)" in capsys.readouterr().out
    assert main([*asked[:-1], "cat"]) == 1
    assert "the label 'cat', which there is not" in capsys.readouterr().err


@pytest.mark.slow
def test_the_target_chooses_the_member_of_a_family(tmp_path: Path, capsys: Captured) -> None:
    for name, scale in (("low", 0.3), ("high", 0.8)):
        copy_bundle(tmp_path / name, name=name, noise={**NOISE, "scale": scale}, int8=None)
    members = [{"bundle": "low", "least_target": 0}, {"bundle": "high", "least_target": 0.5}]
    file = tmp_path / "both.family.json"
    file.write_text(json.dumps({"name": "both", "default": "low", "members": members}))
    with Image.open(SEVEN) as seven:
        seven.resize((56, 56)).save(tmp_path / "large.png")
    large = tmp_path / "large.png"
    for picture, target, name in (
        (SEVEN, None, "low"),
        (SEVEN, 0.6, "high"),
        # Halving the sides halves the size of the largest changes.
        (large, 0.6, "low"),
        (large, 1.2, "high"),
    ):
        asked = ["predict", str(picture), "--model", str(file), "--json", "--max-draws", "100"]
        asked += ["--target", str(target)] if target else []
        assert main(asked) == 0
        assert json.loads(capsys.readouterr().out)["model"]["name"] == name


def test_predict_answers_a_folder_and_names_failures(tmp_path: Path, capsys: Captured) -> None:
    for name in ("a.png", "b/c.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(SEVEN, tmp_path / name)
    (tmp_path / "broken.png").write_bytes(SEVEN.read_bytes()[:60])
    (tmp_path / "notes.txt").write_text("not a picture")
    assert main(["predict", str(tmp_path), "--max-draws", "100"]) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split() == ["label", "size", "robust", "certain", "draws", "picture"]
    assert [line.split()[0] for line in lines[1:]] == ["7", "7"]
    assert [line.split()[-1] for line in lines[1:]] == [
        str(tmp_path / "a.png"),
        str(tmp_path / "b" / "c.PNG"),
    ]
    left_out, broken = said.err.splitlines()
    assert str(tmp_path / "notes.txt") in left_out
    assert broken.count(str(tmp_path / "broken.png")) == 1


def test_predict_answers_every_format_and_skips_hidden_files(
    tmp_path: Path, capsys: Captured
) -> None:
    forms = {"tif": "TIFF", "gif": "GIF", "pgm": "PPM", "jfif": "JPEG", "jpe": "JPEG", "BMP": "BMP"}
    with Image.open(SEVEN) as seven:
        for suffix, form in forms.items():
            seven.save(tmp_path / f"7.{suffix}", form)
    (tmp_path / "._7.png").write_bytes(b"\0\x05\x16\x07")
    assert main(["predict", str(tmp_path), "--max-draws", "100"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1 + len(forms)
    assert said.err == ""


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["predict", "nowhere.png"], 1, "nowhere.png"),
        (["predict", "EMPTY"], 1, "no picture files here"),
        (["predict", str(SEVEN), "--confidence", "1.5"], 2, "between 0 and 1"),
        (["predict", str(SEVEN), "--max-draws", "10"], 1, "max_draws must be at least 64"),
        (["predict", str(SEVEN), "--model", "EMPTY"], 1, "expected a folder with model.json"),
        (["models", "EMPTY"], 1, "no bundle here"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    arguments: list[str], status: int, complaint: str, tmp_path: Path, capsys: Captured
) -> None:
    given = [part.replace("EMPTY", str(tmp_path)) for part in arguments]
    assert main(given) == status
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


def test_models_lists_the_zoo(capsys: Captured) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    families = [file.name.partition(".")[0] for file in sorted(ZOO.glob("*.family.json"))]
    names = [path.parent.name for path in sorted(ZOO.glob(f"*/{MANIFEST}"))]
    denoisers = [path.parent.name for path in sorted(ZOO.glob(f"*/{DENOISER}"))]
    first = [line.split(":")[0].partition("  ")[0] for line in lines]
    assert first == [*families, *denoisers, *names]
    assert (
        "mnist-cnn:1  1x28x28, 10 labels, gaussian 0.55 (image), certified in l2"
        in lines[first.index("mnist-cnn")]
    )


def test_models_lists_families(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "digits.family.json"
    member = {"bundle": "mnist-cnn", "least_target": 0.0}
    family = {"name": "digits", "default": "mnist-cnn", "members": [member]}
    file.write_text(json.dumps(family))
    (tmp_path / "mnist-cnn").symlink_to(ZOO / "mnist-cnn")
    assert main(["models", str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"digits  a family, default mnist-cnn: mnist-cnn from 0  {file}"
    assert second.startswith("mnist-cnn:1  1x28x28")
    assert main(["models", str(file), "--json"]) == 0
    [document] = map(json.loads, capsys.readouterr().out.splitlines())
    assert document == {"path": str(file), "family": {"format_version": 1, **family}}


def test_models_as_json_is_the_manifest(capsys: Captured) -> None:
    path = ZOO / "mnist-cnn"
    assert main(["models", str(path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed.pop("path") == str(path)
    assert listed.pop("rows") == "built-in"
    assert listed == read_bundle(path).manifest.model_dump(mode="json")
