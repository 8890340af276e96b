"""The noise of training follows the law that is certified."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from models.certification.laws import LAWS
from models.certification.laws.split import LEVELS
from models.certification.names import ADDITIVE
from models.network import PixelDP


@pytest.mark.parametrize("mechanism", ADDITIVE)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_training_draws_from_the_law(mechanism: str, kind: torch.dtype) -> None:
    """Kolmogorov and Smirnov's test, which a scale of 3 % too much would not pass."""
    network = PixelDP(nn.Identity(), nn.Identity(), mechanism, 0.5)
    torch.manual_seed(1)
    noisy = network.perturb(torch.full((50_000, 4), 0.25, dtype=kind))
    assert noisy.dtype == kind
    drawn = (noisy.flatten().double().numpy() - 0.25) / 0.5
    law = LAWS[mechanism]
    cdf = law.at(0.5, law.module.cdf)
    if law.discrete:  # F is that of the noise and a uniform part of a step
        drawn += np.random.default_rng(1).uniform(-0.5, 0.5, drawn.shape) / (LEVELS * 0.5)
    assert stats.kstest(drawn, cdf).pvalue > 1e-6
    assert stats.kstest(drawn * 1.03, cdf).pvalue < 1e-6


def test_discrete_noise_is_whole_steps_at_any_scale() -> None:
    """Also while it grows, from next to nothing."""
    network = PixelDP(nn.Identity(), nn.Identity(), "discrete-laplace", 0.5)
    for scale in (1e-6, 0.01, 0.5):
        steps = 255 * network.perturb(torch.zeros(1000), scale)
        assert (steps - steps.round()).abs().max() < 1e-3
