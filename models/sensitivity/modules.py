"""The sensitivity of a g that is made of ``torch.nn`` layers.

Each layer gets a table of proven bounds Δ(r,s); a change of norm (‖v‖₁ ≤ √d·‖v‖₂, ‖v‖₂ ≤ √d·‖v‖∞,
‖v‖∞ ≤ ‖v‖₂ ≤ ‖v‖₁ for d values) may come before or after it. Layers compose by
Δ(p,q) ≤ Δ(p,r)·Δ(r,q); the norms between them are chosen to make the product smallest.

A layer counts only if it is exactly one of the classes below: a subclass may compute anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isqrt, nextafter, prod, sqrt
from typing import Any

import numpy as np
import torch
from torch import nn

from models.certification.arrays import Floats
from models.certification.norms import NORMS, Norm, check_norm
from models.sensitivity.operators import MARGIN, PAIRS, Convolution, LinearMap, Matrix, Sensitivity

Shape = tuple[int, ...]
Table = dict[tuple[Norm, Norm], Sensitivity]


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer's share: from ``input_norm`` to ``output_norm``.

    ``name`` is the layer's path in g, empty where g is that one layer; ``kind`` is its class.
    """

    name: str
    kind: str
    input_norm: Norm
    output_norm: Norm
    sensitivity: Sensitivity


def encoder_sensitivity(
    encoder: nn.Module, input_shape: tuple[int, int, int], p: Norm, q: Norm
) -> Sensitivity:
    """Bound Δ(p,q) of g.

    Args:
        encoder: g, in evaluation mode where that matters.
        input_shape: (channels, height, width) of what goes in.
        p: the norm of the change of the picture.
        q: the norm that the noise needs.

    Raises:
        ValueError: a layer without a proven bound, weights that are not finite, or a shape that
            does not fit.
    """
    rows = layer_sensitivities(encoder, input_shape, p, q)
    value = prod(row.sensitivity.value for row in rows)
    if len(rows) == 1:
        return Sensitivity(value, rows[0].sensitivity.method)
    steps = (
        f"{row.name} {row.kind} {row.input_norm} to {row.output_norm}: "
        f"{row.sensitivity.value:.6g}, {row.sensitivity.method}"
        for row in rows
    )
    return Sensitivity(value, f"product over layers ({'; '.join(steps)})")


def layer_sensitivities(
    encoder: nn.Module, input_shape: tuple[int, int, int], p: Norm, q: Norm
) -> tuple[LayerSensitivity, ...]:
    """Return one row per layer, whose values multiply to :func:`encoder_sensitivity`'s.

    Arguments and errors as there. An empty ``Sequential`` counts as ``Identity``.
    """
    check_norm(p)
    check_norm(q)
    shape: Shape = tuple(input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"input shape {list(shape)}: expected (channels, height, width), each ≥ 1")
    _check_finite(encoder)
    best: dict[Norm, tuple[float, tuple[LayerSensitivity, ...]]] = {p: (1.0, ())}
    for name, layer in _leaves(encoder, "") or [("", nn.Identity())]:
        known, output = _bounds(layer, shape, name)
        table = _with_changes(known, prod(shape), prod(output))
        reached: dict[Norm, tuple[float, tuple[LayerSensitivity, ...]]] = {}
        for (r, s), sensitivity in table.items():
            if r not in best:
                continue
            value = best[r][0] * sensitivity.value
            if s not in reached or value < reached[s][0]:
                row = LayerSensitivity(name, type(layer).__name__, r, s, sensitivity)
                reached[s] = value, (*best[r][1], row)
        best, shape = reached, output
    return best[q][1]


def linear_map(layer: nn.Conv2d | nn.Linear, input_size: tuple[int, int] | None) -> LinearMap:
    """Return what ``layer`` does, less its bias, from a float64 copy of its weight.

    Args:
        layer: a convolution with zero padding, or a fully connected layer.
        input_size: (height, width) of a convolution's input; a ``Linear`` needs none.

    Raises:
        ValueError: weights that are not finite, padding other than zeros, or a size that does not
            fit.
    """
    if isinstance(layer, nn.Linear):
        return Matrix(_float64(layer.weight))
    if input_size is None:
        raise ValueError("a convolution's sensitivity needs the (height, width) of its input")
    return _convolution(layer, input_size)


