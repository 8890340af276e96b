"""Settings are checked together, before anything starts."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models import execution
from models.bundle import ZOO, read_bundle
from models.execution import Execution
from service.http.checks import read_catalogue
from service.http.defaults import UselessDefaultsError, check_defaults
from service.settings import Settings, explain
from service.system.environment import UnknownVariableError, check


def test_defaults_suit_a_first_start() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.queue) == ("127.0.0.1", 8000, 1024)
    assert [path.name for path in settings.models] == ["mnist-cnn"]
    assert settings.worker_devices()


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELDP_CONFIDENCE", "0.999")
    monkeypatch.setenv("PIXELDP_MODELS", "/one, /two")
    monkeypatch.setenv("pixeldp_cors_origins", '["https://a.example", "https://b.example"]')
    settings = Settings()
    assert settings.confidence == 0.999
    assert settings.models == [Path("/one"), Path("/two")]
    assert settings.cors_origins == ["https://a.example", "https://b.example"]
    # The command line takes precedence over it.
    assert Settings(confidence=0.9).confidence == 0.9


# For each setting, values that are accepted, at both ends of its range, and values that are not. In
# tests/e2e/test_settings.py, services at either end of all ranges at once answer pictures.
RANGES: dict[str, tuple[list[str], list[str]]] = {
    "host": (
        ["::", "0.0.0.0", "localhost"],
        ["/run/a", "unix:/run/a", "127.0.0.1:80", "http://a", "1::2::3"],
    ),
    "port": (["0", "65535"], ["-1", "65536", "http", "1.5"]),
    "root_path": (["/a/b"], ["a", "/a b"]),
    "models": (["mnist-cnn", "/a,/b", '["/a"]'], [",", "[]"]),
    "default_model": (["mnist-cnn", "mnist-cnn:1"], []),
    "devices": (["auto", "cpu", "cpu, cpu", "cuda", "cuda:1"], ["gpu", " , ", "cpu;cpu", "0"]),
    "precision": (["float32", "bfloat16"], ["float16"]),
    "int8": (["false", "yes"], ["int8"]),
    "provider": (["auto", "pytorch", "openvino"], ["onnxruntime"]),
    "pin": (
        [f"sha256:{'a' * 64}/openvino/int8/128/false, sha256:{'b' * 64}/pytorch/float32/8/true"],
        [
            "sha256:abc/pytorch/float32/128/false",
            f"sha256:{'a' * 64}/pytorch/int8/128/false",
            f"sha256:{'a' * 64}/openvino/float32/128/true",
            f"sha256:{'a' * 64}/pytorch/float32/0/false",
            f"sha256:{'a' * 64}/pytorch/float32/128/no",
            ",".join([f"sha256:{'a' * 64}/pytorch/float32/8/true"] * 2),
        ],
    ),
    "pass_size": (["8", "16384"], ["7", "16385", "many"]),
    "compile": (["true", "no", "1"], ["maybe"]),
    "fronts": (["1", "2", "64"], ["0", "65", "-1", "1.5", "two"]),
    "queue": (["1", "1000000"], ["0", "1000001"]),
    "queue_bytes": (["1", str(2**60)], ["0", str(2**60 + 1)]),
    "stall_seconds": (["1", "86400"], ["0.9", "86401", "inf", "nan"]),
    "check_seconds": (["0", "0.1", "86400"], ["-1", "86401", "inf", "nan"]),
    "load_seconds": (["1", "86400"], ["0.9", "86401", "inf"]),
    "stop_delay_seconds": (["0", "3600"], ["-1", "3601", "inf", "nan"]),
    "repository": (["."], ["/no/such/folder", "pyproject.toml"]),
    "keys": (["keys.json"], []),
    "rates_redis": (["redis://a:6379/0", "rediss://:b@a", "unix:///a"], ["a:6379", "http://a"]),
    "allow_keyless": (["false"], ["2"]),
    "cors_origins": (["*", "https://a.example,http://b:80"], ["a.example", "https://a.example/"]),
    "hosts": (["a.example,b.example"], []),
    "shrink": (["off"], ["-"]),
    "confidence": (["1e-300", "0.9999999999999999"], ["0", "1", "nan", "95 %"]),
    "max_draws": (["64", "100000"], ["63", "100001", str(2**23)]),
    "max_draws_limit": (["1000", str(2**23 - 1)], ["999", "63", str(2**23)]),
    "sticker_masks": (["2", "8"], ["1", "9", "2.5"]),
    "timeout_ms": (["1000", "600000"], ["999", "600001", "1 s"]),
    "timeout_ms_limit": (["30000", "86400000"], ["29999", "999", "86400001"]),
    "max_bytes": (["1024", str(2**30)], ["1023", str(2**30 + 1)]),
    "max_pixels": (["1", "89478485"], ["0", "89478486"]),
    "max_batch": (["1", "4096"], ["0", "4097"]),
    "log_format": (["auto", "console", "json"], ["xml"]),
    "log_level": (["debug", "info", "warning", "error"], ["INFO", "all"]),
}


def test_every_setting_is_tried() -> None:
    assert set(RANGES) == set(Settings.model_fields)


@pytest.mark.parametrize("name", RANGES)
def test_the_whole_range_is_accepted_and_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"PIXELDP_{name.upper()}"
    taken, refused = RANGES[name]
    for value in ("", "  ", *taken):
        monkeypatch.setenv(variable, value)
        assert (getattr(Settings(), name) == Settings.model_fields[name].default) or value
    for value in refused:
        monkeypatch.setenv(variable, value)
        with pytest.raises(ValidationError) as caught:
            Settings()
        sentence = explain(caught.value, set())
        assert variable in sentence
        assert "Input should" not in sentence


def test_a_sentence_says_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELDP_MAX_PIXELS", "100000000")
    monkeypatch.setenv("PIXELDP_LOG_LEVEL", "all")
    with pytest.raises(ValidationError) as caught:
        Settings(port=70_000)
    assert explain(caught.value, {"port"}).split("; ") == [
        "--port is '70000': expected a whole number from 0 to 65,535",
        "PIXELDP_MAX_PIXELS is '100000000': expected a whole number from 1 to 89,478,485",
        "PIXELDP_LOG_LEVEL is 'all': expected one of debug, info, warning, error",
    ]


def test_a_provider_that_cannot_serve_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(provider="openvino", devices="cpu,cuda:0")
    assert explain(caught.value, set()).startswith("PIXELDP_PROVIDER is openvino: OpenVINO runs")
    assert Settings(provider="openvino", devices="cpu", precision="bfloat16").provider == "openvino"
    for given, reason in (
        ({"int8": False}, "PIXELDP_PRECISION is int8, which PIXELDP_INT8=false forbids"),
        ({"provider": "pytorch"}, "PIXELDP_PRECISION is int8: PyTorch does not run"),
        ({"provider": "auto", "devices": "cuda:0"}, "PIXELDP_PRECISION is int8: OpenVINO runs"),
    ):
        with pytest.raises(ValidationError) as caught:
            Settings.model_validate({"precision": "int8", "devices": "cpu", **given})
        assert explain(caught.value, set()).startswith(reason)
    assert Settings(precision="int8", provider="auto", devices="cpu").precision == "int8"
    assert Settings(provider="openvino", devices="cpu").wanted_provider == "openvino"
    assert Settings(provider="auto", devices="cuda:0").wanted_provider is None
    monkeypatch.setattr(execution, "find_spec", lambda name: None)
    assert Settings(provider="auto").wanted_provider is None
    with pytest.raises(ValidationError) as caught:
        Settings(provider="openvino", devices="cpu")
    assert "install pixeldp[openvino]" in explain(caught.value, set())


def pin_of(name: str, way: str = "pytorch/float32/128/false") -> str:
    return f"{read_bundle(ZOO / name).digest}/{way}"


def test_a_pin_is_written_as_answers_name_it() -> None:
    [(digest, way)] = Settings(pin=[pin_of("mnist-cnn", "openvino/int8/64/false")]).pins.items()
    assert digest == read_bundle(ZOO / "mnist-cnn").digest
    assert way == Execution("openvino", "int8", 64, compiled=False)


def test_pins_are_for_all_models_and_for_no_other() -> None:
    one, other = ZOO / "mnist-cnn", ZOO / "mnist-cnn-l1"
    pins = [pin_of("mnist-cnn"), pin_of("mnist-cnn-l1")]
    assert len(read_catalogue(Settings(models=[one, other], pin=pins)).models) == 2
    with pytest.raises(ValueError, match="PIXELDP_PIN names no h of mnist-cnn-l1, which is sha256"):
        read_catalogue(Settings(models=[one, other], pin=pins[:1]))
    with pytest.raises(ValueError, match=r"names sha256:\w+, but no model that is served is that"):
        read_catalogue(Settings(models=[one], pin=pins))
    assert read_catalogue(Settings(models=[one], pin=pins, repository=ZOO)).models


def test_a_pin_that_cannot_be_run_here_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pin = [pin_of("mnist-cnn", "openvino/float32/128/false")]
    with pytest.raises(ValueError, match="PIXELDP_PIN: OpenVINO runs networks only on CPUs"):
        read_catalogue(Settings(pin=pin, devices="cpu,cuda:0"))
    monkeypatch.setattr(execution, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="PIXELDP_PIN: OpenVINO is not installed"):
        read_catalogue(Settings(pin=pin, devices="cpu"))


def test_no_setting_has_another_name() -> None:
    with pytest.raises(ValidationError):
        Settings(prot=8000)  # type: ignore[call-arg]


KUBERNETES = {
    "PIXELDP_SERVICE_HOST": "10.0.0.7",
    "PIXELDP_SERVICE_PORT": "80",
    "PIXELDP_SERVICE_PORT_HTTP": "80",
    "PIXELDP_PORT": "tcp://10.0.0.7:80",
    "PIXELDP_PORT_80_TCP": "tcp://10.0.0.7:80",
    "PIXELDP_PORT_80_TCP_PROTO": "tcp",
    "PIXELDP_PORT_80_TCP_PORT": "80",
    "PIXELDP_PORT_80_TCP_ADDR": "10.0.0.7",
    # From a second Service, called pixeldp-gpu.
    "PIXELDP_GPU_SERVICE_HOST": "10.0.0.8",
    "PIXELDP_GPU_PORT": "tcp://10.0.0.8:80",
}


def test_variables_set_by_kubernetes_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    assert Settings().port == 8000
    assert check(KUBERNETES, Settings.model_fields) == sorted(KUBERNETES)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("PIXELDP_KEY", "PIXELDP_KEYS"),
        ("PIXELDP_KEYS_FILE", "PIXELDP_KEYS"),
        ("PIXELDP_MODEL", "PIXELDP_MODELS"),
        ("PIXELDP_CONFIDENSE", "PIXELDP_CONFIDENCE"),
        ("PIXELDP_MAXPIXELS", "PIXELDP_MAX_PIXELS"),
        ("pixeldp_loglevel", "PIXELDP_LOG_LEVEL"),
        ("PIXELDP_BUILDER", "PIXELDP_BUILDERS"),
        ("PIXELDP_PORT_80", "PIXELDP_PORT"),
    ],
)
def test_a_misspelt_name_is_refused(name: str, nearest: str) -> None:
    with pytest.raises(UnknownVariableError, match=rf"^{name} .*mean {nearest}\?"):
        check({name: "/run/keys.json"}, Settings.model_fields)


def test_other_variables_are_ignored() -> None:
    others = {
        "PIXELDP_BUILDERS": "a",
        "PIXELDP_KEY": "pixeldp_" + "k" * 43,
        "pixeldp_max_draws": "100",
        "PIXELDP_OLD": "",
        "PIXEL_SIZE": "1",
    }
    assert check(others, Settings.model_fields) == []
    with pytest.raises(UnknownVariableError, match="reference"):
        check({"PIXELDP_QQQ": "1"}, Settings.model_fields)


def test_a_bare_name_is_a_model_of_the_zoo_unless_a_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(models=[Path("mnist-cnn-l1")]).models == [ZOO / "mnist-cnn-l1"]
    (tmp_path / "mnist-cnn-l1").mkdir()
    assert Settings(models=[Path("mnist-cnn-l1")]).models == [Path("mnist-cnn-l1")]
    assert Settings(models=[Path("mine")]).models == [Path("mine")]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"max_pixels": 783}, "PIXELDP_MAX_PIXELS is 783, but mnist-cnn needs pictures of 28 x 28"),
        ({"confidence": 1 - 1e-15, "max_draws": 64}, "PIXELDP_MAX_DRAWS is 64.*it takes at least"),
    ],
)
def test_settings_that_would_fail_every_request_are_refused(
    given: dict[str, Any], named: str
) -> None:
    bundle = read_bundle(ZOO / "mnist-cnn")
    check_defaults(Settings(max_pixels=784), bundle)
    with pytest.raises(UselessDefaultsError, match=named):
        check_defaults(Settings(**given), bundle)


def test_devices() -> None:
    assert Settings(devices="cpu, cpu").worker_devices() == ["cpu", "cpu"]
    assert Settings(devices="cuda:1").worker_devices() == ["cuda:1"]


def test_without_gpus_processors_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert set(Settings().worker_devices()) == {"cpu"}


def test_few_processors_have_one_front(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, fronts in {1: 1, 2: 1, 15: 1, 16: 2, 64: 8, 256: 8}.items():
        monkeypatch.setattr("service.system.devices.processors", lambda count=processors: count)
        assert Settings().wanted_fronts == fronts
    assert Settings(fronts=3).wanted_fronts == 3
