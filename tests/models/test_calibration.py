"""Calibration uses what is set, and otherwise chooses what measures best."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from models import converted, execution
from models.bundle import Bundle, Manifest, read_bundle
from models.calibration import FURTHER_TURNS, KNEE_TURNS, calibrate, find_small, make_small
from models.converted import Converted
from models.cuda.passes import Sizes
from models.execution import PRECISIONS, ProviderError, SmallPass, ways
from models.loaded import load_model
from models.network import build_network, save_network
from models.predictor import Predictor
from models.trial import RowsError
from tests.models.test_bundle import DESCRIPTION


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path, manifest, build_network(manifest))
    return read_bundle(tmp_path)


def test_settings_are_kept(bundle: Bundle) -> None:
    predictor, calibration = calibrate(load_model(bundle), "cpu", "bfloat16", 96)
    assert (calibration.precision, calibration.pass_size) == ("bfloat16", 96)
    assert (predictor.precision, predictor.pass_size) == ("bfloat16", 96)
    assert calibration.draws_per_second > 0


def test_a_given_way_is_not_compared(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    measure = Predictor.measure

    def note(self: Predictor, seconds: float) -> float:
        sizes.append(self.pass_size)
        return measure(self, seconds)

    monkeypatch.setattr(Predictor, "measure", note)
    calibrate(load_model(bundle), "cpu", "float32", 96, "pytorch")
    assert sizes == [96]


@pytest.mark.parametrize("at", ["measure", "try_rows"])
def test_models_that_do_not_fit_into_memory_run_in_smaller_passes(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    whole = getattr(Predictor, at)

    def small(self: Predictor, *arguments: float) -> object:
        if self.pass_size > 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(self, *arguments)

    monkeypatch.setattr(Predictor, at, small)
    predictor, calibration = calibrate(load_model(bundle), "cpu", "float32", 96, "pytorch")
    assert calibration.pass_size == predictor.pass_size == 24
    monkeypatch.setattr("models.calibration.LEAST_PASS", 32)
    with pytest.raises(torch.OutOfMemoryError):
        calibrate(load_model(bundle), "cpu", "float32", 48, "pytorch")


def test_the_fastest_is_chosen(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {
        ("float32", 8): 400.0,
        ("bfloat16", 8): 390.0,
        ("float32", 256): 100.0,
        ("bfloat16", 128): 940.0,
        ("bfloat16", 256): 960.0,
        ("bfloat16", 512): 1000.0,
    }

    def measure(self: Predictor, seconds: float) -> float:
        return speeds[self.precision, self.pass_size]

    monkeypatch.setattr(Predictor, "measure", measure)
    predictor, calibration = calibrate(load_model(bundle), "cpu", None, None)
    # 960 is within 5 % of the best, but 940 is not.
    assert (calibration.precision, calibration.pass_size) == ("bfloat16", 256)
    assert calibration.draws_per_second == 960.0
    assert predictor.pass_size == 256


def test_a_format_that_is_far_behind_costs_no_time(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example bfloat16 on processors without it."""
    measured: list[tuple[str, str, int]] = []

    def measure(self: Predictor, seconds: float) -> float:
        measured.append((self.provider, self.precision, self.pass_size))
        return 1000.0 if self.precision == "float32" else 100.0

    monkeypatch.setattr(Predictor, "measure", measure)
    predictor, calibration = calibrate(load_model(bundle), "cpu", None, None)
    assert calibration.precision == predictor.precision == "float32"
    assert [size for _, precision, size in measured if precision == "bfloat16"] == [8]
    assert set(Counter(measured).values()) <= {1, 1 + FURTHER_TURNS}, "once, or in turns"