def _leaves(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """The layers in the order in which they run, ``Sequential`` taken apart."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{_title(module, path)}: has hooks, which may compute anything")
    if type(module) is not nn.Sequential:
        return [(path, module)]
    leaves = []
    for name, child in zip(module._modules, module, strict=True):  # a layer used twice counts twice
        leaves += _leaves(child, f"{path}.{name}" if path else name)
    return leaves


def _bounds(layer: nn.Module, shape: Shape, name: str) -> tuple[Table, Shape]:
    """The layer's own bounds, and the shape of what it returns."""
    if type(layer) not in _RULES:
        supported = ", ".join(kind.__name__ for kind in _RULES)
        raise ValueError(
            f"{_title(layer, name)}: no proven sensitivity; "
            f"supported before the noise: Sequential of {supported}"
        )
    try:
        return _RULES[type(layer)](layer, shape)
    except ValueError as error:
        raise ValueError(f"{_title(layer, name)}: {error}") from None


def _with_changes(known: Table, inputs: int, outputs: int) -> Table:
    """Fill the table: each pair by the best of the ``known`` with changes of norm around it."""
    table: Table = {}
    for r in NORMS:
        for s in NORMS:
            best = Sensitivity(inf, "")
            direct_first = sorted(known.items(), key=lambda own: own[0] != (r, s))
            for (a, b), own in direct_first:
                value = _change(r, a, inputs) * own.value * _change(b, s, outputs)
                if value < best.value:
                    best = Sensitivity(value, own.method + _changed(r, a) + _changed(b, s))
            table[r, s] = best
    return table


def _change(source: Norm, target: Norm, values: int) -> float:
    """The largest ‖v‖_target over ‖v‖_source ≤ 1; an inexact root is rounded up."""
    if NORMS.index(source) <= NORMS.index(target):
        return 1.0
    if (source, target) == ("linf", "l1"):
        return float(values)
    root = isqrt(values)
    return float(root) if root * root == values else nextafter(sqrt(values), inf)


def _changed(source: Norm, target: Norm) -> str:
    return "" if source == target else f", {source} to {target} by dimension"


def _same_norms(value: float, method: str) -> Table:
    return {(norm, norm): Sensitivity(value, method) for norm in NORMS}


def _linear(linear: LinearMap) -> Table:
    return {pair: linear.sensitivity(*pair) for pair in PAIRS}


def _identity(layer: nn.Module, shape: Shape) -> tuple[Table, Shape]:
    return _same_norms(1.0, "identity"), shape


def _dropout(layer: nn.Dropout, shape: Shape) -> tuple[Table, Shape]:
    if layer.training:
        raise ValueError("drops values at random while in training mode; call eval() first")
    return _identity(layer, shape)


def _flatten(layer: nn.Flatten, shape: Shape) -> tuple[Table, Shape]:
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise ValueError("must flatten everything but the batch: start_dim 1, end_dim -1")
    return _same_norms(1.0, "identity"), (prod(shape),)


def _elementwise(slope: float) -> Callable[[nn.Module, Shape], tuple[Table, Shape]]:
    """The rule of a function of single values whose difference quotients never exceed ``slope``.

    |f(a) − f(b)| ≤ slope·|a − b| per value, hence in every norm. Softplus is not here: torch's
    jumps where it goes over to the identity, and GELU and SiLU exceed 1.
    """

    def rule(layer: nn.Module, shape: Shape) -> tuple[Table, Shape]:
        return _same_norms(slope, "slope of the activation"), shape

    return rule


def _leaky_relu(layer: nn.LeakyReLU, shape: Shape) -> tuple[Table, Shape]:
    return _elementwise(max(1.0, abs(layer.negative_slope)))(layer, shape)


def _fully_connected(layer: nn.Linear, shape: Shape) -> tuple[Table, Shape]:
    if shape != (layer.in_features,):
        raise ValueError(
            f"takes {layer.in_features} values, got shape {list(shape)}; put Flatten before it"
        )
    return _linear(linear_map(layer, None)), (layer.out_features,)


def _conv2d(layer: nn.Conv2d, shape: Shape) -> tuple[Table, Shape]:
    convolution = _convolution(layer, _size(shape, layer.in_channels))
    return _linear(convolution), (layer.out_channels, *convolution.output_size)


def _average(layer: nn.AvgPool2d, shape: Shape) -> tuple[Table, Shape]:
    """Average pooling is a convolution of each channel by itself."""
    padding = _two(layer.padding)
    if layer.ceil_mode or (any(padding) and not layer.count_include_pad):
        raise ValueError(
            "divides by fewer values at the border; use ceil_mode=False and count_include_pad=True"
        )
    rows, columns = _two(layer.kernel_size)
    convolution = Convolution(
        np.full((shape[0], 1, rows, columns), 1 / (layer.divisor_override or rows * columns)),
        input_size=_size(shape),
        stride=_two(layer.stride),
        padding=padding,
        groups=shape[0],
    )
    return _linear(convolution), (shape[0], *convolution.output_size)


def _maximum(layer: nn.MaxPool2d, shape: Shape) -> tuple[Table, Shape]:
    """|max a − max b| ≤ max |a − b| ≤ ‖a − b‖ in each window, and every value is in at most one."""
    kernel, stride, dilation = (
        _two(pair) for pair in (layer.kernel_size, layer.stride, layer.dilation)
    )
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if any(step < span for step, span in zip(stride, spans, strict=True)):
        raise ValueError(f"windows overlap: stride {stride} is less than what they span, {spans}")
    if layer.ceil_mode or layer.return_indices:
        raise ValueError("use ceil_mode=False and return_indices=False")
    windows = Convolution(
        np.ones((1, 1, *kernel)),
        input_size=_size(shape),
        stride=stride,
        padding=_two(layer.padding),
        dilation=dilation,
    )
    return _same_norms(1.0, "windows that do not overlap"), (shape[0], *windows.output_size)


def _batch_norm(layer: nn.BatchNorm2d, shape: Shape) -> tuple[Table, Shape]:
    """In evaluation each channel is multiplied by γ/√(v + ε)."""
    _size(shape, layer.num_features)
    if layer.training or layer.running_var is None:
        raise ValueError("mixes the pictures of a batch; call eval() and keep running statistics")
    spread = _float64(layer.running_var) + layer.eps
    if spread.min() <= 0:
        raise ValueError("a running variance + eps is not positive")
    gamma = _float64(layer.weight) if layer.affine else np.ones_like(spread)
    factor = float((np.abs(gamma) / np.sqrt(spread)).max()) * MARGIN
    return _same_norms(factor, "largest factor of a channel"), shape


_RULES: dict[type[nn.Module], Callable[[Any, Shape], tuple[Table, Shape]]] = {
    nn.Identity: _identity,
    nn.Linear: _fully_connected,
    nn.Conv2d: _conv2d,
    nn.Flatten: _flatten,
    nn.ReLU: _elementwise(1.0),
    nn.ReLU6: _elementwise(1.0),
    nn.LeakyReLU: _leaky_relu,
    nn.Hardtanh: _elementwise(1.0),
    nn.Tanh: _elementwise(1.0),
    nn.Sigmoid: _elementwise(0.25),
    nn.AvgPool2d: _average,
    nn.MaxPool2d: _maximum,
    nn.BatchNorm2d: _batch_norm,
    nn.Dropout: _dropout,
}


def _convolution(layer: nn.Conv2d, input_size: tuple[int, int]) -> Convolution:
    if layer.padding_mode != "zeros":
        raise ValueError(
            f"padding_mode {layer.padding_mode!r} repeats pixels and so has a norm of its own; "
            "use 'zeros'"
        )
    padding: int | tuple[int, ...] | str = layer.padding
    if padding == "valid":
        padding = 0
    elif padding == "same":
        spans = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        if any(span % 2 for span in spans):
            raise ValueError("padding='same' is lopsided for a kernel of even span; give numbers")
        padding = tuple(span // 2 for span in spans)
    return Convolution(
        _float64(layer.weight),
        input_size=input_size,
        stride=_two(layer.stride),
        padding=_two(padding),
        dilation=_two(layer.dilation),
        groups=layer.groups,
    )


def _size(shape: Shape, channels: int | None = None) -> tuple[int, int]:
    if len(shape) != 3:
        raise ValueError(f"takes (channels, height, width), got shape {list(shape)}")
    if channels not in (None, shape[0]):
        raise ValueError(f"takes {channels} channels, got shape {list(shape)}")
    return shape[1], shape[2]


def _two(value: Any) -> tuple[int, int]:
    """Pooling keeps one number or a pair as it was given, convolutions a pair."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _float64(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.detach().to("cpu", torch.float64).numpy())


def _check_finite(encoder: nn.Module) -> None:
    for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinity; such weights have no sensitivity")


def _title(layer: nn.Module, name: str) -> str:
    kind = type(layer).__name__
    return f"layer {name} ({kind})" if name else f"layer {kind}"
