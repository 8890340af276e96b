import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.bundle import read_bundle
from models.evaluation.logs import read_log
from service.cli.main import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = ["--epochs", "6", "--seed", "3", "--name", "tried", "--no-int8"]
    assert main(["train", "digits", "--out", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "plain"
    options = ["--epochs", "6", "--name", "plain", "--undefended"]
    assert main(["train", "digits", "--out", str(folder), *options]) == 0
    return folder


def evaluate(bundle: Path, *options: str) -> int:
    return main(["evaluate", str(bundle), "--data", "digits", "--every", "20", *options])


def test_a_table(bundle: Path, capsys: Captured) -> None:
    assert evaluate(bundle, "--draws", "64", "--radii", "0.1,.25,5") == 0
    said = capsys.readouterr().out
    assert said.startswith("tried 1 on digits (test): 15 pictures (one in 20), 64 draws each")
    for part in (
        "precision   recall",
        "certified at l2 >= 0.1 ",
        "certified at l2 >= 0.25",
        "certified at l2 >= 5",
        "pictures, counted as failures",
        "960 draws in",
        "64 draws certify at most 0.",
    ):
        assert part in said
    assert "attacked" not in said
    assert read_bundle(bundle).manifest.evaluation == {}


def test_json_and_the_recorded_summary(bundle: Path, capsys: Captured) -> None:
    assert evaluate(bundle, "--draws", "96", "--confidence", "0.9", "--json", "--write") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["pictures"], document["max_draws"], document["confidence"]) == (15, 96, 0.9)
    assert [at["radius"] for at in document["certified"]] == [0.25, 0.5, 0.75, 1.0]
    assert len(document["curve"]) > 20
    manifest = read_bundle(bundle).manifest
    assert manifest.evaluation == {**document, "curve": []}
    assert manifest.int8 is not None
    assert manifest.int8.record is not None
    assert manifest.int8.record.model_dump(mode="json") == document["int8"]
    assert (document["int8"]["pictures"], document["int8"]["max_draws"]) == (15, 96)


def test_int8_is_measured_on_request(bundle: Path, capsys: Captured) -> None:
    before = read_bundle(bundle).manifest.int8
    options = ["--draws", "64", "--radii", "0.1"]
    assert evaluate(bundle, *options, "--no-int8", "--write") == 0
    assert "in int8" not in capsys.readouterr().out
    assert read_bundle(bundle).manifest.int8 == before
    assert evaluate(bundle, *options, "--int8") == 0
    said = capsys.readouterr().out
    assert "in int8 beside float32, on the same 15 pictures: " in said
    assert "% have another label" in said
    assert read_bundle(bundle).manifest.int8 == before
    assert evaluate(bundle, *options, "--provider", "pytorch", "--precision", "int8") == 1
    assert "PyTorch does not run networks in int8" in capsys.readouterr().err


def test_how_often_two_ways_disagree(bundle: Path, capsys: Captured) -> None:
    options = ["--draws", "64", "--radii", "0.1", "--pass-size", "32"]
    options += ["--provider", "pytorch", "--precision", "float32"]
    ways = ["--compare-with", "pytorch/float32/64", "--compare-with", "all"]
    assert evaluate(bundle, *options, *ways, "--no-int8") == 0
    said = capsys.readouterr().out
    assert "how often two h's disagree on the 15 pictures" in said
    own = "pytorch/float32/32/false"
    assert f"{own} and itself, other noise" in said
    assert f"{own} and pytorch/float32/64/false, other noise" in said
    assert f"{own} and pytorch/bfloat16/32/false, the same noise" in said
    assert f"{own} and openvino/float32/32/false, the same noise" in said
    assert "pytorch/bfloat16/32/false and openvino/float32/32/false, the same noise" in said
    assert said.count("\n  robust at l2 >= 0.1 ") == said.count("\n  labels ") >= 7
    assert evaluate(bundle, *options, "--compare-with", "pytorch/int8") == 2
    assert "pytorch does not run networks in int8" in capsys.readouterr().err
    assert evaluate(bundle, *options, "--compare-with", "fast") == 2
    assert "--compare-with fast: that is no h; expected provider/" in capsys.readouterr().err


def test_attacks_beside_a_baseline_with_plots(
    bundle: Path, baseline: Path, tmp_path: Path, capsys: Captured
) -> None:
    options = ["--draws", "64", "--radii", "0.1,4", "--plots", str(tmp_path / "plots")]
    options += ["--attack", "carlini-wagner,pgd", "--attack-pictures", "5"]
    options += ["--attack-steps", "8", "--attack-draws", "4", "--baseline", str(baseline)]
    assert evaluate(bundle, *options) == 0
    captured = capsys.readouterr()
    assert "accuracy of plain" in captured.out
    assert "accuracy on 5 pictures, attacked in 8 steps up to l2 size" in captured.out
    rows = [line for line in captured.out.splitlines() if ", pgd" in line or ", carlini" in line]
    names = [row.split("  ")[0] for row in rows]
    assert names == ["tried, pgd", "tried, carlini-wagner", "plain, pgd", "plain, carlini-wagner"]
    # Unaltered, attacked a little, attacked beyond recognition.
    assert all(row.split()[-1] in {"0.0%", "20.0%"} for row in rows)
    assert captured.err.count("drawn: ") == 4
    assert len(list((tmp_path / "plots").iterdir())) == 4


def test_a_seed_repeats_the_evaluation(bundle: Path, capsys: Captured) -> None:
    options = ["--draws", "64", "--precision", "float32", "--pass-size", "32", "--threads", "1"]
    figures = []
    for seed in ("5", "5", "6"):
        assert evaluate(bundle, *options, "--json", "--seed", seed) == 0
        document = json.loads(capsys.readouterr().out)
        figures.append((document["mean_size"], document["certified"]))
    assert figures[0] == figures[1]
    assert figures[0] != figures[2]


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["OUT", "--data", "digits"], 1, "model.json: file: cannot be read"),
        (["no\nbundle", "--data", "digits"], 1, "no bundle/model.json"),
        (["OUT"], 2, "Missing option '--data'"),
        (["OUT", "--data", "digits", "--radii", "1,x"], 2, "not '1,x'"),
        (["OUT", "--data", "digits", "--attack", "pgd,fgsm"], 2, "no attack 'fgsm'; known: pgd, "),
        (["OUT", "--data", "digits", "--draws", "1"], 2, "'--draws': Input should be"),
        (["OUT", "--data", "digits", "--norm", "l3"], 2, "'l3'"),
        (["BUNDLE", "--data", "digits", "--confidence", "1.5"], 1, "confidence must lie between"),
        (["BUNDLE", "--data", "digits", "--radii", "-1"], 1, "radii must be above 0"),
        (
            ["BUNDLE", "--data", "digits", "--device", "tpu"],
            1,
            "device 'tpu' cannot be used",
        ),
        (["BUNDLE", "--data", "digits", "--baseline", "OUT"], 1, "model.json: file: cannot be"),
    ],
)
def test_errors_are_one_line(
    bundle: Path,
    tmp_path: Path,
    capsys: Captured,
    arguments: list[str],
    status: int,
    complaint: str,
) -> None:
    places = {"OUT": str(tmp_path / "out"), "BUNDLE": str(bundle)}
    given = [places.get(part, part) for part in arguments]
    assert main(["evaluate", *given]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pixeldp: ")
    assert captured.err.count("\n") == 1
    assert complaint in captured.err


def test_evaluate_writes_a_log(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "log.tsv"
    options = ["--draws", "128", "--radii", "0.1,0.3"]
    assert evaluate(bundle, *options, "--tsv", str(tmp_path)) == 1
    assert "is a folder" in capsys.readouterr().err
    assert evaluate(bundle, *options, "--json", "--tsv", str(file)) == 0
    evaluation = json.loads(capsys.readouterr().out)
    log = read_log(file)
    assert log.indices.tolist() == (np.arange(evaluation["pictures"]) * 20).tolist()
    for at in evaluation["certified"]:
        assert log.reached(at["radius"]).mean() == at["accuracy"]
    assert log.radii.mean() == pytest.approx(evaluation["mean_size"], rel=1e-4)
    times = [line.split("\t")[5] for line in file.read_text().splitlines()[1:]]
    seconds = sum(float(time.split(":")[2]) + 60 * float(time.split(":")[1]) for time in times)
    assert 0 < seconds <= evaluation["seconds"] + 0.01


@pytest.fixture(scope="module")
def family(bundle: Path) -> Path:
    """The same network under less, and under more noise."""
    folder = bundle.parent
    for name, scale in (("less", 0.1), ("more", 0.4)):
        shutil.copytree(bundle, folder / name)
        file = folder / name / "model.json"
        document = json.loads(file.read_text())
        document |= {"name": name, "noise": {**document["noise"], "scale": scale}}
        file.write_text(json.dumps(document))
    members = [{"bundle": "less", "least_target": 0}, {"bundle": "more", "least_target": 0.15}]
    file = folder / "both.family.json"
    file.write_text(json.dumps({"name": "both", "default": "less", "members": members}))
    return file


@pytest.mark.slow
def test_a_family_has_the_figures_of_the_members_that_answer(
    family: Path, tmp_path: Path, capsys: Captured
) -> None:
    options = ["--data", "digits", "--every", "20", "--draws", "128", "--radii", "0.1,0.15,0.3"]
    plots = tmp_path / "plots"
    command = ["evaluate", "--family", str(family), *options, "--no-int8"]
    assert main([*command, "--json", "--plots", str(plots)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in document["members"]] == ["less", "more"]
    for place, (at, index) in enumerate(zip(document["envelope"], (0, 1, 1), strict=True)):
        shares = [one["certified"][place]["accuracy"] for one in document["members"]]
        assert (at["radius"], at["member"]) == ((0.1, 0.15, 0.3)[place], ("less", "more")[index])
        assert at["accuracy"] == shares[index]
        assert at["best"] == ("more" if shares[1] > shares[0] else "less")
        assert (
            at["best_interval"][0] <= at["best_accuracy"] == max(shares) <= at["best_interval"][1]
        )
    for index, name in enumerate(("less", "more")):
        alone = [str(family.parent / name), *options, "--json", "--no-int8"]
        assert main(["evaluate", *alone]) == 0
        certified = json.loads(capsys.readouterr().out)["certified"]
        assert document["members"][index]["certified"] == certified
    [from_radius] = document["best_from"]
    assert from_radius is not None
    drawn = (plots / "family.svg").read_text()
    assert "more: certified accuracy" in drawn
    assert "both: the member that answers this target" in drawn
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("both on digits (test): 15 pictures, 128 draws each")
    assert "certified at l2 >= 0.1    by less" in said
    assert "certified at l2 >= 0.3    by more" in said
    assert "the envelope: the best over the members, chosen for each size by these same" in said
    assert "more is better than all before it from about" in said


def test_a_family_takes_no_options_of_a_single_bundle(family: Path, capsys: Captured) -> None:
    for options, complaint in (
        ([str(family.parent / "less"), "--family", str(family)], "expected either a bundle, or"),
        ([], "expected either a bundle, or --family"),
        (["--family", str(family), "--write"], "--write is for a single bundle"),
        (["--family", str(family), "--tsv", "a.tsv"], "--tsv is for a single bundle"),
    ):
        assert main(["evaluate", *options, "--data", "digits"]) == 2
        assert complaint in capsys.readouterr().err
    assert main(["evaluate", "--family", "nope.family.json", "--data", "digits"]) == 1
    assert "nope.family.json: file: cannot be read" in capsys.readouterr().err
