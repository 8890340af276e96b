"""The number formats that h may be run in. The certificate takes h to be any function."""

from typing import Literal, get_args

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
