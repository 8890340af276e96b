"""A proven bound on the rounding errors of evaluating g in float64.

The computed input x̃ itself has some error. Then

    ‖g̃(x̃) − g(x)‖_q ≤ ‖g̃(x̃) − g(x̃)‖_q + Δ(q,q)·‖x̃ − x‖_q,

where g̃ is g as it is computed. The first term is accumulated layer by layer. In each norm s it is
known how large the input of a layer can be, and how large its error. A layer f with bounds Δ(r,s)
that errs by at most ``local`` in each of its n values turns them into

    magnitude_s = min_r Δ(r,s)·magnitude_r + ‖f(0)‖_s,
    error_s     = min_r Δ(r,s)·error_r + ‖local‖_s,

where a vector of n values of at most c has norms n·c, √n·c and c.

Local errors: u = 2⁻⁵³ is float64's unit roundoff. A sum of t products errs, in any order and with
fused or separate operations, by at most t·u/(1 − t·u) of the sum of their absolute values (Higham
2002, section 3.1). Everywhere below, twice that is used, which also covers the rounding of these
few numbers themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np
import torch
from torch import nn

from models.certification.names import NORMS, Norm
from models.certification.norms import check_norm
from models.networks.resnet import Residual
from models.sensitivity.layers import (
    Shape,
    Table,
    batch_norm_factors,
    change_of_norm,
    float64,
    layer_table,
    two,
)
from models.sensitivity.modules import check_encoder, leaves, residual_paths

_TWICE_U = 2.0**-52
Norms = dict[Norm, float]


@dataclass(frozen=True)
class EncoderError:
    """Bounds on the error of a computed g, in one norm.

    Attributes:
        own: the error that g's own arithmetic adds.
        passed_on: the largest factor by which g multiplies an error of its input, in this norm.
        largest: the largest absolute value of an output.
    """

    own: float
    passed_on: float
    largest: float

    def total(self, of_input: float) -> float:
        """The whole error if the input has the error ``of_input`` in the same norm."""
        return self.own + self.passed_on * of_input


@dataclass(frozen=True)
class _State:
    """The bounds between two layers, each in every norm."""

    shape: Shape
    magnitude: Norms
    error: Norms
    passed_on: Norms


def encoder_error(
    encoder: nn.Module, input_shape: tuple[int, int, int], norm: Norm
) -> EncoderError:
    """Bound the float64 error of g on inputs in [0, 1], in ``norm``.

    Args:
        encoder: g in float64 and in evaluation mode; with layers that ``encoder_sensitivity``
            knows.
        input_shape: (channels, height, width) of the input.
        norm: of the errors of the input and of the output.

    Raises:
        ValueError: a layer without a proven bound, weights that are not finite, or a shape that
            does not fit.
    """
    check_norm(norm)
    check_encoder(encoder, input_shape)
    values = prod(input_shape)
    start = _State(
        tuple(input_shape),
        _norms(1.0, values),
        _norms(0.0, values),
        {other: change_of_norm(norm, other, values) for other in NORMS},
    )
    end = _through(encoder, start, "")
    return EncoderError(
        end.error[norm], end.passed_on[norm], end.magnitude["linf"] + end.error["linf"]
    )


def _through(module: nn.Module, state: _State, path: str) -> _State:
    for name, layer in leaves(module, path):
        if type(layer) is Residual:
            state = _sum(
                *(_through(part, state, inner) for inner, part in residual_paths(layer, name))
            )
        else:
            state = _after(layer, state)
    return state


def _after(layer: nn.Module, state: _State) -> _State:
    table, shape = layer_table(layer, state.shape)
    values = prod(shape)
    offset, local = _RULES[type(layer)](
        layer, state.shape, state.magnitude["linf"] + state.error["linf"]
    )
    return _State(
        shape,
        _plus(_pass_on(table, state.magnitude), _norms(offset, values)),
        _plus(_pass_on(table, state.error), _norms(local, values)),
        _pass_on(table, state.passed_on),
    )


def _sum(branch: _State, shortcut: _State) -> _State:
    magnitude = _plus(branch.magnitude, shortcut.magnitude)
    error = _plus(branch.error, shortcut.error)
    local = _TWICE_U * (magnitude["linf"] + error["linf"])
    return _State(
        branch.shape,
        magnitude,
        _plus(error, _norms(local, prod(branch.shape))),
        _plus(branch.passed_on, shortcut.passed_on),
    )


def _pass_on(table: Table, norms: Norms) -> Norms:
    return {s: min(table[r, s].value * norms[r] for r in NORMS) for s in NORMS}


def _plus(one: Norms, other: Norms) -> Norms:
    return {norm: one[norm] + other[norm] for norm in NORMS}


def _norms(largest: float, values: int) -> Norms:
    """The norms of ``values`` values of at most ``largest``."""
    return {"l1": largest * values, "l2": largest * sqrt(values), "linf": largest}


# Each rule takes a layer, the shape of its input and the largest absolute value in it, and returns
# the largest |f(0)| and the largest error of a value.
_Rule = Callable[[Any, Shape, float], tuple[float, float]]


def _weighted(layer: nn.Conv2d | nn.Linear, shape: Shape, largest: float) -> tuple[float, float]:
    rows = np.abs(float64(layer.weight)).reshape(len(layer.weight), -1)
    bias = 0.0 if layer.bias is None else float(np.abs(float64(layer.bias)).max())
    terms = rows.shape[1] + 1
    return bias, terms * _TWICE_U * (float(rows.sum(axis=1).max()) * largest + bias)


def _average(layer: nn.AvgPool2d, shape: Shape, largest: float) -> tuple[float, float]:
    terms = prod(two(layer.kernel_size))
    whole = terms / (layer.divisor_override or terms) * largest
    return 0.0, (terms + 1) * _TWICE_U * whole


def _adaptive_average(
    layer: nn.AdaptiveAvgPool2d, shape: Shape, largest: float
) -> tuple[float, float]:
    """No window has more values than the picture."""
    return 0.0, (prod(shape[1:]) + 1) * _TWICE_U * largest


def _batch_norm(layer: nn.BatchNorm2d, shape: Shape, largest: float) -> tuple[float, float]:
    """x·α + (β − mean·α) or ((x − mean)·α) + β; α = γ/√(v + ε) takes four roundings.

    At most seven roundings fall on a product with α, and two on the sums.
    """
    factors = np.abs(batch_norm_factors(layer, shape[0]))
    means = np.abs(float64(layer.running_mean)) if layer.running_mean is not None else 0.0
    bias = np.abs(float64(layer.bias)) if layer.bias is not None else 0.0
    offset = float((factors * means + bias).max())
    return offset, 9 * _TWICE_U * float((factors * (means + largest) + bias).max())


def _exact(layer: nn.Module, shape: Shape, largest: float) -> tuple[float, float]:
    """Values are chosen or clipped."""
    return 0.0, 0.0


def _clipped(layer: nn.Hardtanh, shape: Shape, largest: float) -> tuple[float, float]:
    return max(0.0, layer.min_val, -layer.max_val), 0.0


def _leaky_relu(layer: nn.LeakyReLU, shape: Shape, largest: float) -> tuple[float, float]:
    return 0.0, _TWICE_U * abs(layer.negative_slope) * largest


def _at_most_one(layer: nn.Module, shape: Shape, largest: float) -> tuple[float, float]:
    """PyTorch's tanh errs by at most one unit in the last place of a number up to 1 (SLEEF).

    Its sigmoid is 1/(1 + exp(−x)), four such operations. Eight units are used.
    """
    return abs(float(layer(torch.zeros(1)))), 8 * _TWICE_U


_RULES: dict[type[nn.Module], _Rule] = {
    nn.Identity: _exact,
    nn.Flatten: _exact,
    nn.Dropout: _exact,
    nn.ReLU: _exact,
    nn.ReLU6: _exact,
    nn.MaxPool2d: _exact,
    nn.Hardtanh: _clipped,
    nn.LeakyReLU: _leaky_relu,
    nn.Tanh: _at_most_one,
    nn.Sigmoid: _at_most_one,
    nn.Linear: _weighted,
    nn.Conv2d: _weighted,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _adaptive_average,
    nn.BatchNorm2d: _batch_norm,
}
