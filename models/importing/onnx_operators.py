"""The operators of ONNX that a classifier may call, each computed by PyTorch.

A value is a tensor, or *known*: an array whose values are known without running the network, such
as sizes and axes. A known array of sizes may hold the number of pictures, which stays a symbol.
Each operator follows its text in the specification (onnx.ai/onnx/operators) for the operator sets
of ``OPSETS``; where versions differ it says how. What an operator's text allows and this module
does not compute is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Known = NDArray[Any]
Value = Tensor | Known

# The default domain's operator sets whose texts were followed.
OPSETS = range(9, 29)
# The most values of a known array; they are sizes.
MOST_KNOWN = 2**16
# TensorProto.DataType: PyTorch's type.
TYPES = {
    **{1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32},
    **{7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16},
}


class UnfitError(ValueError):
    """A node is not accepted; says why."""


@dataclass(frozen=True)
class Node:
    """One call of an operator.

    Attributes:
        name: in the file, or what it computes.
        operator: its name in the default domain.
        inputs: the names of its arguments; empty for one that is left out.
        outputs: the names of what it returns; empty for one that nobody uses.
        attributes: by name: numbers, text, lists of them, or known arrays.
        opset: the operator set.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or ``default`` if the node lacks it."""
        return self.attributes.get(name, default)

    def must(self, **expected: Any) -> None:
        """Refuse attributes with other values than these."""
        for name, value in expected.items():
            if self.get(name, value) != value:
                raise UnfitError(f"has {name} = {self.get(name)!r}; expected {value!r}")


def _tensor(value: Value) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if value.dtype == object:
        raise UnfitError("computes values from the number of pictures")
    return torch.tensor(value)


def _known(value: Value | None, what: str) -> list[Any]:
    """Return the values of a known argument, as a list."""
    if not isinstance(value, np.ndarray):
        raise UnfitError(f"has {what} that depend on the pictures or on weights")
    return list(value.flatten().tolist())


def _operand(value: Value, other: Value) -> Any:
    """Return ``value`` for arithmetic with ``other``; one known number stays a number."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= other.ndim:
        return value.item()
    return _tensor(value)


def _check_size(count: Any) -> None:
    if not isinstance(count, int) or count > MOST_KNOWN:
        raise UnfitError(f"computes a known array of more than {MOST_KNOWN:,} values")


def _unary(run: Callable[[Tensor], Tensor]) -> Callable[..., Value]:
    return lambda node, x: run(_tensor(x))


def _binary(
    run: Callable[[Any, Any], Any], plain: Callable[[Any, Any], Any] | None = None
) -> Callable[..., Value]:
    """Compute by ``run``, or by ``plain`` if both arguments are known."""

    def compute(node: Node, one: Value, other: Value) -> Value:
        if plain and isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
            return np.asarray(plain(one, other))
        left, right = _operand(one, other), _operand(other, one)
        if not isinstance(left, Tensor) and not isinstance(right, Tensor):
            left = torch.tensor(left)
        result: Tensor = run(left, right)
        return result

    return compute


def _several(run: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Value]:
    return lambda node, *values: reduce(run, map(_tensor, values))


def _divided(one: Any, other: Any) -> Any:
    """Divide; integers are divided towards 0, and sizes are not negative."""
    if isinstance(one, Tensor) and isinstance(other, Tensor | int):
        whole = not one.is_floating_point() and not (
            isinstance(other, Tensor) and other.is_floating_point()
        )
        return torch.div(one, other, rounding_mode="trunc" if whole else None)
    return one / other


