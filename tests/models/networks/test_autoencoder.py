from typing import Any

import pytest
import torch
from torch import nn

from models import networks
from models.networks.autoencoder import build_autoencoder
from models.networks.foreign.wrapping import Frozen

CLASSIFIER = {"name": "cnn", "arguments": {"channels": [2, 3], "hidden": 4}}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14), (1, 5, 7)])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"channels": [4], "strides": [1], "kernel": 3},
        {"channels": [4, 6, 8], "strides": [2, 3, 1], "depth": 2},
        {"channels": [4], "strides": [2], "residual": True},
    ],
)
def test_pictures_come_back_in_their_size(
    shape: tuple[int, int, int], arguments: dict[str, Any]
) -> None:
    pictures = torch.rand(2, *shape)
    restored = build_autoencoder(shape, **arguments)(pictures)
    assert restored.shape == pictures.shape
    if arguments.get("residual"):
        assert torch.equal(restored, pictures), "at first nothing is corrected"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"channels": [4]}, "expected equally many of both"),
        ({"channels": [], "strides": []}, "expected equally many"),
        ({"channels": [0, 4]}, "each at least 1"),
        ({"kernel": 4}, "expected an odd number"),
        ({"kernel": 1}, "at least the largest stride"),
        ({"colour": True}, "arguments of denoised: .*colour"),
    ],
)
def test_impossible_autoencoders_are_refused(arguments: dict[str, Any], complaint: str) -> None:
    whole = {"autoencoder": arguments, "classifier": CLASSIFIER}
    with pytest.raises(ValueError, match=complaint):
        networks.build("denoised", (1, 8, 8), 3, "image", whole)


def test_a_classifier_behind_it_stays_as_it_is() -> None:
    _, h = networks.build(
        "denoised", (1, 8, 8), 3, "image", {"autoencoder": {}, "classifier": CLASSIFIER}
    )
    h.train()
    frozen = h.get_submodule("classifier")
    assert isinstance(frozen, Frozen)
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    front = h.get_submodule("autoencoder")
    assert front.training
    assert all(parameter.requires_grad for parameter in front.parameters())
    h(torch.rand(2, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in front.parameters())


def test_the_noise_can_go_after_the_autoencoders_first_layer() -> None:
    arguments = {"autoencoder": {"channels": [4], "strides": [2]}, "classifier": CLASSIFIER}
    g, h = networks.build("denoised", (1, 8, 8), 3, "layer1", arguments)
    assert type(g) is nn.Conv2d
    assert h(g(torch.rand(2, 1, 8, 8))).shape == (2, 3)
    arguments["autoencoder"]["residual"] = True  # type: ignore[index]
    with pytest.raises(ValueError, match="lies inside a Residual"):
        networks.build("denoised", (1, 8, 8), 3, "layer1", arguments)


def test_an_unknown_classifier_is_named() -> None:
    arguments = {"autoencoder": {}, "classifier": {"name": "vgg", "arguments": {}}}
    with pytest.raises(ValueError, match=r"unknown network 'vgg'; known: .*denoised.*torchvision"):
        networks.build("denoised", (1, 8, 8), 3, "image", arguments)
    with pytest.raises(ValueError, match=r"arguments of denoised: .*classifier"):
        networks.build("denoised", (1, 8, 8), 3, "image", {"autoencoder": {}})
