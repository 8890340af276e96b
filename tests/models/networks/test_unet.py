import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.networks.autoencoder import build_front
from models.networks.placement import FIRST_LAYER, divide
from models.networks.unet import UNet, build_unet
from models.sensitivity.modules import encoder_sensitivity
from models.training.recipe import find_recipe


def shipped() -> nn.Sequential:
    return build_unet((3, 224, 224), **find_recipe("photo-denoiser").architecture.arguments)


def stirred(network: nn.Sequential) -> nn.Sequential:
    """Return the network with weights that change pictures, unlike those that it begins with."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def test_a_picture_of_224_pixels_costs_at_most_a_thousand_million_products() -> None:
    network = shipped()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 224, 224))
    # The counter counts products and sums.
    assert counter.get_total_flops() / 2 <= 1e9
    assert sum(4 * one.numel() for one in network.state_dict().values()) <= 8e6


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 35)])
def test_it_takes_pictures_of_any_size(size: tuple[int, int]) -> None:
    pictures = torch.rand(2, 3, *size)
    network = build_unet((3, *size), channels=[4, 6, 8], blocks=[1, 2, 1])
    assert torch.equal(network(pictures), pictures), "it begins as the identity"
    restored = stirred(network)(pictures)
    assert restored.shape == pictures.shape
    assert (restored - pictures).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(32, 32), (40, 48)])
def test_a_first_layer_begins_as_the_same_network(size: tuple[int, int]) -> None:
    """Its convolution is a layer of its own, after which there is no way around the noise."""
    options = {"channels": [4, 6, 8], "blocks": [1, 2, 1]}
    plain = stirred(build_unet((3, *size), **options))
    network = build_unet((3, *size), **options, first_layer=True)
    network[1].load_state_dict(plain[0].state_dict())
    pictures = torch.rand(2, 3, *size)
    torch.testing.assert_close(network(pictures), plain(pictures))
    g, h = divide(network, FIRST_LAYER)
    features = g(pictures)
    assert features.shape == (2, 12, size[0] // 2, size[1] // 2)
    assert torch.equal(h(features), network(pictures))
    # It only moves pixels, so noise after it is noise in the image.
    found = encoder_sensitivity(g, (3, *size), "l2", "l2")
    assert found.value == pytest.approx(1.0, abs=1e-9)
    assert found.value >= 1


def test_a_first_layer_needs_even_sides() -> None:
    with pytest.raises(ValueError, match="33x32: a first layer needs even sides"):
        build_unet((3, 32, 33), channels=[4], blocks=[1], first_layer=True)


def test_padding_repeats_the_border() -> None:
    """Whoever pads the picture so by himself gets the same."""
    network = stirred(build_unet((1, 32, 32), channels=[4, 6], blocks=[1, 1]))
    picture = torch.rand(1, 1, 33, 34)

    def widened(one: Tensor) -> Tensor:
        one = torch.cat([one, *[one[:, :, -1:]] * 3], dim=2)
        return torch.cat([one, *[one[..., -1:]] * 2], dim=3)

    assert torch.equal(network(picture), network(widened(picture))[:, :, :33, :34])


def test_layers_do_not_compute_at_full_size() -> None:
    sizes: list[int] = []
    network = shipped()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, __, out: sizes.append(out.shape[-1]))
    network(torch.zeros(1, 3, 64, 64))
    assert sizes
    assert max(sizes) == 32


@pytest.mark.parametrize(("channels", "blocks"), [([4], [1, 1]), ([], []), ([4, 0], [1, 1])])
def test_arguments_that_do_not_fit_are_refused(channels: list[int], blocks: list[int]) -> None:
    with pytest.raises(ValueError, match="expected equally many of both, each at least 1"):
        UNet(3, channels, blocks)


def test_an_unknown_denoiser_is_refused() -> None:
    with pytest.raises(ValueError, match="no denoiser 'vnet'; known: autoencoder, unet"):
        build_front((3, 32, 32), network="vnet")
