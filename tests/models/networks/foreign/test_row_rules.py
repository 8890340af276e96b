"""Each rule about rows, compared with what the operators do to numbers.

The oracle knows nothing of the rules. It makes tensors whose rows are where a claim says, computes
with some rows replaced and with rows permuted, and checks where the output changed.
"""

import math
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from models.networks.foreign import aten, rows
from models.networks.foreign import row_rules as rules
from models.networks.foreign.rows import CONSTANT, ROWS, RefusedError, Rows, Size, Unusable, Value

pytestmark = pytest.mark.slow

# How often each operator is called with random arguments, and with how many rows.
CALLS, BATCHES = 30, (2, 3)


@dataclass(frozen=True)
class Operand:
    """A tensor to be drawn: its shape without the rows, where the rows are, and its kind."""

    shape: tuple[int, ...]
    rows: Rows | None
    kind: str = "float"

    def value(self) -> Value:
        """The tensor as the proof sees it."""
        made = tuple(self.draw(batch, torch.Generator()).to("meta") for batch in rows.BATCHES)
        return Value(made, self.rows, frozenset({ROWS if self.rows else CONSTANT}))

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` rows independently of each other."""
        if self.rows is None:
            return self._numbers(self.shape, generator)
        parts = self._numbers((batch, *self._parts()), generator)
        return assembled(parts, self.rows)

    def _parts(self) -> tuple[int, ...]:
        assert self.rows is not None
        axis = self.rows.axis
        return (*self.shape[:axis], self.rows.before, self.rows.after, *self.shape[axis:])

    def _numbers(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        if self.kind == "index":
            return torch.randint(0, 2, shape, generator=generator)
        if self.kind == "bool":
            return torch.rand(shape, generator=generator) > 0.5
        return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1


def assembled(parts: Tensor, where: Rows) -> Tensor:
    """Assemble rows [batch, …, before, after, …] into a tensor."""
    moved = parts.movedim(0, where.axis + 1)
    return moved.flatten(where.axis, where.axis + 2).contiguous()


def taken_apart(tensor: Tensor, where: Rows, batch: int) -> Tensor:
    """The inverse of :func:`assembled`."""
    split = tensor.unflatten(where.axis, (where.before, batch, where.after))
    return split.movedim(where.axis + 1, 0)


class Draw:
    """Draws arguments for an operator."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def one(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def where(self, dim: int) -> Rows:
        return Rows(self.rng.randrange(dim), self.one(1, 1, 2), self.one(1, 1, 3))

    def operand(self, low: int = 1, high: int = 4, axis: int | None = None) -> Operand:
        """A random place for rows in a tensor with so many axes."""
        dim = self.rng.randint(low, high)
        where = self.where(dim)
        if axis is not None and self.chance(0.8):
            where = Rows(axis % dim, where.before, where.after)
        return Operand(tuple(self.one(1, 2, 3, 4) for _ in range(dim - 1)), where)

    def beside(self, other: Operand, kind: str = "float") -> Operand:
        """A tensor that often, but not always, can be broadcast against ``other``."""
        if other.rows is None or self.chance(0.1):
            return Operand(self.operand().shape, None, kind)
        shape = [size if self.chance(0.7) else 1 for size in other.shape]
        if self.chance(0.5):
            gone = self.rng.randint(0, other.rows.axis)
            where = Rows(other.rows.axis - gone, other.rows.before, other.rows.after)
            if self.chance(0.1):
                where = self.where(len(shape[gone:]) + 1)
            return Operand(tuple(shape[gone:]), where, kind)
        shape.insert(other.rows.axis, self.one(1, 1, 1, 2, 6))
        return Operand(tuple(shape[self.rng.randint(0, len(shape)) :]), None, kind)

    def sizes(self, other: Operand) -> list[int | Size]:
        """A shape, mostly for the same number of elements."""
        factors: list[int | Size] = list(other.shape)
        if other.rows:
            where = other.rows
            factors[where.axis : where.axis] = [where.before, Size(1), where.after]
        if self.chance(0.15):
            self.rng.shuffle(factors)
        sizes: list[int | Size] = []
        for factor in factors:
            if sizes and self.chance(0.5):
                last = sizes.pop()
                times = rows._times(last) * rows._times(factor)
                whole = isinstance(last, int) and isinstance(factor, int)
                sizes.append(times if whole else Size(times))
            else:
                sizes.append(factor)
        if self.chance(0.3):
            sizes[self.rng.randrange(len(sizes))] = -1
        return sizes

    def dim(self, other: Operand) -> int:
        count = len(other.shape) + (other.rows is not None)
        return self.rng.randint(-count, count - 1) if count else 0

    def dims(self, other: Operand) -> list[int]:
        count = len(other.shape) + (other.rows is not None)
        chosen = self.rng.sample(range(count), self.rng.randint(0, count))
        return [dim - count if self.chance(0.3) else dim for dim in chosen]

    def size(self) -> int | Size | None:
        """A position along an axis."""
        return self.one(None, 0, 1, 2, -1, Size(1), Size(2), Size(3), 2**63 - 1)


Arguments = dict[str, Any]


def _pointwise(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand()
    if draw.chance(0.3):
        main = Operand(main.shape, main.rows)
    drawn: Arguments = {}
    for argument in schema.arguments:
        if "Tensor" not in str(argument.type):
            continue
        boolean = argument.name in ("mask", "condition")
        drawn[argument.name] = draw.beside(main, "bool" if boolean else "float")
    first = next((name for name in drawn if drawn[name].kind == "float"), None)
    if first:
        drawn[first] = main
    name = str(schema.name)
    if "bitwise" in name:
        drawn = {key: Operand(held.shape, held.rows, "index") for key, held in drawn.items()}
    scalars = {"other": 2, "exponent": 2, "value": 1, "min": 0.3, "max": 0.8, "weight": 0.5}
    for argument in schema.arguments:
        if argument.name in drawn or (argument.has_default_value() and draw.chance(0.7)):
            continue
        if argument.name in scalars and "Tensor" not in str(argument.type):
            drawn[argument.name] = scalars[argument.name]
    needed = {"threshold": 0.5, "rounding_mode": "floor", "decimals": 1, "p": 0.5, "train": False}
    for key, held in needed.items():
        if key in names and key not in drawn:
            drawn[key] = held
    if "self" in names and "self" not in drawn:
        drawn["self"] = 2.0
    if "dtype" in names:
        drawn["dtype"] = torch.float32
    if "device" in names and name.endswith("::to") and "layout" not in names:
        drawn["device"] = torch.device("cpu")
    return drawn


def _axis(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand()
    drawn: Arguments = {"self": main}
    for argument in schema.arguments:
        name, kind = argument.name, str(argument.type)
        if name in ("dim", "dims"):
            several = "List[int]" in kind
            drawn[name] = draw.dims(main) if several else draw.dim(main)
            if "Optional" in kind and draw.chance(0.1):
                drawn[name] = None
        elif name in ("keepdim", "descending", "largest", "sorted", "unbiased"):
            drawn[name] = draw.one(False, True)
        elif name == "k":
            drawn[name] = 1
        elif name in ("stable", "half_to_float"):
            drawn[name] = False
        elif name == "p":
            drawn[name] = 2
        elif name == "shifts":
            drawn[name] = [draw.one(1, -1) for _ in drawn.get("dims", [0])]
    if "shifts" in names:
        drawn["dims"] = draw.dims(main)
        drawn["shifts"] = [1] * max(1, len(drawn["dims"]))
    if str(schema.name).endswith(("::all", "::any")):
        drawn["self"] = Operand(main.shape, main.rows, "bool")
    return drawn


def _self(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand()
    if "shuffle" in str(schema.name):
        main = Operand((4, 2, 4), draw.where(4))
    drawn: Arguments = {"self": main, "other": draw.beside(main), "fill_value": 0.5}
    drawn |= {"dtype": None, "diagonal": draw.one(0, 1), "groups": draw.one(1, 2)}
    drawn |= {"upscale_factor": draw.one(1, 2), "downscale_factor": draw.one(1, 2)}
    return drawn


def _prelu(draw: Draw, names: list[str], schema: Any) -> Arguments:
    return {"self": draw.operand(), "weight": Operand((draw.one(1, 2, 3, 4),), None)}


def _shape(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand()
    sizes = draw.sizes(main)
    return {"self": main, "size": sizes, "shape": sizes}


def _shape_like(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand(2, 4)
    assert main.rows is not None
    other = Operand((*main.shape[::-1],), main.rows)
    if len(main.shape) > 1 and draw.chance(0.5):
        flat = math.prod(main.shape[main.rows.axis :])
        other = Operand((*main.shape[: main.rows.axis], flat), main.rows)
    return {"self": main, "other": other if draw.chance(0.8) else draw.operand()}


def _flat(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand()
    start, end = sorted(draw.rng.choices(range(len(main.shape) + 1), k=2))
    return {"self": main, "start_dim": start, "end_dim": draw.one(end, -1)}


def _unflat(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand()
    sizes = [draw.one(1, 2, 3, -1, Size(1), Size(2)) for _ in range(draw.one(1, 2, 3))]
    return {"self": main, "dim": draw.dim(main), "sizes": sizes}


def _move(draw: Draw, names: list[str], schema: Any) -> Arguments:
    name = str(schema.name)
    main = draw.operand(2, 2) if name.endswith(("::t", "::t_copy")) else draw.operand(2, 4)
    count = len(main.shape) + 1
    order = draw.rng.sample(range(count), count)
    drawn: Arguments = {"self": main, "dims": order}
    for key in ("dim0", "dim1", "axis0", "axis1"):
        drawn[key] = draw.dim(main)
    several = schema.overload_name == "intlist"
    drawn["source"] = [0, -1] if several else draw.dim(main)
    drawn["destination"] = order[:2] if several else draw.dim(main)
    return drawn


def _dim(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand()
    drawn: Arguments = {"self": main, "dim": draw.dim(main), "index": draw.one(0, -1)}
    if str(schema.name).endswith(("squeeze", "squeeze_copy")) and "dims" in schema.overload_name:
        drawn["dim"] = draw.dims(main)
    drawn |= {"start": draw.size(), "end": draw.size(), "step": draw.one(1, 1, 2)}
    drawn |= {"dimension": draw.dim(main), "size": draw.one(1, 2)}
    if "length" in names:
        drawn |= {"start": draw.one(0, 1, Size(1)), "length": draw.one(1, 2, Size(1), Size(2))}
    return drawn


def _expand(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand(1, 3)
    if draw.chance(0.4):
        main = Operand(tuple(draw.one(1, 1, 2) for _ in range(draw.one(1, 2, 3))), None)
    value = main.value()
    sizes: list[int | Size] = [
        draw.one(-1, size) if size != 1 else draw.one(1, 2, 3, Size(1), Size(2))
        for size in value.shape
    ]
    front = [draw.one(1, 2, Size(1)) for _ in range(draw.one(0, 0, 1, 2))]
    other = draw.operand() if draw.chance(0.3) else draw.beside(draw.operand())
    if main.rows and draw.chance(0.7):
        other = Operand(
            tuple(max(size, 2) if size == 1 else size for size in main.shape), main.rows
        )
    repeats = [*front, *(draw.one(1, 2, Size(1), Size(2)) for _ in value.shape)]
    if main.rows and draw.chance(0.7):
        repeats = [draw.one(1, 2) for _ in repeats]
    return {"self": main, "size": [*front, *sizes], "other": other, "repeats": repeats}


def _each(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand()
    return {"self": main, "repeats": draw.one(1, 2, 3), "dim": draw.dim(main)}


def _split(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand()
    dim = draw.dim(main)
    length = main.value().shape[dim]
    listed: list[int | Size] = [length]
    if isinstance(length, Size):
        assert main.rows is not None
        listed = [Size(main.rows.after) for _ in range(main.rows.before)]
    elif length > 1:
        listed = [1, length - 1]
    several = (
        "List" in str(next(a.type for a in schema.arguments if "split" in a.name))
        if any("split" in argument.name for argument in schema.arguments)
        else False
    )
    size = listed if several else draw.one(1, 2, Size(1), Size(2), Size(3))
    drawn: Arguments = {"self": main, "dim": dim, "split_size": size, "split_sizes": size}
    return drawn | {"chunks": draw.one(1, 2, 3), "sections": draw.one(1, 2)}


def _several(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand()
    assert main.rows is not None
    others = [main, Operand(main.shape, main.rows)]
    if draw.chance(0.3):
        other = Rows(main.rows.axis, draw.one(1, 2), main.rows.after)
        others.append(Operand(main.shape, other))
    if draw.chance(0.2):
        others.append(draw.operand())
    return {"tensors": others, "dim": draw.dim(main)}


def _pad(draw: Draw, names: list[str], schema: Any) -> Arguments:
    match = [n for n in "123" if f"pad{n}d" in str(schema.name)]
    count = int(match[0]) if match else draw.one(1, 2)
    low = count + 1 if match else count
    pads = [draw.one(0, 1) for _ in range(2 * count)]
    main = draw.operand(low, low + 1 if match else 4, axis=0)
    main = Operand(tuple(size + 1 for size in main.shape), main.rows)
    return {"self": main, "pad": pads, "padding": pads, "value": draw.one(0.0, 1.0)}


def _index(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand(2, 4)
    main = Operand(tuple(size + 1 for size in main.shape), main.rows)
    indices: list[Operand | None] = [
        draw.one(None, Operand((2,), None, "index"), Operand((2, 1), None, "index"))
        for _ in range(len(main.shape) + 1)
    ]
    assert main.rows is not None
    if draw.chance(0.8):
        indices[main.rows.axis] = None
    return {"self": main, "indices": indices}


def _select(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand(2, 4)
    main = Operand(tuple(size + 1 for size in main.shape), main.rows)
    index = Operand((2,), None, "index")
    if "sparse_grad" in names:
        index = Operand(main.shape, main.rows if draw.chance(0.8) else None, "index")
    return {"self": main, "dim": draw.dim(main), "index": index}


def _embed(draw: Draw, names: list[str], schema: Any) -> Arguments:
    indices = draw.operand()
    weight = Operand((2, 3), None) if draw.chance(0.8) else draw.operand(2, 2)
    return {"weight": weight, "indices": Operand(indices.shape, indices.rows, "index")}


def _scatter(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand(2, 4)
    assert main.rows is not None
    dim = draw.dim(main)
    positive = dim % (len(main.shape) + 1)
    drawn: Arguments = {"self": main, "dim": dim, "start": draw.size(), "end": draw.size()}
    shape, where = list(main.shape), main.rows
    before = positive < where.axis
    place = positive - (positive > where.axis)
    if "index" in names:
        drawn["index"] = 0
        if positive != where.axis:
            del shape[place]
            where = Rows(where.axis - before, where.before, where.after)
    elif positive != where.axis:
        drawn |= {"start": 0, "end": 1}
        shape[place] = 1
    source = Operand(tuple(shape), where)
    if draw.chance(0.2):
        source = Operand((*(1 for _ in range(len(shape) + 1)),), None)
    return drawn | {"src": source}


def _fill(draw: Draw, names: list[str], schema: Any) -> Arguments:
    sizes = [draw.one(1, 2, 3) for _ in range(draw.one(0, 1, 2))]
    for _ in range(draw.one(1, 1, 2)):
        sizes.insert(draw.rng.randint(0, len(sizes)), draw.one(Size(1), Size(2)))
    return {"self": draw.operand(), "size": sizes, "fill_value": 0.5}


def _product(draw: Draw, names: list[str], schema: Any) -> Arguments:
    kind = str(schema.name).removeprefix("aten::")
    front = {"mm": 0, "mv": 0, "addmm": 0, "bmm": 1, "baddbmm": 1}.get(kind, draw.one(0, 1, 2))
    n, k, m = (draw.one(2, 3, 4) for _ in range(3))
    before = [draw.one(2, 3) for _ in range(front)]
    first, second = [*before, n, k], [*before, k, m]
    if kind == "mv" or (kind == "matmul" and draw.chance(0.2)):
        second = [k]
    where = draw.where(front + 3)
    one, other = Operand(tuple(first), None), Operand(tuple(second), None)
    axis = draw.rng.randrange(front + 2)
    if draw.chance(0.7):
        one = Operand(
            tuple(first[:axis] + first[axis + 1 :]), Rows(axis, where.before, where.after)
        )
    if one.rows is None or (draw.chance(0.3) and axis < front):
        axis = min(axis, len(second) - 1)
        shape = tuple(second[:axis] + second[axis + 1 :])
        other = Operand(shape, Rows(axis, where.before, where.after))
    drawn: Arguments = {"mat1": one, "batch1": one, "mat2": other, "batch2": other}
    if kind in ("addmm", "baddbmm"):
        added = [draw.one(1, n), draw.one(1, m)]
        drawn["self"] = Operand(tuple(added[draw.one(0, 1) :]), None)
        if one.rows and draw.chance(0.4):
            whole = [*before, n, m]
            del whole[min(one.rows.axis, len(whole) - 1)]
            drawn["self"] = Operand(tuple(whole), one.rows)
        return drawn
    return {"self": one, "other": other, "mat2": other, "vec": other}


def _linear(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand(2, 4)
    width = main.shape[-1] if main.rows and main.rows.axis < len(main.shape) else 2
    weight = Operand((3, width), None) if draw.chance(0.8) else draw.operand(2, 2)
    return {"input": main, "weight": weight, "bias": draw.one(None, Operand((3,), None))}


def _einsum(draw: Draw, names: list[str], schema: Any) -> Arguments:
    equation = draw.one(
        "bij,bjk->bik",
        "bi,ij->bj",
        "ib,ji->bj",
        "bi,bi->b",
        "bi,bj->bij",
        "bij->bji",
        "bi,bi->i",
        "bi,cj->bc",
        "ij,jb->ib",
        "bhi,bhj,hk->bhk",
        "bb->b",
        "bij,ij->b",
        "cb,b->cb",
    )
    letters = equation.split("->")[0]
    sizes = {letter: draw.one(2, 3) for letter in "cijkh"}
    where = draw.where(1)
    operands = []
    for term in letters.split(","):
        shape = tuple(sizes[letter] for letter in term if letter != "b")
        rows_ = Rows(term.index("b"), where.before, where.after) if "b" in term else None
        operands.append(Operand(shape, rows_))
    return {"equation": equation, "tensors": operands}


def _attention(draw: Draw, names: list[str], schema: Any) -> Arguments:
    where = Rows(draw.one(0, 0, 1, 2), draw.one(1, 2), draw.one(1, 3))

    def operand(length: int) -> Operand:
        return Operand((2, length, 4) if where.axis < 2 else (2, 2, 4), where)

    drawn: Arguments = {"query": operand(3), "key": operand(2), "value": operand(2)}
    if where.axis == 2:
        drawn = {name: Operand((2, 2, 4), where) for name in drawn}
    if draw.chance(0.3):
        drawn["key"] = Operand((1, 2, 2, 4), None)
    if draw.chance(0.3):
        drawn["attn_mask"] = draw.one(Operand((3, 2), None), Operand((1, 1, 3, 2), None))
    return drawn


def _conv(draw: Draw, names: list[str], schema: Any) -> Arguments:
    name = str(schema.name)
    count = next((int(n) for n in "123" if f"{n}d" in name), 2)
    main = draw.operand(count + 2, count + 2, axis=0)
    channels = main.shape[0] if main.rows and main.rows.axis == 0 else 2
    main = Operand((channels, *(size + 2 for size in main.shape[1:])), main.rows)
    weight = Operand((channels, channels, *[draw.one(1, 2)] * count), None)
    if draw.chance(0.1):
        main = draw.operand(count + 1, count + 1)
    drawn: Arguments = {"input": main, "weight": weight, "groups": 1, "transposed": False}
    drawn |= {"stride": [draw.one(1, 2)] * count, "dilation": [1] * count}
    drawn["output_padding"] = [0] * count
    drawn["padding"] = (
        draw.one("same", "valid") if schema.overload_name == "padding" else [0] * count
    )
    if schema.overload_name == "padding":
        drawn["stride"] = [1] * count
    return drawn | {"bias": draw.one(None, Operand((channels,), None))}


def _pool(draw: Draw, names: list[str], schema: Any) -> Arguments:
    count = int(next(n for n in "123" if f"{n}d" in str(schema.name)))
    upsample = "upsample" in str(schema.name)
    main = draw.operand(count + (2 if upsample else draw.one(1, 2)), count + 2, axis=0)
    main = Operand(tuple(size + 2 for size in main.shape), main.rows)
    drawn: Arguments = {"self": main, "input": main, "kernel_size": [2] * count}
    drawn |= {"stride": [draw.one(1, 2)] * count, "padding": [draw.one(0, 1)] * count}
    drawn |= {"ceil_mode": draw.one(False, True), "output_size": [draw.one(1, 2, 5)] * count}
    return drawn | {"align_corners": False, "scale_factors": None}


def _columns(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand(3, 4, axis=0)
    main = Operand(tuple(size + 1 for size in main.shape), main.rows)
    return {
        "self": main,
        "kernel_size": [2, 2],
        "dilation": [1, 1],
        "padding": [0, 0],
        "stride": [1, 1],
    }


def _grid(draw: Draw, names: list[str], schema: Any) -> Arguments:
    where = Rows(draw.one(0, 0, 1), draw.one(1, 2), 1)
    grid = Operand((2, 3, 2), where if draw.chance(0.8) else Rows(0, 1, 2))
    drawn: Arguments = {"input": Operand((2, 3, 3), where), "grid": grid}
    return drawn | {"interpolation_mode": 0, "padding_mode": 0, "align_corners": False}


def _batch_norm(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand(2, 4)
    assert main.rows is not None
    channels = main.shape[0] if main.rows.axis != 1 else 0
    if len(main.shape) >= 1 and main.rows.axis > 1:
        channels = main.shape[1]

    def statistics() -> Operand:
        if main.rows and main.rows.axis == 1 and draw.chance(0.8):
            return Operand((), Rows(0, main.rows.before, main.rows.after))
        return Operand((channels or 2,), None)

    optional = [name for name in ("weight", "bias") if draw.chance(0.5)]
    drawn: Arguments = {"input": main, **{name: statistics() for name in optional}}
    for name in ("weight", "bias"):
        drawn.setdefault(name, None)
    drawn["training"] = draw.chance(0.4)
    tracked = draw.chance(0.8)
    drawn |= {name: statistics() if tracked else None for name in ("running_mean", "running_var")}
    drawn |= {"momentum": 0.1, "eps": 1e-5}
    return drawn | {"cudnn_enabled": False, "use_input_stats": draw.chance(0.6)}


def _layer_norm(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand(2, 4, axis=0)
    shape = list(main.shape[-draw.one(1, 2) :])
    weight = Operand(tuple(shape), None) if draw.chance(0.5) else None
    return {"input": main, "normalized_shape": shape, "weight": weight, "bias": None, "eps": 1e-5}


def _group_norm(draw: Draw, names: list[str], schema: Any) -> Arguments:
    main = draw.operand(2, 4, axis=0)
    main = Operand((2, *main.shape[1:]), main.rows)
    assert main.rows is not None
    drawn: Arguments = {"input": main, "num_groups": draw.one(1, 2), "group": draw.one(1, 2)}
    drawn |= {"N": draw.one(main.rows.size, main.rows.size, Size(1), 1), "C": draw.one(2, 2, 4)}
    return drawn | {"HxW": math.prod(main.shape[1:]), "weight": None, "bias": None, "eps": 1e-5}


def _recurrent(draw: Draw, names: list[str], schema: Any) -> Arguments:
    first = draw.one(False, True)
    where = Rows(draw.one(int(not first), int(not first), int(first)), 1, draw.one(1, 2))
    state = Operand((1, 3), Rows(1, 1, where.after))
    gates = {"lstm": 4, "gru": 3}.get(str(schema.name).removeprefix("aten::"), 1)
    params = [Operand(shape, None) for shape in ((gates * 3, 2), (gates * 3, 3))]
    drawn: Arguments = {"input": Operand((4, 2), where), "params": params, "has_biases": False}
    drawn["hx"] = [state, state] if gates == 4 else state
    drawn |= {"num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False}
    return drawn | {"batch_first": first}


DRAWS: dict[Callable[..., Any], Callable[[Draw, list[str], Any], Arguments]] = {
    rules.pointwise: _pointwise,
    rules.like: _self,
    rules.prelu: _prelu,
    rules.along: _axis,
    rules.reduce_axes: _axis,
    rules.turned: _axis,
    rules.triangle: _self,
    rules.reshaped: _shape,
    rules.reshaped_like: _shape_like,
    rules.flattened: _flat,
    rules.unflattened: _unflat,
    rules.moved: _move,
    rules.unsqueezed: _dim,
    rules.squeezed: _dim,
    rules.expanded: _expand,
    rules.expanded_like: _expand,
    rules.repeated: _expand,
    rules.repeated_each: _each,
    rules.selected: _dim,
    rules.sliced: _dim,
    rules.split: _split,
    rules.unbound: _dim,
    rules.joined: _several,
    rules.stacked: _several,
    rules.padded: _pad,
    rules.indexed: _index,
    rules.index_selected: _select,
    rules.gathered: _select,
    rules.embedded: _embed,
    rules.scattered: _scatter,
    rules.unfolded: _dim,
    rules.filled: _fill,
    rules.multiplied: _product,
    rules.multiplied_and_added: _product,
    rules.linear: _linear,
    rules.summed: _einsum,
    rules.attended: _attention,
    rules.attended_with_sums: _attention,
    rules.convolved: _conv,
    rules.pooled: _pool,
    rules.shuffled: _self,
    rules.channels_shuffled: _self,
    rules.columns: _columns,
    rules.sampled: _grid,
    rules.dropped: _pointwise,
    rules.batch_normalised: _batch_norm,
    rules.instance_normalised: _batch_norm,
    rules.layer_normalised: _layer_norm,
    rules.layer_normalised_with_statistics: _layer_norm,
    rules.group_normalised: _group_norm,
    rules.group_normalised_by_sizes: _group_norm,
    rules.recurrent: _recurrent,
}
# These compute with sizes, or with constants only.
OTHERS = {rules.constant, rules.weight_normalised}
LISTED = sorted(name for name, rule in aten._LISTED.items() if rule.place not in OTHERS)


def drawn_for(name: str, number: int) -> tuple[Any, Arguments]:
    """The operator, and arguments for it."""
    called = aten.function(f"{aten.PREFIX}{name}", {})
    schema = called._schema  # type: ignore[attr-defined]
    names = [argument.name for argument in schema.arguments]
    draw = Draw(zlib.crc32(f"{name} {number}".encode()))
    drawn = DRAWS[aten.rule(called).place](draw, names, schema)
    return called, {name: held for name, held in drawn.items() if name in names}


def filled(held: Any, change: Callable[[Operand], Tensor], batch: int) -> Any:
    """Arguments with their tensors and sizes."""
    match held:
        case Operand():
            return change(held)
        case Size():
            return held.times * batch
        case list():
            return [filled(one, change, batch) for one in held]
        case dict():
            return {name: filled(one, change, batch) for name, one in held.items()}
    return held


def proven(called: Any, drawn: Arguments) -> list[Value] | None:
    """What the proof says of the outputs, or None if it refuses."""

    def held(part: Any) -> Any:
        if isinstance(part, Operand):
            return part.value()
        if isinstance(part, list):
            return [held(one) for one in part]
        return torch.device("meta") if isinstance(part, torch.device) else part

    try:
        found = rows._called_with(
            called, (), {name: held(part) for name, part in drawn.items()}, aten.rule
        )
    except (RefusedError, RuntimeError, IndexError, ValueError, TypeError, AssertionError):
        return None
    return found if isinstance(found, list) else [found]


def check(called: Any, drawn: Arguments, claims: Sequence[Value], batch: int) -> None:
    """Replace and permute rows, and check what happens to the rows of the outputs."""
    generator = torch.Generator().manual_seed(batch)
    parts: dict[int, Tensor] = {}

    def draw(held: Operand) -> Tensor:
        return held.draw(batch, generator)

    def tensors(given: Any, change: Callable[[Tensor, Operand], Tensor]) -> Any:
        return filled(
            given,
            lambda held: change(parts.setdefault(id(held), draw(held)), held).clone(),
            batch,
        )

    def run(change: Callable[[Tensor, Rows], Tensor]) -> list[Tensor]:
        def changed(tensor: Tensor, held: Operand) -> Tensor:
            if held.rows is None:
                return tensor
            return assembled(change(taken_apart(tensor, held.rows, batch), held.rows), held.rows)

        found = called(**tensors(drawn, changed))
        return [found] if isinstance(found, Tensor) else list(found)

    def by_rows(found: list[Tensor]) -> list[Tensor]:
        return [
            taken_apart(tensor, claim.claim, batch)
            if isinstance(claim.claim, Rows)
            else tensor[None].expand(batch, *tensor.shape)
            for tensor, claim in zip(found, claims, strict=True)
            if not isinstance(claim.claim, Unusable)
        ]

    usual = by_rows(run(lambda rows_, _: rows_))
    order = torch.randperm(batch, generator=generator)
    same = {"rtol": 1e-9, "atol": 1e-9, "equal_nan": True}
    for one, other in zip(usual, by_rows(run(lambda rows_, _: rows_[order])), strict=True):
        torch.testing.assert_close(one[order], other, **same)
    for kept in range(batch):

        def replaced(rows_: Tensor, _: Rows, kept: int = kept) -> Tensor:
            other = rows_.flip(0).logical_not() if rows_.dtype == torch.bool else 1 - rows_
            other = other.clone()
            other[kept] = rows_[kept]
            return other

        for one, other in zip(usual, by_rows(run(replaced)), strict=True):
            torch.testing.assert_close(one[kept], other[kept], **same)


@pytest.mark.parametrize("name", LISTED)
def test_an_operator_keeps_rows_apart_where_its_rule_says_so(name: str) -> None:
    taken = 0
    for number in range(CALLS):
        called, drawn = drawn_for(name, number)
        claims = proven(called, drawn)
        if claims is None:
            continue
        taken += any(isinstance(claim.claim, Rows) for claim in claims)
        for batch in BATCHES:
            check(called, drawn, claims, batch)
    assert taken, "no call was accepted, so the rule is not tested"
