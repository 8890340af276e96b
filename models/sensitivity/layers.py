"""Proven bounds of single ``torch.nn`` layers: a table of Δ(r,s) for each kind.

A layer counts only if it is exactly one of the classes in ``RULES``: a subclass may compute
anything. A change of norm (‖v‖₁ ≤ √d·‖v‖₂, ‖v‖₂ ≤ √d·‖v‖∞, ‖v‖∞ ≤ ‖v‖₂ ≤ ‖v‖₁ for d values) may
come before or after it, so that the table is full.
"""

from collections.abc import Callable
from math import inf, isqrt, nextafter, prod, sqrt
from typing import Any

import numpy as np
import torch
from torch import nn

from models.certification.arrays import Floats
from models.certification.names import NORMS, Norm
from models.sensitivity.operators import (
    MARGIN,
    PAIRS,
    Convolution,
    LinearMap,
    Matrix,
    Sensitivity,
    Size,
)

Shape = tuple[int, ...]
Table = dict[tuple[Norm, Norm], Sensitivity]


def layer_table(
    layer: nn.Module, shape: Shape, norm: nn.BatchNorm2d | None = None
) -> tuple[Table, Shape]:
    """Bound every Δ(r,s) of one layer, and return the shape of its output.

    Args:
        layer: in evaluation mode where that matters.
        shape: of the input, without the batch.
        norm: for a convolution, the batch norm that follows it. The bounds are those of both
            together, which are again a convolution: each row times that channel's factor.

    Raises:
        ValueError: the layer has no proven bound, or the shape does not fit.
    """
    if norm is not None and isinstance(layer, nn.Conv2d):
        known, output = _conv2d(layer, shape, batch_norm_factors(norm, layer.out_channels))
    elif type(layer) in _RULES:
        known, output = _RULES[type(layer)](layer, shape)
    else:
        supported = ", ".join(kind.__name__ for kind in _RULES)
        raise ValueError(
            f"no proven sensitivity; supported before the noise: Sequential and Residual "
            f"of {supported}"
        )
    return _with_changes(known, prod(shape), prod(output)), output


def change_of_norm(source: Norm, target: Norm, values: int) -> float:
    """The largest ‖v‖_target over ‖v‖_source ≤ 1; an inexact root is rounded up."""
    if NORMS.index(source) <= NORMS.index(target):
        return 1.0
    if (source, target) == ("linf", "l1"):
        return float(values)
    root = isqrt(values)
    return float(root) if root * root == values else nextafter(sqrt(values), inf)


def batch_norm_factors(layer: nn.BatchNorm2d, channels: int) -> Floats:
    """[channels]: γ/√(v + ε), by which each channel is multiplied in evaluation.

    Raises:
        ValueError: training mode, no running statistics, or another number of channels.
    """
    if channels != layer.num_features:
        raise ValueError(f"takes {layer.num_features} channels, got {channels}")
    if layer.training or layer.running_var is None:
        raise ValueError("mixes the pictures of a batch; call eval() and keep running statistics")
    spread = float64(layer.running_var) + layer.eps
    if spread.min() <= 0:
        raise ValueError("a running variance + eps is not positive")
    gamma = float64(layer.weight) if layer.affine else np.ones_like(spread)
    return gamma / np.sqrt(spread)


def float64(tensor: torch.Tensor) -> Floats:
    """Return a float64 copy of ``tensor`` for numpy; smaller formats convert exactly."""
    return np.asarray(tensor.detach().to("cpu", torch.float64).numpy())


def two(value: Any) -> Size:
    """(rows, columns): pooling layers keep a number or a pair as given, convolutions a pair."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def adaptive_windows(size: int, outputs: int | None) -> Floats:
    """[outputs, size]: one axis of adaptive average pooling; ``None`` does not change the axis.

    Output i averages the values from ⌊i·size/outputs⌋ up to, not including, ⌈(i+1)·size/outputs⌉.
    """
    outputs = size if outputs is None else outputs
    windows = np.zeros((outputs, size))
    for i in range(outputs):
        start, end = i * size // outputs, -(-(i + 1) * size // outputs)
        windows[i, start:end] = 1 / (end - start)
    return windows


def _with_changes(known: Table, inputs: int, outputs: int) -> Table:
    """Fill the table: each pair by the best ``known`` bound with changes of norm around it."""
    table: Table = {}
    for r in NORMS:
        for s in NORMS:
            best = Sensitivity(inf, "")
            direct_first = sorted(known.items(), key=lambda own: own[0] != (r, s))
            for (a, b), own in direct_first:
                value = change_of_norm(r, a, inputs) * own.value * change_of_norm(b, s, outputs)
                if value < best.value:
                    best = Sensitivity(value, own.method + _changed(r, a) + _changed(b, s))
            table[r, s] = best
    return table


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
    """Return the rule of an elementwise function whose slopes never exceed ``slope``.

    |f(a) − f(b)| ≤ slope·|a − b| for each value, hence in every norm. Softplus is missing because
    torch's jumps where it turns into the identity; GELU and SiLU because their slopes exceed 1.
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
    return _linear(Matrix(float64(layer.weight))), (layer.out_features,)


