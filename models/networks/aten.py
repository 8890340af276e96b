"""Which operators of PyTorch an exported program may call.

None that draws random numbers, looks at the whole batch, reads files or returns uninitialised
memory: what is left computes the same from the same input.
"""

import operator
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

PREFIX = "torch.ops.aten."
# Arithmetic of sizes, which depend on how many pictures there are.
_SIZES: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg")
}
_OF_SIZES = ("sym_size.int", "sym_numel.default")
# Checks that the exporter wrote in, for the sizes and formats that it saw.
_CHECKS = (f"{PREFIX}_assert", f"{PREFIX}sym_constrain_range")
# Of the operators that are not meant to be called directly, what decompositions leave.
_INTERNAL = ("_softmax", "_log_softmax", "_to_copy", "_unsafe_view", "_adaptive_avg_pool2d")
_REFUSED = ("from_file", "empty", "empty_like", "empty_permuted", "empty_strided", "new_empty")
# Operators that draw random numbers, or look at the whole batch, only if this argument says so.
_RANDOM_IF = {
    "dropout": "train",
    "feature_dropout": "train",
    "alpha_dropout": "train",
    "scaled_dot_product_attention": "dropout_p",
}
_HARMLESS_UNLESS = {**_RANDOM_IF, "batch_norm": "training"}


def is_check(target: str) -> bool:
    """Whether ``target`` computes nothing and only checks sizes or formats."""
    return target.startswith(_CHECKS)


def function(target: str, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the operator that a graph calls ``target``.

    Args:
        target: as ``torch.export`` writes it, ``torch.ops.aten.relu.default``.
        arguments: the constants among those that it is called with, by name.

    Raises:
        ValueError: it is none of those that a classifier may call.
    """
    if target in _SIZES:
        return _SIZES[target]
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target)
    if match is None:
        raise ValueError(f"calls {target}; only operators of {PREFIX[:-1]} are taken")
    name, overload = match.groups()
    if (f"aten::{name}" if overload == "default" else f"aten::{name}.{overload}") not in _known():
        raise ValueError(f"calls {target}, which this PyTorch does not have")
    called: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), overload)
    _check(target, name, called)
    condition = _HARMLESS_UNLESS.get(name)
    if condition and arguments.get(condition):
        raise ValueError(
            f"calls {target} in training mode ({condition}={arguments[condition]}), which makes an "
            "answer depend on chance or on the pictures beside it; call eval() before exporting"
        )
    return called


def _check(target: str, name: str, called: Any) -> None:
    schema = called._schema
    returns = [str(value.type) for value in schema.returns]
    tensors = bool(returns) and all("Tensor" in kind for kind in returns)
    if not tensors and not target.endswith(_OF_SIZES):
        raise ValueError(f"calls {target}, which does not return a tensor")
    if name in _REFUSED or (name.startswith("_") and name not in _INTERNAL):
        raise ValueError(f"calls {target}, which is not taken")
    if schema.is_mutable and not name.endswith("_"):
        raise ValueError(f"calls {target}, which writes into what it is given")
    if torch.Tag.nondeterministic_seeded in called.tags and name not in _RANDOM_IF:
        raise ValueError(
            f"calls {target}, which draws random numbers; the only chance in an answer may be the "
            "mechanism's noise"
        )


@cache
def _known() -> frozenset[str]:
    return frozenset(torch._C._dispatch_get_all_op_names())
