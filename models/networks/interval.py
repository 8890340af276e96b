"""Bounds of a network over a box of pictures, rounding included (Gowal et al. 2018).

h is the network as it is computed here, in float32, where x + y is not exact, and where kernels may
add in any order and with fused multiplications. A certificate speaks of that h, so its bounds must
hold for what is computed, not only for the exact network. Notation: u = 2⁻²⁴; γ_k = ku/(1 − ku); ω
the smallest normal number, for what underflows, whether or not it is then flushed to zero.

*What is kept.* For a row that is a box, each layer has a centre c and a radius r such that for
every picture in the box **the values â that are computed of it have |â − c| ≤ r**. At the input all
three are integers below 2²⁴, and exact; division by what pixel value 1 is there is part of the
first layer's weights, rounded like any weights. A row whose radius is 0 everywhere is one picture,
and its c is that â: nothing is widened there, and a ReLU's ((c + r)⁺ + (c − r)⁺)/2 is c⁺ exactly.

*Products.* A sum of n products and a bias, in any order, has an error of at most
γ_{n+1}·(|W||x| + |b|) + η (Higham 2002, section 3.1: a term takes part in at most n + 1 roundings;
a fused multiplication saves some), where η = ω·(2n + 2 + Σ|W|) covers underflow. That holds for the
computed c' = Wc + b and, as |â| ≤ |c| + r, for â'. So, with Γ = γ_{n+1},

    |â' − c'| ≤ |W|·r + Γ(|W|·(2|c| + r) + 2|b|) + 2η = |W|·((1 + Γ)r + 2Γ|c|) + 2Γ|b| + 2η.

The radius is itself computed, with s = 3Γ + 8u: t = (1 + s)r + s|c|, then |W|t + s|b| + 4η. All
terms are at least 0, so that what is computed is at least (1 − Γ)(1 − u)⁴ of this, less η. That is
more than what is needed, as (1 + s)(1 − Γ)(1 − u)⁴ ≥ 1 + Γ and s(1 − Γ)(1 − u)⁴ ≥ 2Γ for Γ ≤ 1/10.
A mean of n values is such a sum, with one rounding more for the division.

*ReLU.* With m = |c| + r, each end c ± r is off by at most um once computed; half their difference,
half their sum, and what is added to the former, are off by at most um(1 + 9u) each: less than 5um
in all. 8um is added.

*Votes.* The last layer is bounded for differences of logits. With label c, D_i = W_c − W_i rounded,
and V = |W|(|c| + r) + |b|, the computed difference of logits c and i of any picture in the box is
at least D_i·c + (b_c − b_i) − |D_i|r, less Γ(V_c + V_i) for the logits' own rounding, and
γ_{n+2}(V_c + V_i) each for that of the two products here, less 4u(V_c + V_i) for their sum.
4γ_{n+4}(V_c + V_i) as computed, and 8η, is more. If what is left is above 0 for every i, every
picture in the box gets c. Otherwise the logits are NaN, which are no vote.

*Range.* No partial sum of any picture or bound may be infinite: weights that could let one grow
beyond 10³⁰ are refused when the network is made. Weights below 2⁻¹⁰⁰ become 0, so that no
difference of two is subnormal. (h is the network with these weights.)

Products are computed as products of matrices. Fast convolutions (Winograd, Fourier) compute sums of
other terms, and lower formats round the factors first: neither has the bound above.
:meth:`IntervalNetwork.try_products` shows that a device computes true products.
"""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.certification.names import Mechanism
from models.execution import Format, Provider, ProviderError
from models.mechanisms.interval import WHOLE

U = 2.0**-24
TINY = 2.0**-126
SMALLEST = 2.0**-100
# Bounds on values and on γ, within which the proof holds.
LARGEST, MOST_ROUNDING = 1e30, 0.1
# Differences of logits are formed row by row: labels × inputs of the last layer.
MOST_DIFFERENCES = 2**18
# Rounded away by formats below float32.
PROBE = 1 + 2.0**-12
Sizes = int | tuple[int, ...]
Grid = tuple[Sizes, Sizes, Sizes, Sizes]
_SIMPLE = (nn.ReLU, nn.Identity)


class IntervalError(ValueError):
    """A network has no interval bounds: says what in it has none."""


def gamma(count: int) -> float:
    """Return γ_k for k = ``count`` roundings.

    Raises:
        IntervalError: there are too many for the proof.
    """
    error = count * U / (1 - count * U)
    if not 0 <= error <= MOST_ROUNDING:
        raise IntervalError(f"a layer sums {count} products, too many for float32")
    return error


def share(count: int) -> float:
    """Return s for sums of which a term takes part in ``count`` roundings."""
    return 3 * gamma(count) + 8 * U


