import math

import pytest
import torch
import torch.nn.functional as F

from models.training.losses import draws_loss, stability_loss
from models.training.recipe import Consistency


def test_without_consistency_it_is_the_mean_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 4), torch.tensor([0, 1, 2, 3, 0])
    expected = sum(F.cross_entropy(draw, labels) for draw in logits) / 3
    assert float(draws_loss(logits, labels, None)) == pytest.approx(float(expected), rel=1e-6)


def test_consistency_by_hand() -> None:
    # One picture, two labels, two draws that predict (0.9, 0.1) and (0.5, 0.5): mean (0.7, 0.3).
    logits = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
    cross = -(math.log(0.9) + math.log(0.5)) / 2
    divergence = (
        0.7 * math.log(0.7 / 0.9)
        + 0.3 * math.log(0.3 / 0.1)
        + 0.7 * math.log(0.7 / 0.5)
        + 0.3 * math.log(0.3 / 0.5)
    ) / 2
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    loss = draws_loss(logits, torch.tensor([0]), Consistency(weight=4, entropy=0.25))
    assert float(loss) == pytest.approx(cross + 4 * divergence + 0.25 * entropy, rel=1e-5)


def test_draws_without_doubt_do_not_break_it() -> None:
    logits = torch.tensor([[[200.0, -200.0]], [[200.0, -200.0]]], requires_grad=True)
    loss = draws_loss(logits, torch.tensor([0]), Consistency(weight=10))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def test_stability_by_hand() -> None:
    # Clean (0.8, 0.2); under noise (0.9, 0.1) and (0.5, 0.5).
    clean = torch.tensor([[0.8, 0.2]]).log()
    logits = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
    moved = -(0.8 * math.log(0.9) + 0.2 * math.log(0.1) + math.log(0.5)) / 2
    loss = stability_loss(logits, clean, torch.tensor([0]), 3.0)
    assert float(loss) == pytest.approx(-math.log(0.8) + 3 * moved, rel=1e-5)
