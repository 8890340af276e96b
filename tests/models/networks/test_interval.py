"""The bounds of boxes against exact fractions, other orders of summation, and wrong constants."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.execution import ProviderError
from models.mechanisms.interval import WHOLE, Boxes
from models.networks import interval
from models.networks.cnn import build_strided_cnn
from models.networks.folding import fold
from models.networks.interval import IntervalError, IntervalNetwork, check_layers, check_way
from models.noise import Features
from models.training.interval import initialise_, interval_loss, worst_logits
from models.training.recipe import find_recipe

Values = NDArray[np.float32]


def small(seed: int) -> nn.Sequential:
    """A network with each kind of layer, for pictures of 2 × 6 × 5."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)),
        nn.ReLU(),
        nn.AvgPool2d((1, 2)),
        nn.Conv2d(3, 4, 2, bias=False, dilation=(1, 1)),
        nn.Flatten(),
        nn.Linear(8, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )
    return network.eval().requires_grad_(False)


def boxes(pixels: NDArray[np.int32], radii: list[int], largest: float = 1.0) -> Tensor:
    """What h sees of one picture [channels, height, width]."""
    picture = Features(pixels.ravel(), on_grid=True, numbers=np.array(radii))
    seen = Boxes(largest).draw([picture], np.zeros(len(radii), dtype=np.intp))
    channels, *sides = pixels.shape
    return torch.from_numpy(seen).float().reshape(len(radii), 2 * channels, *sides)


def layers_of(network: IntervalNetwork, seen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Centres and radii behind each layer."""
    centre, radius = seen.chunk(2, dim=1)
    wide = (radius.flatten(1).amax(dim=1) > 0).float()
    for layer in network.layers:
        centre, radius = layer(centre, radius, wide)
        yield centre, radius


def summed(terms: Values, rng: np.random.Generator, fused: bool) -> float:
    """A sum of products [n, 2] in float32 in a random order, fused or not."""
    total = np.float32(0)
    for one, other in terms[rng.permutation(len(terms))]:
        if fused:  # exact in float64, as a product of two float32
            total = np.float32(np.float64(one) * np.float64(other) + np.float64(total))
        else:
            total = np.float32(total + np.float32(one * other))
    return float(total)


def columns_of(layer: interval.Affine, values: Tensor) -> Tensor:
    """The factors of each sum, [n, sums], of one picture's values."""
    return values[0][:, None] if layer._grid is None else F.unfold(values, *layer._grid)[0]


def otherwise(network: IntervalNetwork, picture: Tensor, rng: np.random.Generator) -> list[Tensor]:
    """What each layer gives for a picture, in other orders of summation than PyTorch's."""
    found, values = [], picture
    for layer in network.layers:
        if isinstance(layer, interval.Affine):
            columns = (
                values[0][:, None] if layer._grid is None else F.unfold(values, *layer._grid)[0]
            )
            columns, weight, bias = columns.numpy(), layer.weight.numpy(), layer.bias.numpy()
            sums = [
                [
                    summed(np.append(np.stack([row, column], 1), [[own, 1]], 0), rng, fused)
                    for fused, column in zip(
                        rng.random(columns.shape[1]) < 0.5, columns.T, strict=True
                    )
                ]
                for row, own in zip(weight, bias, strict=True)
            ]
            shape = layer.products(values, layer.weight, layer.bias).shape
            values = torch.tensor(sums, dtype=torch.float32).reshape(shape)
        else:
            values, _ = layer(values, torch.zeros_like(values), torch.zeros(1))
        found.append(values)
    return found


def exact(network: IntervalNetwork, picture: list[Fraction], shape: tuple[int, ...]) -> Any:
    """The logits of a picture in fractions."""
    values = np.array(picture, dtype=object).reshape(shape)
    for layer in network.layers:
        if isinstance(layer, interval.Affine):
            like = torch.arange(values.size).reshape(1, *values.shape).double()
            # Which value is in each place of the columns; padding is beyond the last.
            where = (
                like[0][:, None] if layer._grid is None else F.unfold(like + 1, *layer._grid)[0] - 1
            )
            flat = np.append(values.ravel(), Fraction(0))
            columns = flat[where.long().numpy()]
            weight = np.array([[Fraction(one) for one in row] for row in layer.weight.tolist()])
            bias = np.array([Fraction(one) for one in layer.bias.tolist()])
            sums = weight.dot(columns) + bias[:, None]
            sides = layer.products(like.float(), layer.weight, layer.bias).shape[1:]
            values = sums.reshape(tuple(sides))
        elif isinstance(layer, interval.Mean):
            values = (values[..., 0::2][..., : values.shape[-1] // 2] + values[..., 1::2]) / 2
        elif isinstance(layer, interval.Positive):
            values = np.maximum(values, Fraction(0))
        else:
            values = values.ravel()
    return values


def corners(
    seen: Tensor, network: IntervalNetwork, count: int, rng: np.random.Generator
) -> Iterator[Tensor]:
    """Pictures in a box, with both ends of every pixel; some of them what moves a logit most."""
    centre, radius = seen.chunk(2, dim=1)
    for number in range(count):
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], centre.shape)).float()
        if number % 2:
            moved = centre.clone().requires_grad_()
            values = moved
            for layer in network.layers:
                values, _ = layer(values, torch.zeros_like(values), torch.zeros(1))
            values[0, number % values.shape[1]].backward()
            assert moved.grad is not None
            signs = moved.grad.sign() * rng.choice([-1.0, 1.0])
        yield (centre + signs * radius).detach()


