"""Projected layers stay within their bound, as stored."""

import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from models.sensitivity.operators import PAIRS, convolution_sensitivity, linear_sensitivity
from models.sensitivity.projection import project_

torch.set_num_threads(1)


def stored_bound(layer, size, p, q):
    """The bound of the weight as stored, computed beside the projection's own code."""
    weight = layer.weight.detach().double().numpy()
    if isinstance(layer, nn.Linear):
        return linear_sensitivity(weight, p, q).value
    return convolution_sensitivity(
        weight,
        input_size=size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        p=p,
        q=q,
    ).value


@pytest.mark.parametrize(("p", "q"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_bound_holds_after_rounding(p, q, dtype):
    for seed in range(10):
        torch.manual_seed(seed)
        layer = nn.Conv2d(2, 5, 3, stride=2, padding=1).to(dtype)
        with torch.no_grad():
            layer.weight.mul_(10)
        found = project_(layer, (9, 10), p, q)
        assert found.value == stored_bound(layer, (9, 10), p, q)
        assert found.value <= 1.0
        assert found.value > (0.98 if dtype is torch.bfloat16 else 1 - 2e-6)


@pytest.mark.parametrize("bound", [0.1, 3.0])
def test_fully_connected_layers_and_other_bounds(bound):
    torch.manual_seed(0)
    layer = nn.Linear(30, 20)
    with torch.no_grad():
        layer.weight.mul_(100)
    found = project_(layer, None, "l2", "l2", bound)
    assert bound * (1 - 2e-6) < found.value <= bound
    assert np.linalg.norm(layer.weight.detach().double().numpy(), 2) <= bound


def test_a_layer_within_its_bound_is_left_alone():
    layer = nn.Conv2d(1, 2, 3)
    with torch.no_grad():
        layer.weight.mul_(0.01)
    before = layer.weight.clone()
    found = project_(layer, (8, 8), "l2", "l2")
    assert torch.equal(layer.weight, before)
    assert found.value < 1
    project_(layer, (8, 8), "l2", "l2", found.value)
    assert torch.equal(layer.weight, before)


def test_only_the_scale_changes():
    layer = nn.Conv2d(1, 2, 3)
    with torch.no_grad():
        layer.weight.mul_(50)
    weight, before, bias = layer.weight, layer.weight.clone(), layer.bias.clone()
    project_(layer, (8, 8), "l1", "l1")
    assert layer.weight is weight
    assert weight.requires_grad
    ratio = (weight / before).detach()
    assert torch.allclose(ratio, ratio.mean(), rtol=1e-6)
    assert torch.equal(layer.bias, bias)


def test_training_cannot_push_it_over():
    """Steps that pull two pictures' images apart; after each projection no quotient exceeds 1."""
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 8, 5, stride=2, padding=2, bias=False)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    change = torch.randn(16, 1, 14, 14)
    for _ in range(30):
        optimiser.zero_grad()
        change = change / change.flatten(1).norm(dim=1)[:, None, None, None]
        (-layer(change).square().sum()).backward()
        optimiser.step()
        assert project_(layer, (14, 14), "l2", "l2").value <= 1
        with torch.no_grad():  # power iteration on the change: what an attacker would do
            weight, step = layer.weight.double(), change.double()
            image = functional.conv2d(step, weight, stride=2, padding=2)
            assert (image.flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1)).max() <= 1
            change = functional.conv_transpose2d(
                image, weight, stride=2, padding=2, output_padding=1
            ).float()
    # The attack comes near, so that the test would notice a bound that is too small.
    assert (image.flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1)).max() > 0.9


def test_it_is_cheap_enough_for_every_step():
    layer = nn.Conv2d(1, 32, 5, stride=2, padding=2)
    times = []
    for _ in range(20):
        with torch.no_grad():
            layer.weight.mul_(3)
        start = time.perf_counter()
        project_(layer, (28, 28), "l2", "l2")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.01  # about 1 ms on one core


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_bounds_that_mean_nothing_are_refused(bound):
    with pytest.raises(ValueError, match="expected a positive number"):
        project_(nn.Linear(2, 2), None, "l2", "l2", bound)


def test_what_cannot_be_bounded_is_refused():
    layer = nn.Conv2d(1, 1, 3)
    with pytest.raises(ValueError, match="needs the \\(height, width\\)"):
        project_(layer, None, "l2", "l2")
    with pytest.raises(ValueError, match="no bound"):
        project_(layer, (8, 8), "l2", "l1")
    with torch.no_grad():
        layer.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        project_(layer, (8, 8), "l2", "l2")
