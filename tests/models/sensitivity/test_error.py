"""Rounding errors of g: float64 results compared with 50 digits and with the stated bound."""

from math import prod

import numpy as np
import pytest
import torch
from torch import nn

from models.certification.names import NORMS
from models.networks import build
from models.networks.resnet import Residual
from models.sensitivity.error import encoder_error
from models.sensitivity.modules import encoder_sensitivity
from tests.models.sensitivity import exact

SHAPE = (2, 6, 6)


def normalised(channels, seed):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.BatchNorm2d(channels)
    with torch.no_grad():
        layer.weight.normal_(0, 2, generator=generator)
        layer.bias.normal_(0, 3, generator=generator)
        layer.running_mean.normal_(0, 5, generator=generator)
        layer.running_var.uniform_(0.01, 3, generator=generator)
    return layer


def encoders():
    torch.manual_seed(5)
    resnet, _ = build("resnet", SHAPE, 3, "stage1", {"depth": 8, "channels": 2})
    return {
        "identity": nn.Identity(),
        "convolution": nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU6()),
        "grouped": nn.Sequential(nn.Conv2d(2, 4, 2, dilation=2, groups=2), nn.LeakyReLU(0.3)),
        "normalised": nn.Sequential(
            nn.Conv2d(2, 3, 3, bias=False), normalised(3, 0), nn.LeakyReLU(-2)
        ),
        "normalised first": nn.Sequential(
            normalised(2, 1), nn.Hardtanh(-300, 300), nn.AvgPool2d(1)
        ),
        "average": nn.Sequential(normalised(2, 2), nn.AvgPool2d(3, stride=1, padding=1)),
        "adaptive average": nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Tanh()),
        "fully connected": nn.Sequential(
            nn.MaxPool2d(3, stride=1),
            nn.Flatten(),
            nn.Linear(32, 9),
            nn.Sigmoid(),
            nn.Dropout(),
            nn.Linear(9, 4),
        ),
        "large": nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)),
        "residual": nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1),
            Residual(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), normalised(3, 3))),
            Residual(normalised(3, 4), nn.Conv2d(3, 3, 1)),
        ),
        "resnet": resnet,
    }


ENCODERS = {name: encoder.eval().double() for name, encoder in encoders().items()}
with torch.no_grad():
    ENCODERS["large"][0].weight.mul_(1e6)
    ENCODERS["large"][0].bias.mul_(1e9)


def size_of(differences, norm):
    sizes = [abs(difference) for difference in differences.ravel()]
    return {"l1": sum, "l2": lambda all_: exact.MP.sqrt(sum(x * x for x in all_)), "linf": max}[
        norm
    ](sizes)


def pictures():
    generator = torch.Generator().manual_seed(6)
    yield torch.ones(1, *SHAPE, dtype=torch.float64)
    for _ in range(3):
        yield torch.rand(1, *SHAPE, generator=generator, dtype=torch.float64)
    yield torch.rand(1, *SHAPE, generator=generator, dtype=torch.float64).round()


@pytest.mark.parametrize("name", ENCODERS)
def test_float64_errs_by_less_than_the_bound(name):
    encoder = ENCODERS[name]
    bounds = {norm: encoder_error(encoder, SHAPE, norm) for norm in NORMS}
    largest = 0.0
    for picture in pictures():
        with torch.inference_mode():
            computed = exact.torch_to_exact(encoder(picture))
        difference = computed - exact.evaluate(encoder, exact.torch_to_exact(picture))
        for norm in NORMS:
            assert size_of(difference, norm) <= bounds[norm].own
        largest = max(largest, float(size_of(difference, "linf")))
    # Not looser than a worst-case bound may be, so that a bound of the wrong kind is noticed.
    assert bounds["linf"].own <= 2e4 * largest


@pytest.mark.parametrize("name", ENCODERS)
def test_an_error_of_the_input_is_passed_on_within_the_bound(name):
    encoder = ENCODERS[name]
    generator = torch.Generator().manual_seed(7)
    for picture in pictures():
        off = picture + 1e-3 * torch.randn(picture.shape, generator=generator, dtype=torch.float64)
        off.clamp_(0, 1)
        with torch.inference_mode():
            computed = exact.torch_to_exact(encoder(off))
        truth = exact.evaluate(encoder, exact.torch_to_exact(picture))
        for norm in NORMS:
            of_input = float(size_of(exact.torch_to_exact(off - picture), norm)) * (1 + 1e-15)
            bound = encoder_error(encoder, SHAPE, norm).total(of_input)
            assert size_of(computed - truth, norm) <= bound


def test_the_passed_on_error_is_the_sensitivity_between_equal_norms():
    encoder = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, stride=2)).double()
    for norm in NORMS:
        error = encoder_error(encoder, SHAPE, norm)
        sensitivity = encoder_sensitivity(encoder, SHAPE, norm, norm)
        assert error.passed_on == pytest.approx(sensitivity.value)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_picture_that_is_used_as_it_is_has_no_error(norm):
    error = encoder_error(nn.Identity(), (1, 28, 28), norm)
    assert (error.own, error.passed_on) == (0.0, 1.0)
    assert error.total(1e-12) == 1e-12


def test_deep_encoders_keep_their_errors_far_below_any_noise():
    """From the largest values alone, the bound would grow with each layer's row sums."""
    torch.manual_seed(8)
    encoder, _ = build("resnet", (3, 32, 32), 10, "stage1", {"depth": 20})
    encoder.double().eval()
    error = encoder_error(encoder, (3, 32, 32), "l2")
    rows = prod(
        float(module.weight.detach().abs().sum((1, 2, 3)).max())
        for module in encoder.modules()
        if isinstance(module, nn.Conv2d)
    )
    assert error.own < 1e-6
    assert rows * np.sqrt(16 * 32 * 32) > 1e4


def test_what_has_no_bound_is_refused():
    with pytest.raises(ValueError, match="no proven sensitivity"):
        encoder_error(nn.GELU(), SHAPE, "l2")
    with pytest.raises(ValueError, match="unknown norm"):
        encoder_error(nn.Identity(), SHAPE, "l0")
    with pytest.raises(ValueError, match="input shape"):
        encoder_error(nn.Identity(), (2, 6), "l2")
    poisoned = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        poisoned.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="weight holds NaN"):
        encoder_error(poisoned, SHAPE, "l2")
