"""The proof that each row that a program returns is a function of the same row of its input alone.

A certificate assumes that h is one function, applied to each noisy picture by itself. A pass has
many pictures, so a program must keep them apart. No trial can show this for a program made
elsewhere: it may mix rows only for certain pictures. Instead, this module follows the batch axis
through the program.

**Setting.** A program is a sequence of calls of operators. It starts from the pictures x, a tensor
[B, channels, height, width] with rows x_0 … x_{B−1}, B ≥ 2 (with one row there is nothing to
prove), and from stored tensors (parameters, buffers, constants). Each value that it computes gets
one of three claims:

- *constant*: the value is the same whatever the pictures are, and its shape does not depend on B;
- *rows (k, p, q)*: axis k has p·B·q elements, the other axes' sizes do not depend on B, and there
  is a function F of one picture, the same for every r, such that for all i < p, r < B and j < q

      v[…, (i·B + r)·q + j, …] = F(x_r)[…, i, j, …]        (at axis k, all other indices equal);

- *size c*: the integer c·B, c ≥ 1.

F may depend on the stored tensors and on B, which are fixed for a model that serves, but on no
other row, not on r, and not on anything that a former call of the program left behind.

**Theorem.** If every call of a program satisfies the rule of its operator in
:mod:`models.networks.foreign.row_rules` and what it returns is *rows (0, 1, 1)*, then its output's
row r is F(x_r): a function of the input's row r alone, the same at every place of the pass, for
every B ≥ 2.

*Proof*, by induction over the calls. The pictures are rows (0, 1, 1) with the identity for F, the
stored tensors are constant. Each rule names the operator, and for each of its arguments which
claims it may have; an operator, an overload or an argument that is not named refuses. A rule gives
the claim of the output and, in its docstring, why that claim follows from those of the arguments:
the operator then computes element (…, (i·B + r)·q + j, …) from elements of the same r, by a
formula in which neither r nor another row occurs. Every operator on the list is a function of its
arguments: none draws numbers, and none reads memory that was not written.

*Writing in place.* Operators such as ``relu_`` write into their first argument's memory, which
other values may share. The memory of a stored tensor is never written, so that each call of the
program sees the same stored tensors. Every other piece of memory has one owner: it was made by a
call whose output was constant, or by one whose output was rows. In the second case each of its
elements belongs to one row r, and the rules of operators that return views (reshape, permute,
select, …) map elements of row r to elements of row r; so all views of it divide its memory among
the rows in the same way, and writing rows of one view leaves each element of every other a function
of its own row. In the first case only a constant may be written. A call that writes must return the
claim of what it writes into. (A value expanded from a constant has a constant's memory, and is not
written.) ∎

The shapes other than the batch axis are those that PyTorch's own kernels compute for tensors
without data (the ``meta`` device), for two numbers of pictures at once; that they differ where the
claim says so, and nowhere else, is checked after each call, as a second line.

The proof does not cover how a kernel rounds: whether a sum is the same bit for bit at another place
of the pass. :mod:`models.trial` tries that on the machine that serves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, fx

# The numbers of pictures for which shapes are computed; any two will do.
BATCHES = (11, 13)
# Who made a piece of memory.
STORED, CONSTANT, ROWS = "stored", "constant", "rows"


class RefusedError(ValueError):
    """A call is not proven to keep the rows apart; says why."""


@dataclass(frozen=True)
class Rows:
    """Where the rows are in a tensor: *rows (axis, before, after)* of the module's text."""

    axis: int
    before: int = 1
    after: int = 1

    @property
    def size(self) -> "Size":
        """The length of the axis."""
        return Size(self.before * self.after)


@dataclass(frozen=True)
class Size:
    """An integer that is ``times`` the number of pictures."""

    times: int


@dataclass(frozen=True)
class Unusable:
    """The claim of an output that no call may use."""


Claim = Rows | Unusable | None
UNUSABLE = Unusable()


