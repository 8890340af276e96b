from typing import Any

import pytest
import torch
from torch import nn

from models import networks

ARGUMENTS: dict[str, dict[str, Any]] = {
    "cnn": {"channels": [4, 6], "hidden": 8},
    "strided-cnn": {"channels": [4, 6], "depth": 1, "hidden": 8},
}


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 14)])
@pytest.mark.parametrize("placement", ["image", "layer1"])
def test_every_network_is_built_in_two_parts(
    name: str, shape: tuple[int, int, int], placement: str
) -> None:
    g, h = networks.build(name, shape, 5, placement, ARGUMENTS.get(name, {}))
    pictures = torch.rand(2, *shape)
    features = g(pictures)
    assert h(features).shape == (2, 5)
    if placement == "image":
        assert type(g) is nn.Identity
    else:
        assert type(g) is nn.Conv2d
        assert g.bias is None
        assert features.shape[0] == 2


def test_the_papers_network_has_its_sizes() -> None:
    _, h = networks.build("cnn", (1, 28, 28), 10, "image", {})
    kinds = [type(layer).__name__ for layer in h.children()]
    assert kinds == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten", "Linear", "ReLU", "Linear"]
    weights = [tuple(p.shape) for p in h.parameters() if p.dim() > 1]
    assert weights == [(32, 1, 5, 5), (64, 32, 5, 5), (1024, 3136), (10, 1024)]


def test_what_cannot_be_built_is_explained() -> None:
    for name, placement, arguments, complaint in [
        ("vgg", "image", {}, "unknown network 'vgg'; known: .*cnn"),
        ("cnn", "deep", {}, "unknown placement 'deep'; known: image, layer1"),
        ("cnn", "image", {"depth": 3}, "arguments of cnn: .*depth"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            networks.build(name, (1, 28, 28), 10, placement, arguments)
