"""The sensitivity of a g that is made of ``torch.nn`` layers and residual sums of them.

Each layer has a table of proven bounds Δ(r,s) (``models.sensitivity.layers``). One after the other
they compose by Δ(p,q) ≤ Δ(p,r)·Δ(r,q); the norms between them are chosen to make the product
smallest. A residual sum has Δ(p,q) ≤ Δ_branch(p,q) + Δ_shortcut(p,q) by the triangle inequality.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, nextafter, prod

import torch
from torch import nn

from models.certification.names import NORMS, Norm
from models.certification.norms import check_norm
from models.networks.resnet import Residual
from models.sensitivity.layers import Shape, layer_table
from models.sensitivity.operators import Sensitivity

# Layers that change their input in place if told to, and layers that return their input itself.
_IN_PLACE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh)
_PASSING = (nn.Identity, nn.Flatten, nn.Dropout)


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer's factor: from ``input_norm`` to ``output_norm``.

    Attributes:
        name: the layer's path in g, empty if g is a single layer. A convolution and the batch norm
            right after it are one row, under both names.
        kind: its class.
        input_norm: the norm of a change of the input.
        output_norm: the norm of the change of the output.
        sensitivity: the bound between the two.
        layers: the layer itself, and its batch norm.
        paths: of a residual sum, the rows of its branch and of its shortcut, whose products add up
            to ``sensitivity``.
    """

    name: str
    kind: str
    input_norm: Norm
    output_norm: Norm
    sensitivity: Sensitivity
    layers: tuple[nn.Module, ...] = field(default=(), repr=False, compare=False)
    paths: "tuple[Rows, ...]" = ()


Rows = tuple[LayerSensitivity, ...]
Pair = tuple[Norm, Norm]


def product(rows: Sequence[LayerSensitivity]) -> float:
    """Return the product of the rows' values."""
    return prod(row.sensitivity.value for row in rows)


def encoder_sensitivity(
    encoder: nn.Module, input_shape: tuple[int, int, int], p: Norm, q: Norm
) -> Sensitivity:
    """Bound Δ(p,q) of g.

    Args:
        encoder: g, in evaluation mode where that matters.
        input_shape: (channels, height, width) of the input.
        p: the norm of the change of the picture.
        q: the norm that the noise needs.

    Raises:
        ValueError: a layer without a proven bound, weights that are not finite, or a shape that
            does not fit.
    """
    return combine(layer_sensitivities(encoder, input_shape, p, q))


def encoder_sensitivities(
    encoder: nn.Module, input_shape: tuple[int, int, int]
) -> dict[Pair, Sensitivity]:
    """Bound Δ(p,q) of g for every pair of norms; arguments and errors as above."""
    check_encoder(encoder, input_shape)
    return {
        pair: combine(rows) for pair, rows in _compose(encoder, tuple(input_shape), "")[0].items()
    }


def combine(rows: Sequence[LayerSensitivity]) -> Sensitivity:
    """Return the bound that the rows of g multiply to, with their methods."""
    if len(rows) == 1:
        return rows[0].sensitivity
    steps = (
        f"{row.name} {row.kind} {row.input_norm} to {row.output_norm}: "
        f"{row.sensitivity.value:.6g}, {row.sensitivity.method}"
        for row in rows
    )
    return Sensitivity(product(rows), f"product over layers ({'; '.join(steps)})")


def layer_sensitivities(
    encoder: nn.Module, input_shape: tuple[int, int, int], p: Norm, q: Norm
) -> Rows:
    """Return one row per layer, whose values multiply to :func:`encoder_sensitivity`'s.

    Arguments and errors as there. An empty ``Sequential`` counts as ``Identity``.
    """
    check_norm(p)
    check_norm(q)
    check_encoder(encoder, input_shape)
    return _compose(encoder, tuple(input_shape), "")[0][p, q]


