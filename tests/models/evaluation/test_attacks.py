"""The attacks work: they find changes that exist, and stay within the allowed size."""

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

from models.certification.names import NORMS, Norm
from models.evaluation.asked import AttackName
from models.evaluation.attacks import (
    ATTACKS,
    _project_l1,
    _steepest,
    in_bfloat16,
    noisy_scores,
    plain_scores,
)
from models.network import PixelDP

PIXELS = 16
ORDERS: dict[Norm, float] = {"l1": 1, "l2": 2, "linf": torch.inf}


class HalfSpace(nn.Module):
    """Two labels, divided by a plane with normal ``direction`` through mid-grey."""

    def __init__(self, direction: torch.Tensor, gain: float) -> None:
        super().__init__()
        self.direction, self.gain = direction, gain

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        side = self.gain * ((noisy - 0.5).flatten(1) @ self.direction)
        return torch.stack([side, -side], dim=1)


def network(gain: float = 40) -> tuple[PixelDP, torch.Tensor]:
    torch.manual_seed(0)
    normal = torch.randn(PIXELS)
    unit = normal / normal.norm()
    return PixelDP(nn.Identity(), HalfSpace(unit, gain), "gaussian", 0.1), unit


def needed(gap: float, unit: torch.Tensor, norm: Norm) -> float:
    """The size of the smallest change that crosses the plane, by the dual norm."""
    return gap / float({"l1": unit.abs().max(), "l2": 1.0, "linf": unit.abs().sum()}[norm])


@pytest.mark.parametrize("name", sorted(ATTACKS))
@pytest.mark.parametrize("norm", NORMS)
def test_a_half_space_flips_only_beyond_its_distance(name: AttackName, norm: Norm) -> None:
    """For a half-space the best change is known; attacks must come close to it."""
    model, unit = network()
    # Pictures at a known distance from the plane, well inside [0, 1].
    pictures = (0.5 + 0.15 * unit).repeat(8, 1).reshape(8, 1, 4, 4)
    labels = torch.zeros(8, dtype=torch.long)
    for factor, flips in ((0.9, False), (1.35, True)):
        sizes = torch.full((8,), factor * needed(0.15, unit, norm))
        changed = ATTACKS[name](noisy_scores(model, 64), pictures, labels, sizes, norm, steps=20)
        moved = (changed - pictures).flatten(1).norm(p=ORDERS[norm], dim=1)
        assert (moved <= sizes * (1 + 1e-5)).all()
        assert changed.min() >= 0
        assert changed.max() <= 1
        scores = noisy_scores(model, 2000)(changed)
        assert (scores.argmax(1) != 0).all() == flips
        assert (scores.argmax(1) != 0).any() == flips


@pytest.mark.parametrize("name", sorted(ATTACKS))
@pytest.mark.parametrize("norm", NORMS)
def test_a_very_confident_network_is_attacked_all_the_same(name: AttackName, norm: Norm) -> None:
    """Its scores round to 0 and 1, where the gradient of a score is 0."""
    model, unit = network(gain=130)
    pictures = (0.5 + 0.15 * unit).reshape(1, 1, 4, 4)
    scores = plain_scores(model)
    assert scores(pictures).exp()[0, 0] == 1
    sizes = torch.tensor([1.1 * needed(0.15, unit, norm)])
    changed = ATTACKS[name](scores, pictures, torch.tensor([0]), sizes, norm, steps=20)
    assert scores(changed).argmax() == 1


def test_expected_scores_average_over_the_noise() -> None:
    model, _ = network()
    torch.manual_seed(1)
    scores = noisy_scores(model, 4000)(torch.full((3, 1, 4, 4), 0.5)).exp()
    assert scores.shape == (3, 2)
    assert torch.allclose(scores, torch.full((3, 2), 0.5), atol=0.05)


def test_scores_and_gradients_in_bfloat16_are_near_those_in_float32() -> None:
    torch.manual_seed(1)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 40), nn.ReLU(), nn.Linear(40, 3))
    scores = plain_scores(PixelDP(nn.Identity(), classifier, "gaussian", 0.1))
    pictures = torch.rand(5, 1, 4, 4, requires_grad=True)
    found = []
    for one in (scores, in_bfloat16(scores)):
        logs = one(pictures)
        (gradient,) = torch.autograd.grad(logs[:, 0].sum(), pictures)
        found.append((logs.detach(), gradient))
    (exact, slope), (rounded, rounded_slope) = found
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.02
    assert 0 < (slope - rounded_slope).norm() < 0.03 * slope.norm()


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_has_length_one_and_skips_pixels_at_their_limit(norm: Norm) -> None:
    torch.manual_seed(2)
    gradient = torch.randn(2, 3, 10, 10)
    pictures = torch.full_like(gradient, 0.5)
    pictures[:, :, :5] = 1.0
    step = _steepest(gradient, norm, pictures)
    assert torch.allclose(step.flatten(1).norm(p=ORDERS[norm], dim=1), torch.ones(2))
    blocked = (pictures == 1) & (gradient > 0)
    assert (step[blocked] == 0).all()
    assert (step * gradient >= 0).all()
    if norm == "l1":
        assert (step[0] != 0).sum() == 3
        taken = (gradient[0] * ~blocked[0]).abs()
        assert taken[step[0] != 0].min() >= taken[step[0] == 0].max()


def test_the_projection_in_l1_is_the_nearest_point_of_the_ball() -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(6, 1, 2, 3))
    limits = np.array([0.1, 0.5, 1.0, 2.0, 3.0, 100.0])
    found = _project_l1(
        torch.tensor(points).float(), torch.tensor(limits).reshape(-1, 1, 1, 1).float()
    ).numpy()
    for point, limit, nearest in zip(points, limits, found, strict=True):
        flat = point.ravel()
        assert abs(nearest).sum() <= limit * (1 + 1e-5)
        if abs(flat).sum() <= limit:
            assert np.allclose(nearest, point, atol=1e-6)
            continue
        # The nearest point shrinks every entry by the same amount, but not below 0.
        shrunk = optimize.brentq(
            lambda by, flat=flat, limit=limit: np.maximum(abs(flat) - by, 0).sum() - limit,
            0,
            abs(flat).max(),
        )
        by_hand = np.sign(flat) * np.maximum(abs(flat) - shrunk, 0)
        assert np.allclose(nearest.ravel(), by_hand, atol=1e-5)
