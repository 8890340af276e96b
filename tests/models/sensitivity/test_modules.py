"""The sensitivity of whole encoders, compared with their Jacobians and with attacks; refusals."""

from itertools import pairwise, product
from math import prod, sqrt

import numpy as np
import pytest
import torch
from torch import nn

from models.certification.names import NORMS
from models.networks import build
from models.networks.resnet import Residual
from models.sensitivity.modules import encoder_sensitivity, layer_sensitivities
from models.sensitivity.operators import PAIRS, Convolution, Matrix

torch.set_num_threads(1)

ORDERS = {"l1": 1.0, "l2": 2.0, "linf": float("inf")}


def small_networks():
    torch.manual_seed(0)
    normalised = nn.BatchNorm2d(3)
    with torch.no_grad():
        normalised.weight.copy_(torch.tensor([0.5, -3.0, 1.0]))
        normalised.running_var.copy_(torch.tensor([0.2, 1.0, 4.0]))
        normalised.running_mean.copy_(torch.tensor([0.1, -2.0, 0.0]))
    folded = nn.BatchNorm2d(3)
    folded.load_state_dict(normalised.state_dict())
    return {
        "convolutions": nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 2)
        ),
        "same padding": nn.Conv2d(2, 2, (3, 5), padding="same", dilation=(2, 1), groups=2),
        "valid padding": nn.Sequential(nn.Conv2d(2, 1, 3, padding="valid")),
        "normalised": nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.Identity(), normalised, nn.LeakyReLU(0.3)
        ),
        "folded": nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2), folded, nn.ReLU(), nn.Conv2d(3, 2, 2)
        ),
        "depthwise": nn.Sequential(nn.Conv2d(2, 4, 3, groups=2, dilation=2), nn.Hardtanh(0.1, 2)),
        "steep leak": nn.Sequential(nn.Conv2d(2, 3, 3), nn.LeakyReLU(-1.7)),
        "maximum": nn.Sequential(nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), nn.Tanh()),
        "padded maximum": nn.Sequential(nn.MaxPool2d((2, 3), stride=3, padding=(1, 0))),
        "overlapping maximum": nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.MaxPool2d(3, stride=(2, 1), padding=1)
        ),
        "maximum in every direction": nn.MaxPool2d(3, stride=1),
        "dilated maximum": nn.MaxPool2d(2, stride=1, dilation=(2, 3)),
        "average": nn.Sequential(nn.AvgPool2d(3, stride=2, padding=1), nn.ReLU6(), nn.Hardtanh()),
        "divided average": nn.Sequential(nn.AvgPool2d((2, 1), divisor_override=1)),
        "adaptive average": nn.Sequential(nn.AdaptiveAvgPool2d((3, 5)), nn.Conv2d(2, 2, 2)),
        "one average": nn.AdaptiveAvgPool2d((1, None)),
        "residual": nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1),
            Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True))),
            nn.ReLU(inplace=True),
        ),
        "residual of residuals": Residual(
            nn.Sequential(
                Residual(nn.Conv2d(2, 2, 1), nn.LeakyReLU(0.5)), nn.Conv2d(2, 3, 3, stride=2)
            ),
            nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.Tanh()),
        ),
        "doubled": Residual(nn.Identity(), nn.Sequential()),
        "fully connected": nn.Sequential(
            nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.Sigmoid()),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(27, 5),
            nn.ReLU(),
            nn.Linear(5, 4, bias=False),
        ),
        "identity": nn.Identity(),
        "nothing": nn.Sequential(),
    }


NETWORKS = {name: network.eval().double() for name, network in small_networks().items()}
SHAPE = (2, 7, 8)


