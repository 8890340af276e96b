"""Noise inside h: a function of the row, yet like noise drawn apart."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from models import networks
from models.converted import Converted
from models.execution import ProviderError
from models.mechanisms.split import SplitNoise
from models.networks.interval import IntervalError, check_layers
from models.networks.row_noise import RowNoise
from models.noise import Features
from models.sensitivity.modules import encoder_sensitivities
from models.trial import RowsError, try_rows

ROWS, VALUES = 20_000, 8


def rows(count: int = ROWS, values: int = VALUES, seed: int = 0) -> Tensor:
    return torch.randn(count, values, generator=torch.Generator().manual_seed(seed))


def noise_of(features: Tensor, scale: float = 1.0) -> Tensor:
    return RowNoise(scale)(features) - features


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_row_has_its_noise_in_every_place_and_company(kind: torch.dtype) -> None:
    layer, several = RowNoise(0.5), rows(64).reshape(64, 2, 2, 2).to(kind)
    usual = layer(several)
    assert usual.dtype == kind
    order = torch.from_numpy(np.random.default_rng(1).permutation(64))
    assert torch.equal(layer(several[order]), usual[order])
    assert torch.equal(layer(several[5:6]), usual[5:6])
    laid = several.contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer(laid), usual)
    assert torch.equal(layer(torch.cat([several, several])), torch.cat([usual, usual]))


def test_it_is_like_noise_that_is_drawn_apart() -> None:
    """Nearly normal, and independent of its row, of other rows and between values."""
    features = rows()
    noise = noise_of(features).numpy()
    error = 5 / np.sqrt(ROWS)
    assert noise.mean(0) == pytest.approx(np.zeros(VALUES), abs=error)
    assert noise.std(0) == pytest.approx(np.ones(VALUES), abs=error)
    assert stats.kstest(noise.ravel(), "norm").statistic < 0.01
    beside = np.concatenate([noise[1:], noise[1:] ** 2, features.numpy()[1:]], axis=1)
    found = np.corrcoef(np.concatenate([noise[:-1], beside], axis=1), rowvar=False)
    assert np.abs(found - np.eye(len(found))).max() < error


def test_rows_that_hardly_differ_have_other_noise() -> None:
    """One value's last bit decides; so does a change of places, or of two values together."""
    features = rows(2000)
    last = features.clone()
    last[:, 3] = torch.nextafter(last[:, 3], torch.tensor(9.0))
    swapped = features[:, [1, 0, *range(2, VALUES)]]
    usual = noise_of(features)
    for other in (noise_of(last), noise_of(swapped)):
        together = np.corrcoef(usual.ravel().numpy(), other.ravel().numpy())[0, 1]
        assert abs(together) < 5 / np.sqrt(2000 * VALUES)
    assert torch.equal(noise_of(features, 0.0), torch.zeros_like(features))


@pytest.mark.parametrize("move", [0.0, 0.7])
def test_votes_are_those_of_noise_that_is_drawn_apart(move: float) -> None:
    """A linear h with noise of deviation τ inside votes for its label with Φ(d/√(σ² + τ²)).

    The certificate of σ alone therefore holds, and would be exceeded without the noise inside.
    """
    sigma, tau, margin = 0.5, 0.8, 0.9
    direction = torch.full((VALUES,), VALUES**-0.5)
    noisy = (margin - move) * direction + sigma * rows(seed=3)
    shares = [(layer(noisy) @ direction > 0).double() for layer in (RowNoise(tau), nn.Identity())]
    for votes, deviation in zip(shares, (np.hypot(sigma, tau), sigma), strict=True):
        expected = stats.norm.cdf((margin - move) / deviation)
        assert float(votes.mean()) == pytest.approx(expected, abs=5 * 0.5 / np.sqrt(ROWS))
    allowed = stats.norm.cdf(margin / np.hypot(sigma, tau) - move / sigma)
    assert float(shares[0].mean()) > allowed - 5 * 0.5 / np.sqrt(ROWS)


def strided(noise: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    arguments = {"channels": [4, 6], "depth": 1, "hidden": 16, "inner_noise": noise}
    return networks.build("strided-cnn", (1, 12, 12), 5, "image", arguments)[1].eval()


def test_a_network_with_it_passes_the_trial_and_one_with_a_generator_does_not() -> None:
    noisy, network = torch.rand(64, 1, 12, 12), strided()
    with torch.inference_mode():
        assert not torch.equal(network(noisy), strided(0.0)(noisy))
        try_rows(network, noisy, network, alone=4)

        class Drawing(nn.Module):
            def forward(self, features: Tensor) -> Tensor:
                return features + torch.randn_like(features)

        drawing = nn.Sequential(*(Drawing() if type(m) is RowNoise else m for m in network))
        with pytest.raises(RowsError, match="draws random numbers of its own"):
            try_rows(drawing, noisy, drawing)


def test_votes_that_split_noise_counts_differ_where_h_sees_something_else() -> None:
    """A change of k steps of 1/255 moves at most k votes; noise by place in the pass moves more."""
    size, steps = 36, 20
    noise = SplitNoise(1.0, np.random.default_rng(0).integers(0, 510, size))
    pixels = np.random.default_rng(1).integers(60, 180, size).astype(np.int32)
    changed = pixels.copy()
    changed[[3, 11]] += (steps // 2, -steps // 2)
    numbers = np.arange(noise.draws)
    both = [Features(one, on_grid=True, numbers=numbers) for one in (pixels, changed)]
    torch.manual_seed(0)
    network = nn.Sequential(RowNoise(0.5), nn.Linear(2 * size, 8))
    with torch.inference_mode():
        votes = [
            network(
                torch.from_numpy(noise.draw([one], np.zeros(len(numbers), np.intp))) * noise.step
            )
            .argmax(1)
            .numpy()
            for one in both
        ]
    assert 1 <= (votes[0] != votes[1]).sum() <= steps
    assert len(np.unique(votes[0])) > 4


def test_gradients_pass_it() -> None:
    features = rows(4).requires_grad_()
    RowNoise(2.0)(features).sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, torch.ones_like(features))


def test_it_is_refused_where_nothing_is_proven_for_it() -> None:
    with pytest.raises(ValueError, match="RowNoise"):
        encoder_sensitivities(nn.Sequential(nn.Conv2d(1, 2, 3), RowNoise(1.0)), (1, 8, 8))
    with pytest.raises(IntervalError, match="RowNoise"):
        check_layers(nn.Sequential(nn.Flatten(), RowNoise(1.0), nn.Linear(4, 2)))
    with pytest.raises(ProviderError, match="run it by PyTorch"):
        Converted(strided()).prepare((2, 1, 12, 12))
    for scale in (-1.0, float("nan"), float("inf"), "much"):
        with pytest.raises(ValueError, match=r"arguments of strided-cnn|the scale of noise"):
            networks.build("strided-cnn", (1, 8, 8), 5, "image", {"inner_noise": scale})
