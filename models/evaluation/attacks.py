"""Attacks on the expected scores, with gradients averaged over noise draws.

They look for a change of at most a given size that makes another label lead. Inside a certified
size none exists; that none is ever found is evidence for the certificates, and the accuracy under
attack outside of it says how much room they leave.

The gradient is that of the expected cross-entropy loss, estimated over ``draws`` draws at each step
(Salman et al. 2019, §3.1; expectation over transformation, Athalye et al. 2018).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from models.pixeldp import PixelDP

AttackNorm = Literal["l2", "linf"]


def expected_probabilities(network: PixelDP, pictures: Tensor, draws: int) -> Tensor:
    """Estimate the expected softmax scores [batch, K] of pictures [batch, c, h, w] in [0, 1]."""
    features = network.encode(pictures)
    repeated = features.repeat_interleave(draws, dim=0)
    scores = network.score(network.perturb(repeated)).float().softmax(dim=1)
    return scores.reshape(len(pictures), draws, -1).mean(dim=1)


def pgd(
    network: PixelDP,
    pictures: Tensor,
    labels: Tensor,
    sizes: Tensor,
    norm: AttackNorm,
    steps: int = 20,
    draws: int = 16,
) -> Tensor:
    """Projected gradient descent (Madry et al. 2018) against the expected scores.

    Args:
        network: in evaluation mode.
        pictures: [batch, c, h, w] in [0, 1].
        labels: [batch], the labels to be moved away from.
        sizes: [batch], how far each picture may be changed, in ``norm``.
        norm: ``l2`` or ``linf``.
        steps: gradient steps, each of 2.5·size/steps.
        draws: noise draws a step.

    Returns:
        The changed pictures, in [0, 1] and within ``sizes`` of the given ones.
    """
    limit = _per_picture(sizes)
    start = torch.rand_like(pictures) * 2 - 1
    change = _project(start * limit, limit, norm, pictures)
    for _ in range(steps):
        change = change.detach().requires_grad_(True)
        scores = expected_probabilities(network, pictures + change, draws)
        loss = F.nll_loss(scores.clamp_min(1e-12).log(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, change)
        ascent = gradient.sign() if norm == "linf" else gradient / _length(gradient)
        change = _project(change + 2.5 / steps * limit * ascent, limit, norm, pictures)
    return (pictures + change).detach()


def carlini_wagner(
    network: PixelDP,
    pictures: Tensor,
    labels: Tensor,
    sizes: Tensor,
    norm: AttackNorm,
    steps: int = 40,
    draws: int = 16,
) -> Tensor:
    """Carlini and Wagner's margin objective (2017), minimised by Adam within ``sizes``.

    The margin max_{i≠y} − y of the logarithms of the expected scores; the change is projected onto
    the sizes after each step, since here the question is what a given size can do, not what the
    smallest change is. Arguments and result as for :func:`pgd`.
    """
    limit = _per_picture(sizes)
    change = torch.zeros_like(pictures)
    moment, square = torch.zeros_like(change), torch.zeros_like(change)
    own = F.one_hot(labels, network.score(network.encode(pictures[:1])).shape[1]).bool()
    for step in range(1, steps + 1):
        change = change.detach().requires_grad_(True)
        scores = expected_probabilities(network, pictures + change, draws).clamp_min(1e-12).log()
        rival = scores.masked_fill(own, -torch.inf).amax(dim=1)
        (gradient,) = torch.autograd.grad((rival - scores[own]).sum(), change)
        moment = 0.9 * moment + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        ascent = moment / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        ascent = ascent if norm == "linf" else ascent / _length(ascent)
        change = _project(change + 4 / steps * limit * ascent, limit, norm, pictures)
    return (pictures + change).detach()


ATTACKS: dict[str, Callable[..., Tensor]] = {"pgd": pgd, "carlini-wagner": carlini_wagner}


def _per_picture(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1).float()


def _length(changes: Tensor) -> Tensor:
    return _per_picture(changes.flatten(1).norm(dim=1)).clamp_min(1e-12)


def _project(change: Tensor, limit: Tensor, norm: AttackNorm, pictures: Tensor) -> Tensor:
    """Return the change cut to ``limit`` and to what leaves the pictures in [0, 1].

    Cutting to [0, 1] only ever shortens a change: it moves each entry towards 0.
    """
    if norm == "linf":
        change = change.clamp(-limit, limit)
    else:
        change = change * (limit / _length(change)).clamp_max(1.0)
    return (pictures + change).clamp(0.0, 1.0) - pictures