def jacobian_norms(network, point):
    """The exact norms of the network's derivative at a point; (∞,1) and (∞,2) from below."""
    jacobian = torch.autograd.functional.jacobian(network, point)
    matrix = jacobian.reshape(-1, point.numel()).numpy()
    images = matrix @ np.sign(matrix).T  # for the signs of each row
    return {
        ("l1", "l1"): np.linalg.norm(matrix, 1),
        ("l1", "l2"): np.linalg.norm(matrix, axis=0).max(),
        ("l1", "linf"): np.abs(matrix).max(),
        ("l2", "l2"): np.linalg.norm(matrix, 2),
        ("l2", "linf"): np.linalg.norm(matrix, axis=1).max(),
        ("linf", "linf"): np.linalg.norm(matrix, np.inf),
        ("linf", "l2"): np.linalg.norm(images, axis=0).max(),
        ("linf", "l1"): np.abs(images).sum(axis=0).max(),
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_no_jacobian_exceeds_the_bound(name):
    network = NETWORKS[name]
    bound = {
        (p, q): encoder_sensitivity(network, SHAPE, p, q).value for p, q in product(NORMS, NORMS)
    }
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        point = torch.rand(1, *SHAPE, generator=generator, dtype=torch.float64)
        for pair, value in jacobian_norms(network, point).items():
            assert value <= bound[pair] * (1 + 1e-12), pair


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "nothing"])
def test_ascent_on_the_quotient_never_exceeds_the_bound(name):
    """Two pictures are moved so that they come closer and their features move apart."""
    network = NETWORKS[name]
    generator = torch.Generator().manual_seed(2)
    for p, q in product(NORMS, NORMS):
        bound = encoder_sensitivity(network, SHAPE, p, q).value
        pair = torch.rand(2, *SHAPE, generator=generator, dtype=torch.float64)
        for _ in range(15):
            pair.requires_grad_(True)
            images = network(pair)
            quotient = torch.linalg.vector_norm(
                images[0] - images[1], ORDERS[q]
            ) / torch.linalg.vector_norm(pair[0] - pair[1], ORDERS[p])
            assert quotient.item() <= bound * (1 + 1e-12), (p, q)
            (gradient,) = torch.autograd.grad(quotient, pair)
            pair = (pair + 0.05 * gradient / (gradient.abs().max() + 1e-30)).detach()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("p", "q"), [("l2", "l2"), ("l1", "l1"), ("linf", "l2"), ("l2", "l1")])
def test_the_bound_is_the_product_of_its_layers(name, p, q):
    network = NETWORKS[name]
    rows = layer_sensitivities(network, SHAPE, p, q)
    whole = encoder_sensitivity(network, SHAPE, p, q)
    assert prod(row.sensitivity.value for row in rows) == whole.value
    assert rows[0].input_norm == p
    assert rows[-1].output_norm == q
    for before, after in pairwise(rows):
        assert before.output_norm == after.input_norm
    for row in rows:
        assert row.sensitivity.method in whole.method


def test_every_pair_of_signs_of_a_linear_encoder():
    """From L∞ the largest change is a vector of signs; with nine pixels, all can be tried."""
    torch.manual_seed(3)
    shape = (1, 3, 3)
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=9)), dtype=torch.float64)
    for network in (
        nn.Conv2d(1, 2, 2, bias=False),
        nn.Conv2d(1, 2, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(1, 2, 2, dilation=2, bias=False),
        nn.AvgPool2d(2, stride=1),
        nn.AdaptiveAvgPool2d(2),
        Residual(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Conv2d(1, 1, 1, bias=False)),
        nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.BatchNorm2d(2, affine=False)).eval(),
        nn.Sequential(nn.Flatten(), nn.Linear(9, 4, bias=False)),
    ):
        network.double()
        images = network(signs.reshape(-1, *shape)).detach().flatten(1)
        for q in NORMS:
            exact = float(torch.linalg.vector_norm(images, ORDERS[q], dim=1).max())
            found = encoder_sensitivity(network, shape, "linf", q).value
            assert exact <= found * (1 + 1e-12), (network, q)
            assert q != "linf" or isinstance(network, Residual) or found <= exact * (1 + 1e-9)


@pytest.mark.parametrize("name", ["residual", "residual of residuals", "folded", "convolutions"])
def test_power_iteration_stays_below(name):
    """It approaches the largest singular value of the Jacobian from below."""
    network, shape = NETWORKS[name], SHAPE
    point = torch.rand(1, *shape, dtype=torch.float64)
    bound = encoder_sensitivity(network, shape, "l2", "l2").value
    change = torch.randn(1, *shape, dtype=torch.float64)
    for _ in range(30):
        change = change / change.norm()
        image = torch.autograd.functional.jvp(network, point, change)[1]
        assert image.norm() <= bound
        change = torch.autograd.functional.vjp(network, point, image)[1]
    assert image.norm() > 0.05 * bound


