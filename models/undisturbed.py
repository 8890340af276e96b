"""Networks that run while another is traced in another thread of the process.

While ``torch.fx`` traces, which PyTorch's compiler does for moments, ``nn.Module.__call__`` of the
whole process is its own, and refuses modules that are not being traced
(``torch/fx/_symbolic_trace.py``). It refuses them before they compute, so they can be called again.
"""

import time
from typing import Any

from torch import Tensor, nn

_REFUSAL = "module is not installed as a submodule"
_LONGEST_SECONDS, _PAUSE_SECONDS = 30.0, 0.001


def call(network: nn.Module, given: Tensor) -> Any:
    """Return ``network(given)``; again, if it is refused because another is traced."""
    end = time.monotonic() + _LONGEST_SECONDS
    while True:
        try:
            return network(given)
        except NameError as error:
            if _REFUSAL not in str(error) or time.monotonic() > end:
                raise
        time.sleep(_PAUSE_SECONDS)
