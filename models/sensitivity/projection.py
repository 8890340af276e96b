"""Keep the sensitivity of g at a bound while it is trained.

Called after every step of the optimiser, as Lécuyer et al. 2019 (section III-B) do for the layer
before the noise. The factor comes from the proven bound itself, so the certificate will find the
same bound after training.

Scaling the weight of a convolution, a fully connected layer or a batch norm scales each of its
Δ(r,s), and with it the product along every choice of norms. So one factor for all of g is enough,
and every layer gets its root.

Scaling the weights inside a residual sum does not scale the sum if the shortcut has no weights.
They are kept from dominating the shortcut: a path with weights has at most the Δ of one without,
and at most 1 if both have weights.
"""

from collections.abc import Sequence
from math import isfinite

import torch
from torch import nn

from models.certification.names import Norm
from models.sensitivity.modules import (
    LayerSensitivity,
    combine,
    layer_sensitivities,
    product,
)
from models.sensitivity.operators import Sensitivity

# The margin of the first attempt: a little more than rounding to float32 adds (2⁻²⁴ of each
# weight).
_HAIR = 1e-7


def project_(
    encoder: nn.Module, input_shape: tuple[int, int, int], p: Norm, q: Norm, bound: float = 1.0
) -> Sensitivity:
    """Scale weights down in place until Δ(p,q) ≤ ``bound`` is proven; biases do not change.

    The bound is computed on the weights as they are stored, after rounding. A g that is already
    within the bound is not changed.

    Args:
        encoder: g, in evaluation mode where that matters.
        input_shape: (channels, height, width) of what goes in.
        p: the norm of the input.
        q: the norm of the output.
        bound: the largest allowed Δ(p,q), > 0.

    Returns:
        The sensitivity of the scaled g.

    Raises:
        ValueError: the bound is not positive, weights are not finite, a layer has no proven bound,
            or g has nothing to scale.
    """
    if not (isfinite(bound) and bound > 0):
        raise ValueError(f"bound {bound}: expected a positive number")
    hair = _HAIR
    while True:
        rows = layer_sensitivities(encoder, input_shape, p, q)
        if not _scale_paths(rows, hair):
            value = product(rows)
            if value <= bound:
                return combine(rows)
            if not _weights(rows):
                raise ValueError(
                    f"the sensitivity before the noise is {value:.6g} and cannot be kept at "
                    f"{bound:g}: no layer outside a residual sum has weights"
                )
            _scale(rows, bound / value * (1 - hair))
        hair = min(2 * hair, 0.5)


def _scale_paths(rows: Sequence[LayerSensitivity], hair: float) -> bool:
    """Scale paths that exceed their share of a residual sum; return whether any did."""
    scaled = False
    for row in rows:
        for index, path in enumerate(row.paths):
            other = row.paths[1 - index]
            limit = 1.0 if _weights(other) else product(other)
            value = product(path)
            if _scale_paths(path, hair):
                scaled = True
            elif value > limit and _weights(path):
                _scale(path, limit / value * (1 - hair))
                scaled = True
    return scaled


def _weights(rows: Sequence[LayerSensitivity]) -> list[torch.Tensor]:
    """The weights that scale the rows' product; a weight that is used twice is listed twice."""
    return [
        layer.weight
        for row in rows
        for layer in row.layers
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and layer.weight is not None
    ]


def _scale(rows: Sequence[LayerSensitivity], factor: float) -> None:
    """Scale the rows' product by ``factor``, each weight by the same root of it."""
    weights = _weights(rows)
    root = factor ** (1 / len(weights))
    with torch.no_grad():
        for weight in {id(weight): weight for weight in weights}.values():
            weight.copy_(weight.to(torch.float64) * root)
