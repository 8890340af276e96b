import pytest
import torch
from torch import nn

from models import networks
from models.networks.folding import fold


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fast-resnet", {"channels": [4, 6, 8, 8]}),
        ("resnet", {"depth": 8, "channels": 4}),
        ("wide-resnet", {"depth": 10, "width": 1}),
    ],
)
def test_folding_changes_nothing_but_rounding(name: str, arguments: dict[str, object]) -> None:
    torch.manual_seed(0)
    _, network = networks.build(name, (3, 16, 16), 5, "image", arguments)
    network(torch.rand(64, 3, 16, 16))  # statistics other than 0 and 1
    network.double().eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold(network)
    pictures = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(folded(pictures), network(pictures), rtol=1e-10, atol=1e-10)
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_every_normalisation_behind_a_convolution_is_folded() -> None:
    _, network = networks.build("resnet", (3, 16, 16), 5, "image", {"depth": 8, "channels": 4})
    kinds = [type(module) for module in fold(network.eval()).modules()]
    assert nn.BatchNorm2d not in kinds


def test_a_normalisation_before_its_convolution_is_kept() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    assert [type(module) for module in fold(network)] == [nn.BatchNorm2d, nn.Conv2d, nn.Identity]


def test_a_subclass_is_left_alone() -> None:
    class Odd(nn.BatchNorm2d):
        pass

    network = nn.Sequential(nn.Conv2d(3, 4, 3), Odd(4)).eval()
    assert [type(module) for module in fold(network)] == [nn.Conv2d, Odd]
