"""``pixeldp compare``, as people type it."""

import json
import shutil
from pathlib import Path

import pytest

from service.cli.main import main

Captured = pytest.CaptureFixture[str]
HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


@pytest.fixture
def logs(tmp_path: Path) -> tuple[str, str]:
    rows = [(index, index % 3, 0.2 * (index % 7)) for index in range(42)]
    for name, more in (("a.tsv", 0.0), ("b.tsv", 0.1)):
        lines = (f"{i}\t{label}\t{label}\t{size + more}\t1\t0:00:01\n" for i, label, size in rows)
        (tmp_path / name).write_text(HEAD + "".join(lines))
    return str(tmp_path / "a.tsv"), str(tmp_path / "b.tsv")


def test_a_table(logs: tuple[str, str], capsys: Captured) -> None:
    first, second = logs
    assert main(["compare", first, f"σ=0.5={second}", "--radii", "0.3,0.7"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["a", "σ=0.5"]
    assert said[1].split() == ["pictures", "42", "42"]
    assert said[3].split()[:2] == ["0.3", "71.4%"]
    assert said[4].split()[::2] == ["0.7", "(27.7-59.0)", "(41.0-72.3)"]
    assert said[6] == "points above a, on common pictures"
    assert said[-1].split()[:2] == ["0.7", "+14.3"]


def test_logs_of_one_name_are_named_by_their_folders(tmp_path: Path, capsys: Captured) -> None:
    files = [tmp_path / folder / "sigma_0.50" for folder in ("theirs", "ours")]
    for file in files:
        file.parent.mkdir()
        file.write_text(HEAD + "0\t1\t1\t0.5\t1\t0:00:01\n")
    assert main(["compare", str(files[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "sigma_0.50"
    assert main(["compare", *map(str, files), "--json"]) == 0
    assert [log["name"] for log in json.loads(capsys.readouterr().out)] == list(map(str, files))


def test_json_and_a_plot(logs: tuple[str, str], tmp_path: Path, capsys: Captured) -> None:
    assert main(["compare", *logs, "--json", "--plots", str(tmp_path / "plots")]) == 0
    said = capsys.readouterr()
    first, second = json.loads(said.out)
    assert (first["name"], second["name"], second["paired"]) == ("a", "b", 42)
    assert len(second["differences"]) == len(first["certified"])
    assert "compared.svg" in said.err
    assert (tmp_path / "plots" / "compared.png").stat().st_size > 1000


def test_errors_are_one_line(logs: tuple[str, str], tmp_path: Path, capsys: Captured) -> None:
    for arguments, status, complaint in (
        (["nope.tsv"], 1, "nope.tsv"),
        ([*logs, "--radii", "x"], 2, "expected numbers separated by commas"),
        ([*logs, "--radii", "-1"], 1, "radii must be at least 0"),
        ([str(tmp_path)], 1, str(tmp_path)),
    ):
        assert main(["compare", *arguments]) == status
        said = capsys.readouterr().err
        assert complaint in said
        assert said.count("\n") == 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of two models, the same network without noise, and intervals."""
    folder = tmp_path_factory.mktemp("runs")
    for name, *options in (
        ("less", "--epochs", "3"),
        ("plain", "--undefended", "--epochs", "3"),
        ("boxes", "--mechanism", "interval", "--norm", "linf", "--scale", "0.05", "--epochs", "1"),
    ):
        command = ["train", "digits", "--out", str(folder / name), "--name", name, "--no-int8"]
        assert main([*command, *options]) == 0
    shutil.copytree(folder / "less", folder / "more")
    file = folder / "more" / "model.json"
    document = json.loads(file.read_text())
    document |= {"name": "more", "noise": {**document["noise"], "scale": 0.4}}
    file.write_text(json.dumps(document))
    members = [{"bundle": "less", "least_target": 0}, {"bundle": "more", "least_target": 0.2}]
    family = {"name": "both", "default": "less", "members": members}
    (folder / "both.family.json").write_text(json.dumps(family))
    return folder


OPTIONS = ["--data", "digits", "--every", "10", "--draws", "64", "--radii", "0.1,0.3"]
PYTORCH = ["--provider", "pytorch", "--precision", "float32", "--pass-size", "96"]


@pytest.mark.slow
def test_everything_side_by_side(runs: Path, tmp_path: Path, capsys: Captured) -> None:
    log = tmp_path / "paper.tsv"
    less = str(runs / "less")
    kept = ["--resume", str(tmp_path / "kept.jsonl")]
    assert main(["evaluate", less, *OPTIONS, *PYTORCH, "--tsv", str(log), *kept]) == 0
    capsys.readouterr()
    attack = ["--attack", "pgd,carlini-wagner", "--attack-pictures", "8", "--attack-steps", "2"]
    thresholds = ["--attack-draws", "4", "--thresholds", "0.05,0.1"]
    outputs = ["--tsv", str(tmp_path / "a.tsv"), "--plots", str(tmp_path / "plots")]
    subjects = [str(runs / "both.family.json"), f"bare={runs / 'plain'}", str(runs / "boxes")]
    command = ["compare", *subjects, str(log), *OPTIONS, *PYTORCH, *attack, *thresholds, *kept]
    assert main([*command, *outputs]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].split() == ["less", "more", "bare", "boxes", "paper"]
    assert lines[1].split()[1:] == ["30"] * 5
    assert lines[2].startswith("accuracy")
    assert lines[2].split()[-1] == "-"
    assert "pgd, l2, 2 steps, gradients over 4, 4, 1, 1 draws, 8 pictures" in said
    assert "carlini-wagner, l2, 2 steps" in said
    assert said.count("precision of what is certified to 0.1") == 2
    assert said.count("points above less, on the same pictures") == 2
    assert (tmp_path / "plots" / "under-attack.png").stat().st_size > 1000
    assert (tmp_path / "a.tsv").read_text().startswith("model\tfigure\tattack\tsize")
    # Everything is kept: another run says the same, and finds nothing to do.
    before = (tmp_path / "kept.jsonl").read_bytes()
    assert main([*command, "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert (tmp_path / "kept.jsonl").read_bytes() == before
    assert found["paper"]["certified"] == found["less"]["certified"]
    assert [at["difference"] for at in found["paper"]["differences"]] == [0, 0]
    assert found["bare"]["certifies"] is False
    assert found["bare"]["attacks"][0]["accuracies"][0]["robust"] == []
    # Sizes in L2 of what is certified in L-infinity: no more than there.
    assert found["boxes"]["certified"][0]["accuracy"] == 0


def test_bundles_need_pictures_and_logs_do_not(
    logs: tuple[str, str], tmp_path: Path, capsys: Captured
) -> None:
    plain, digits = "mnist-cnn", ["--data", "digits"]
    for arguments, status, complaint in (
        ([plain], 2, "Missing option '--data'"),
        ([logs[0], *digits], 2, "--data is for bundles, and all of these are logs"),
        ([*logs, "--thresholds", "0.1"], 2, "--thresholds is for bundles"),
        ([plain, *digits, "--thresholds", "1"], 1, "give --attack, too"),
        ([plain, *digits, "--attack", "pgd", "--radii", "0"], 1, "must be above 0"),
        (["cifar10-resnet", *digits], 1, "not those of cifar10-resnet"),
        ([str(tmp_path / "no.family.json"), *digits], 1, "no.family.json"),
    ):
        assert main(["compare", *arguments]) == status
        said = capsys.readouterr().err
        assert complaint in said
        assert said.count("\n") == 1