def test_a_residual_sum_adds_the_bounds_of_its_paths():
    branch = nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        branch.weight.copy_(0.5 * torch.eye(2)[..., None, None])
    for norm in NORMS:  # both paths multiply by positive numbers: the bound is attained
        found = encoder_sensitivity(Residual(branch), (2, 4, 4), norm, norm).value
        assert found == pytest.approx(1.5, rel=1e-9)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), Residual(nn.Sequential(nn.ReLU(), branch)))
    sum_ = layer_sensitivities(network, (1, 6, 6), "l2", "l2")[1]
    assert (sum_.name, sum_.kind) == ("1", "Residual")
    branch_rows, shortcut_rows = sum_.paths
    assert [(row.name, row.kind) for row in branch_rows] == [
        ("1.branch.0", "ReLU"),
        ("1.branch.1", "Conv2d"),
    ]
    assert [(row.name, row.kind) for row in shortcut_rows] == [("1.shortcut", "Identity")]
    parts = [prod(row.sensitivity.value for row in path) for path in sum_.paths]
    assert sum(parts) <= sum_.sensitivity.value <= sum(parts) * (1 + 1e-15)
    assert sum_.sensitivity.method == "branch 0.5 + shortcut 1"


@pytest.mark.parametrize(
    ("name", "arguments", "placement"),
    [
        ("resnet", {"depth": 8, "channels": 3}, "stage2"),
        ("wide-resnet", {"depth": 10, "width": 1}, "stage1"),
        ("fast-resnet", {"channels": [3, 4, 4, 4]}, "stage1"),
        ("strided-cnn", {"channels": [3, 4]}, "6"),
    ],
)
def test_stages_of_whole_networks_have_a_bound_that_no_jacobian_exceeds(name, arguments, placement):
    torch.manual_seed(4)
    shape = (3, 8, 8)
    encoder, _ = build(name, shape, 5, placement, arguments)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    encoder.double().eval()
    for pair, value in jacobian_norms(encoder, torch.rand(1, *shape, dtype=torch.float64)).items():
        assert 0 < value <= encoder_sensitivity(encoder, shape, *pair).value, pair


def test_a_batch_norm_is_bounded_with_the_convolution_before_it():
    """Its large factors meet small kernels; separate bounds would multiply the largest of both."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0.0)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([4.0, 0.1])[:, None, None, None])
        network[1].weight.copy_(torch.tensor([0.25, 10.0]))
    (row,) = layer_sensitivities(network, (1, 4, 4), "l1", "l1")
    assert row.sensitivity.value == pytest.approx(2.0)
    assert (row.name, row.kind) == ("0, 1", "Conv2d, BatchNorm2d")
    assert row.layers == tuple(network)
    apart = nn.Sequential(network[0], nn.Identity(), network[1])
    assert encoder_sensitivity(apart, (1, 4, 4), "l1", "l1").value > 40


def test_overlapping_windows_count_what_they_share():
    """ResNet-50's pooling: with a stride of 2, a value lies in up to four windows of 3 x 3."""
    layer = nn.MaxPool2d(3, stride=2, padding=1)
    values = {norm: encoder_sensitivity(layer, (1, 9, 9), norm, norm).value for norm in NORMS}
    assert values == {"l1": 4.0, "l2": 2.0, "linf": 1.0}
    apart = nn.MaxPool2d(2)
    assert encoder_sensitivity(apart, (1, 9, 9), "l2", "l2").value == 1.0
    # One bright pixel that all four see.
    picture = torch.zeros(1, 1, 9, 9)
    picture[..., 3, 3] = 1.0
    assert layer(picture).sum() == 4


def test_adaptive_pooling_over_the_whole_picture_is_the_mean():
    layer = nn.AdaptiveAvgPool2d(1)
    for p, q, value in (("l1", "l1", 1 / 12), ("l1", "l2", 1 / 12), ("l2", "l2", 12**-0.5)):
        assert encoder_sensitivity(layer, (2, 3, 4), p, q).value == pytest.approx(value, rel=1e-9)
    assert encoder_sensitivity(layer, (2, 3, 4), "linf", "l1").value == pytest.approx(2.0)


