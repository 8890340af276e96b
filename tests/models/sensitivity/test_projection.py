"""A projected g stays within its bound, as stored."""

from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from models.certification.names import NORMS
from models.networks import build
from models.networks.resnet import Residual
from models.sensitivity.modules import encoder_sensitivity, layer_sensitivities
from models.sensitivity.operators import PAIRS, Convolution, Matrix
from models.sensitivity.projection import project_

torch.set_num_threads(1)


def stored_bound(layer, size, p, q):
    """The bound of the weight as stored, computed independently of the projection."""
    weight = layer.weight.detach().double().numpy()
    if isinstance(layer, nn.Linear):
        return Matrix(weight).sensitivity(p, q).value
    options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    return Convolution(weight, input_size=size, **options).sensitivity(p, q).value


@pytest.mark.parametrize(("p", "q"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_bound_holds_after_rounding(p, q, dtype):
    for seed in range(10):
        torch.manual_seed(seed)
        layer = nn.Conv2d(2, 5, 3, stride=2, padding=1).to(dtype)
        with torch.no_grad():
            layer.weight.mul_(10)
        found = project_(layer, (2, 9, 10), p, q)
        assert found.value == stored_bound(layer, (9, 10), p, q)
        assert found.value <= 1.0
        assert found.value > (0.98 if dtype is torch.bfloat16 else 1 - 2e-6)


@pytest.mark.parametrize("bound", [0.1, 3.0])
def test_fully_connected_layers_and_other_bounds(bound):
    torch.manual_seed(0)
    layer = nn.Linear(30, 20)
    with torch.no_grad():
        layer.weight.mul_(100)
    found = project_(nn.Sequential(nn.Flatten(), layer), (30, 1, 1), "l2", "l2", bound)
    assert bound * (1 - 2e-6) < found.value <= bound
    assert np.linalg.norm(layer.weight.detach().double().numpy(), 2) <= bound


def test_a_layer_within_its_bound_is_left_alone():
    layer = nn.Conv2d(1, 2, 3)
    with torch.no_grad():
        layer.weight.mul_(0.01)
    before = layer.weight.clone()
    found = project_(layer, (1, 8, 8), "l2", "l2")
    assert torch.equal(layer.weight, before)
    assert found.value < 1
    project_(layer, (1, 8, 8), "l2", "l2", found.value)
    assert torch.equal(layer.weight, before)


def test_only_the_scale_changes():
    layer = nn.Conv2d(1, 2, 3)
    with torch.no_grad():
        layer.weight.mul_(50)
    weight, before, bias = layer.weight, layer.weight.clone(), layer.bias.clone()
    project_(layer, (1, 8, 8), "l1", "l1")
    assert layer.weight is weight
    assert weight.requires_grad
    ratio = (weight / before).detach()
    assert torch.allclose(ratio, ratio.mean(), rtol=1e-6)
    assert torch.equal(layer.bias, bias)


def test_training_cannot_push_it_over():
    """Steps pull the features of two pictures apart; after projection, no quotient exceeds 1."""
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 8, 5, stride=2, padding=2, bias=False)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    change = torch.randn(16, 1, 14, 14)
    for _ in range(30):
        optimiser.zero_grad()
        change = change / change.flatten(1).norm(dim=1)[:, None, None, None]
        (-layer(change).square().sum()).backward()
        optimiser.step()
        assert project_(layer, (1, 14, 14), "l2", "l2").value <= 1
        with torch.no_grad():  # power iteration on the change, as an attacker would do
            weight, step = layer.weight.double(), change.double()
            image = functional.conv2d(step, weight, stride=2, padding=2)
            assert (image.flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1)).max() <= 1
            change = functional.conv_transpose2d(
                image, weight, stride=2, padding=2, output_padding=1
            ).float()
    # The attack comes close, so the test would notice a bound that is too small.
    assert (image.flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1)).max() > 0.9


DEEP = {
    "convolutions": ("strided-cnn", {"channels": [3, 4]}, "6"),
    "residual": ("resnet", {"depth": 8, "channels": 3}, "stage2"),
    "normalised first": ("wide-resnet", {"depth": 10, "width": 1}, "stage1"),
    "pooled": ("fast-resnet", {"channels": [3, 4, 4, 4]}, "stage1"),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_encoders_reach_their_bound_and_no_more(name):
    network, arguments, placement = DEEP[name]
    shape = (3, 8, 8)
    for p, q in product(NORMS, ("l1", "l2")):
        torch.manual_seed(0)
        encoder, _ = build(network, shape, 5, placement, arguments)
        encoder.eval()
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.mul_(3)
        found = project_(encoder, shape, p, q)
        assert found == encoder_sensitivity(encoder, shape, p, q)
        assert 1 - 1e-5 < found.value <= 1


def test_scaling_is_divided_among_layers():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3))
    network.eval()
    with torch.no_grad():
        network[0].weight.mul_(50)
    before = {name: value.clone() for name, value in network.named_parameters()}
    first = encoder_sensitivity(network, (1, 8, 8), "l2", "l2").value
    project_(network, (1, 8, 8), "l2", "l2")
    for name in ("0.weight", "1.weight", "3.weight"):
        ratio = network.get_parameter(name) / before[name]
        assert torch.allclose(ratio, torch.tensor(first ** (-1 / 3)), rtol=1e-5), name
    for name in ("0.bias", "1.bias", "3.bias"):
        assert torch.equal(network.get_parameter(name), before[name])


def test_a_branch_never_outweighs_a_shortcut_that_cannot_grow():
    branch = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), Residual(nn.Conv2d(2, 2, 1)))
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3), Residual(branch))
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.mul_(30)
    project_(encoder, (1, 8, 8), "l2", "l2")
    _, sum_ = layer_sensitivities(encoder, (1, 8, 8), "l2", "l2")
    values = [prod(row.sensitivity.value for row in path) for path in sum_.paths]
    assert values == pytest.approx([1.0, 1.0], rel=1e-5)
    assert sum_.paths[0][2].sensitivity.value == pytest.approx(2.0, rel=1e-5)


def test_a_layer_used_twice_is_scaled_once():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(-4.0)
    assert project_(nn.Sequential(layer, layer), (1, 4, 4), "l2", "l2", 9.0).value <= 9
    assert layer.weight.item() == pytest.approx(-3.0, rel=1e-5)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_meaningless_bounds_are_refused(bound):
    with pytest.raises(ValueError, match="expected a positive number"):
        project_(nn.Conv2d(1, 1, 1), (1, 2, 2), "l2", "l2", bound)


def test_what_cannot_be_bounded_is_refused():
    layer = nn.Conv2d(1, 1, 3)
    with pytest.raises(ValueError, match=r"GELU.*no proven sensitivity"):
        project_(nn.Sequential(layer, nn.GELU()), (1, 8, 8), "l2", "l2")
    with pytest.raises(ValueError, match=r"28.*cannot be kept at 1: no layer outside"):
        project_(nn.Identity(), (1, 28, 28), "linf", "l2")
    with pytest.raises(ValueError, match=r"kept at 1\.5: no layer outside"):
        project_(Residual(nn.Conv2d(1, 1, 1)), (1, 8, 8), "linf", "l2", 1.5)
    with torch.no_grad():
        layer.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        project_(layer, (1, 8, 8), "l2", "l2")
