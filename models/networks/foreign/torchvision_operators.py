"""Make ``import torchvision`` work beside PyTorch's CPU build.

torchvision's wheel on the public registry is compiled against a CUDA build of PyTorch. Beside a CPU
build its extension does not load, the operators ``nms`` and ``qnms`` that it would define are
missing, and ``import torchvision`` fails when it describes their outputs: "operator
torchvision::nms does not exist". This project never suppresses boxes. The data sets, models and
transforms are Python, and work once the two operators are declared.

The service never imports torchvision; training and evaluation do, right after
:func:`declare_missing_operators`.
"""

from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def declare_missing_operators() -> torch.library.Library | None:
    """Declare the operators, unless torchvision's own extension loads and defines them.

    Returns:
        The library of the declarations, which end when it is freed; hence the cache. None if
        torchvision defines the operators itself.
    """
    if hasattr(torch.ops.torchvision, "nms") or _extension_loads():
        return None
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


def _extension_loads() -> bool:
    """Load the extension as torchvision itself will; loading it twice does no harm."""
    package = find_spec("torchvision")
    extension = package and PathFinder.find_spec("_C", package.submodule_search_locations)
    if not extension or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True