def _conv2d(layer: nn.Conv2d, shape: Shape, factors: Floats | None = None) -> tuple[Table, Shape]:
    """``factors`` multiply the channels of the output."""
    size = _size(shape, layer.in_channels)
    if layer.padding_mode != "zeros":
        raise ValueError(
            f"padding_mode {layer.padding_mode!r} repeats pixels, which changes the norm; "
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
    kernel = float64(layer.weight)
    convolution = Convolution(
        kernel if factors is None else kernel * factors[:, None, None, None],
        input_size=size,
        stride=two(layer.stride),
        padding=two(padding),
        dilation=two(layer.dilation),
        groups=layer.groups,
    )
    return _linear(convolution), (layer.out_channels, *convolution.output_size)


def _average(layer: nn.AvgPool2d, shape: Shape) -> tuple[Table, Shape]:
    """Average pooling is a convolution of each channel by itself."""
    padding = two(layer.padding)
    if layer.ceil_mode or (any(padding) and not layer.count_include_pad):
        raise ValueError(
            "divides by fewer values at the border; use ceil_mode=False and count_include_pad=True"
        )
    rows, columns = two(layer.kernel_size)
    convolution = Convolution(
        np.full((shape[0], 1, rows, columns), 1 / (layer.divisor_override or rows * columns)),
        input_size=_size(shape),
        stride=two(layer.stride),
        padding=padding,
        groups=shape[0],
    )
    return _linear(convolution), (shape[0], *convolution.output_size)


def _adaptive_average(layer: nn.AdaptiveAvgPool2d, shape: Shape) -> tuple[Table, Shape]:
    """Rows ⊗ columns, on each channel.

    For p ≤ q Minkowski's inequality lets an axis's norm act on all lines along it at once, so that
    the two axes' norms multiply, and a further axis that is not changed (channels) has norm 1. The
    other pairs follow by changes of norm.
    """
    given: Any = layer.output_size
    wanted = given if isinstance(given, tuple) else (given, given)
    axes = [
        Matrix(adaptive_windows(size, outputs))
        for size, outputs in zip(_size(shape), wanted, strict=True)
    ]
    table = {
        (p, q): Sensitivity(
            prod(axis.sensitivity(p, q).value for axis in axes),
            f"product over axes of {axes[0].sensitivity(p, q).method}",
        )
        for p, q in PAIRS
        if NORMS.index(p) <= NORMS.index(q)
    }
    return table, (shape[0], *(axis.outputs for axis in axes))


def _maximum(layer: nn.MaxPool2d, shape: Shape) -> tuple[Table, Shape]:
    """|max a − max b|ᵖ ≤ max |a − b|ᵖ ≤ Σ|a − b|ᵖ in each window.

    If no value lies in more than n windows, the sum over windows is at most n·‖a − b‖ᵖ: Δ(p,p) is
    at most n, √n and 1 for p = 1, 2 and ∞, and 1 for all if windows do not overlap.
    """
    if layer.ceil_mode or layer.return_indices:
        raise ValueError("use ceil_mode=False and return_indices=False")
    windows = Convolution(
        np.ones((1, 1, *two(layer.kernel_size))),
        input_size=_size(shape),
        stride=two(layer.stride),
        padding=two(layer.padding),
        dilation=two(layer.dilation),
    )
    shared = round(windows.sensitivity("l1", "l1").value)  # the largest column sum, an integer
    method = f"no value lies in more than {shared} windows"
    values: dict[Norm, float] = {
        "l1": float(shared),
        "l2": change_of_norm("linf", "l2", shared),
        "linf": 1.0,
    }
    table = {(norm, norm): Sensitivity(value, method) for norm, value in values.items()}
    return table, (shape[0], *windows.output_size)


def _batch_norm(layer: nn.BatchNorm2d, shape: Shape) -> tuple[Table, Shape]:
    """In evaluation each channel is multiplied by a factor and shifted."""
    _size(shape)
    largest = float(np.abs(batch_norm_factors(layer, shape[0])).max()) * MARGIN
    return _same_norms(largest, "largest factor of a channel"), shape


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
    nn.AdaptiveAvgPool2d: _adaptive_average,
    nn.MaxPool2d: _maximum,
    nn.BatchNorm2d: _batch_norm,
    nn.Dropout: _dropout,
}


def _size(shape: Shape, channels: int | None = None) -> Size:
    if len(shape) != 3:
        raise ValueError(f"takes (channels, height, width), got shape {list(shape)}")
    if channels not in (None, shape[0]):
        raise ValueError(f"takes {channels} channels, got shape {list(shape)}")
    return shape[1], shape[2]