@dataclass(frozen=True)
class Value:
    """A tensor of the program.

    Attributes:
        tensors: of its shape and type, without data, for each of ``BATCHES``.
        claim: where the rows are; None for a constant.
        owners: who may have made its memory.
    """

    tensors: tuple[Tensor, ...]
    claim: Claim
    owners: frozenset[str]

    @property
    def rows(self) -> Rows | None:
        """Where the rows are; None for a constant."""
        if isinstance(self.claim, Unusable):
            raise RefusedError("uses statistics that nothing computes in evaluation")
        return self.claim

    @property
    def dim(self) -> int:
        """How many axes it has."""
        return self.tensors[0].dim()

    @property
    def shape(self) -> list[int | Size]:
        """The size of each axis."""
        sizes: list[int | Size] = list(self.tensors[0].shape)
        if self.rows:
            sizes[self.rows.axis] = self.rows.size
        return sizes


@dataclass(frozen=True)
class Call:
    """One call: its operator, and all arguments by the names in its schema."""

    operator: Any
    arguments: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument that only some operators of a rule have."""
        return self.arguments.get(name, default)

    @property
    def values(self) -> list[Value]:
        """All tensors among the arguments."""
        return [part for part in _parts(self.arguments) if isinstance(part, Value)]


Place = Callable[[Call], Claim | Sequence[Claim]]


@dataclass(frozen=True)
class Rule:
    """The rule of an operator.

    Attributes:
        place: the claim of its output, or of each of its outputs, from those of the arguments.
        rows: the arguments that may be rows; None: each one that is a tensor.
        sizes: the arguments that may be sizes.
        others: the arguments that must be constant; None: all others.
        must: the arguments that must have a certain value, which selects evaluation mode.
        view: whether its output may share memory with its arguments.
        always: whether ``place`` is called even if no argument depends on the pictures.
    """

    place: Place
    rows: tuple[str, ...] | None = ("self",)
    sizes: tuple[str, ...] = ()
    others: tuple[str, ...] | None = ()
    must: tuple[tuple[str, Any], ...] = ()
    view: bool = False
    always: bool = False


def prove(module: fx.GraphModule, rule: Callable[[Any], Rule], shape: Sequence[int]) -> None:
    """Prove that each row of the output of ``module`` is a function of that row alone.

    Args:
        module: a program with one input, the pictures; its tensors are attributes.
        rule: the rule of an operator.
        shape: (channels, height, width) of the pictures.

    Raises:
        ValueError: it is not proven; names the node and says what to do.
    """
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in module.graph.nodes:
            try:
                values[node] = _follow(module, node, values, rule, shape)
            except RefusedError as error:
                raise ValueError(f"{error} (node {node.name}, {_called(node)})") from None
            except Exception as error:  # whatever PyTorch raises for arguments from a file
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"the shapes of node {node.name} ({_called(node)}) cannot be computed for any "
                    f"number of pictures: {type(error).__name__}: {reason[:300]}"
                ) from None


def _follow(
    module: fx.GraphModule,
    node: fx.Node,
    values: Mapping[fx.Node, Any],
    rule: Callable[[Any], Rule],
    shape: Sequence[int],
) -> Any:
    """Return what ``node`` computes: a ``Value``, a ``Size``, a list of values, or a constant."""
    if node.op == "placeholder":
        pictures = tuple(torch.empty(batch, *shape, device="meta") for batch in BATCHES)
        return Value(pictures, Rows(0), frozenset({ROWS}))
    if node.op == "get_attr":
        stored = torch.empty_like(module.get_buffer(str(node.target)), device="meta")
        return Value((stored,) * len(BATCHES), None, frozenset({STORED}))
    given = fx.node.map_arg(node.args, values.__getitem__)
    named = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.op == "output":
        return _returned(cast(tuple[Any, ...], given)[0])
    if node.target is getattr:
        return torch.device("meta")  # the device of the pictures
    return _called_with(node.target, cast(tuple[Any, ...], given), named, rule)


def _returned(value: Any) -> None:
    if not isinstance(value, Value) or value.rows != Rows(0) or value.dim != 2:
        found = value.claim if isinstance(value, Value) else value
        raise RefusedError(
            f"returns {_described(found)}; expected the logits, one row for each picture"
        )


def _called_with(target: Any, given: Sequence[Any], named: Mapping[str, Any], rule: Any) -> Any:
    if not hasattr(target, "_schema"):
        return _python(target, given)
    call = Call(target, _bound(target, given, named))
    found: Rule = rule(target)
    _check_arguments(call, found)
    if target is torch.ops.aten.sym_size.int:
        return call["self"].shape[call["dim"]]
    if target is torch.ops.aten.sym_numel.default:
        return _numel(call["self"])
    claims = None
    if found.always or any(value.rows for value in call.values) or _has_size(call.arguments):
        claims = found.place(call)
    if not call.values and "device" in call.arguments:
        named = {**named, "device": torch.device("meta")}
    outputs = [_run(target, given, named, index) for index in range(len(BATCHES))]
    return _results(call, found, claims, outputs)


def _bound(target: Any, given: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by name, with the schema's defaults."""
    arguments = target._schema.arguments
    if len(given) > len(arguments):
        raise RefusedError("is called with more arguments than it has")
    names = [argument.name for argument in arguments]
    bound = {
        argument.name: argument.default_value
        for argument in arguments
        if argument.has_default_value()
    }
    if set(named) - set(names):
        raise RefusedError(f"is called with {sorted(named)}")
    return {**bound, **dict(zip(names, given, strict=False)), **named}