def test_a_slow_moment_does_not_decide(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a processor that others use, too: the faster way meets it in its first turn."""
    turns = Counter[str]()

    def measure(self: Predictor, seconds: float) -> float:
        turns[self.provider] += self.pass_size == 256
        slow = self.provider == "openvino" and turns["openvino"] == 1
        return {"pytorch": 2000.0, "openvino": 1500.0 if slow else 3000.0}[self.provider]

    monkeypatch.setattr(Predictor, "measure", measure)
    predictor, calibration = calibrate(load_model(bundle), "cpu", "float32", None)
    assert predictor.provider == "openvino"
    assert calibration.draws_per_second == 3000.0


def test_a_quick_moment_does_not_decide_on_the_pass_size(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Counter[int]()

    def measure(self: Predictor, seconds: float) -> float:
        turns[self.pass_size] += 1
        quick = self.pass_size == 512 and turns[512] == 2
        return 1600.0 if quick else {8: 400.0, 128: 1480.0}.get(self.pass_size, 1500.0)

    monkeypatch.setattr(Predictor, "measure", measure)
    predictor, calibration = calibrate(load_model(bundle), "cpu", "float32", None, "pytorch")
    assert predictor.pass_size == calibration.pass_size == 128
    assert calibration.draws_per_second == 1480.0
    assert turns[512] == KNEE_TURNS


@pytest.mark.parametrize(
    ("speed", "size"), [(1.0, 8), (20.0, 16), (100.0, 64), (250.0, 128)], ids=str
)
def test_nobody_waits_long_for_a_pass_of_a_large_network(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, speed: float, size: int
) -> None:
    def measure(self: Predictor, seconds: float) -> float:
        return speed * (1.5 if self.precision == "bfloat16" else 1.0)

    monkeypatch.setattr(Predictor, "measure", measure)
    predictor, calibration = calibrate(load_model(bundle), "cpu", None, None)
    assert (calibration.precision, calibration.pass_size) == ("bfloat16", size)
    assert predictor.pass_size == size


def test_a_format_that_the_network_does_not_run_in_is_left_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Predictor.measure

    def only_float32(self: Predictor, seconds: float = 0.2) -> float:
        if self.precision == "bfloat16":
            raise RuntimeError("expected scalar type Float but found BFloat16")
        return measure(self, seconds)

    monkeypatch.setattr(Predictor, "measure", only_float32)
    assert calibrate(load_model(bundle), "cpu", None, None)[1].precision == "float32"
    with pytest.raises(RuntimeError, match="BFloat16"):
        calibrate(load_model(bundle), "cpu", "bfloat16", None)


@pytest.mark.parametrize(("faster", "provider"), [(1.04, "pytorch"), (1.06, "openvino")])
def test_another_provider_must_be_worth_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, faster: float, provider: str
) -> None:
    def measure(self: Predictor, seconds: float) -> float:
        return 1000.0 * (faster if self.provider == "openvino" else 1.0)

    monkeypatch.setattr(Predictor, "measure", measure)
    predictor, calibration = calibrate(load_model(bundle), "cpu", "float32", None)
    assert calibration.provider == predictor.execution.provider == provider
    told, _ = calibrate(load_model(bundle), "cpu", None, None, "openvino")
    assert (told.provider, told.precision) == ("openvino", "float32")
    told, _ = calibrate(load_model(bundle), "cpu", None, None, "pytorch")
    assert told.provider == "pytorch"


def test_a_provider_that_cannot_run_the_network_is_left_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, pictures: object) -> None:
        raise ProviderError("an operator is missing")

    monkeypatch.setattr(Converted, "__call__", refuse)
    assert calibrate(load_model(bundle), "cpu", None, None)[1].provider == "pytorch"
    with pytest.raises(ProviderError, match="missing"):
        calibrate(load_model(bundle), "cpu", None, None, "openvino")


def test_openvino_is_refused_where_it_cannot_run(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(bundle)
    with pytest.raises(ProviderError, match="only on CPUs"):
        calibrate(model, "cuda:0", None, None, "openvino")
    monkeypatch.setattr(converted, "has_bfloat16", lambda: False)
    for size in (None, 8):
        with pytest.raises(ProviderError, match="this processor has no bfloat16"):
            calibrate(model, "cpu", "bfloat16", size, "openvino")
    assert calibrate(model, "cpu", None, None, "openvino")[1].precision == "float32"


def test_without_openvino_there_is_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "find_spec", lambda name: None)
    assert {provider for provider, _ in ways("cpu", None, None)} == {"pytorch"}
    with pytest.raises(ProviderError, match="is not installed"):
        ways("cpu", "openvino", None)


def test_measuring_a_real_model(bundle: Bundle) -> None:
    predictor, calibration = calibrate(load_model(bundle), "cpu", None, None)
    assert calibration.precision in PRECISIONS
    assert calibration.pass_size in predictor.on.pass_sizes
    features = predictor.encode(np.zeros((8, 8, 1), np.uint8)).features
    votes = predictor.run([features], np.zeros(calibration.pass_size, dtype=np.intp))
    assert len(votes) == calibration.pass_size


def speeds(monkeypatch: pytest.MonkeyPatch, **by_size: float) -> list[int]:
    """Let passes draw at these speeds (``size48=…``); return the sizes that are measured."""
    measured: list[int] = []

    def measure(self: Predictor, seconds: float) -> float:
        measured.append(self.pass_size)
        return by_size[f"size{self.pass_size}"]

    monkeypatch.setattr(Predictor, "measure", measure)
    return measured


def test_small_passes_are_those_that_answer_easy_pictures_soonest(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(load_model(bundle), 128)
    speeds(monkeypatch, size128=1000.0, size32=900.0, size48=900.0, size64=950.0)
    assert find_small(predictor) == SmallPass(32, 900.0)
    speeds(monkeypatch, size128=1000.0, size32=500.0, size48=900.0, size64=950.0)
    assert find_small(predictor) == SmallPass(48, 900.0)


def test_small_passes_that_do_not_pay_are_left_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example if every pass takes the same time."""
    predictor = Predictor(load_model(bundle), 128)
    speeds(monkeypatch, size128=1000.0, size32=250.0, size48=380.0, size64=500.0)
    assert find_small(predictor) is None
    measured = speeds(monkeypatch)
    assert find_small(predictor.resized(32)) is None
    assert not measured


def test_small_passes_whose_rows_fail_are_left_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(load_model(bundle), 128)
    speeds(monkeypatch, size128=1000.0, size32=900.0, size48=900.0, size64=950.0)

    def refuse(self: Predictor, alone: int = 0) -> None:
        if self.pass_size == 32:
            raise RowsError("its rows look at each other")

    monkeypatch.setattr(Predictor, "try_rows", refuse)
    assert find_small(predictor) == SmallPass(48, 900.0)
    with pytest.raises(RowsError):
        make_small(predictor, 32)
    assert make_small(predictor, 64) == SmallPass(64, 950.0)


def test_passes_that_serve_are_prepared_once_however_many_others_are_tried(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the pictures in flight would meet another h, which was not tried."""
    predictor = Predictor(load_model(bundle), 256)
    prepared: list[int] = []
    sizes = Sizes(prepared.append)  # type: ignore[arg-type]
    monkeypatch.setattr(predictor.resident, "prepare", sizes.get)
    monkeypatch.setattr(predictor.resident, "compare", lambda noisy: None)
    predictor.try_rows()

    def refuse(*noisy: object) -> None:
        raise RowsError("rows differ")

    monkeypatch.setattr("models.predictor.try_rows", refuse)
    assert find_small(predictor) is None
    with pytest.raises(RowsError):
        make_small(predictor, 64)
    predictor.resident.prepare(256)
    assert set(prepared) >= {32, 48, 64}
    assert prepared.count(256) == 1


def test_another_provider_converts_for_one_small_size(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(load_model(bundle), 128, provider="openvino")
    monkeypatch.setattr(Predictor, "try_rows", lambda self: None)
    measured = speeds(monkeypatch, size128=1000.0, size32=900.0)
    assert find_small(predictor) == SmallPass(32, 900.0)
    assert measured == [32, 128]
