"""The laws of noise by name, and the norms in which they need g's sensitivity."""

from typing import Literal

from models.certification.norms import Norm

Mechanism = Literal["gaussian", "laplace"]
MECHANISM_NORMS: dict[Mechanism, Norm] = {"gaussian": "l2", "laplace": "l1"}