def test_rows_are_named_after_their_layers():
    rows = layer_sensitivities(NETWORKS["fully connected"], SHAPE, "l2", "l2")
    assert [(row.name, row.kind) for row in rows] == [
        ("0.0", "Conv2d"),
        ("0.1", "Sigmoid"),
        ("1", "Dropout"),
        ("2", "Flatten"),
        ("3", "Linear"),
        ("4", "ReLU"),
        ("5", "Linear"),
    ]
    assert rows[1].sensitivity.value == 0.25


def test_identity_changes_norms_by_the_dimension():
    values = {
        (p, q): encoder_sensitivity(nn.Identity(), (3, 4, 5), p, q).value
        for p, q in product(NORMS, NORMS)
    }
    assert values.pop(("l2", "l1")) == pytest.approx(sqrt(60), rel=1e-15)
    assert values.pop(("linf", "l2")) == pytest.approx(sqrt(60), rel=1e-15)
    assert values.pop(("linf", "l1")) == 60
    assert set(values.values()) == {1.0}
    assert encoder_sensitivity(nn.Identity(), (1, 28, 28), "linf", "l2").value == 28.0


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_a_single_convolution_has_the_operators_bound(p, q):
    layer = nn.Conv2d(3, 4, 5, stride=2, padding=2)
    direct = Convolution(
        layer.weight.detach().double().numpy(), input_size=(16, 14), stride=2, padding=2
    ).sensitivity(p, q)
    found = encoder_sensitivity(layer, (3, 16, 14), p, q)
    assert found.value == pytest.approx(direct.value, rel=1e-15)
    assert found.method == direct.method


def test_the_best_norms_between_layers_are_chosen():
    """From L1 to L2: one pair is better by L1 (1, not √2), the other by L2 (√2, not 2)."""
    spread, identity, gather = np.ones((2, 1)), np.eye(2), np.ones((1, 2))
    for first, second, best in ((identity, gather, 1.0), (spread, identity, sqrt(2))):
        network = nn.Sequential(nn.Flatten(), nn.Linear(*first.T.shape), nn.ReLU()).double()
        network.append(nn.Linear(*second.T.shape).double())
        with torch.no_grad():
            network[1].weight.copy_(torch.from_numpy(first))
            network[3].weight.copy_(torch.from_numpy(second))
        found = encoder_sensitivity(network, (first.shape[1], 1, 1), "l1", "l2").value
        assert found == pytest.approx(best, rel=1e-9)
    # The other way round, each would be larger.
    assert Matrix(gather).sensitivity("l2", "l2").value > 1.4
    assert Matrix(spread).sensitivity("l1", "l1").value == pytest.approx(2)


def test_the_shipped_network_has_a_sensitivity():
    for placement in ("image", "layer1"):
        g, _ = build("cnn", (1, 28, 28), 10, placement, {})
        found = encoder_sensitivity(g, (1, 28, 28), "l2", "l2")
        assert found.value == 1.0 if placement == "image" else found.value > 0


def test_a_layer_used_twice_counts_twice():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(2.0)
    network = nn.Sequential(layer, layer)
    assert encoder_sensitivity(network, (1, 4, 4), "l2", "l2").value == pytest.approx(4.0)


def test_batch_norm_multiplies_each_channel():
    layer = nn.BatchNorm2d(2, eps=1.0).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -6.0]))
        layer.running_var.copy_(torch.tensor([0.0, 8.0]))
    for norm in NORMS:
        found = encoder_sensitivity(layer, (2, 3, 3), norm, norm).value
        assert found == pytest.approx(2.0, rel=1e-9)
    plain = nn.BatchNorm2d(2, affine=False, eps=0.25).eval()
    plain.running_var.zero_()
    assert encoder_sensitivity(plain, (2, 3, 3), "l2", "l2").value == pytest.approx(2.0)


def test_half_precision_weights_are_used_as_they_are():
    layer = nn.Conv2d(1, 2, 3).to(torch.bfloat16)
    exact = Convolution(layer.weight.detach().double().numpy(), input_size=(8, 8)).sensitivity(
        "l1", "l2"
    )
    assert encoder_sensitivity(layer, (1, 8, 8), "l1", "l2") == exact


class _Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def _hooked():
    layer = nn.Conv2d(1, 1, 3)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


