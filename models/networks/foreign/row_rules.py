"""The operators that an exported program may call, each with its rule about rows.

The words are those of :mod:`models.networks.foreign.rows`: each function here takes a call in which
some argument is rows (or a size), and returns the claim of the output or refuses the call. Its
docstring says why the claim holds. A program may use no operator, overload or argument that is not
on the list.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch

from models.networks.foreign.rows import UNUSABLE, Call, Claim, RefusedError, Rows, Size, Value

# More parts than the views of any classifier have.
MOST_PARTS = 4096
_TO_THE_END = 2**62


def _axis(value: Value) -> int:
    """The batch axis; −1 for a constant."""
    return value.rows.axis if value.rows else -1


def _positive(dim: int, count: int) -> int:
    return dim + count if dim < 0 else dim


def _apart(value: Value, *dims: int) -> Rows | None:
    """The rows of ``value``, none of whose ``dims`` may be the batch axis."""
    if _axis(value) in {_positive(dim, value.dim) for dim in dims}:
        raise RefusedError(
            "works along the batch axis, so that the pictures of a batch affect each other; use "
            "another axis"
        )
    return value.rows


def _within(value: Value, last: int) -> Rows | None:
    """The rows of ``value``, which must not be along one of its ``last`` axes."""
    return _apart(value, *range(value.dim - last, value.dim))


# Element by element.


def _broadcast(values: Iterable[Value]) -> Rows | None:
    """Find the rows after tensors are broadcast against each other.

    Axes are matched from the last. All that are rows must have them at one axis, divided in the
    same way, so that element (i·B + r)·q + j of one meets that of the other. At that axis a
    constant has one element, or none: one for each row it cannot have, since its size is fixed.
    """
    values = list(values)
    places = {
        (value.rows.axis - value.dim, value.rows.before, value.rows.after)
        for value in values
        if value.rows
    }
    if not places:
        return None
    if len(places) > 1:
        raise RefusedError("brings together rows that are along different axes")
    ((right, before, after),) = places
    for value in values:
        if not value.rows and value.dim >= -right and value.shape[right] != 1:
            raise RefusedError(
                f"brings a constant with {value.shape[right]} elements along the batch axis: each "
                "place of a batch would get its own"
            )
    return Rows(max(value.dim for value in values) + right, before, after)


def pointwise(call: Call) -> Claim:
    """An element of the output is a function of the broadcast arguments' elements at its place."""
    return _broadcast(call.values)


def like(call: Call) -> Claim:
    """The elements of ``self``, or one value, in its shape; of ``other`` only the type is used."""
    rows: Rows | None = call["self"].rows
    return rows


def dropped(call: Call) -> Sequence[Claim]:
    """In evaluation ``input`` itself; the mask that comes with it is for gradients."""
    return [call["input"].rows, UNUSABLE]


def prelu(call: Call) -> Claim:
    """A function of each element and of its channel's constant weight (axis 1)."""
    value: Value = call["self"]
    if call["weight"].tensors[0].numel() != 1:
        _apart(value, 1)
    return value.rows


# Along axes.


def along(call: Call) -> Claim:
    """The output's elements are functions of the vectors along ``dim``, which holds no two rows."""
    return _apart(call["self"], call["dim"])


def reduce_axes(call: Call) -> Claim:
    """Like :func:`along`, over several axes that vanish or are kept with one element."""
    value: Value = call["self"]
    dims = call.get("dim")
    listed = [dims] if isinstance(dims, int) else list(dims or range(value.dim))
    rows = _apart(value, *listed)
    assert rows is not None
    if call.get("keepdim"):
        return rows
    before = {_positive(dim, value.dim) for dim in listed}
    return replace(rows, axis=rows.axis - sum(dim < rows.axis for dim in before))


def turned(call: Call) -> Claim:
    """``flip`` and ``roll`` move elements along the given axes, none of them the batch's."""
    value: Value = call["self"]
    dims = list(call["dims"])
    if not dims:
        raise RefusedError("works along all axes at once, the batch's among them")
    return _apart(value, *dims)


