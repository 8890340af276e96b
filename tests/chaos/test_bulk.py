"""The short form of the kills of a bulk certification; ``make chaos-bulk`` runs the long one."""

from pathlib import Path

from tests.chaos.bulk import run


def test_no_kill_loses_or_doubles_a_picture(tmp_path: Path) -> None:
    counts = run(tmp_path, pictures=1000, kills=1, jobs=1)
    assert counts["wrong"] == [], counts