def _check_arguments(call: Call, rule: Rule) -> None:
    """Refuse arguments, and values of arguments, that the rule does not allow."""
    for name, wanted in rule.must:
        if call.get(name) is not wanted and call.get(name) != wanted:
            raise RefusedError(
                f"is called in training mode ({name}={call.get(name)}), which makes an answer "
                "depend on chance; call eval() before exporting"
            )
    known = {*(rule.rows or ()), *rule.sizes, *(rule.others or ()), *dict(rule.must)}
    for name, held in call.arguments.items():
        parts = list(_parts(held))
        if rule.rows is not None and rule.others is not None and name not in known:
            raise RefusedError(f"is called with the argument {name}, which is not on the list")
        if name not in rule.sizes and any(isinstance(part, Size) for part in parts):
            raise RefusedError(
                f"computes with the number of pictures (argument {name}); only shapes may depend "
                "on it"
            )
        meeting = [part for part in parts if isinstance(part, Value) and part.rows]
        if meeting and rule.rows is not None and name not in rule.rows:
            raise RefusedError(
                f"has an argument {name} that depends on the pictures; only a constant keeps the "
                "rows apart there"
            )


def _run(target: Any, given: Sequence[Any], named: Mapping[str, Any], index: int) -> Any:
    def filled(part: Any) -> Any:
        if isinstance(part, Value):
            return part.tensors[index]
        if isinstance(part, Size):
            return part.times * BATCHES[index]
        if isinstance(part, list | tuple):
            return [filled(one) for one in part]
        return part

    return target(*map(filled, given), **{name: filled(part) for name, part in named.items()})


def _results(
    call: Call, rule: Rule, claims: Claim | Sequence[Claim], outputs: Sequence[Any]
) -> Any:
    """Return the outputs with their claims, checked against the shapes."""
    many = isinstance(outputs[0], list | tuple)
    parts = [tuple(one) if many else (one,) for one in outputs]
    count = len(parts[0])
    if not isinstance(claims, Sequence):
        claims = [claims] * count
    if len(claims) != count or len(parts[1]) != count:
        raise RefusedError("returns more or fewer tensors for more pictures")
    written = _written(call)
    values = []
    for claim, tensors in zip(claims, zip(*parts, strict=True), strict=True):
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise RefusedError("does not return a tensor")
        if not isinstance(claim, Unusable):
            _check_shapes(claim, tensors)
        values.append(Value(tensors, claim, _owners(call, rule, claim, tensors)))
    if written is not None and values[0].claim != written.claim:
        raise RefusedError(f"writes {_described(values[0].claim)} into {_described(written.claim)}")
    return values if many else values[0]


def _check_shapes(claim: Rows | None, tensors: Sequence[Tensor]) -> None:
    if claim and min(claim.before, claim.after) < 1:
        raise RefusedError("removes everything that depends on the pictures")
    shapes = [list(tensor.shape) for tensor in tensors]
    lengths = [0] * len(shapes)
    if claim and claim.axis < len(shapes[0]):
        lengths = [shape.pop(claim.axis) for shape in shapes]
    expected = [claim.size.times * batch if claim else 0 for batch in BATCHES]
    if lengths != expected or shapes[0] != shapes[1]:
        raise RefusedError(
            "returns a shape in which the rows are not where they should be: "
            f"{list(tensors[0].shape)} for {BATCHES[0]} pictures, {list(tensors[1].shape)} for "
            f"{BATCHES[1]}"
        )


