"""Where PyTorch caches compiled networks: in a separate folder for each kind of processor.

A compiled network's weights are stored in the layout that suits the processor. PyTorch does not
notice if another kind of processor finds them, as when machines share a disk, and the process ends
with SIGABRT.
"""

import hashlib
import os
import platform
from pathlib import Path

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_PREFIX = "processor-"
# With these, PyTorch and its libraries use fewer instructions than the processor has.
_RESTRICTIONS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_CPUINFO = Path("/proc/cpuinfo")


def keep_apart() -> Path:
    """Cache compiled networks in a folder for this kind of processor from now on; return it."""
    # Importing PyTorch's compiler takes a second.
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    folder = Path(os.environ.get(_VARIABLE) or default_cache_dir())
    if not folder.name.startswith(_PREFIX):
        folder /= _PREFIX + processor()
        os.environ[_VARIABLE] = str(folder)
    return folder


def processor() -> str:
    """Return a short name for the instructions that this processor has, and that may be used."""
    can = [platform.machine()]
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:  # not on Linux
        lines = [platform.processor()]
    can += next(([line] for line in lines if line.lower().startswith(("flags", "features"))), lines)
    can += [os.environ.get(name, "") for name in _RESTRICTIONS]
    return hashlib.sha256("\n".join(can).encode()).hexdigest()[:12]
