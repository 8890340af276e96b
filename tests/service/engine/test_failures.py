"""Why a worker failed, in words."""

import pytest

from service.engine.failures import explain, explain_exit


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("libcudart.so.13: cannot open shared object file"), "libcudart.so.13"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "/opt/torch"), "'/opt/torch'"),
        (KeyError("odd"), "KeyError: 'odd'"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_exception(error: BaseException, said: str) -> None:
    assert said in explain(error, "cpu")


def test_trouble_with_a_device_comes_with_advice() -> None:
    assert "--devices cpu" in explain(RuntimeError("no CUDA-capable device"), "cuda:0")


@pytest.mark.parametrize(
    ("code", "line", "said"),
    [
        (0, "", "exit status 0, without a word"),
        (7, "no such thing", "exit status 7 (no such thing)"),
        (-9, "", "SIGKILL ended it; the kernel kills a process so when memory runs out"),
        (-6, "assertion failed", "SIGABRT ended it (assertion failed)"),
        (-99, "", "signal 99 ended it"),
    ],
)
def test_the_end_of_a_process(code: int, line: str, said: str) -> None:
    assert said in explain_exit(code, line)
