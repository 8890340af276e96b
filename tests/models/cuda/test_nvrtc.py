"""NVRTC compiles the kernel without a GPU; collected only if PyTorch's CUDA build brings it."""

import pytest

from models.cuda.card import compile_kernels
from models.device import DeviceError


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_the_kernel_compiles_for_a_gpu(architecture: str) -> None:
    code = compile_kernels(architecture)
    assert code.startswith(b"\x7fELF")
    assert b"draw" in code
    assert b"end_pass" in code


def test_a_failed_compilation_says_why() -> None:
    with pytest.raises(DeviceError, match="NVRTC cannot compile the noise kernel for sm_1"):
        compile_kernels("sm_1")
