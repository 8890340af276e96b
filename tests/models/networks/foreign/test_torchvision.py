import pytest
import torch

from models import networks
from models.networks.foreign.torchvision import find_defaults
from models.networks.foreign.torchvision_operators import declare_missing_operators
from models.source_names import TORCHVISION

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3}


@pytest.mark.parametrize(
    ("model", "side"),
    [
        ("inception_v3", 75),
        ("resnet18", 32),
        ("shufflenet_v2_x0_5", 32),
        ("squeezenet1_1", 32),
    ],
)
def test_classifiers_take_the_number_of_labels(model: str, side: int) -> None:
    arguments = {"model": model, **PLAIN}
    g, h = networks.build("torchvision", (3, side, side), 7, "image", arguments)
    assert isinstance(g, torch.nn.Identity)
    with torch.inference_mode():
        assert h.eval()(torch.rand(2, 3, side, side)).shape == (2, 7)


@pytest.mark.parametrize("model", ["convnext_tiny", "resnet50", "vit_b_16"])
def test_large_ones_too(model: str) -> None:
    """Built without memory, and without the time to fill it."""
    with torch.device("meta"):
        _, h = networks.build("torchvision", (3, 64, 64), 7, "image", {"model": model, **PLAIN})
        assert h.eval()(torch.empty(2, 3, 64, 64)).shape == (2, 7)


def test_normalisation_comes_first() -> None:
    arguments = {"model": "squeezenet1_1", "mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}
    _, h = networks.build("torchvision", (3, 32, 32), 7, "image", arguments)
    normalised = h.get_submodule("normalise")(torch.tensor([0.5, 0.5, 0.5])[None, :, None, None])
    torch.testing.assert_close(normalised.flatten(), torch.tensor([1.0, 0.0, -1 / 3]))
    assert not any("normalise" in name for name in h.state_dict())


def test_the_input_that_torchvisions_own_weights_expect() -> None:
    resnet, inception = find_defaults("resnet50"), find_defaults("inception_v3")
    assert (resnet.size, inception.size) == (224, 299)
    assert resnet.mean == (0.485, 0.456, 0.406)
    # (x − .485)/.229 · .229/.5 + (.485 − .5)/.5 = (x − .5)/.5, torchvision's transform_input.
    assert inception.mean == inception.std == (0.5, 0.5, 0.5)
    assert len(set(resnet.labels)) == 1000
    assert resnet.labels[7] == "cock"


@pytest.mark.parametrize(
    ("model", "shape", "complaint"),
    [
        ("resnet", (3, 32, 32), "no classifier 'resnet'; it has: .*resnet50"),
        ("fcn_resnet50", (3, 32, 32), "no classifier 'fcn_resnet50'"),
        ("resnet18", (1, 32, 32), "takes 3 channels, not 1"),
        ("vit_b_16", (3, 32, 48), "takes square pictures, not 48x32"),
    ],
)
def test_names_that_torchvision_does_not_have(
    model: str, shape: tuple[int, int, int], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        networks.build("torchvision", shape, 7, "image", {"model": model, **PLAIN})


def test_the_names_are_torchvisions_own() -> None:
    declare_missing_operators()
    from torchvision import models

    assert sorted(models.list_models(module=models)) == sorted(TORCHVISION)