def triangle(call: Call) -> Claim:
    """Sets elements of the last two axes to zero by their place there."""
    return _within(call["self"], 2)


# Shapes.


def _regrouped(value: Value, sizes: Sequence[int | Size]) -> Rows:
    """Find the rows after a tensor's elements, in order, get the shape ``sizes``.

    Let a be the product of the sizes before the batch axis and p, b that of q and the sizes after
    it: in order, element (α, r, β) of α < a, r < B, β < b is number (α·B + r)·b + β. A shape with
    A' before and B' after an axis of c·B elements has its element (α', (i·B + r)·q' + j, β') at
    number ((α'·p' + i)·B + r)·q'·B' + j·B' + β'. With p' = a/A' and q' = b/B', if both are whole,
    that is number (α·B + r)·b + β for α = α'·p' + i and β = j·B' + β': the same r.
    """
    assert value.rows is not None
    shape = value.tensors[0].shape
    axis = value.rows.axis
    left = prod(shape[:axis]) * value.rows.before
    right = prod(shape[axis + 1 :]) * value.rows.after
    filled = _inferred(sizes, left * right)
    places = [place for place, size in enumerate(filled) if isinstance(size, Size)]
    if len(places) != 1:
        raise RefusedError(f"gives {len(places)} axes the number of pictures; expected one")
    (place,) = places
    before, after = (
        prod(size for size in part if isinstance(size, int))
        for part in (filled[:place], filled[place + 1 :])
    )
    size = filled[place]
    assert isinstance(size, Size)
    if before < 1 or after < 1 or left % before or right % after:
        raise RefusedError(
            "gives a tensor another shape in which an axis holds parts of several pictures, or "
            "pictures in another order"
        )
    rows = Rows(place, left // before, right // after)
    if rows.size != size:
        raise RefusedError("gives a tensor a shape with another number of elements")
    return rows


def _inferred(sizes: Sequence[int | Size], times: int) -> list[int | Size]:
    """Replace the −1 in ``sizes``, of which the product is ``times``·B."""
    if -1 not in sizes:
        return list(sizes)
    rest = [size for size in sizes if size != -1]
    known = prod(size.times if isinstance(size, Size) else size for size in rest)
    if len(rest) != len(sizes) - 1 or known < 1 or times % known:
        raise RefusedError("gives a tensor a shape that does not divide by the pictures")
    whole = any(isinstance(size, Size) for size in rest)
    missing: int | Size = times // known if whole else Size(times // known)
    return [missing if size == -1 else size for size in sizes]


def reshaped(call: Call) -> Claim:
    """Keeps all elements in order (see :func:`_regrouped`)."""
    return _regrouped(call["self"], call.get("size", call.get("shape")))


def reshaped_like(call: Call) -> Claim:
    """Keeps all elements in order; of ``other`` only the shape is used."""
    if not call["self"].rows:
        raise RefusedError("gives a constant a shape that depends on the pictures' number")
    return _regrouped(call["self"], call["other"].shape)


def flattened(call: Call) -> Claim:
    """Keeps all elements in order."""
    value: Value = call["self"]
    start, end = (_positive(call[name], value.dim) for name in ("start_dim", "end_dim"))
    shape = value.shape
    within = shape[start : end + 1]
    count = prod(size.times if isinstance(size, Size) else size for size in within)
    joined: int | Size = count
    if any(isinstance(size, Size) for size in within):
        joined = Size(count)
    return _regrouped(value, [*shape[:start], joined, *shape[end + 1 :]])


def unflattened(call: Call) -> Claim:
    """Keeps all elements in order."""
    value: Value = call["self"]
    shape, dim = value.shape, _positive(call["dim"], value.dim)
    return _regrouped(value, [*shape[:dim], *call["sizes"], *shape[dim + 1 :]])


def moved(call: Call) -> Claim:
    """Only permutes the axes; a tensor with a different size for each axis shows how."""
    value: Value = call["self"]
    marked = torch.empty(list(range(2, value.dim + 2)), device="meta")
    constants = {name: held for name, held in call.arguments.items() if name != "self"}
    shape = call.operator(self=marked, **constants).shape
    assert value.rows is not None
    return replace(value.rows, axis=list(shape).index(value.rows.axis + 2))


def unsqueezed(call: Call) -> Claim:
    """One more axis with one element."""
    value: Value = call["self"]
    assert value.rows is not None
    dim = _positive(call["dim"], value.dim + 1)
    return replace(value.rows, axis=value.rows.axis + (dim <= value.rows.axis))


def squeezed(call: Call) -> Claim:
    """Axes of one element vanish; the batch's has more (B ≥ 2)."""
    value: Value = call["self"]
    assert value.rows is not None
    dims = call.get("dim", range(value.dim))
    listed = {_positive(dim, value.dim) for dim in ([dims] if isinstance(dims, int) else dims)}
    gone = [dim for dim in listed if value.shape[dim] == 1]
    return replace(value.rows, axis=value.rows.axis - sum(dim < value.rows.axis for dim in gone))


def expanded(call: Call) -> Claim:
    """Repeats axes of one element, and puts new ones in front.

    A constant that is repeated for each picture is the same in each row, however the rows are
    divided. Rows stay as they are, and may not be repeated B times more.
    """
    return _expanded(call["self"], call["size"])


def expanded_like(call: Call) -> Claim:
    """As :func:`expanded`; of ``other`` only the shape is used."""
    return _expanded(call["self"], call["other"].shape)


def _expanded(value: Value, sizes: Sequence[int | Size]) -> Rows:
    new = len(sizes) - value.dim
    many = [place for place, size in enumerate(sizes) if isinstance(size, Size)]
    if value.rows:
        axis = value.rows.axis + new
        if many not in ([], [axis]) or sizes[axis] not in (-1, value.rows.size):
            raise RefusedError("repeats what depends on the pictures along another axis by them")
        return replace(value.rows, axis=axis)
    if len(many) != 1 or (many[0] >= new and value.shape[many[0] - new] != 1):
        raise RefusedError("gives a constant a shape that depends on the pictures' number twice")
    return Rows(many[0], 1, _size(sizes[many[0]]))


def _size(size: int | Size) -> int:
    return size.times if isinstance(size, Size) else size


def repeated(call: Call) -> Claim:
    """Repeats the whole tensor along each axis: element n is element n mod size.

    Rows that are repeated m times have m times as many parts before; a constant of n elements that
    is repeated c·B times is the same for each picture, in c parts before and n after.
    """
    value: Value = call["self"]
    repeats = list(call["repeats"])
    many = [place for place, count in enumerate(repeats) if isinstance(count, Size)]
    new = len(repeats) - value.dim
    if value.rows:
        if many:
            raise RefusedError("repeats what depends on the pictures by the number of pictures")
        axis = value.rows.axis + new
        return Rows(axis, value.rows.before * repeats[axis], value.rows.after)
    if len(many) != 1:
        raise RefusedError("gives a constant a shape that depends on the pictures' number twice")
    inner = 1 if many[0] < new else value.tensors[0].shape[many[0] - new]
    return Rows(many[0], _size(repeats[many[0]]), inner)


def repeated_each(call: Call) -> Claim:
    """Repeats each element along ``dim``: element n is element ⌊n / repeats⌋."""
    value: Value = call["self"]
    assert value.rows is not None
    if call["dim"] is None:
        raise RefusedError("flattens all pictures into one axis")
    if _positive(call["dim"], value.dim) != value.rows.axis:
        return value.rows
    return replace(value.rows, after=value.rows.after * call["repeats"])


# Parts.


def selected(call: Call) -> Claim:
    """One element of an axis that is not the batch's, which vanishes."""
    rows = _apart(call["self"], call["dim"])
    assert rows is not None
    return replace(rows, axis=rows.axis - (_positive(call["dim"], call["self"].dim) < rows.axis))


def sliced(call: Call) -> Claim:
    """Elements of one axis; of the batch's only whole batches.

    The axis is a sequence of p batches of B·q elements. From a multiple of B·q up to another, or to
    the end, with step 1, it is a sequence of some of these batches.
    """
    value: Value = call["self"]
    rows = value.rows
    if rows is None or _positive(call["dim"], value.dim) != rows.axis:
        bounds = [call.get(name) for name in ("start", "end", "length")]
        if any(isinstance(bound, Size) for bound in bounds):
            raise RefusedError("takes as much of a tensor as there are pictures")
        return rows
    start = _batches(rows, call.get("start"), 0)
    length = call.get("length")
    end = call.get("end") if length is None else Size(start * rows.after + _size(length))
    if isinstance(length, int):
        end = length
    count = _batches(rows, end, rows.before) - start
    if call.get("step", 1) != 1 or count < 1:
        raise RefusedError("takes some pictures of a batch")
    return replace(rows, before=count)


def _batches(rows: Rows, place: Any, default: int) -> int:
    """How many whole batches lie before ``place``."""
    if place is None or (default and isinstance(place, int) and place >= _TO_THE_END):
        return default
    if place == 0 and not default:
        return 0
    if not isinstance(place, Size) or place.times % rows.after or place.times > rows.size.times:
        raise RefusedError("takes some pictures of a batch, by their place")
    return place.times // rows.after


def split(call: Call) -> Sequence[Claim]:
    """All elements along one axis, in parts; along the batch's in parts of whole batches.

    As of :func:`sliced`. With ``chunks`` = m the parts have ⌈size/m⌉ elements, exactly size/m if m
    divides p.
    """
    value: Value = call["self"]
    rows = value.rows
    wanted = call.get("split_size", call.get("split_sizes"))
    if rows is None or _positive(call["dim"], value.dim) != rows.axis:
        return [rows] * _parts(call, value, wanted)
    if isinstance(wanted, list | tuple):
        counts = [_batches(rows, size, 1) for size in wanted]
    elif call.get("chunks"):
        chunks = _count(call["chunks"])
        counts = [rows.before // chunks] * chunks
    elif isinstance(wanted, Size):
        step = _batches(rows, wanted, 1)
        counts = [step] * (rows.before // max(step, 1))
    else:
        counts = []
    if sum(counts) != rows.before or min(counts) < 1:
        raise RefusedError("divides the batch, so that some pictures go another way than others")
    return [replace(rows, before=count) for count in counts]


def _parts(call: Call, value: Value, wanted: Any) -> int:
    """Into how many parts an axis other than the batch's is split."""
    if isinstance(wanted, list | tuple):
        if any(isinstance(size, Size) for size in wanted):
            raise RefusedError("takes as much of a tensor as there are pictures")
        return _count(len(wanted))
    if "sections" in call.arguments:
        return _count(call["sections"])
    length = value.tensors[0].shape[call["dim"]]
    step = -(-length // _count(call["chunks"])) if "chunks" in call.arguments else wanted
    if not isinstance(step, int) or step < 1:
        raise RefusedError(f"divides a tensor into parts of {step}")
    return _count(-(-length // step))


def unbound(call: Call) -> Sequence[Claim]:
    """Each element of an axis that is not the batch's."""
    value: Value = call["self"]
    claim = selected(call)
    return [claim] * _count(value.tensors[0].shape[_positive(call["dim"], value.dim)])


def _count(number: Any) -> int:
    if not isinstance(number, int) or not 1 <= number <= MOST_PARTS:
        raise RefusedError(f"divides a tensor into {number} parts, or by it")
    return number


def joined(call: Call) -> Claim:
    """Tensors one after another along ``dim``, equal along the others.

    Along another axis than the batch's the rows of all stay where they are. Along the batch's they
    are a sequence of p₁ + p₂ + … batches, if all have the same q.
    """
    values: list[Value] = list(call["tensors"])
    dims = {value.dim for value in values}
    claims = {value.rows for value in values}
    first = values[0].rows
    if first is None or None in claims or len(dims) != 1:
        raise RefusedError(
            "joins what depends on the pictures with a constant that has a fixed number of rows"
        )
    if first.axis != _positive(call["dim"], values[0].dim):
        if claims != {first}:
            raise RefusedError("joins rows that are along different axes")
        return first
    if {(rows.axis, rows.after) for rows in claims if rows} != {(first.axis, first.after)}:
        raise RefusedError("joins rows that are along different axes")
    return replace(first, before=sum(value.rows.before for value in values if value.rows))


def stacked(call: Call) -> Claim:
    """Tensors of one shape along a new axis."""
    values: list[Value] = list(call["tensors"])
    claims = {value.rows for value in values}
    first = values[0].rows
    if first is None or claims != {first}:
        raise RefusedError("joins rows that are along different axes")
    dim = _positive(call["dim"], values[0].dim + 1)
    return replace(first, axis=first.axis + (dim <= first.axis))


def padded(call: Call) -> Claim:
    """Puts elements around the last axes: constants, or elements of the same vectors."""
    return _within(call["self"], len(call.get("pad", call.get("padding"))) // 2)


def indexed(call: Call) -> Claim:
    """Picks elements along some axes, none of them the batch's, by constant places.

    If the indexed axes are adjacent, the new ones take the place of the first; otherwise they are
    in front.
    """
    value: Value = call["self"]
    indices: list[Value | None] = list(call["indices"])
    rows = _apart(value, *(dim for dim, index in enumerate(indices) if index is not None))
    assert rows is not None
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if any(index.rows or index.tensors[0].dtype in (torch.bool, torch.uint8) for _, index in given):
        raise RefusedError("picks elements by what depends on the pictures, or by a mask")
    dims = [dim for dim, _ in given]
    new = max(index.dim for _, index in given)
    together = dims == list(range(dims[0], dims[0] + len(dims)))
    in_front = new if not together or dims[0] < rows.axis else 0
    return replace(rows, axis=rows.axis - sum(dim < rows.axis for dim in dims) + in_front)


def index_selected(call: Call) -> Claim:
    """Picks elements along one axis, not the batch's, by constant places."""
    return _apart(call["self"], call["dim"])


def gathered(call: Call) -> Claim:
    """Element n along ``dim`` is the element of the same vector that ``index`` names.

    Both must be rows along the same axis; a constant in the place of either would tell places of
    the batch apart.
    """
    rows = _apart(call["self"], call["dim"])
    if rows is None or call["index"].rows != rows or call["index"].dim != call["self"].dim:
        raise RefusedError("picks elements by an index that is not divided into the same rows")
    return rows


def embedded(call: Call) -> Claim:
    """A constant row of ``weight`` for each element of ``indices``, along a new last axis."""
    rows: Rows | None = call["indices"].rows
    return rows


def scattered(call: Call) -> Claim:
    """``self`` with the elements of ``src`` at a part of one axis that is not the batch's.

    Of the batch's axis only the whole may be replaced.
    """
    value: Value = call["self"]
    source: Value = call["src"]
    rows, dim = value.rows, _positive(call["dim"], value.dim)
    if rows is None:
        raise RefusedError("writes what depends on the pictures into a constant")
    expected = rows
    if "index" in call.arguments:
        _apart(value, dim)
        expected = replace(rows, axis=rows.axis - (dim < rows.axis))
    elif sliced(call) != rows:
        raise RefusedError("replaces some pictures of a batch")
    if source.rows != expected:
        raise RefusedError("writes rows that are along another axis, or a constant for each place")
    return rows


def unfolded(call: Call) -> Claim:
    """Windows along an axis that is not the batch's, along a new last axis."""
    return _apart(call["self"], call["dimension"])


# Tensors of one value.


def filled(call: Call) -> Claim:
    """The same number everywhere, and so in each row, however the rows are divided."""
    many = [place for place, size in enumerate(call["size"]) if isinstance(size, Size)]
    if not many:
        return None
    if len(many) != 1:
        raise RefusedError("makes a tensor whose shape depends on the pictures' number twice")
    return Rows(many[0], 1, call["size"][many[0]].times)


def constant(call: Call) -> Claim:
    """Operators that tell a batch's places apart, or sum over all axes, may only have constants."""
    raise RefusedError(
        "works along the batch axis, so that the pictures of a batch affect each other"
    )


# Sums of products.


def _product(one: Value, other: Value) -> tuple[Rows, int]:
    """Where the rows of a matrix product are, and how many axes it has.

    Element (…, n, m) is the sum over k of one(…, n, k)·other(…, k, m), with the axes in front
    broadcast. So rows may lie along an axis in front in both or, if the other is constant with no
    more than one element there, in either; along n if ``other`` is constant; along m if ``one`` is.
    Never along k.
    """
    dim = max(one.dim, other.dim)
    summed_over = one.rows is not None and one.rows.axis == one.dim - 1
    if summed_over or (other.rows and other.rows.axis == other.dim - 2):
        raise RefusedError(
            "sums over the batch axis, so that the pictures of a batch affect each other"
        )
    if min(one.dim, other.dim) < 2:
        # A constant vector has only k, which vanishes.
        rows, value = (one.rows, one) if one.rows else (other.rows, other)
        if rows is None or (one.rows and other.rows) or value.dim < 2:
            raise RefusedError("is a product of vectors that both depend on the pictures")
        last = value is other and rows.axis == other.dim - 1
        return replace(rows, axis=rows.axis - last), dim - 1
    if one.rows and one.rows.axis == one.dim - 2:
        matrix, second = one, other
    elif other.rows and other.rows.axis == other.dim - 1:
        matrix, second = other, one
    else:
        rows = _broadcast([_in_front(one), _in_front(other)])
        assert rows is not None
        return rows, dim
    if second.rows:
        raise RefusedError("multiplies pictures of a batch with each other")
    assert matrix.rows is not None
    return replace(matrix.rows, axis=matrix.rows.axis - matrix.dim + dim), dim


def _in_front(value: Value) -> Value:
    """``value`` with single elements for its last two axes, as far as broadcasting sees."""
    return replace(value, tensors=tuple(one[..., :1, :1] for one in value.tensors))


def multiplied(call: Call) -> Claim:
    """A matrix product (see :func:`_product`)."""
    names = [name for name in ("self", "other", "mat2", "vec") if name in call.arguments]
    one, other = (call[name] for name in names)
    rows, _ = _product(one, other)
    return rows


def multiplied_and_added(call: Call) -> Claim:
    """A matrix product, and to each element that of ``self``, which is broadcast."""
    one, other = (
        call[first] if first in call.arguments else call[second]
        for first, second in (("mat1", "batch1"), ("mat2", "batch2"))
    )
    added: Value = call["self"]
    if not (one.rows or other.rows):
        raise RefusedError("adds what depends on the pictures to a constant product")
    rows, dim = _product(one, other)
    right = rows.axis - dim
    if added.rows:
        if replace(added.rows, axis=added.rows.axis - added.dim + dim) != rows:
            raise RefusedError("brings together rows that are along different axes")
    elif added.dim >= -right and added.shape[right] != 1:
        raise RefusedError("adds a constant that has an element for each place of a batch")
    return rows


def linear(call: Call) -> Claim:
    """A function of the vectors along the last axis, and of constants."""
    return _apart(call["input"], -1)


def summed(call: Call) -> Claim:
    """Einstein's sum: rows must lie along one letter that the output has.

    An element of the output is a sum of products of elements with the same index for that letter.
    No constant may have the letter: it would have an element for each place.
    """
    equation = str(call["equation"]).replace(" ", "")
    match = re.fullmatch(r"([a-zA-Z,]+)->([a-zA-Z]*)", equation)
    operands: list[Value] = list(call["tensors"])
    terms = match[1].split(",") if match else []
    if match is None or len(terms) != len(operands):
        raise RefusedError(f"has the equation {equation!r}; expected letters, commas and an arrow")
    places: set[tuple[str, int, int]] = set()
    for term, value in zip(terms, operands, strict=True):
        if len(term) != value.dim:
            raise RefusedError(f"has the equation {equation!r}, which does not fit its tensors")
        if value.rows:
            places.add((term[value.rows.axis], value.rows.before, value.rows.after))
    if len(places) != 1:
        raise RefusedError("brings together rows that are along different axes")
    ((letter, before, after),) = places
    for term, value in zip(terms, operands, strict=True):
        if term.count(letter) != (1 if value.rows else 0):
            raise RefusedError("brings the batch axis together with another")
    if match[2].count(letter) != 1:
        raise RefusedError(
            "sums over the batch axis, so that the pictures of a batch affect each other"
        )
    return Rows(match[2].index(letter), before, after)


def attended(call: Call) -> Claim:
    """Attention works on the last two axes; those in front are broadcast, the batch's among them.

    Query, key and value have one meaning for each axis in front, so that all that depend on the
    pictures must be divided alike. (Without ``enable_gqa``, which repeats heads.)
    """
    names = ("query", "key", "value", "attn_mask")
    values = [call[name] for name in names if call.get(name) is not None]
    for value in values:
        _within(value, 2)
    return _broadcast(map(_in_front, values))


def attended_with_sums(call: Call) -> Sequence[Claim]:
    """As :func:`attended`; the sums of exponents that come with it are for gradients.

    This kernel takes the sizes of the query for those of the others, and only repeats the mask.
    """
    query, key, value = (call[name] for name in ("query", "key", "value"))
    shapes = [one.shape[:2] + one.shape[3:] for one in (query, key, value)]
    if query.dim != 4 or shapes != [shapes[0]] * 3 or key.shape[2] != value.shape[2]:
        raise RefusedError("has a query, keys and values that do not fit each other")
    mask: Value | None = call["attn_mask"]
    if mask and (mask.dim not in (2, 4) or mask.shape[-2:] != [query.shape[2], key.shape[2]]):
        raise RefusedError("has a mask that does not fit its query and keys")
    return [attended(call), UNUSABLE]


def convolved(call: Call) -> Claim:
    """Each element of the first axis by itself, with constant weights.

    With the batch along the first axis of as many axes as the weights have; with one less PyTorch
    takes the first for channels.
    """
    value: Value = call["input"]
    if _axis(value) != 0 or value.dim != call["weight"].dim:
        raise RefusedError(
            "convolves along the batch axis, so that the pictures of a batch affect each other"
        )
    return value.rows


def _spatial(call: Call) -> int:
    """How many axes an operator such as ``avg_pool2d`` works on, by its name."""
    match = re.search(r"([123])d(_|$|\.)", str(call.operator._schema.name))
    assert match is not None
    return int(match[1])


def pooled(call: Call) -> Claim:
    """Pools and resizes the last 1, 2 or 3 axes, for each element of those in front by itself."""
    value: Value = call.get("self", call.get("input"))
    spatial = _spatial(call)
    if value.dim not in (spatial + 1, spatial + 2):
        raise RefusedError(f"takes {value.dim} axes")
    return _within(value, spatial)


def shuffled(call: Call) -> Claim:
    """Moves elements between the last three axes."""
    return _within(call["self"], 3)


def channels_shuffled(call: Call) -> Claim:
    """Moves channels, axis 1, of which each group has as many."""
    shape = call["self"].shape
    if len(shape) < 3 or not isinstance(shape[1], int) or shape[1] % call["groups"]:
        raise RefusedError("has groups that do not divide the channels")
    return _apart(call["self"], 1)


def columns(call: Call) -> Claim:
    """The patches of each picture, of four axes, as columns."""
    value: Value = call["self"]
    if value.dim != 4 or _axis(value) != 0:
        raise RefusedError("takes patches along the batch axis")
    return value.rows


def sampled(call: Call) -> Claim:
    """Samples each picture of the first axis by the grid at the same place of it."""
    rows: Rows | None = call["input"].rows
    if rows is None or rows.axis != 0 or call["grid"].rows != rows:
        raise RefusedError("samples by a grid that is not divided into the same rows")
    return rows


# Normalisation.


def batch_normalised(call: Call) -> Claim | Sequence[Claim]:
    """Each channel (axis 1) by itself, with its running statistics or with its own.

    With running statistics each element is a function of itself and of its channel's constants.
    Without, a channel's elements meet; then the rows must lie along the channels, as in instance
    normalisation, which makes a channel of each picture's channel. What belongs to channels must be
    divided as they are.
    """
    value: Value = call["input"]
    training = call.get("training", False)
    statistics = [call.get(name) for name in ("running_mean", "running_var")]
    if training and statistics != [None, None]:
        raise RefusedError(
            f"is called in training mode (training={training}), which makes an answer depend on "
            "the pictures beside it; call eval() before exporting"
        )
    if not training and None in statistics:
        raise RefusedError(
            "has no running statistics, so that the pictures of a batch affect each other"
        )
    if value.dim < 2:
        raise RefusedError(f"takes {value.dim} axes")
    expected = None
    if value.rows and value.rows.axis == 1:
        expected = replace(value.rows, axis=0)
    elif training and value.rows:
        raise RefusedError(
            "takes its statistics from the whole batch; use running statistics and call eval()"
        )
    for one in (*statistics, call["weight"], call["bias"]):
        # Not all of these kernels look at the sizes.
        if one is not None and (one.rows != expected or one.shape != [value.shape[1]]):
            raise RefusedError("has statistics or weights that are not those of its channels")
    outputs = len(call.operator._schema.returns)
    return value.rows if outputs == 1 else [value.rows, *[UNUSABLE] * (outputs - 1)]


def instance_normalised(call: Call) -> Claim:
    """Each channel of each element of the first axis by itself; no statistics are written."""
    value: Value = call["input"]
    running = [call[name] for name in ("running_mean", "running_var")]
    if call["use_input_stats"] and running != [None, None]:
        raise RefusedError(
            "is called in training mode, which writes into running statistics; call eval() before "
            "exporting"
        )
    if _axis(value) > 0:
        raise RefusedError("takes its statistics along the batch axis")
    return value.rows


def layer_normalised(call: Call) -> Claim:
    """Vectors of the last axes by themselves."""
    return _within(call["input"], len(call["normalized_shape"]))


def layer_normalised_with_statistics(call: Call) -> Sequence[Claim]:
    """As :func:`layer_normalised`, with each vector's mean and deviation."""
    return [layer_normalised(call)] * 3


def group_normalised(call: Call) -> Claim:
    """Groups of channels (axis 1) for each element of the first axis by itself."""
    value: Value = call["input"]
    if _axis(value) != 0 or value.dim < 2:
        raise RefusedError("takes its statistics along the batch axis")
    return value.rows


def group_normalised_by_sizes(call: Call) -> Claim:
    """As :func:`group_normalised`, if the sizes that it is given are those of its input."""
    value: Value = call["input"]
    shape = value.shape
    told = [call[name] for name in ("N", "C", "HxW")]
    if told != [shape[0], shape[1], prod(value.tensors[0].shape[2:])]:
        raise RefusedError("is given other sizes than those of its input")
    return group_normalised(call)


def weight_normalised(call: Call) -> Claim:
    """A constant divided by its norm along all axes but one, times a constant for each of these."""
    direction, length = call["v"], call["g"]
    expected = [1] * direction.dim
    expected[call["dim"]] = direction.shape[call["dim"]]
    if direction.rows or length.rows or length.shape != expected:
        raise RefusedError("has lengths that are not those of its vectors")
    return None


def recurrent(call: Call) -> Sequence[Claim]:
    """Sequences of the batch axis by themselves, each from its own initial state.

    The axes are [time, batch, feature], or [batch, time, feature] with ``batch_first``; states are
    [layer, batch, feature].
    """
    value: Value = call["input"]
    states = call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]]
    if value.dim != 3 or _axis(value) != (0 if call["batch_first"] else 1):
        raise RefusedError("runs along the batch axis")
    assert value.rows is not None
    state = replace(value.rows, axis=1)
    if any(one.rows != state for one in states):
        raise RefusedError("starts from states that are not divided into the same rows")
    return [value.rows, *[state] * (len(call.operator._schema.returns) - 1)]
