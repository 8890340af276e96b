"""The attacks attack: they find changes that exist, and stay within what they are allowed."""

import pytest
import torch
from torch import nn

from models.evaluation.attacks import ATTACKS, AttackNorm, expected_probabilities
from models.pixeldp import PixelDP

PIXELS = 16


class HalfSpace(nn.Module):
    """Two labels, divided by a plane with normal ``direction`` through mid-grey."""

    def __init__(self, direction: torch.Tensor) -> None:
        super().__init__()
        self.direction = direction

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        side = 40 * ((noisy - 0.5).flatten(1) @ self.direction)
        return torch.stack([side, -side], dim=1)


def network(norm: AttackNorm) -> tuple[PixelDP, torch.Tensor]:
    torch.manual_seed(0)
    normal = torch.randn(PIXELS)
    return PixelDP(nn.Identity(), HalfSpace(normal / normal.norm()), "gaussian", 0.1), normal


def distance(changed: torch.Tensor, pictures: torch.Tensor, norm: AttackNorm) -> torch.Tensor:
    order = 2 if norm == "l2" else torch.inf
    return (changed - pictures).flatten(1).norm(p=order, dim=1)


@pytest.mark.parametrize("name", sorted(ATTACKS))
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_half_space_falls_outside_of_its_distance_only(name: str, norm: AttackNorm) -> None:
    """For a half-space the best change is known; attacks must come close to it."""
    model, normal = network(norm)
    unit = normal / normal.norm()
    # Pictures at a known distance from the plane, well inside [0, 1].
    gap = 0.2
    pictures = (0.5 + gap * unit).repeat(8, 1).reshape(8, 1, 4, 4)
    labels = torch.zeros(8, dtype=torch.long)
    needed = gap if norm == "l2" else gap / float(unit.abs().sum())
    for factor, flips in ((0.9, False), (1.35, True)):
        sizes = torch.full((8,), factor * needed)
        changed = ATTACKS[name](model, pictures, labels, sizes, norm, steps=20, draws=64)
        assert (distance(changed, pictures, norm) <= sizes * (1 + 1e-5)).all()
        assert changed.min() >= 0
        assert changed.max() <= 1
        scores = expected_probabilities(model, changed, 2000)
        assert (scores.argmax(1) != 0).all() == flips
        assert (scores.argmax(1) != 0).any() == flips


def test_expected_scores_average_over_the_noise() -> None:
    model, _ = network("l2")
    torch.manual_seed(1)
    scores = expected_probabilities(model, torch.full((3, 1, 4, 4), 0.5), 4000)
    assert scores.shape == (3, 2)
    assert torch.allclose(scores, torch.full((3, 2), 0.5), atol=0.05)
