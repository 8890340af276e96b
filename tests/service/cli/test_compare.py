"""``pixeldp compare``, as people type it."""

import json
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
