"""A model as the tools of the field attack it: ART, Foolbox, AutoAttack, or any other for PyTorch.

They ask for an ``nn.Module`` that returns logits of pictures in [0, 1]. :class:`ExpectedScores` is
one: it returns the logarithms of the expected softmax scores, averaged over fresh draws at each
call, so that gradients are averaged over the noise, too (expectation over transformation, Athalye
et al. 2018). Logarithms of scores are logits of the same scores.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.bundle import Bundle
from models.certification.names import Norm
from models.evaluation.attacks import LogScores, noisy_scores, project
from models.network import load_network

# As ART writes norms.
_NORMS: dict[Norm, Any] = {"l1": 1, "l2": 2, "linf": np.inf}
# The loss of differences needs the three highest logits.
_FEWEST = 3
# ART's Square attack fails on pictures with shorter sides.
_SMALLEST = 16
# The share of a picture that the random search changes first (Andriushchenko et al. 2020).
_FIRST = 0.8


class ExpectedScores(nn.Module):
    """Pictures [batch, channels, height, width] in [0, 1] to log expected scores [batch, labels].

    Args:
        scores: the function; in evaluation mode, on its device.
    """

    def __init__(self, scores: LogScores) -> None:
        super().__init__()
        self._scores = scores

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logarithms of the expected scores, from fresh draws."""
        return self._scores(pictures)


def attackable(bundle: Bundle, draws: int = 16, device: str = "cpu") -> ExpectedScores:
    """Return a bundle's model for any tool that attacks modules of PyTorch.

    Args:
        bundle: the model.
        draws: the number of noise draws at each call; more make gradients steadier.
        device: a torch device.
    """
    return ExpectedScores(noisy_scores(load_network(bundle).to(device), draws)).eval()


def art_classifier(model: nn.Module, shape: tuple[int, ...], labels: int, gpu: bool = False) -> Any:
    """Return ART's ``PyTorchClassifier`` of a module that returns logits.

    Args:
        model: as :func:`attackable` returns it.
        shape: (channels, height, width) of the pictures.
        labels: their number.
        gpu: whether it is on a GPU.
    """
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=labels,
        clip_values=(0.0, 1.0),
        device_type="gpu" if gpu else "cpu",
    )


def autoattack(
    scores: LogScores, pictures: Tensor, labels: Tensor, sizes: Tensor, norm: Norm, steps: int
) -> Tensor:
    """The attacks of AutoAttack (Croce and Hein 2020) that ART has, one after another.

    These are Auto-PGD on the cross-entropy and on the difference of logits ratio, and, in L2 and
    L∞, the Square attack, which needs no gradients; a picture that one of them turns is left alone
    by the next. ART has no FAB. Arguments and result as for
    :func:`models.evaluation.attacks.pgd`; each attack takes ``steps`` steps.
    """
    with torch.no_grad():
        count = scores(pictures[:1]).shape[1]
    model = ExpectedScores(scores).eval()
    estimator = art_classifier(model, tuple(pictures.shape[1:]), count, pictures.is_cuda)
    found = pictures.clone()
    for size in sorted({size for size in sizes.tolist() if size > 0}):
        which = torch.nonzero(sizes == size)[:, 0]
        for attack in _attacks(estimator, norm, float(size), steps, count, len(which)):
            with torch.no_grad():
                which = which[model(found[which]).argmax(dim=1) == labels[which]]
            if not len(which):
                break
            given, wrong = pictures[which].cpu().numpy(), labels[which].cpu().numpy()
            # Square divides by the length of what it has not changed yet.
            with np.errstate(divide="ignore", invalid="ignore"):
                made = attack.generate(x=given, y=wrong)
            made = np.where(np.isfinite(made), made, given)
            found[which] = torch.from_numpy(made).to(found)
    limits = sizes.reshape(-1, 1, 1, 1).float()
    return pictures + project(found - pictures, limits, norm, pictures)


def _attacks(
    estimator: Any, norm: Norm, size: float, steps: int, labels: int, batch: int
) -> list[Any]:
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack

    given = {"norm": _NORMS[norm], "eps": size, "verbose": False, "nb_random_init": 1}
    losses = ["cross_entropy", *(["difference_logits_ratio"] if labels >= _FEWEST else [])]
    attacks: list[Any] = [
        AutoProjectedGradientDescent(
            estimator, eps_step=size, max_iter=steps, batch_size=batch, loss_type=loss, **given
        )
        for loss in losses
    ]
    if norm != "l1" and min(estimator.input_shape[1:]) >= _SMALLEST:
        del given["nb_random_init"]
        attacks.append(
            SquareAttack(
                estimator,
                max_iter=steps,
                p_init=_FIRST,
                nb_restarts=1,
                batch_size=batch,
                **given,
            )
        )
    return attacks
