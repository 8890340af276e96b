"""Evaluations that are interrupted, and go on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models.bundle import read_bundle
from models.data.datasets import DataSet
from models.evaluation.evaluate import Attacks, Running, evaluate
from models.evaluation.kept import Kept
from models.execution import Execution

RUNNING = Running(precision="float32", pass_size=96, provider="pytorch")


def figures(bundle: Path, baseline: Path, data: DataSet, file: Path, **more: Any) -> dict[str, Any]:
    attacks = Attacks(("pgd",), pictures=len(data), steps=2, draws=16, thresholds=(0.1,))
    options = {"running": RUNNING, "radii": (0.3,), "max_draws": 64, "attacks": attacks, **more}
    found = evaluate(read_bundle(bundle), data, baseline=baseline, kept=Kept(file), **options)
    return found.model_dump(exclude={"seconds", "draws_per_second"})


@pytest.fixture
def few(digits: DataSet) -> DataSet:
    return DataSet(digits.images[:40], digits.labels[:40], digits.names)


def test_an_interrupted_evaluation_ends_with_the_same_figures(
    bundle: Path, undefended: Path, few: DataSet, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "deeper" / "cut.jsonl"
    wanted = figures(bundle, undefended, few, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    # Two parts of unaltered pictures and two of attacked ones; and one each for the baseline.
    assert len(lines) == 2 + 2 + 2 + 1
    cut.parent.mkdir()
    for left in range(len(lines)):
        # The run ended while it wrote a line.
        cut.write_bytes(b"".join(lines[:left]) + lines[left][: 50 * left])
        again = figures(bundle, undefended, few, cut)
        assert again == wanted
        kept = cut.read_bytes().splitlines(keepends=True)
        assert len(kept) == len(lines)
        assert kept[:left] == lines[:left]


def test_answers_to_something_else_are_not_taken(
    bundle: Path, undefended: Path, few: DataSet, tmp_path: Path
) -> None:
    file = tmp_path / "kept.jsonl"
    figures(bundle, undefended, few, file)
    before = file.read_text()
    shifted = DataSet(few.images, (few.labels + 1) % 10, few.names)
    for more in ({"max_draws": 96}, {"running": Running("cpu", "float32", 96, 1, "pytorch")}):
        with_file = figures(bundle, undefended, few, file, **more)
        assert with_file == figures(bundle, undefended, few, tmp_path / "other.jsonl", **more)
        (tmp_path / "other.jsonl").unlink()
    assert figures(bundle, undefended, shifted, file)["accuracy"] < 0.3
    assert file.read_text().startswith(before)
    assert file.read_text().count("\n") > 2 * before.count("\n")


def test_a_model_goes_on_in_the_way_in_which_it_ran(
    bundle: Path, undefended: Path, few: DataSet, tmp_path: Path
) -> None:
    file, read = tmp_path / "kept.jsonl", read_bundle(bundle)
    assert Kept(file).way(read.digest) is None
    first = figures(bundle, undefended, few, file)
    assert Kept(file).way(read.digest) == Execution("pytorch", "float32", 96, False)
    # bfloat16 may be faster here; the answers are there, so nothing is measured.
    before = file.read_bytes()
    assert figures(bundle, undefended, few, file, running=Running(pass_size=96)) == first
    assert file.read_bytes() == before
    other = Running(precision="bfloat16", pass_size=96)
    assert figures(bundle, undefended, few, file, running=other)["precision"] == "bfloat16"


EMPTY = {"leaders": [], "sizes": [], "seconds": [], "draws": 0}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("idx\tlabel\n", 1),
        (json.dumps({"about": {"model": "a"}, **EMPTY}) + "\n[]\n", 2),
        (json.dumps({"about": {}, **EMPTY}) + "\n", 1),
        (json.dumps({"digest": "sha256:1", "side": 3}) + "\n", 1),
        ("a picture, or whatever has no end", 1),
        (json.dumps({"about": {"model": "a"}, **EMPTY}) + '\n{"digest": 1}', 2),
        ("idx\rlabel", 1),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "other"
    file.write_bytes(text.encode())
    complaint = f"{file}, line {line}: is not what an evaluation keeps"
    with pytest.raises(ValueError, match=re.escape(complaint)):
        Kept(file)
    assert file.read_bytes() == text.encode()
