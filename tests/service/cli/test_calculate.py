"""``pixeldp size``, ``bounds``, ``plan`` and ``verify``, as people type them."""

import json
from pathlib import Path

import pytest

from service.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    status, out, err = run(capsys, *arguments, "--json")
    assert (status, err) == (0, "")
    document: dict[str, object] = json.loads(out)
    return document


SIZE = ("size", "--lower", "0.9", "--upper", "0.05", "--scale", "0.25", "--sensitivity", "0.8")


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        ("pixeldp-gaussian", 0.149996104843),
        ("renyi", 0.390429335238),
        ("gaussian", 0.457250811328),
        ("pixeldp-laplace", 0.451620587171),
        ("laplace", 0.611253594598),
    ],
)
def test_sizes_are_the_reference_figures(
    capsys: pytest.CaptureFixture[str], certificate: str, expected: float
) -> None:
    document = run_json(capsys, *SIZE, "--certificate", certificate)
    assert document["size"] == pytest.approx(expected, rel=1e-9)


def test_bounds_that_do_not_separate_have_size_0(capsys: pytest.CaptureFixture[str]) -> None:
    for lower, upper in (("0.1", "0.5"), ("0.5", "0.5")):
        arguments = ("--lower", lower, "--upper", upper, "--scale", "1")
        assert run_json(capsys, "size", "--certificate", "gaussian", *arguments) == {"size": 0.0}


@pytest.mark.parametrize(
    ("method", "lower", "upper"),
    [
        ("betting", 0.753021227884, 0.938185971235),
        ("hoeffding", 0.680052539648, 1.0),
        ("empirical-bernstein", 0.61241233751, 1.0),
    ],
)
def test_bounds_are_the_reference_figures(
    capsys: pytest.CaptureFixture[str], method: str, lower: float, upper: float
) -> None:
    sums = ("--sum", "87.5", "--sum-squares", "79.25", "--draws", "100", "--alpha", "0.0005")
    document = run_json(capsys, "bounds", "--method", method, *sums)
    assert document["lower"] == pytest.approx(lower, rel=1e-11)
    assert document["upper"] == pytest.approx(upper, rel=1e-11)


def test_clopper_pearson_takes_votes(capsys: pytest.CaptureFixture[str]) -> None:
    votes = ("bounds", "--method", "clopper-pearson", "--draws", "100", "--alpha", "0.001")
    document = run_json(capsys, *votes, "--sum", "93")
    assert document["lower"] == pytest.approx(0.815819080108, rel=1e-11)
    assert document["upper"] == pytest.approx(0.98444471634, rel=1e-11)
    status, _, err = run(capsys, *votes, "--sum", "93", "--sum-squares", "90")
    assert status == 1
    assert "votes only" in err


def test_a_plan_names_the_draws(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("plan", "--scale", "0.5", "--target", "0.4", "--confidence", "0.999")
    rows = run_json(capsys, *arguments)["plan"]
    assert isinstance(rows, list)
    needed = [row["draws"] for row in rows]
    reachable = [draws for draws in needed if draws is not None]
    assert reachable == sorted(reachable)
    # Exactly those scores are out of reach whose own size is below the target.
    assert [draws is None for draws in needed] == [
        row["largest_size"] is not None and row["largest_size"] < 0.4 for row in rows
    ]
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert "out of reach" in out


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (
            ("size", "--certificate", "best", "--lower", "1", "--upper", "0", "--scale", "1"),
            1,
            "best",
        ),
        (
            ("size", "--certificate", "gaussian", "--lower", "1", "--upper", "0", "--scale", "0"),
            1,
            "positive",
        ),
        (
            ("size", "--certificate", "gaussian", "--lower", "2", "--upper", "0", "--scale", "1"),
            2,
            "lower",
        ),
        (("size",), 2, "certificate"),
        (
            ("bounds", "--method", "betting", "--sum", "9", "--draws", "5", "--alpha", ".1"),
            1,
            "sum",
        ),
        (
            ("bounds", "--method", "betting", "--sum", "3", "--draws", "5", "--alpha", "0"),
            1,
            "alpha",
        ),
        (
            ("bounds", "--method", "guess", "--sum", "3", "--draws", "5", "--alpha", ".1"),
            2,
            "guess",
        ),
        (("plan", "--scale", "0.5", "--target", "-1"), 1, "target"),
        (("plan", "--scale", "0.5", "--target", "1", "--confidence", "1"), 1, "confidence"),
        (("verify", "/nowhere.json"), 1, "nowhere"),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, says: str
) -> None:
    found, out, err = run(capsys, *arguments)
    assert found == status
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