def check_layers(network: nn.Module) -> None:
    """Check that each layer has interval bounds here.

    Raises:
        IntervalError: one has not; says which.
    """
    if type(network) is not nn.Sequential or not len(network):
        raise IntervalError(f"intervals pass a plain sequence of layers, not {_name(network)}")
    for number, layer in enumerate(network):
        reason = _objection(layer)
        if reason is not None:
            raise IntervalError(
                f"layer {number}, {_name(layer)}: intervals do not pass it{reason}; expected "
                "Conv2d, Linear, ReLU, AvgPool2d, Flatten, or BatchNorm right behind one of the "
                "first two"
            )
    if type(network[-1]) is not nn.Linear:
        raise IntervalError(f"the last layer is {_name(network[-1])}; expected Linear")


def _objection(layer: nn.Module) -> str | None:
    """Say why a layer has no bounds here, as the end of a sentence; None if it has."""
    match layer:
        case nn.Conv2d() if type(layer) is nn.Conv2d:
            plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
            return None if plain and layer.groups == 1 else " with groups or such padding"
        case nn.AvgPool2d() if type(layer) is nn.AvgPool2d:
            plain = not (_pair(layer.padding) != (0, 0) or layer.ceil_mode)
            return None if plain and not layer.divisor_override else " with padding"
        case nn.Flatten() if type(layer) is nn.Flatten:
            return None if (layer.start_dim, layer.end_dim) == (1, -1) else " in part"
        case _:
            return None if type(layer) in (nn.Linear, *_SIMPLE) else ""


def _name(layer: nn.Module) -> str:
    return type(layer).__name__


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def check_way(
    mechanism: Mechanism, provider: Provider, precision: Format, *, compiled: bool = False
) -> None:
    """Refuse to run intervals in a way for which nothing is proven.

    Raises:
        ProviderError: the model has intervals, and this is not PyTorch's float32.
    """
    way = provider, precision, compiled
    if mechanism == "interval" and way != ("pytorch", "float32", False):
        raise ProviderError(
            "the rounding of intervals is proven for PyTorch in float32 only, not for "
            f"{provider} in {precision}{', compiled' if compiled else ''}"
        )


