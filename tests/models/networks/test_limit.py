import pytest
from torch import nn

from models.networks.limit import MORE_TENSORS, limited


def test_networks_with_weights_to_load_are_built() -> None:
    with limited(2, 11):
        layer = nn.Linear(10, 1)
    assert layer.weight.shape == (1, 10)


def test_too_many_values_stop_it() -> None:
    complaint = "far more weights than the 2 tensors of 11 values"
    with pytest.raises(ValueError, match=complaint), limited(2, 11):
        nn.Linear(5000, 5000)


def test_too_many_tensors_stop_it() -> None:
    with pytest.raises(ValueError, match="far more weights"), limited(2, 11):
        nn.Sequential(*(nn.BatchNorm2d(1) for _ in range(MORE_TENSORS)))


def test_the_limit_ends_with_its_block() -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="far more"), limited(0, 0):
            nn.Linear(5000, 5000)
    assert nn.Linear(5000, 5000).weight.shape == (5000, 5000)
