"""How h may be run. The certificate takes h to be any function, in any number format."""

from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# What runs h.
Provider = Literal["pytorch"]


@dataclass(frozen=True)
class Execution:
    """How h is run. With the digest of the model's files and the device it says which h it is.

    Attributes:
        provider: what runs it.
        precision: its number format.
        pass_size: rows of every pass.
        compiled: whether it runs compiled or as it was written.
    """

    provider: Provider
    precision: Precision
    pass_size: int
    compiled: bool


@dataclass(frozen=True)
class Calibration:
    """How a model is run: the number format of h, slots of a pass, and draws per second.

    ``compiled`` says whether h runs compiled or as it was written.
    """

    precision: Precision
    pass_size: int
    draws_per_second: float
    compiled: bool = False
