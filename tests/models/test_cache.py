"""Graphs of OpenVINO are kept on disk: the next start runs the same h, and records nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import converted
from models.bundle import ZOO
from models.cache import OFF, VARIABLE, cache_path, make_room
from models.execution import Format
from models.loaded import load_model
from models.predictor import Predictor

ROWS = 8


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path / "graphs"


def logits(name: str, precision: Format = "float32", rows: int = ROWS) -> torch.Tensor:
    model = load_model(ZOO / name)
    predictor = Predictor(model, rows, precision=precision, provider="openvino")
    torch.manual_seed(0)
    return predictor.logits(torch.randn(rows, *model.feature_shape))


def fail(*arguments: object) -> None:
    raise AssertionError("recorded again")


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(
    "name", ["mnist-cnn", pytest.param("cifar10-resnet", marks=pytest.mark.slow)]
)
def test_what_is_kept_is_the_same_h(
    name: str, precision: Format, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, also as it runs where nothing is kept."""
    first = logits(name, precision)
    [file] = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    with monkeypatch.context() as again:
        again.setattr(converted, "_record", fail)
        assert torch.equal(logits(name, precision), first)
    monkeypatch.setenv(VARIABLE, OFF)
    assert torch.equal(logits(name, precision), first)


@pytest.mark.slow
def test_other_passes_and_formats_have_their_own(cache: Path) -> None:
    logits("mnist-cnn")
    logits("mnist-cnn", rows=16)
    logits("mnist-cnn", "int8")
    logits("mnist-cnn-l1")
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize(
    "damage",
    ["one bit", *(pytest.param(one, marks=pytest.mark.slow) for one in ("cut off", "empty"))],
)
def test_a_damaged_graph_is_replaced(
    cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one that the next start reads."""
    first = logits("mnist-cnn")
    [file] = cache.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    other = bytes([whole[middle] ^ 1])
    damaged = {"one bit": whole[:middle] + other + whole[middle + 1 :], "cut off": whole[:middle]}
    file.write_bytes(damaged.get(damage, b""))
    assert torch.equal(logits("mnist-cnn"), first)
    monkeypatch.setattr(converted, "_record", fail)
    assert torch.equal(logits("mnist-cnn"), first)


def test_nothing_is_kept_if_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    found = logits("mnist-cnn")
    monkeypatch.setenv(VARIABLE, OFF)
    assert cache_path("graphs") is None
    assert torch.equal(logits("mnist-cnn"), found)


def test_what_was_longest_not_in_use_makes_room(tmp_path: Path) -> None:
    for age, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    make_room(tmp_path, 25)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.slow
def test_the_second_start_imports_no_compiler(tmp_path: Path) -> None:
    code = f"""import sys
from models.bundle import ZOO
from models.loaded import load_model
from models.predictor import Predictor
predictor = Predictor(load_model(ZOO / "mnist-cnn"), {ROWS}, provider="openvino")
predictor.try_rows()
print("torch._dynamo" in sys.modules)"""
    environment = {**os.environ, VARIABLE: str(tmp_path)}
    command = [sys.executable, "-c", code]
    said = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert said == ["True\n", "False\n"]
