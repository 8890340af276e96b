"""Noise whose shape is learned, at a certified scale that is fixed.

Rakin et al. 2018, "Parametric noise injection", learn how much noise each part of a network gets,
and claim nothing about what it certifies. Here channel c of g's output gets noise of scale σ·s_c,
with s learned, and the certificate stays that of scale σ. For g(x) + diag(s)·σ·noise is
diag(s)·(g̃(x) + σ·noise) with g̃ = diag(1/s)∘g: multiplying by s comes after the noise and changes
no certificate, so that what counts is Δ of g̃, and g̃ is g with the kernel and bias of channel c
divided by s_c. A loss that could choose s freely would drive the noise to nothing. So after each
step s is folded into g, which from then on is g̃, and the whole of g̃ is scaled down until its Δ is
the one that σ was chosen for (:mod:`models.sensitivity.projection`). Channels only share the noise
that there is.

The bundle holds g̃: an ordinary layer, proven like any other, with ordinary noise. h is trained on
what comes from g̃, and learns to multiply by s where that helps.

What can be learned is no more than without: a g whose kernels are learned can have them of any
length already, so that g̃ is one of the layers that training reaches in any case. Only the way there
differs.

In the image (g the identity) it cannot pay: in L2 the size would be that of the least s_c·σ, and
after folding Δ would be 1/min s.
"""

import torch
from torch import Tensor, nn


class NoiseShape:
    """The logarithm of s since it was last folded, for each channel of g's output.

    Args:
        encoder: g, which must end in a convolution or a fully connected layer.

    Attributes:
        logarithms: [channels], a parameter for the optimiser.

    Raises:
        ValueError: it does not.
    """

    def __init__(self, encoder: nn.Module) -> None:
        last = list(encoder.children())[-1] if isinstance(encoder, nn.Sequential) else encoder
        if not isinstance(last, nn.Conv2d | nn.Linear):
            raise ValueError(
                f"learned noise needs a convolution or a fully connected layer right before it, "
                f"not {type(last).__name__}"
            )
        self._last = last
        self.logarithms = nn.Parameter(torch.zeros(len(last.weight)))

    def apply(self, features: Tensor) -> Tensor:
        """Return the output of g̃ for that of g, [batch, channels, …]."""
        shares = torch.exp(-self.logarithms)
        return features * shares.view(-1, *[1] * (features.dim() - 2))

    @torch.no_grad()
    def fold_(self) -> None:
        """Turn g into g̃, and s into ones."""
        shares = torch.exp(-self.logarithms)
        self._last.weight.mul_(shares.view(-1, *[1] * (self._last.weight.dim() - 1)))
        if self._last.bias is not None:
            self._last.bias.mul_(shares)
        self.logarithms.zero_()
