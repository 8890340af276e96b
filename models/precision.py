"""How h may be run. The certificate takes h to be any function, in any number format."""

from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Calibration:
    """How a model is run: the number format of h, slots of a pass, and draws per second.

    ``compiled`` says whether h runs compiled or as it was written.
    """

    precision: Precision
    pass_size: int
    draws_per_second: float
    compiled: bool = False
