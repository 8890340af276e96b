import time

import pytest

from service.cli.progress import Progress

Captured = pytest.CaptureFixture[str]


def test_long_work_reports_what_it_is_doing(capsys: Captured) -> None:
    said = ""
    with Progress(every=0.02) as progress:
        progress("building the network")
        while said.count("\n") < 3:
            time.sleep(0.01)
            said += capsys.readouterr().err
        progress("trying it")
        while "trying it" not in said:
            time.sleep(0.01)
            said += capsys.readouterr().err
    for line in said.splitlines():
        assert line.startswith("pixeldp: 0 s: ")
        assert line.endswith(("building the network …", "trying it …"))


def test_short_work_stays_silent(capsys: Captured) -> None:
    with Progress(every=600) as progress:
        progress("building the network")
    assert capsys.readouterr().err == ""