def check_encoder(encoder: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Refuse a shape that no picture has, and weights that are not finite.

    Raises:
        ValueError: see above.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        shape = list(input_shape)
        raise ValueError(f"input shape {shape}: expected (channels, height, width), each ≥ 1")
    for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinity; such weights have no sensitivity")


def leaves(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """The layers by their paths, in the order in which they run; each ``Sequential`` is expanded.

    Raises:
        ValueError: a layer has hooks, or a forward that is not its class's.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{title(module, path)}: has hooks, which may compute anything")
    if "forward" in vars(module):
        raise ValueError(f"{title(module, path)}: has a forward of its own")
    if type(module) is not nn.Sequential:
        return [(path, module)]
    found = []
    for name, child in zip(module._modules, module, strict=True):  # a layer used twice counts twice
        found += leaves(child, f"{path}.{name}" if path else name)
    return found or [(path, nn.Identity())]


def residual_paths(sum_: Residual, path: str) -> tuple[tuple[str, nn.Module], ...]:
    """The branch and the shortcut by their paths.

    Raises:
        ValueError: one of them changes in place what the other reads.
    """
    parts = (("branch", sum_.branch), ("shortcut", sum_.shortcut))
    paths = tuple((f"{path}.{name}" if path else name, part) for name, part in parts)
    for name, part in paths:
        for inner, layer in leaves(part, name):
            if type(layer) in _IN_PLACE and layer.inplace:
                raise ValueError(
                    f"{title(layer, inner)}: changes in place what both paths of the sum read; "
                    "use inplace=False"
                )
            if type(layer) not in _PASSING:
                break
    return paths


def title(layer: nn.Module, name: str) -> str:
    """Name a layer in a message."""
    kind = type(layer).__name__
    return f"layer {name} ({kind})" if name else f"layer {kind}"


def _compose(module: nn.Module, shape: Shape, path: str) -> tuple[dict[Pair, Rows], Shape]:
    """The best rows for each pair of norms, and the shape of the output."""
    best: dict[Pair, tuple[float, Rows]] = {(norm, norm): (1.0, ()) for norm in NORMS}
    for name, layer, norm in _with_batch_norms(leaves(module, path)):
        if type(layer) is Residual:
            table, shape = _residual(layer, shape, name)
        else:
            table, shape = _layer(layer, norm, shape, name)
        longer: dict[Pair, tuple[float, Rows]] = {}
        for (p, r), (value, rows) in best.items():
            for s in NORMS:
                row = table[r, s]
                larger = value * row.sensitivity.value
                if (p, s) not in longer or larger < longer[p, s][0]:
                    longer[p, s] = larger, (*rows, row)
        best = longer
    return {pair: rows for pair, (_, rows) in best.items()}, shape


def _with_batch_norms(
    layers: list[tuple[str, nn.Module]],
) -> Iterator[tuple[str, nn.Module, nn.BatchNorm2d | None]]:
    """The layers; a batch norm right after a convolution is returned with it."""
    taken = False
    for (name, layer), (other, after) in zip(layers, [*layers[1:], ("", None)], strict=True):
        if taken:
            taken = False
        elif type(layer) is nn.Conv2d and type(after) is nn.BatchNorm2d:
            taken = True
            yield f"{name}, {other}", layer, after
        else:
            yield name, layer, None


def _layer(
    layer: nn.Module, norm: nn.BatchNorm2d | None, shape: Shape, name: str
) -> tuple[dict[Pair, LayerSensitivity], Shape]:
    layers = (layer,) if norm is None else (layer, norm)
    try:
        table, output = layer_table(layer, shape, norm)
    except ValueError as error:
        raise ValueError(f"{title(layer, name)}: {error}") from None
    kind = ", ".join(type(part).__name__ for part in layers)
    rows = {
        pair: LayerSensitivity(name, kind, *pair, sensitivity, layers)
        for pair, sensitivity in table.items()
    }
    return rows, output


def _residual(
    sum_: Residual, shape: Shape, name: str
) -> tuple[dict[Pair, LayerSensitivity], Shape]:
    """Bound a sum: both paths include every change of norm, so their sums need no others."""
    (branch, output), (shortcut, other) = (
        _compose(part, shape, path) for path, part in residual_paths(sum_, name)
    )
    if output != other:
        raise ValueError(
            f"{title(sum_, name)}: the branch returns shape {list(output)}, the shortcut "
            f"{list(other)}; both must be the same"
        )
    rows = {}
    for pair in branch:
        one, two = product(branch[pair]), product(shortcut[pair])
        rows[pair] = LayerSensitivity(
            name,
            type(sum_).__name__,
            *pair,
            Sensitivity(nextafter(one + two, inf), f"branch {one:.6g} + shortcut {two:.6g}"),
            (sum_,),
            (branch[pair], shortcut[pair]),
        )
    return rows, output