def broken(seed: int, radius: int) -> int:
    """How many values that are computed of pictures in a box lie outside their bounds."""
    rng = np.random.default_rng(seed)
    network = IntervalNetwork(small(seed))
    pixels = rng.integers(0, 256, (2, 6, 5)).astype(np.int32)
    seen = boxes(pixels, [radius])
    bounds = list(layers_of(network, seen))
    outside = 0
    for picture in corners(seen, network, 6, rng):
        for values, (centre, spread) in zip(otherwise(network, picture, rng), bounds, strict=True):
            # Exactly: float64 holds the difference of two float32 of like size.
            away = (values.double() - centre.double()).abs() - spread.double()
            outside += int((away > 0).sum())
        true = exact(network, [Fraction(one) for one in picture.ravel().tolist()], (2, 6, 5))
        centre, spread = bounds[-1]
        for value, middle, reach in zip(true, centre[0].tolist(), spread[0].tolist(), strict=True):
            outside += abs(value - Fraction(middle)) > Fraction(reach)
    return outside


@pytest.mark.parametrize("radius", [1, 40, 3000])
def test_bounds_hold_in_any_order_of_summation_and_for_the_exact_network(radius: int) -> None:
    assert sum(broken(seed, radius) for seed in range(3)) == 0


def test_bounds_without_what_rounding_adds_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interval, "share", lambda count: 0.0)
    assert sum(broken(seed, 1) for seed in range(3)) > 0


def breaking(margin: float) -> nn.Sequential:
    """Logits that differ by ``margin`` exactly, after 512 products that cancel each other.

    Added in another order, they differ by anything of the size of the rounding of 1000.
    """
    rng = np.random.default_rng(0)
    half = rng.uniform(500, 1000, 256).astype(np.float32)
    network = nn.Sequential(nn.Flatten(), nn.Linear(513, 2))
    last = network[1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.weight[0, :512] = torch.from_numpy(rng.permutation(np.append(half, -half)))
        last.bias.copy_(torch.tensor([margin, 0.0]))
    return network.eval().requires_grad_(False)


def white(network: nn.Sequential, radii: list[int]) -> Tensor:
    """The logits of a white picture, and what is proven of its boxes."""
    return IntervalNetwork(network)(boxes(np.full((1, 1, 513), 255, dtype=np.int32), radii))


def test_a_margin_that_rounding_can_break_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    found = IntervalNetwork(breaking(1e-6))
    last = found.layers[-1]
    assert isinstance(last, interval.Affine)
    row = np.stack([last.weight[0].numpy(), np.full(513, WHOLE, dtype=np.float32)], 1)
    terms = np.append(row, [[float(last.bias[0]), 1]], 0).astype(np.float32)
    sums = [summed(terms, rng, fused) for fused in (False, True) for _ in range(20)]
    assert min(sums) < 0 < max(sums)
    # Of the box of this picture alone, so that rounding is all there is: what is subtracted for it
    # is more than the margin.
    centre, alone, label = (
        torch.full((1, 513), float(WHOLE)),
        torch.zeros(1, 513),
        torch.tensor([0]),
    )
    assert float(last.margins(centre, alone, label)[0, 1]) < 0
    monkeypatch.setattr(interval, "gamma", lambda count: 0.0)
    assert any(
        float(IntervalNetwork(breaking(margin)).layers[-1].margins(centre, alone, label)[0, 1]) > 0
        for margin in (1e-6, 1e-4, 1e-2)
    )
    monkeypatch.undo()
    clear = white(breaking(200.0), [0, 1])
    assert clear[0].argmax() == 0
    assert clear[1].tolist() == [1.0, 0.0]


def test_a_picture_gets_the_logits_of_the_network_itself() -> None:
    network = small(3)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 6, 5)).astype(np.int32)
    expected = network(torch.from_numpy(pixels[None]).float() / 255)
    found = IntervalNetwork(network)(boxes(pixels, [0]))
    assert torch.allclose(found, expected, atol=1e-5)


def test_batch_normalisation_is_folded_first() -> None:
    network = build_strided_cnn((1, 8, 8), 3, channels=(4, 4), depth=0, hidden=8).eval()
    with pytest.raises(IntervalError, match="BatchNorm2d: intervals do not pass it"):
        check_layers(network)
    check_layers(fold(network))


