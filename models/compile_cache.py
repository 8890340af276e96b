"""Where PyTorch keeps what it has compiled: apart for each kind of processor.

A compiled network's weights are kept in the layout that suits the processor, and PyTorch does not
notice when another finds them, as where machines share a disk: the process then ends with SIGABRT.
"""

import hashlib
import os
import platform
from pathlib import Path

from torch._inductor.runtime.cache_dir_utils import default_cache_dir

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_PREFIX = "processor-"
# They have PyTorch and its libraries use less than the processor has.
_RESTRICTIONS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_CPUINFO = Path("/proc/cpuinfo")


def keep_apart() -> Path:
    """Have what is compiled from now on kept in a folder of this kind of processor; return it."""
    folder = Path(os.environ.get(_VARIABLE) or default_cache_dir())
    if not folder.name.startswith(_PREFIX):
        folder /= _PREFIX + _processor()
        os.environ[_VARIABLE] = str(folder)
    return folder


def _processor() -> str:
    """Return a short name for what this processor can do, and may be used for."""
    can = [platform.machine()]
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:  # not on Linux
        lines = [platform.processor()]
    can += next(([line] for line in lines if line.lower().startswith(("flags", "features"))), lines)
    can += [os.environ.get(name, "") for name in _RESTRICTIONS]
    return hashlib.sha256("\n".join(can).encode()).hexdigest()[:12]
