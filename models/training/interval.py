"""Training by interval bounds: the loss of the worst logits in a box (Gowal et al. 2018).

The bounds here are those of :mod:`models.networks.interval` without what rounding adds, which
training does not need. The last layer is bounded for differences of logits. The boxes grow while
the network trains, and weights begin small enough for bounds to pass through layers without growing
(Shi et al. 2021, "Fast certified robust training with short warmup", section 4.1).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.interval import check_layers


def initialise_(network: nn.Module) -> None:
    """Draw weights with a standard deviation of √(2π)/n for n inputs of a layer; biases are 0.

    Then |weights| multiply the radius of a box by 1 in expectation, after a ReLU.

    Raises:
        ValueError: the network has a layer that intervals do not pass.
    """
    check_layers(network)
    for layer in network.children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def interval_loss(
    network: nn.Module, boxes: Tensor, pictures: Tensor, labels: Tensor, natural: float
) -> tuple[Tensor, float]:
    """Return the loss, and the share of boxes that have their label throughout.

    Args:
        network: h; its last layer is fully connected.
        boxes: [batch, 2 × channels, height, width], centres and radii.
        pictures: [batch, channels, height, width].
        labels: [batch].
        natural: the weight of the cross-entropy of the pictures themselves; the rest is that of
            the worst logits in their boxes.
    """
    worst = worst_logits(network, boxes, labels)
    loss = (1 - natural) * F.cross_entropy(worst, labels)
    if natural:
        loss = loss + natural * F.cross_entropy(network(pictures), labels)
    rivals = worst.detach().scatter(1, labels[:, None], -math.inf)
    return loss, (rivals.max(dim=1).values < 0).float().mean().item()


def worst_logits(network: nn.Module, boxes: Tensor, labels: Tensor) -> Tensor:
    """Return upper bounds on every logit less that of the label, over a box; 0 for the label."""
    centre, radius = boxes.chunk(2, dim=1)
    *layers, last = network.children()
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            radius = layer._conv_forward(radius, layer.weight.abs(), None)
        elif isinstance(layer, nn.Linear):
            radius = F.linear(radius, layer.weight.abs())
        elif isinstance(layer, nn.ReLU):
            lower, upper = (centre - radius).relu(), (centre + radius).relu()
            centre, radius = (lower + upper) / 2, (upper - lower) / 2
            continue
        else:
            radius = layer(radius)
        centre = layer(centre)
    assert isinstance(last, nn.Linear)
    rows = last.weight[None] - last.weight[labels][:, None]
    shift = last.bias[None] - last.bias[labels][:, None]
    ends = rows @ centre[..., None] + rows.abs() @ radius[..., None]
    return torch.as_tensor(ends.squeeze(-1) + shift)
