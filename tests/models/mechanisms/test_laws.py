"""The noise of training follows the law that is certified."""

import pytest
import torch
from scipy import stats
from torch import nn

from models.certification.laws import LAWS
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
    law = LAWS[mechanism].module
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-6
    assert stats.kstest(drawn * 1.03, law.cdf).pvalue < 1e-6
