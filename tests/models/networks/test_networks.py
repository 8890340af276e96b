from typing import Any

import pytest
import torch
from torch import nn

from models import networks
from models.networks.placement import divide

ARGUMENTS: dict[str, dict[str, Any]] = {
    "cnn": {"channels": [4, 6], "hidden": 8},
    "fast-resnet": {"channels": [4, 6, 8, 8]},
    "resnet": {"depth": 8, "channels": 4},
    "strided-cnn": {"channels": [4, 6], "depth": 1, "hidden": 8},
    "wide-resnet": {"depth": 10, "width": 1},
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
        assert features.shape[0] == 2


def test_the_papers_network_has_the_papers_sizes() -> None:
    _, h = networks.build("cnn", (1, 28, 28), 10, "image", {})
    kinds = [type(layer).__name__ for layer in h.children()]
    assert kinds == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten", "Linear", "ReLU", "Linear"]
    weights = [tuple(p.shape) for p in h.parameters() if p.dim() > 1]
    assert weights == [(32, 1, 5, 5), (64, 32, 5, 5), (1024, 3136), (10, 1024)]


def test_what_cannot_be_built_is_explained() -> None:
    for name, placement, arguments, complaint in [
        ("vgg", "image", {}, "unknown network 'vgg'; known: .*cnn"),
        (
            "cnn",
            "deep",
            {},
            "placement 'deep': no module 'deep'; expected image, layer1, or the path",
        ),
        ("cnn", "image", {"depth": 3}, "arguments of cnn: .*depth"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            networks.build(name, (1, 28, 28), 10, placement, arguments)


@pytest.mark.parametrize(
    ("name", "placement", "before"),
    [
        ("cnn", "1", ["0", "1"]),
        ("resnet", "stem", ["stem"]),
        ("resnet", "stage1.0", ["stem", "stage1.0"]),
        ("wide-resnet", "stage2", ["stem", "stage1", "stage2"]),
        ("fast-resnet", "stage1.2", ["stem", "stage1.0", "stage1.1", "stage1.2"]),
    ],
)
def test_any_prefix_can_come_before_the_noise(name: str, placement: str, before: list[str]) -> None:
    shape = (3, 16, 16)
    torch.manual_seed(0)
    _, whole = networks.build(name, shape, 5, "image", ARGUMENTS[name])
    g, h = networks.build(name, shape, 5, placement, ARGUMENTS[name])
    single = len(before) == 1
    paths = {path for path, _ in g.named_modules()}
    assert single or set(before) <= paths
    states = {**h.state_dict(), **({} if single else g.state_dict())}
    assert states.keys() <= whole.state_dict().keys()
    if not single:
        assert states.keys() == whole.state_dict().keys()
        whole.load_state_dict(states)
        pictures = torch.rand(2, *shape)
        assert torch.equal(h.eval()(g.eval()(pictures)), whole.eval()(pictures))


@pytest.mark.parametrize(
    ("name", "placement", "complaint"),
    [
        ("resnet", "stage1.0.branch", "lies inside a Residual, whose other paths"),
        ("wide-resnet", "stage2.2.branch.0", "lies inside a Residual"),
        ("resnet", "head.2", "is the network's end"),
        ("resnet", "head.2.weight", "lies inside a Linear"),
        ("resnet", "stage9", "no module 'stage9'; expected .* stem, stage1, stage2, stage3, head"),
    ],
)
def test_a_placement_that_the_noise_would_not_cover_is_refused(
    name: str, placement: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        networks.build(name, (3, 16, 16), 5, placement, ARGUMENTS[name])


@pytest.mark.parametrize(
    ("name", "arguments", "weights"),
    [
        ("resnet", {"depth": 20}, 272_474),  # He et al. 2016, Table 6: 0.27 million
        ("wide-resnet", {"depth": 28, "width": 10}, 36_479_194),  # Zagoruyko 2016, Table 4: 36.5 M
    ],
)
def test_residual_networks_have_the_published_number_of_weights(
    name: str, arguments: dict[str, Any], weights: int
) -> None:
    _, h = networks.build(name, (3, 32, 32), 10, "image", arguments)
    assert sum(parameter.numel() for parameter in h.parameters()) == weights


def test_an_impossible_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"depth 21: expected 6n \+ 2"):
        networks.build("resnet", (3, 32, 32), 10, "image", {"depth": 21})


def test_a_network_that_uses_a_module_twice_is_divided_in_the_order_it_runs() -> None:
    twice = nn.Conv2d(1, 1, 3, padding=1)
    network = nn.Sequential(twice, nn.ReLU(), twice, nn.Flatten(), nn.Linear(16, 2))
    g, h = divide(network, "1")
    pictures = torch.rand(3, 1, 4, 4)
    assert torch.equal(h(g(pictures)), network(pictures))


def test_networks_that_are_not_plain_sequences_are_not_divided() -> None:
    class Around(nn.Sequential):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            whole: torch.Tensor = super().forward(features)
            return whole + features

    network = nn.Sequential(Around(nn.ReLU(), nn.ReLU()), nn.Flatten())
    with pytest.raises(ValueError, match=r"'0\.0': lies inside a Around"):
        divide(network, "0.0")