def _divided_known(one: Known, other: Known) -> Known:
    if "f" in (one.dtype.kind, other.dtype.kind):
        return np.asarray(one / other)
    return np.asarray(one // other)


def _remainder(node: Node, one: Value, other: Value) -> Value:
    run = torch.fmod if node.get("fmod", 0) else torch.remainder
    return _binary(run, np.fmod if node.get("fmod", 0) else np.mod)(node, one, other)


def _square_root(node: Node, x: Value) -> Value:
    return x.sqrt() if isinstance(x, Tensor) else np.asarray(np.sqrt(x.astype(np.float64)))


def _clip(node: Node, x: Value, least: Value | None = None, most: Value | None = None) -> Value:
    limits = [node.get("min"), node.get("max")]  # attributes before operator set 11
    for place, given in enumerate((least, most)):
        if given is not None:
            (limits[place],) = _known(given, "limits")
    return _tensor(x) if limits == [None, None] else torch.clamp(_tensor(x), *limits)


def _hard_sigmoid(node: Node, x: Value) -> Value:
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    return (alpha * _tensor(x) + beta).clamp(0.0, 1.0)


def _selu(node: Node, x: Value) -> Value:
    gamma = float(node.get("gamma", 1.0507009873554805))
    return gamma * F.elu(_tensor(x), node.get("alpha", 1.6732632423543772))


def _prelu(node: Node, x: Value, slope: Value) -> Value:
    given = _tensor(x)
    return torch.where(given >= 0, given, _tensor(slope) * given)


def _cast(node: Node, x: Value) -> Value:
    kind = TYPES.get(node.get("to"))
    if kind is None:
        raise UnfitError(f"casts to a type that is not accepted ({node.get('to')})")
    if isinstance(x, Tensor):
        return x.to(kind)
    if x.dtype == object:
        if kind.is_floating_point:
            raise UnfitError("casts the number of pictures to a fraction")
        return x
    name = str(kind).removeprefix("torch.")
    return np.asarray(x.astype("float32" if name == "bfloat16" else name))


def _where(node: Node, condition: Value, one: Value, other: Value) -> Value:
    if all(isinstance(value, np.ndarray) for value in (condition, one, other)):
        return np.asarray(np.where(np.asarray(condition, dtype=bool), one, other))
    return torch.where(_tensor(condition).bool(), _tensor(one), _tensor(other))


# Layers.


def _windows(node: Node, x: Tensor, kernel: Sequence[int]) -> tuple[Any, Any, list[int], list[int]]:
    """Return strides and dilations, and padding before and after each side of the picture."""
    sides = len(kernel)
    strides = node.get("strides", [1] * sides)
    dilations = node.get("dilations", [1] * sides)
    kind = str(node.get("auto_pad", "NOTSET"))
    if kind == "NOTSET":
        pads = node.get("pads", [0] * 2 * sides)
        return strides, dilations, list(pads[:sides]), list(pads[sides:])
    if kind == "VALID":
        return strides, dilations, [0] * sides, [0] * sides
    every = [
        max((ceil(size / step) - 1) * step + (wide - 1) * apart + 1 - size, 0)
        for size, step, wide, apart in zip(x.shape[2:], strides, kernel, dilations, strict=True)
    ]
    small, large = [one // 2 for one in every], [one - one // 2 for one in every]
    return strides, dilations, *((small, large) if kind == "SAME_UPPER" else (large, small))


def _surround(x: Tensor, before: Sequence[int], after: Sequence[int], value: float) -> Tensor:
    pads = [one for pair in zip(before[::-1], after[::-1], strict=True) for one in pair]
    while pads[-2:] == [0, 0]:  # of axes that stay as they are, the batch above all
        pads = pads[:-2]
    return F.pad(x, pads, value=value) if pads else x


def _convolution(node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    given, kernel = _tensor(x), _tensor(weight)
    strides, dilations, before, after = _windows(node, given, kernel.shape[2:])
    if before != after:
        given, before = _surround(given, before, after, 0.0), [0] * len(before)
    run = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[kernel.dim()]
    added = None if bias is None else _tensor(bias)
    result: Tensor = run(given, kernel, added, strides, before, dilations, node.get("group", 1))
    return result


def _max_pool(node: Node, x: Value) -> Value:
    given, kernel = _tensor(x), node.get("kernel_shape")
    strides, dilations, before, after = _windows(node, given, kernel)
    rounded = bool(node.get("ceil_mode", 0))
    if before != after or any(2 * one > wide for one, wide in zip(before, kernel, strict=True)):
        if rounded:
            raise UnfitError("has padding that differs between sides, with ceil_mode")
        given, before = _surround(given, before, after, -torch.inf), [0] * len(before)
    run = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}[given.dim()]
    result: Tensor = run(given, kernel, strides, before, dilations, ceil_mode=rounded)
    return result


def _average_pool(node: Node, x: Value) -> Value:
    given, kernel = _tensor(x), node.get("kernel_shape")
    strides, dilations, before, after = _windows(node, given, kernel)
    if set(dilations) != {1}:
        raise UnfitError("has dilations")
    rounded, whole = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    padded = any((*before, *after))
    if rounded and padded and (whole or before != after):
        raise UnfitError("has padding that counts or differs between sides, with ceil_mode")
    run: Any = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}[given.dim()]
    if padded and not rounded:
        # The means of what is there: sums over the padded picture, divided by how much is there.
        there = torch.ones(given.shape[2:])[None, None]
        given, there = (_surround(one, before, after, 0.0) for one in (given, there))
        means: Tensor = run(given, kernel, strides)
        return means if whole else means / run(there, kernel, strides)
    result: Tensor = run(given, kernel, strides, before, rounded, whole)
    return result


def _over_sides(run: Callable[..., Tensor]) -> Callable[..., Value]:
    return lambda node, x: run(_tensor(x), tuple(range(2, x.ndim)), True)


def _batch_norm(
    node: Node, x: Value, scale: Value, bias: Value, mean: Value, variance: Value
) -> Value:
    node.must(training_mode=0, spatial=1)
    eps = node.get("epsilon", 1e-5)
    about, spread, times, more = (_tensor(one) for one in (mean, variance, scale, bias))
    return F.batch_norm(_tensor(x), about, spread, times, more, False, 0.0, eps)


def _layer_norm(node: Node, x: Value, scale: Value, bias: Value | None = None) -> Value:
    node.must(stash_type=1)
    given = _tensor(x)
    shape = list(given.shape[node.get("axis", -1) :])
    added = None if bias is None else _tensor(bias).expand(shape)
    eps = node.get("epsilon", 1e-5)
    return F.layer_norm(given, shape, _tensor(scale).expand(shape), added, eps)


def _instance_norm(node: Node, x: Value, scale: Value, bias: Value) -> Value:
    eps = node.get("epsilon", 1e-5)
    return F.instance_norm(_tensor(x), None, None, _tensor(scale), _tensor(bias), True, 0.0, eps)


def _group_norm(node: Node, x: Value, scale: Value, bias: Value) -> Value:
    given, groups = _tensor(x), node.get("num_groups")
    both = [_tensor(one) for one in (scale, bias)]
    if node.opset < 21:  # one for each group, from then on one for each channel
        both = [one.repeat_interleave(given.shape[1] // groups) for one in both]
    return F.group_norm(given, groups, both[0], both[1], node.get("epsilon", 1e-5))


def _gemm(node: Node, one: Value, other: Value, added: Value | None = None) -> Value:
    left, right = _tensor(one), _tensor(other)
    left = left.t() if node.get("transA", 0) else left
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = F.linear(left, right if node.get("transB", 0) else right.t())
    product = product if alpha == 1 else alpha * product
    if added is None:
        return product
    more = _tensor(added)
    return product + (more if beta == 1 else beta * more)


def _dropout(node: Node, x: Value, ratio: Value | None = None, training: Any = None) -> Value:
    if training is not None and any(_known(training, "modes")):
        raise UnfitError("is in training mode; export the network in evaluation mode")
    return x


def _softmax(run: Callable[..., Tensor]) -> Callable[..., Value]:
    def compute(node: Node, x: Value) -> Value:
        given = _tensor(x)
        if node.opset >= 13:
            return run(given, node.get("axis", -1))
        # Before 13 all axes from this one on are one.
        axis = node.get("axis", 1) % given.dim()
        return run(given.flatten(axis), axis).reshape(given.shape)

    return compute


def _reduced(run: Callable[..., Tensor]) -> Callable[..., Value]:
    def compute(node: Node, x: Value, axes: Value | None = None) -> Value:
        given = _tensor(x)
        over = node.get("axes") if axes is None else _known(axes, "axes")
        if not over:
            if node.get("noop_with_empty_axes", 0):
                return given
            over = list(range(given.dim()))
        return run(given, tuple(over), bool(node.get("keepdims", 1)))

    return compute


# Shapes.


def _shape(node: Node, x: Value) -> Value:
    sizes = list(x.shape)[node.get("start", 0) : node.get("end")]
    whole = all(isinstance(one, int) for one in sizes)
    return np.array(sizes, dtype=np.int64 if whole else object)


def _reshape(node: Node, x: Value, shape: Value) -> Value:
    sizes = _known(shape, "sizes")
    if not node.get("allowzero", 0):
        sizes = [x.shape[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(node: Node, x: Value) -> Value:
    axis, sizes = node.get("axis", 1), x.shape
    axis = axis + len(sizes) if axis < 0 else axis
    if axis == 1:
        return _tensor(x).flatten(1)
    return _tensor(x).reshape(prod(sizes[:axis]), prod(sizes[axis:]))


def _axes(node: Node, given: Value | None) -> list[int] | None:
    """Return the axes; they are an attribute before operator set 13, then an argument."""
    return node.get("axes") if given is None else _known(given, "axes")


def _squeeze(node: Node, x: Value, axes: Value | None = None) -> Value:
    over = _axes(node, axes)
    if over is None:
        over = [axis for axis, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    if isinstance(x, Tensor):
        return torch.squeeze(x, tuple(over))
    return np.squeeze(x, tuple(over))


def _unsqueeze(node: Node, x: Value, axes: Value | None = None) -> Value:
    over = _axes(node, axes) or []
    rank = x.ndim + len(over)
    for axis in sorted(one % rank for one in over):
        x = x.unsqueeze(axis) if isinstance(x, Tensor) else np.expand_dims(x, axis)
    return x


def _transpose(node: Node, x: Value) -> Value:
    order = node.get("perm", list(range(x.ndim))[::-1])
    return x.permute(order) if isinstance(x, Tensor) else np.transpose(x, order)


def _concat(node: Node, *values: Value) -> Value:
    axis = node.get("axis")
    if all(isinstance(value, np.ndarray) for value in values):
        _check_size(sum(value.size for value in values if isinstance(value, np.ndarray)))
        return np.concatenate(values, axis)
    return torch.cat([_tensor(value) for value in values], axis)


def _slice(node: Node, x: Value, *given: Value) -> Value:
    if node.opset < 10:
        starts, ends = node.get("starts"), node.get("ends")
        axes, steps = node.get("axes"), None
    else:
        starts, ends, axes, steps = [_known(one, "limits") for one in given] + [None] * (
            4 - len(given)
        )
    assert starts is not None
    axes = list(range(len(starts))) if axes is None else axes
    where = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(axes), strict=True):
        if step < 1:
            raise UnfitError(f"has a step of {step}; expected one above 0")
        where[axis] = slice(start, end, step)
    return x[tuple(where)]


def _split(node: Node, x: Value, sizes: Value | None = None) -> Sequence[Value]:
    axis = node.get("axis", 0)
    parts = node.get("split") if sizes is None else _known(sizes, "sizes")
    if parts is None:
        length, count = x.shape[axis], node.get("num_outputs", len(node.outputs))
        each = -(-length // count)
        parts = [min(each, length - start) for start in range(0, length, each)]
    if isinstance(x, Tensor):
        return torch.split(x, parts, axis)
    return np.split(x, np.cumsum(parts)[:-1], axis)


def _gather(node: Node, x: Value, which: Value) -> Value:
    axis = node.get("axis", 0)
    if not isinstance(which, np.ndarray) or which.dtype == object:
        raise UnfitError("has indices that depend on the pictures")
    if isinstance(x, np.ndarray):
        return np.asarray(np.take(x, which, axis))
    axis = axis % x.dim()
    if which.ndim == 0:
        return x.select(axis, int(which))
    which = np.where(which < 0, which + x.shape[axis], which)
    chosen = x.index_select(axis, torch.tensor(which.flatten()))
    if which.ndim == 1:
        return chosen
    return chosen.reshape([*x.shape[:axis], *which.shape, *x.shape[axis + 1 :]])


def _expand(node: Node, x: Value, shape: Value) -> Value:
    sizes = _known(shape, "sizes")
    sizes = [1] * (x.ndim - len(sizes)) + sizes
    if isinstance(x, np.ndarray):
        _check_size(prod(sizes))
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(sizes)))
    own = [1] * (len(sizes) - x.dim()) + list(x.shape)
    # A size of 1 there leaves the value's own.
    return x.expand(
        [o if isinstance(n, int) and n == 1 else n for o, n in zip(own, sizes, strict=True)]
    )


def _filled(node: Node, shape: Value) -> Value:
    sizes = _known(shape, "sizes")
    value = node.get("value", np.zeros(1, np.float32)).item()
    if all(isinstance(one, int) for one in sizes):
        _check_size(prod(sizes))
        return np.full(sizes, value, node.get("value", np.zeros(1, np.float32)).dtype)
    return torch.full(sizes, value)


def _constant(node: Node) -> Value:
    for name, kind in (("value_int", np.int64), ("value_float", np.float32)):
        for key in (name, f"{name}s"):
            if key in node.attributes:
                return np.array(node.get(key), dtype=kind)
    value = node.get("value")
    if not isinstance(value, np.ndarray | Tensor):
        raise UnfitError("is a constant of a kind that is not accepted")
    return value


def _pad(node: Node, x: Value, pads: Any = None, value: Any = None, axes: Any = None) -> Value:
    given = _tensor(x)
    every = node.get("pads") if pads is None else _known(pads, "sizes")
    (filling,) = [node.get("value", 0.0)] if value is None else _known(value, "values")
    half = len(every) // 2
    over = list(range(half)) if axes is None else [a % given.dim() for a in _known(axes, "axes")]
    before, after = [0] * given.dim(), [0] * given.dim()
    for axis, first, last in zip(over, every[:half], every[half:], strict=True):
        before[axis], after[axis] = first, last
    mode = str(node.get("mode", "constant"))
    if mode == "constant":
        return _surround(given, before, after, filling)
    if mode not in ("reflect", "edge") or any((*before[:2], *after[:2])):
        raise UnfitError(
            f"pads by {mode}; expected constant, or a picture's sides by reflect or edge"
        )
    pads = [one for pair in zip(before[:1:-1], after[:1:-1], strict=True) for one in pair]
    return F.pad(given, pads, "replicate" if mode == "edge" else mode)


def _tile(node: Node, x: Value, repeats: Value) -> Value:
    times = _known(repeats, "repeats")
    if isinstance(x, Tensor):
        return x.repeat(times)
    _check_size(prod(times) * x.size)
    return np.tile(x, times)


def _range(node: Node, start: Value, end: Value, step: Value) -> Value:
    (first,), (last,), (apart,) = (_known(one, "limits") for one in (start, end, step))
    if not all(isinstance(one, int) for one in (first, last, apart)) or not apart:
        raise UnfitError("counts by something else than known whole numbers")
    _check_size(len(range(first, last, apart)))
    return np.arange(first, last, apart)


def _depth_to_space(node: Node, x: Value) -> Value:
    given, block = _tensor(x), node.get("blocksize")
    if str(node.get("mode", "DCR")) == "CRD":
        return F.pixel_shuffle(given, block)
    batch, channels, height, width = given.shape
    parts = given.reshape(batch, block, block, channels // block**2, height, width)
    moved = parts.permute(0, 3, 4, 1, 5, 2)
    return moved.reshape(batch, channels // block**2, height * block, width * block)


def _space_to_depth(node: Node, x: Value) -> Value:
    given, block = _tensor(x), node.get("blocksize")
    batch, channels, height, width = given.shape
    parts = given.reshape(batch, channels, height // block, block, width // block, block)
    moved = parts.permute(0, 3, 5, 1, 2, 4)
    return moved.reshape(batch, channels * block**2, height // block, width // block)


OPERATORS: dict[str, Callable[..., Value | Sequence[Value]]] = {
    **{name: _unary(getattr(torch, name.lower())) for name in ("Abs", "Neg", "Exp", "Log", "Erf")},
    **{name: _unary(getattr(torch, name.lower())) for name in ("Floor", "Ceil", "Round", "Sign")},
    **{name: _unary(getattr(torch, name.lower())) for name in ("Relu", "Sigmoid", "Tanh")},
    **{
        "Reciprocal": _unary(torch.reciprocal),
        "Sqrt": _square_root,
        "Not": _unary(torch.logical_not),
    },
    **{"Softplus": _unary(F.softplus), "Softsign": _unary(F.softsign), "Mish": _unary(F.mish)},
    **{"HardSwish": _unary(F.hardswish), "HardSigmoid": _hard_sigmoid, "Selu": _selu},
    "Elu": lambda node, x: F.elu(_tensor(x), node.get("alpha", 1.0)),
    "Celu": lambda node, x: F.celu(_tensor(x), node.get("alpha", 1.0)),
    "LeakyRelu": lambda node, x: F.leaky_relu(_tensor(x), node.get("alpha", 0.01)),
    "Gelu": lambda node, x: F.gelu(_tensor(x), approximate=str(node.get("approximate", "none"))),
    **{"PRelu": _prelu, "Clip": _clip, "Cast": _cast, "Identity": lambda node, x: x},
    "Add": _binary(torch.add, np.add),
    "Sub": _binary(lambda one, other: one - other, np.subtract),
    "Mul": _binary(torch.mul, np.multiply),
    "Div": _binary(_divided, _divided_known),
    "Pow": _binary(torch.pow, np.power),
    **{"Mod": _remainder, "Equal": _binary(torch.eq, np.equal), "Where": _where},
    "Greater": _binary(torch.gt, np.greater),
    "GreaterOrEqual": _binary(torch.ge, np.greater_equal),
    "Less": _binary(torch.lt, np.less),
    "LessOrEqual": _binary(torch.le, np.less_equal),
    **{
        "And": _binary(torch.logical_and, np.logical_and),
        "Or": _binary(torch.logical_or, np.logical_or),
    },
    **{"Min": _several(torch.minimum), "Max": _several(torch.maximum), "Sum": _several(torch.add)},
    **{"Conv": _convolution, "MaxPool": _max_pool, "AveragePool": _average_pool},
    **{"GlobalAveragePool": _over_sides(torch.mean), "GlobalMaxPool": _over_sides(torch.amax)},
    **{"BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm},
    **{"InstanceNormalization": _instance_norm, "GroupNormalization": _group_norm},
    **{"Gemm": _gemm, "Dropout": _dropout},
    "MatMul": lambda node, one, other: _tensor(one) @ _tensor(other),
    "Einsum": lambda node, *values: torch.einsum(str(node.get("equation")), *map(_tensor, values)),
    **{"Softmax": _softmax(torch.softmax), "LogSoftmax": _softmax(torch.log_softmax)},
    **{"ReduceMean": _reduced(torch.mean), "ReduceSum": _reduced(torch.sum)},
    **{"ReduceMax": _reduced(torch.amax), "ReduceMin": _reduced(torch.amin)},
    "ReduceL1": _reduced(lambda x, axes, kept: x.abs().sum(axes, kept)),
    "ReduceL2": _reduced(lambda x, axes, kept: x.square().sum(axes, kept).sqrt()),
    "ReduceSumSquare": _reduced(lambda x, axes, kept: x.square().sum(axes, kept)),
    **{"Shape": _shape, "Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose},
    **{"Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Concat": _concat, "Slice": _slice},
    **{"Split": _split, "Gather": _gather, "Expand": _expand, "ConstantOfShape": _filled},
    **{"Constant": _constant, "Pad": _pad, "Tile": _tile, "Range": _range},
    **{"DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth},
}