def _owners(call: Call, rule: Rule, claim: Claim, tensors: Sequence[Tensor]) -> frozenset[str]:
    """Who may have made an output's memory."""
    shared: frozenset[str] = frozenset().union(*(value.owners for value in call.values))
    own = frozenset({ROWS if isinstance(claim, Rows) else CONSTANT})
    written = _written(call)
    if written is not None:
        return written.owners
    if rule.view:
        return shared | (frozenset() if _is_view(call) else own)
    for value in call.values:
        if any(map(_shares_memory, value.tensors, tensors)):
            raise RefusedError("returns the memory of an argument")
    return own


def _shares_memory(one: Tensor, other: Tensor) -> bool:
    return bool(torch._C._is_alias_of(one, other))  # type: ignore[attr-defined]


def _is_view(call: Call) -> bool:
    """Whether the output always shares the first argument's memory."""
    returns = call.operator._schema.returns
    return all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def _written(call: Call) -> Value | None:
    """Return the tensor that the call writes into; its memory must be of the same kind.

    If an operator writes only in training mode, its rule requires evaluation mode.
    """
    schema = call.operator._schema
    names = [one.name for one in schema.arguments if one.alias_info and one.alias_info.is_write]
    if not names or not schema.name.endswith("_"):
        return None
    value: Value = call[names[0]]
    if names != [schema.arguments[0].name] or not isinstance(value, Value):
        raise RefusedError("writes into more than its first argument")
    if value.owners != {ROWS if value.rows else CONSTANT}:
        raise RefusedError(
            "writes into a parameter, a buffer or a constant, or into a view of one: the next "
            "caller's result would depend on this one; return a new tensor instead (in training "
            "mode normalisations write their statistics: call eval() before exporting)"
        )
    return value


_SIZES = {"add", "sub", "mul", "floordiv", "mod"}


def _python(target: Any, given: Sequence[Any]) -> Any:
    """Compute with sizes; only multiples of the number of pictures are followed."""
    name = target.__name__
    if name == "getitem" and isinstance(given[0], list) and isinstance(given[1], int):
        return given[0][given[1]]
    if name not in _SIZES or len(given) != 2:
        raise RefusedError("is not followed")
    one, other = given
    if isinstance(one, int) and isinstance(other, int):
        return target(one, other)
    if isinstance(one, Size) and isinstance(other, Size):
        if name in ("add", "sub"):
            return _size(target(one.times, other.times))
        if name == "floordiv" and one.times % other.times == 0:
            return one.times // other.times
    elif name == "mul" and isinstance(one, Size | int) and isinstance(other, Size | int):
        return _size(_times(one) * _times(other))
    elif isinstance(one, Size) and isinstance(other, int) and other and one.times % other == 0:
        if name == "floordiv":
            return _size(one.times // other)
        if name == "mod":
            return 0
    raise RefusedError("computes something from the number of pictures that is no multiple of it")


def _size(times: int) -> Size:
    if times < 1:
        raise RefusedError("computes a size below the number of pictures")
    return Size(times)


def _times(size: int | Size) -> int:
    return size.times if isinstance(size, Size) else size


def _numel(value: Value) -> int | Size:
    count = prod(map(_times, value.shape))
    return Size(count) if value.rows else count


def _parts(held: Any) -> Iterator[Any]:
    if isinstance(held, Mapping):
        held = list(held.values())
    if isinstance(held, list | tuple):
        for one in held:
            yield from _parts(one)
    else:
        yield held


def _has_size(arguments: Any) -> bool:
    return any(isinstance(part, Size) for part in _parts(arguments))


def _called(node: fx.Node) -> str:
    return str(getattr(node.target, "_name", None) or getattr(node.target, "__name__", node.target))


def _described(claim: Any) -> str:
    if claim is None:
        return "a constant"
    if claim == Rows(0):
        return "one row for each picture"
    if isinstance(claim, Rows):
        return f"rows along axis {claim.axis}"
    return "something else"