class IntervalNetwork(nn.Module):
    """h for boxes: [rows, 2 × channels, height, width] as ``Boxes.draw`` has them, to [rows, K].

    A box of radius 0 gives logits; another gives 1 for the label that every picture in it gets and
    0 for the others, or NaN if no label is proven.

    Args:
        network: in evaluation mode, with batch normalisation folded; float32.

    Raises:
        IntervalError: it has a layer without bounds, or too large weights.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        check_layers(network)
        self.layers = nn.ModuleList()
        unit, largest = 1 / WHOLE, float(WHOLE)
        for layer in network.children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                affine = Affine(layer, unit)
                unit, largest = 1.0, affine.largest(largest)
                self.layers.append(affine)
            elif isinstance(layer, nn.AvgPool2d):
                self.layers.append(Mean(layer))
            elif isinstance(layer, nn.ReLU):
                self.layers.append(Positive())
            elif isinstance(layer, nn.Flatten):
                self.layers.append(Flat())
        last = self.layers[-1]
        assert isinstance(last, Affine)
        if last.weight.numel() > MOST_DIFFERENCES:
            raise IntervalError(
                f"the last layer has {last.weight.numel()} weights; expected at most "
                f"{MOST_DIFFERENCES}"
            )

    def forward(self, seen: Tensor) -> Tensor:
        """Return the logits of pictures, and the votes of boxes."""
        centre, radius = seen.chunk(2, dim=1)
        # [rows]: 1 for boxes, 0 for pictures, whose values are not widened.
        wide = (radius.flatten(1).amax(dim=1) > 0).to(seen.dtype)
        *layers, last = self.layers
        for layer in layers:
            centre, radius = layer(centre, radius, wide)
        assert isinstance(last, Affine)
        logits = last.products(centre, last.weight, last.bias)
        label = logits.argmax(dim=1)
        proven = (last.margins(centre, radius, label) > 0).sum(dim=1) == logits.shape[1] - 1
        votes = F.one_hot(label, logits.shape[1]).to(seen.dtype)
        votes = torch.where(proven[:, None], votes, torch.nan)
        return torch.where(wide[:, None] > 0, votes, logits)

    def try_products(self, rows: int) -> bool:
        """Return whether products are true ones where this network is, in passes of ``rows``.

        Each sum has one term that is not 0, so it must be that product rounded once, bit for bit,
        in whatever order it is formed.
        """
        return all(layer.try_products(rows) for layer in self.layers if isinstance(layer, Affine))


class Affine(nn.Module):
    """Wx + b of a convolution or a fully connected layer, as a product of matrices.

    Args:
        layer: the layer.
        unit: what its inputs' 1 is in pixel values; a factor of the weights.
    """

    weight: Tensor
    absolute: Tensor
    bias: Tensor
    slack: Tensor
    eta: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear, unit: float) -> None:
        super().__init__()
        weight = (layer.weight.detach().double().flatten(1) * unit).float()
        bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float()
        weight, bias = (torch.where(one.abs() < SMALLEST, 0.0, one) for one in (weight, bias))
        self._grid: Grid | None = None
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            self._grid = layer.kernel_size, layer.dilation, layer.padding, layer.stride
        self.terms = weight.shape[1]
        self._share = share(self.terms + 1)
        absolute = weight.abs().double()
        eta = TINY * (2 * self.terms + 2 + absolute.sum(dim=1))
        slack = self._share * bias.abs().double() + 4 * eta
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("absolute", absolute.float().contiguous())
        self.register_buffer("bias", bias)
        self.register_buffer("slack", (slack * (1 + 2 * U)).float())
        self.register_buffer("eta", (8 * eta * (1 + 2 * U)).float().amax())

    def largest(self, inputs: float) -> float:
        """Return a bound on all outputs and partial sums, and on twice the radii, by the inputs'.

        Raises:
            IntervalError: it is too large.
        """
        sums = self.absolute.double().sum(dim=1) * inputs + self.bias.double().abs()
        found = 4 * float(sums.max())
        if not found <= LARGEST:
            raise IntervalError(f"its values may grow to {found:.3g}; expected at most {LARGEST:g}")
        return found

    def products(self, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return weight·values + bias: [rows, …] to [rows, outputs, …]."""
        if self._grid is None:
            return F.linear(values, weight, bias)
        sums = self._matrix(weight, F.unfold(values, *self._grid)) + bias[:, None]
        places = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, dilation, padding, stride in zip(
                values.shape[2:], *map(_pair, self._grid), strict=True
            )
        )
        return sums.reshape(*sums.shape[:2], *places)

    @staticmethod
    def _matrix(weight: Tensor, columns: Tensor) -> Tensor:
        """[outputs, n] × [rows, n, places]."""
        return torch.matmul(weight, columns)

    def forward(self, centre: Tensor, radius: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """Return centre and radius of the outputs; ``wide`` [rows] is 1 for boxes."""
        reach = _reach(centre, radius, wide, self._share)
        spread = self.products(reach, self.absolute, torch.zeros_like(self.bias))
        slack = _rows(wide, spread) * self.slack.view(-1, *[1] * (spread.dim() - 2))
        return self.products(centre, self.weight, self.bias), spread + slack

    def margins(self, centre: Tensor, radius: Tensor, label: Tensor) -> Tensor:
        """Return by how much the logit of ``label`` [rows] leads in the box at least: [rows, K].

        That of the label itself is below 0 or 0.
        """
        rows = self.weight[label][:, None] - self.weight
        shift = self.bias[label][:, None] - self.bias
        middle = torch.matmul(rows, centre[..., None]).squeeze(-1) + shift
        spread = torch.matmul(rows.abs(), radius[..., None]).squeeze(-1)
        sizes = F.linear(centre.abs() + radius, self.absolute, self.bias.abs())
        sizes = sizes + sizes.gather(1, label[:, None])
        return middle - spread - (sizes * (4 * gamma(self.terms + 4)) + self.eta)

    def try_products(self, rows: int) -> bool:
        """See :meth:`IntervalNetwork.try_products`."""
        terms = torch.arange(rows, device=self.weight.device) % self.terms
        basis = F.one_hot(terms, self.terms).to(self.weight.dtype) * PROBE
        expected = (self.weight * PROBE).T[terms]
        if self._grid is None:
            return torch.equal(
                self.products(basis, self.weight, torch.zeros_like(self.bias)), expected
            )
        places = 8
        found = self._matrix(self.weight, basis[..., None].expand(-1, -1, places).contiguous())
        return torch.equal(found, expected[..., None].expand_as(found))


class Mean(nn.Module):
    """Average pooling: a sum of n values, divided by n."""

    def __init__(self, layer: nn.AvgPool2d) -> None:
        super().__init__()
        self._sizes = layer.kernel_size, layer.stride
        terms = prod(_pair(layer.kernel_size))
        self._share, self._slack = share(terms + 2), 4 * TINY * (2 * terms + 3)

    def forward(self, centre: Tensor, radius: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """Return centre and radius of the means."""
        reach = _reach(centre, radius, wide, self._share)
        slack = _rows(wide, centre) * self._slack
        return F.avg_pool2d(centre, *self._sizes), F.avg_pool2d(reach, *self._sizes) + slack


class Positive(nn.Module):
    """ReLU."""

    def forward(self, centre: Tensor, radius: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """Return centre and radius of what is above 0."""
        lower, upper = (centre - radius).relu(), (centre + radius).relu()
        slack = (centre.abs() + radius) * (8 * U) + 8 * TINY
        return (lower + upper) / 2, (upper - lower) / 2 + slack * _rows(wide, centre)


class Flat(nn.Module):
    """Flatten."""

    def forward(self, centre: Tensor, radius: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same values in one axis."""
        return centre.flatten(1), radius.flatten(1)


def _reach(centre: Tensor, radius: Tensor, wide: Tensor, share: float) -> Tensor:
    """Return t: what a sum takes for the radius, so that it covers its own rounding too."""
    return radius * (1 + share) + centre.abs() * (_rows(wide, centre) * share)


def _rows(wide: Tensor, like: Tensor) -> Tensor:
    return wide.view(-1, *[1] * (like.dim() - 1))
