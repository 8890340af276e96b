"""The GPU report on the CPU, at a small size: all that does not depend on the device."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import STEPS, Report, Step, measure
from benchmarks.gpu_machine import Machine


def run(tmp_path: Path, *steps: str, seconds: float = 1e4) -> dict[str, dict[str, object]]:
    report = Report(tmp_path)
    measure(Machine("cpu"), report, list(steps), seconds)
    written = json.loads((tmp_path / "report.json").read_text())
    assert list(written) == list(steps)
    text = (tmp_path / "report.md").read_text()
    assert all(f"## {step}\n" in text for step in steps)
    assert report.failed == []
    return written  # type: ignore[no-any-return]


def test_passes_are_measured(tmp_path: Path) -> None:
    steps = ("environment", "limits", "noise", "rows", "replays", "short-memory")
    found = run(tmp_path, *steps)
    assert found["environment"]["torch"] == torch.__version__
    assert found["noise"]["coordinates compared"] == 16 * 3072
    assert str(found["rows"]["fast-resnet, 16 rows"]).startswith("alone; graph equal h as written")
    assert found["replays"]["different"] == found["replays"]["passes"]


@pytest.mark.slow
def test_the_service_is_measured(tmp_path: Path) -> None:
    found = run(tmp_path, "tests", "start", "service", "cohen", "faults")
    assert found["faults"]["failed meanwhile"] == {}
    assert float(str(found["service"]["fast-resnet: draws/s through HTTP"])) > 0


def test_steps_that_no_longer_fit_into_the_time_are_left_out(tmp_path: Path) -> None:
    found = run(tmp_path, "rows", seconds=10)
    assert "10 s are left" in str(found["rows"]["left out"])


def test_a_step_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STEPS, "limits", Step(0, lambda _: {"share": 1 / 0}))
    report = Report(tmp_path)
    measure(Machine("cpu"), report, ["limits", "environment"], 100)
    assert report.failed == ["limits"]
    assert "ZeroDivisionError" in str(report.steps["limits"]["failed"])
    assert "python" in report.steps["environment"]


def test_without_the_device_it_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cuda:63", "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "device 'cuda:63' cannot be used here" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
