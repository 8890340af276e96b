"""Attacks on the expected scores, with gradients averaged over noise draws.

They look for a change of at most a given size that makes another label lead. Within a certified
size none exists: that none is ever found is evidence for the certificates, and the accuracy under
larger attacks shows how much room they leave.

The attacked function maps pictures to the logarithms of expected softmax scores. For a network with
noise it averages over ``draws`` fresh draws at each step, and so does its gradient (expectation
over transformation, Athalye et al. 2018; Salman et al. 2019, section 3.1). It uses logarithms
because the scores of a network without noise round to 0 and 1 while their gradients still matter.
"""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from models.certification.names import Norm
from models.certification.norms import check_norm
from models.evaluation.asked import AttackName
from models.network import PixelDP

# Pictures [batch, c, h, w] in [0, 1] to log expected scores [batch, K], differentiable.
LogScores = Callable[[Tensor], Tensor]

# A step in L1 moves this share of the pixel values (Tramèr and Boneh 2019 use 1 % and more).
_MOVED = 0.01
_TINY = 1e-30


def noisy_scores(network: PixelDP, draws: int) -> LogScores:
    """Return the network's log expected scores, estimated from ``draws`` draws per picture."""

    def scores(pictures: Tensor) -> Tensor:
        features = network.encode(pictures).repeat_interleave(draws, dim=0)
        logs = network.score(network.perturb(features)).float().log_softmax(dim=1)
        return logs.reshape(len(pictures), draws, -1).logsumexp(dim=1) - log(draws)

    return scores


def plain_scores(network: PixelDP) -> LogScores:
    """Return the network's log scores without its noise."""
    return lambda pictures: network.score(network.encode(pictures)).float().log_softmax(dim=1)


def in_bfloat16(scores: LogScores) -> LogScores:
    """Return the same scores, and their gradients, computed by layers in bfloat16."""

    def rounded(pictures: Tensor) -> Tensor:
        with torch.autocast(pictures.device.type, torch.bfloat16):
            return scores(pictures)

    return rounded


def pgd(
    scores: LogScores, pictures: Tensor, labels: Tensor, sizes: Tensor, norm: Norm, steps: int
) -> Tensor:
    """Projected gradient descent (Madry et al. 2018) on the cross-entropy, from a random start.

    In L1 its steps are sparse, as Tramèr and Boneh (2019) found to be needed.

    Args:
        scores: the function to attack.
        pictures: [batch, c, h, w] in [0, 1].
        labels: [batch], the labels to move away from.
        sizes: [batch], the largest change of each picture, in ``norm``.
        norm: the norm of changes.
        steps: gradient steps, each of 2.5·size/steps.

    Returns:
        The changed pictures, in [0, 1] and within ``sizes`` of the given ones.
    """
    limit = _per_picture(sizes)
    change = project((torch.rand_like(pictures) * 2 - 1) * limit, limit, norm, pictures)
    for _ in range(steps):
        change = change.detach().requires_grad_(True)
        loss = F.nll_loss(scores(pictures + change), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, change)
        step = 2.5 / steps * limit * _steepest(gradient, norm, pictures + change)
        change = project(change + step, limit, norm, pictures)
    return (pictures + change).detach()


def carlini_wagner(
    scores: LogScores, pictures: Tensor, labels: Tensor, sizes: Tensor, norm: Norm, steps: int
) -> Tensor:
    """Carlini and Wagner's objective (2017), descended with momentum within ``sizes``.

    The objective is the label's logarithmic score minus the largest of its rivals'. The authors
    minimise it with Adam and search for the smallest change that flips a label. Here the question
    is what a given size can do, so the change is projected onto the sizes after each step (as in
    Madry et al. 2018, section 5). Adam would spend as much on unimportant pixels as on the others,
    which works poorly in L1 and L2, so the steps follow the averaged gradient itself (Dong et al.
    2018). Arguments and result as for :func:`pgd`; each step is 4·size/steps.
    """
    limit = _per_picture(sizes)
    own = labels[:, None]
    change, momentum = torch.zeros_like(pictures), torch.zeros_like(pictures)
    for _ in range(steps):
        change = change.detach().requires_grad_(True)
        now = scores(pictures + change)
        rival = now.scatter(1, own, -torch.inf).amax(dim=1)
        (gradient,) = torch.autograd.grad((rival - now.gather(1, own)[:, 0]).sum(), change)
        momentum = 0.9 * momentum + gradient
        step = 4 / steps * limit * _steepest(momentum, norm, pictures + change)
        change = project(change + step, limit, norm, pictures)
    return (pictures + change).detach()


ATTACKS: dict[AttackName, Callable[..., Tensor]] = {"pgd": pgd, "carlini-wagner": carlini_wagner}


def _per_picture(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1).float()


def _length(changes: Tensor) -> Tensor:
    return _per_picture(changes.flatten(1).norm(dim=1)).clamp_min(_TINY)


def _steepest(gradient: Tensor, norm: Norm, pictures: Tensor) -> Tensor:
    """Return the direction of length 1 in ``norm`` that gains most.

    Pixels that are already black or white, and would have to go further, do not take part.
    """
    gradient = gradient.masked_fill((pictures >= 1) & (gradient > 0), 0.0)
    gradient = gradient.masked_fill((pictures <= 0) & (gradient < 0), 0.0)
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        return gradient / _length(gradient)
    flat = gradient.flatten(1)
    count = max(1, round(_MOVED * flat.shape[1]))
    top = flat.abs().topk(count, dim=1).indices
    signs = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign())
    return signs.reshape(gradient.shape) / count


def project(change: Tensor, limit: Tensor, norm: Norm, pictures: Tensor) -> Tensor:
    """Return the change, limited to ``limit`` and to pictures in [0, 1].

    The limit to [0, 1] can only shorten a change: it moves each entry towards 0.
    """
    if check_norm(norm) == "linf":
        change = change.clamp(-limit, limit)
    elif norm == "l2":
        change = change * (limit / _length(change)).clamp_max(1.0)
    else:
        change = _project_l1(change, limit)
    return (pictures + change).clamp(0.0, 1.0) - pictures


def _project_l1(change: Tensor, limit: Tensor) -> Tensor:
    """Return the nearest changes within ``limit`` in L1 (Duchi et al. 2008, figure 1)."""
    flat, most = change.flatten(1), limit.flatten(1)
    falling = flat.abs().sort(dim=1, descending=True).values
    excess = (falling.cumsum(dim=1) - most) / torch.arange(1, flat.shape[1] + 1, device=flat.device)
    kept = (falling > excess).sum(dim=1, keepdim=True).clamp_min(1)
    threshold = excess.gather(1, kept - 1).clamp_min(0.0)
    return (flat.sign() * (flat.abs() - threshold).clamp_min(0.0)).reshape(change.shape)
