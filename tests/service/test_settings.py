"""Settings are checked together, before anything starts."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings


def test_defaults_are_what_a_newcomer_meets() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.queue) == ("127.0.0.1", 8000, 1024)
    assert [path.name for path in settings.models] == ["mnist-cnn"]
    assert settings.worker_devices()


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELDP_CONFIDENCE", "0.999")
    monkeypatch.setenv("PIXELDP_MODELS", '["/one", "/two"]')
    settings = Settings()
    assert settings.confidence == 0.999
    assert settings.models == [Path("/one"), Path("/two")]
    # What is said on the command line goes before it.
    assert Settings(confidence=0.9).confidence == 0.9


@pytest.mark.parametrize(
    "given",
    [
        {"confidence": 1.0},
        {"confidence": 0.0},
        {"max_draws": 63},
        {"max_draws": 2000, "max_draws_limit": 1000},
        {"timeout_ms": 700_000},
        {"models": []},
        {"devices": ""},
        {"devices": " , "},
        {"pass_size": 1},
        {"precision": "float16"},
        {"port": 70_000},
        {"prot": 8000},
    ],
)
def test_what_cannot_be(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**given)  # type: ignore[arg-type]


def test_devices() -> None:
    assert Settings(devices="cpu, cpu").worker_devices() == ["cpu", "cpu"]
    assert Settings(devices="cuda:1").worker_devices() == ["cuda:1"]


def test_without_gpus_processors_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert set(Settings().worker_devices()) == {"cpu"}


@pytest.mark.parametrize(
    ("host", "on_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_who_can_reach_an_address(host: str, on_loopback: bool) -> None:
    assert Settings(host=host).on_loopback is on_loopback
