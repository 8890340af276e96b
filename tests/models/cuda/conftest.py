"""Some tests are collected only if there is a GPU, a compiler or NVRTC."""

from importlib.util import find_spec

import torch

from tests.conftest import HAS_COMPILER

_NEEDS = {
    "test_gpu.py": torch.cuda.is_available(),
    "test_noise_kernel.py": HAS_COMPILER,
    "test_cuda_device.py": HAS_COMPILER,
    "test_nvrtc.py": find_spec("cuda") is not None,
}
collect_ignore = [name for name, present in _NEEDS.items() if not present]
