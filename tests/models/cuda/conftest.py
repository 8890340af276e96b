"""The noise kernel is compiled for the processor, where there is a compiler."""

from tests.conftest import HAS_COMPILER

collect_ignore = [] if HAS_COMPILER else ["test_noise_kernel.py", "test_cuda_device.py"]
