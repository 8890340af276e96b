"""The training losses under noise."""

import torch.nn.functional as F
from torch import Tensor

from models.training.recipe import Consistency


def draws_loss(logits: Tensor, labels: Tensor, consistency: Consistency | None) -> Tensor:
    """Return the loss of a batch.

    Mean cross-entropy over all draws; with ``consistency`` plus (Jeong and Shin 2020, section 3)
    weight · mean_i KL(F̂ ‖ F_i) + entropy · H(F̂), where F_i is the prediction of a picture's draw i
    and F̂ their mean.

    Args:
        logits: [draws, batch, K].
        labels: [batch].
        consistency: the weights, or None for cross-entropy only.
    """
    logs = F.log_softmax(logits, dim=-1)
    draws = len(logs)
    loss = F.nll_loss(logs.flatten(0, 1), labels.repeat(draws))
    if consistency is None:
        return loss
    mean = logs.exp().mean(dim=0)
    log_mean = mean.clamp_min(1e-12).log()
    divergence = (mean * (log_mean - logs)).sum(dim=-1).mean()
    entropy = -(mean * log_mean).sum(dim=-1).mean()
    return loss + consistency.weight * divergence + consistency.entropy * entropy


def stability_loss(logits: Tensor, clean: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Return the loss of a batch that rewards noise which changes nothing.

    Li et al. 2019, section 4 ("stability training", Zheng et al. 2016, equation 4): the
    cross-entropy of the pictures without noise, plus weight times that between their predictions
    and those under noise, averaged over draws.

    Args:
        logits: [draws, batch, K], under noise.
        clean: [batch, K], without.
        labels: [batch].
        weight: of the second part.
    """
    moved = -(clean.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
    return F.cross_entropy(clean, labels) + weight * moved
