"""The array types of this package."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Numbers = NDArray[Any]
# Votes [rows], or integer scores [rows, K]: see :mod:`models.certification.tally`.
Draws = NDArray[np.signedinteger[Any]]
