"""Code compiled for one kind of processor is not found by another."""

from pathlib import Path

import pytest

from models.compile_cache import keep_apart


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # The suite itself may run with fewer instruction sets than the processor has.
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    return tmp_path


def test_each_kind_of_processor_has_its_own_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = keep_apart()
    assert first.parent == folder
    assert keep_apart() == first, "once is enough"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    assert keep_apart() == first
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    second = keep_apart()
    assert second.parent == folder
    assert second != first