def test_answers_are_read_in_every_encoding_that_shells_use(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "answer.json"
    file.write_text("[]", encoding="utf-8")
    expected = run(capsys, "verify", str(file))
    for encoding in ("utf-8-sig", "utf-16"):
        file.write_text("[]", encoding=encoding)
        assert run(capsys, "verify", str(file)) == expected
    file.write_bytes(b"\xff\x00")
    assert "not JSON" in run(capsys, "verify", str(file))[2]


def test_files_that_are_not_answers_cannot_be_verified(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "answer.json"
    for content in ("", "[]", "{}", '{"evidence": null}', '{"evidence": {"label": 1}}'):
        file.write_text(content)
        status, _, err = run(capsys, "verify", str(file))
        assert status == 2
        assert err.count("\n") == 1


SIZED = ("plan", "--rate", "1000", "--p99", "200ms", "--device", "gpu=100000")


def test_a_service_is_sized(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--decisions", "40,32,200", "--pass-size", "64", "--front-ms", "2")
    document = run_json(capsys, *SIZED, *options, "--hourly", "3.6")
    assert (document["device"], document["workers"], document["fronts"]) == ("gpu", 1, 3)
    assert document["busy"] == pytest.approx(1000 * 0.002 / 3)  # of the fronts
    assert document["cost_per_million"] == pytest.approx(1.0)
    status, out, _ = run(capsys, *SIZED, *options)
    assert status == 0
    assert out.splitlines()[0].split() == ["workers,", "one", "for", "each", "gpu", "1"]


MACHINE = {"speeds": [[1, 30], [8, 50]], "median": 0.02, "high": 0.1, "front_seconds": 0.002}


def test_a_service_is_sized_by_what_was_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "capacity.json"
    file.write_text(json.dumps({"machine": MACHINE, "figures": {}}))
    document = run_json(capsys, "plan", "--rate", "1000", "--p99", "150ms", "--measured", str(file))
    assert document["workers"] == 33  # with fewer, pictures would share them all the time
    assert document["fronts"] == 3
    assert document["capacity"] == pytest.approx(1500)  # of the fronts


@pytest.mark.parametrize("change", [{"speeds": []}, {"median": "fast"}, {"high": -1}])
def test_what_was_not_measured_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: dict[str, object]
) -> None:
    file = tmp_path / "capacity.json"
    file.write_text(json.dumps({"machine": {**MACHINE, **change}}))
    status, out, err = run(capsys, "plan", "--rate", "1000", "--measured", str(file))
    assert (status != 0, out) == (True, "")
    assert "is not what python -m benchmarks.capacity" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SIZED, "--measured", "capacity.json"), "give either"),
        (("plan", "--rate", "1", "--measured", "nowhere"), "nowhere is not what"),
        (("plan", "--scale", "1"), "Missing option '--scale' or '--target', or '--rate'"),
        (SIZED, "expected either --decisions"),
        ((*SIZED, "--decisions", "40"), "such as 38,32,250"),
        ((*SIZED, "--decisions", "40,50,30"), "such as 38,32,250"),
        ((*SIZED, "--decisions", "1,1,1", "--p99", "200"), "expected a time such as 200ms"),
        ((*SIZED, "--decisions", "1,1,1", "--device", "h100"), "expected NAME=DRAWS"),
        ((*SIZED, "--decisions", "1,1,1", "--device", "h100=1e300"), "expected NAME=DRAWS"),
        ((*SIZED, "--decisions", "1e-9,1e-9,1e-9"), "such as 38,32,250"),
        ((*SIZED, "--decisions", "1,1,1e300"), "such as 38,32,250"),
        ((*SIZED, "--decisions", "1,1,1", "--rate", "0"), "--rate must be above 0"),
        ((*SIZED, "--decisions", "1,1,1", "--rate", "1e300"), "a lower rate, or a faster device"),
        ((*SIZED, "--decisions", "1,1,1", "--p99", "1ms"), "one picture alone takes"),
        ((*SIZED, "--certified", "nowhere"), "has no answers yet"),
    ],
)
def test_what_a_sizing_needs(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status != 0, out) == (True, "")
    assert said in " ".join(err.split())