def _poisoned(part, value):
    layer = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)).eval()
    with torch.no_grad():
        layer.get_parameter(part)[:] = value
    return layer


class _DoubledSum(Residual):
    def forward(self, features):
        return 2 * super().forward(features)


def _own_forward():
    layer = nn.ReLU()
    layer.forward = lambda x: 2 * x
    return layer


def _negative_variance():
    layer = nn.BatchNorm2d(1).eval()
    layer.running_var.fill_(-1.0)
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Softplus(), "Softplus.*no proven sensitivity; supported"),
        (nn.GELU(), "GELU"),
        (nn.ConvTranspose2d(1, 1, 3), "ConvTranspose2d"),
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.LayerNorm(8))), r"layer 1\.0 \(LayerNorm\)"),
        (_Doubled(1, 1, 3), "_Doubled"),
        (_hooked(), "hooks"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3)), "Parametrized"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "reflect.*'zeros'"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), "circular"),
        (nn.Conv2d(1, 1, 2, padding="same"), "lopsided"),
        (nn.Conv2d(1, 1, 9), "does not fit"),
        (nn.Conv2d(2, 1, 3), "takes 2 channels"),
        (nn.Linear(64, 2), "put Flatten before"),
        (nn.Sequential(nn.Flatten(), nn.Linear(63, 2)), "takes 63 values"),
        (nn.Sequential(nn.Flatten(), nn.Conv2d(1, 1, 1)), "takes \\(channels, height, width\\)"),
        (nn.Flatten(0), "start_dim"),
        (nn.BatchNorm2d(1), r"call eval\(\)"),
        (nn.BatchNorm2d(1, track_running_stats=False).eval(), "running statistics"),
        (nn.BatchNorm2d(3).eval(), "takes 3 channels"),
        (_negative_variance(), "not positive"),
        (nn.Dropout(), r"call eval\(\)"),
        (_own_forward(), "forward of its own"),
        (Residual(nn.Conv2d(1, 1, 3)), r"shape \[1, 6, 6\], the shortcut \[1, 8, 8\]"),
        (Residual(nn.Conv2d(1, 2, 1)), "both must be the same"),
        (Residual(nn.AdaptiveAvgPool2d(1)), "both must be the same"),
        (Residual(nn.GELU()), r"layer branch \(GELU\)"),
        (Residual(nn.ReLU(), nn.GELU()), r"layer shortcut \(GELU\)"),
        (nn.Sequential(_DoubledSum(nn.ReLU())), r"layer 0 \(_DoubledSum\)"),
        (Residual(nn.LeakyReLU(-2, inplace=True)), r"layer branch \(LeakyReLU\): changes in place"),
        (
            Residual(nn.ReLU(), nn.Sequential(nn.Identity(), nn.ReLU6(inplace=True))),
            r"layer shortcut\.1 \(ReLU6\): changes in place",
        ),
        (Residual(_hooked()), "hooks"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)), r"0, 1 .*call eval\(\)"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(2)).eval(), "takes 2 channels, got 1"),
        (nn.MaxPool2d(3, ceil_mode=True), "ceil_mode"),
        (nn.AvgPool2d(3, ceil_mode=True), "ceil_mode"),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), "count_include_pad"),
        (_poisoned("0.weight", float("nan")), r"0\.weight holds NaN"),
        (_poisoned("0.bias", float("inf")), r"0\.bias holds NaN or infinity"),
        (_poisoned("1.weight", float("-inf")), r"1\.weight holds NaN or infinity"),
    ],
)
def test_what_has_no_proof_is_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        encoder_sensitivity(layer, (1, 8, 8), "l2", "l2")


@pytest.mark.parametrize("shape", [(28, 28), (0, 8, 8), (1, 1, 8, 8)])
def test_shapes_that_are_not_pictures_are_refused(shape):
    with pytest.raises(ValueError, match="input shape"):
        encoder_sensitivity(nn.Identity(), shape, "l2", "l2")


@pytest.mark.parametrize(("p", "q"), [("l0", "l2"), ("l2", "2")])
def test_unknown_norms_are_refused(p, q):
    with pytest.raises(ValueError, match="unknown norm"):
        encoder_sensitivity(nn.Identity(), (1, 8, 8), p, q)
