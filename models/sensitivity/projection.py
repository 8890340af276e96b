"""Keep a layer's sensitivity at a bound while it is trained.

Called after every step of the optimiser, as Lécuyer et al. 2019 (section III-B) do for the layer
before the noise. The scale comes from the proven bound itself, so that what training ends with is
what the certificate will find.
"""

from math import isfinite

import torch
from torch import nn

from models.certification.norms import Norm
from models.sensitivity.modules import linear_map
from models.sensitivity.operators import Sensitivity

# Of the first attempt: a little above what rounding to float32 adds (2⁻²⁴ of each weight).
_HAIR = 1e-7


def project_(
    layer: nn.Conv2d | nn.Linear,
    input_size: tuple[int, int] | None,
    p: Norm,
    q: Norm,
    bound: float = 1.0,
) -> Sensitivity:
    """Scale the weight down in place until Δ(p,q) ≤ ``bound`` is proven; the bias is left alone.

    The bound is computed on the weight as it is stored, after rounding. A layer that is within the
    bound already is not touched.

    Args:
        layer: a convolution with zero padding, or a fully connected layer.
        input_size: (height, width) of a convolution's input; ``None`` will do for a ``Linear``.
        p: the norm of the input.
        q: the norm of the output.
        bound: what Δ(p,q) may be, > 0.

    Returns:
        The sensitivity of the layer as it now is.

    Raises:
        ValueError: a bound that is not positive, weights that are not finite, or a layer or norms
            without a proven bound.
    """
    if not (isfinite(bound) and bound > 0):
        raise ValueError(f"bound {bound}: expected a positive number")
    sensitivity = linear_map(layer, input_size).sensitivity(p, q)
    hair = _HAIR
    while sensitivity.value > bound:
        with torch.no_grad():
            scaled = layer.weight.to(torch.float64) * (bound / sensitivity.value * (1 - hair))
            layer.weight.copy_(scaled)
        sensitivity = linear_map(layer, input_size).sensitivity(p, q)
        hair = min(2 * hair, 0.5)
    return sensitivity
