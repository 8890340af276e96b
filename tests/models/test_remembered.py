"""The way that was fastest at one start is used at the next, if it is allowed and still works."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from models import remembered
from models.bundle import ZOO
from models.cache import OFF, VARIABLE
from models.execution import Calibration
from models.loaded import LoadedModel, load_model
from models.predictor import Predictor
from models.remembered import calibrate_once
from models.trial import RowsError


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(ZOO / "mnist-cnn")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@contextmanager
def speeds(**fixed: float) -> Iterator[list[tuple[str, str, int]]]:
    """Give ways these draws per second, and others 1,000; yield what is measured."""
    measured = []

    def measure(self: Predictor, seconds: float = 0.0) -> float:
        measured.append((self.provider, self.precision, self.pass_size))
        return fixed.get(self.precision, 1000.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "measure", measure)
        yield measured


def start(model: LoadedModel, *, int8: bool = True, pass_size: int | None = 16) -> Calibration:
    return calibrate_once(model, "cpu", None, pass_size, "pytorch", int8)[1]


def test_the_second_start_measures_one_way(model: LoadedModel, cache: Path) -> None:
    with speeds(bfloat16=3000.0) as measured:
        first = start(model)
        assert {way[1] for way in measured} == {"float32", "bfloat16"}
    with speeds(bfloat16=2500.0) as measured:
        again = start(model)
    assert measured == [("pytorch", "bfloat16", 16)]
    assert again == replace(first, draws_per_second=2500.0)
    (file,) = (cache / "calibrations").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert json.loads(file.read_text())["draws_per_second"] == 3000.0


@pytest.mark.parametrize("now", [1700.0, 5200.0], ids=["slower", "faster"])
def test_all_is_measured_again_if_its_speed_is_another(model: LoadedModel, now: float) -> None:
    with speeds(bfloat16=3000.0):
        start(model)
    with speeds(bfloat16=now, float32=9000.0):
        assert start(model).precision == "float32"
    with speeds(float32=9000.0) as measured:
        assert start(model).precision == "float32"
        assert len(measured) == 1, "what was found is kept in its place"


def test_a_way_that_no_longer_keeps_rows_apart_is_not_used(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with speeds(bfloat16=3000.0):
        start(model)

    def fail(self: Predictor, alone: int = 0) -> None:
        if self.precision == "bfloat16":
            raise RowsError("its rows look at each other")

    monkeypatch.setattr(Predictor, "try_rows", fail)
    with speeds(bfloat16=3000.0):
        assert start(model).precision == "float32"


def test_other_wishes_and_other_versions_have_their_own(
    model: LoadedModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with speeds():
        for wish in ({}, {"int8": False}, {"pass_size": 8}):
            start(model, **wish)
        monkeypatch.setattr("models.cache.version", lambda name: "0")
        start(model)
        monkeypatch.setattr(remembered, "processor", lambda: "another")
        start(model)
    assert len(list((cache / "calibrations").iterdir())) == 5


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"provider":"pytorch","precision":"float32","pass_size":0,"draws_per_second":1}',
        '{"provider":"pytorch","precision":"float64","pass_size":16,"draws_per_second":1}',
        '{"provider":"pytorch","precision":"float32","pass_size":16,"draws_per_second":NaN}',
        # Ways that nobody allowed.
        '{"provider":"openvino","precision":"int8","pass_size":16,"draws_per_second":1000}',
        '{"provider":"pytorch","precision":"float32","pass_size":32,"draws_per_second":1000}',
    ],
)
def test_invalid_or_forbidden_entries_are_ignored(
    model: LoadedModel, cache: Path, content: str
) -> None:
    with speeds(bfloat16=3000.0):
        first = start(model)
        (file,) = (cache / "calibrations").iterdir()
        file.write_text(content)
        assert start(model) == first
        assert json.loads(file.read_text())["precision"] == "bfloat16", "it was replaced"


def test_int8_is_used_only_where_its_record_lets_it(model: LoadedModel, cache: Path) -> None:
    """Whatever the file says."""
    with speeds(int8=9000.0):
        assert calibrate_once(model, "cpu", None, 16)[1].precision == "int8"
        (file,) = (cache / "calibrations").iterdir()
        kept = file.read_bytes()
        file.unlink()
        assert calibrate_once(model, "cpu", None, 16, None, False)[1].precision != "int8"
        (file,) = (cache / "calibrations").iterdir()
        file.write_bytes(kept)
        assert calibrate_once(model, "cpu", None, 16, None, False)[1].precision != "int8"


def test_nothing_is_kept_if_nothing_is_to_be_or_can_be(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for folder in (OFF, str(tmp_path / "file")):
        monkeypatch.setenv(VARIABLE, folder)
        with speeds(bfloat16=3000.0) as measured:
            assert start(model).precision == start(model).precision == "bfloat16"
            assert len(measured) > 4
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    monkeypatch.setenv(VARIABLE, " ")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    with speeds():
        start(model)
    assert len(list((tmp_path / "home" / "pixeldp" / "calibrations").iterdir())) == 1


def test_given_ways_are_neither_measured_nor_kept(model: LoadedModel, cache: Path) -> None:
    with speeds() as measured:
        calibrate_once(model, "cpu", "float32", 16, "pytorch")
    assert len(measured) == 1
    assert not cache.exists()