def last(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Linear(3, 2), "a plain sequence of layers, not Linear"),
        (nn.Sequential(), "a plain sequence"),
        (last(nn.MaxPool2d(2)), "layer 0, MaxPool2d"),
        (last(nn.GELU()), "layer 0, GELU"),
        (last(nn.Dropout()), "layer 0, Dropout"),
        (last(nn.Sequential(nn.ReLU())), "layer 0, Sequential"),
        (last(nn.Conv2d(2, 2, 1, groups=2)), "with groups or such padding"),
        (last(nn.Conv2d(2, 2, 3, padding="same")), "with groups or such padding"),
        (
            last(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")),
            "with groups or such padding",
        ),
        (last(nn.AvgPool2d(2, padding=1)), "AvgPool2d: intervals do not pass it with padding"),
        (last(nn.Flatten(2)), "in part"),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.ReLU()), "the last layer is ReLU"),
    ],
)
def test_what_intervals_do_not_pass_is_refused(network: nn.Module, said: str) -> None:
    with pytest.raises(IntervalError, match=said):
        IntervalNetwork(network)


def test_a_layer_of_ones_own_kind_is_refused() -> None:
    class Scaled(nn.Linear):
        def forward(self, values: Tensor) -> Tensor:
            return 2 * super().forward(values)

    with pytest.raises(IntervalError, match="layer 1, Scaled"):
        IntervalNetwork(nn.Sequential(nn.Flatten(), Scaled(8, 3), nn.Linear(3, 2)))


def test_networks_beyond_the_proof_are_refused() -> None:
    huge = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
    with torch.no_grad():
        huge[1].weight.fill_(1e30)  # type: ignore[operator,union-attr]
    with pytest.raises(IntervalError, match="may grow"):
        IntervalNetwork(huge)
    with pytest.raises(IntervalError, match="the last layer has"):
        IntervalNetwork(nn.Sequential(nn.Flatten(), nn.Linear(2**10, 2**9)))
    with pytest.raises(IntervalError, match="too many for float32"):
        interval.gamma(2**22)


@pytest.mark.parametrize(
    ("provider", "precision", "compiled"),
    [
        ("pytorch", "bfloat16", False),
        ("openvino", "float32", False),
        ("openvino", "int8", False),
        ("pytorch", "float32", True),
    ],
)
def test_only_the_way_that_is_proven_may_run_them(
    provider: Any, precision: Any, compiled: bool
) -> None:
    check_way("interval", "pytorch", "float32")
    check_way("gaussian", provider, precision, compiled=compiled)
    with pytest.raises(ProviderError, match="proven for PyTorch in float32 only"):
        check_way("interval", provider, precision, compiled=compiled)


def rounded(multiply: Callable[..., Tensor], kind: torch.dtype) -> Callable[..., Tensor]:
    """Products whose factors are rounded to a lower format, as some devices do."""

    def lower(*values: Tensor) -> Tensor:
        return multiply(*(value.to(kind).to(value.dtype) for value in values))

    return lower


def test_products_that_are_not_true_ones_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    network = IntervalNetwork(small(0))
    assert network.try_products(64)
    for module, name in ((F, "linear"), (torch, "matmul")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, rounded(getattr(module, name), torch.bfloat16))
            assert not network.try_products(64)


def test_the_loss_is_that_of_the_worst_picture_of_a_linear_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    centre, radius = torch.rand(2, 1, 2, 2), torch.rand(2, 1, 2, 2) / 10
    labels = torch.tensor([0, 2])
    worst = worst_logits(network, torch.cat([centre, radius], dim=1), labels)
    ends = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4).reshape(-1, 1, 2, 2)
    for row, label in enumerate(labels):
        logits = network(centre[row] + ends * radius[row])
        led = (logits - logits[:, [label]]).max(dim=0).values
        assert torch.allclose(worst[row], led, atol=1e-6)
    boxes = torch.cat([centre, radius], dim=1)
    robust, _ = interval_loss(network, boxes, centre, labels, 0.0)
    both, share = interval_loss(network, boxes, centre, labels, 0.5)
    plain = F.cross_entropy(network(centre), labels)
    assert torch.allclose(robust, F.cross_entropy(worst, labels))
    assert torch.allclose(both, (robust + plain) / 2)
    assert share in (0, 0.5, 1)


def test_training_begins_with_weights_that_keep_boxes_small() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(400, 400), nn.ReLU())]
    network = nn.Sequential(nn.Flatten(), *layers, nn.Linear(400, 10))
    initialise_(network)
    seen = torch.cat([torch.rand(1, 1, 20, 20), torch.full((1, 1, 20, 20), 0.1)], dim=1)
    centre, radius = seen.chunk(2, dim=1)
    for layer in IntervalNetwork(network).layers[:-1]:
        centre, radius = layer(centre * 1.0, radius, torch.ones(1))
    # The first layer has 1/WHOLE in its weights.
    assert 0.01 < float(radius.mean()) * WHOLE < 1
    with pytest.raises(IntervalError):
        initialise_(build_strided_cnn((1, 8, 8), 3, depth=1))


def test_the_recipe_says_what_intervals_need() -> None:
    recipe = find_recipe("mnist-linf")
    for changes in ({"norm": "l2"}, {"placement": "layer1"}, {"draws": 2}, {"scale": 2.0}):
        with pytest.raises(ValueError, match=r"intervals|boxes"):
            recipe.changed(**changes)
