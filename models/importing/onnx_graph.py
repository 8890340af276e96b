"""ONNX files: read, checked, and rebuilt of PyTorch's operators, to be exported and proven.

The file is data: nothing in it is run. ``onnx`` reads it, and weights beside it if they lie in the
same folder. Each node is computed by :mod:`models.importing.onnx_operators`; an operator, a domain
or an operator set that is not known there is refused with the node's name. The program that results
is exported (:mod:`models.importing.exporting`), so its rows are proven as those of any other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.importing.exporting import Built
from models.importing.onnx_operators import OPERATORS, OPSETS, Known, Node, UnfitError, Value
from models.importing.stated import read_labels, read_numbers
from models.source_names import ImportFailedError

Shape = tuple[int, int, int]

_DOMAINS = ("", "ai.onnx")
_FLOAT = 1
# Where exporters and people write the labels.
_LABELS = ("labels", "names", "classes", "class_names", "id2label")


class _Graph(nn.Module):
    """The nodes of a file, in their order; its weights are buffers.

    Args:
        nodes: each after those whose results it uses.
        stored: weights and known arrays by their names.
        given: the name of the pictures.
        returned: the name of what it returns.
        last: whether channels are the pictures' last axis there, not the second.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        stored: Mapping[str, Value],
        given: str,
        returned: str,
        last: bool,
    ) -> None:
        super().__init__()
        self._nodes, self._given, self._returned, self._last = tuple(nodes), given, returned, last
        self._known = {name: one for name, one in stored.items() if isinstance(one, np.ndarray)}
        self._named: dict[str, str] = {}
        for name, value in stored.items():
            if isinstance(value, Tensor):
                self._named[name] = f"weight_{len(self._named)}"
                self.register_buffer(self._named[name], value)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return what the file computes."""
        values: dict[str, Value] = {
            **self._known,
            **{name: self.get_buffer(own) for name, own in self._named.items()},
            self._given: pictures.permute(0, 2, 3, 1) if self._last else pictures,
        }
        for node in self._nodes:
            try:
                arguments = [values[name] if name else None for name in node.inputs]
                found = OPERATORS[node.operator](node, *arguments)
            except UnfitError as error:
                raise ValueError(f"node {node.name} ({node.operator}) {error}") from None
            except (TypeError, ValueError, LookupError, RuntimeError, ArithmeticError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ValueError(
                    f"node {node.name} ({node.operator}) cannot be computed: {reason}"
                ) from error
            parts = [found] if isinstance(found, Tensor | np.ndarray) else found
            # Results that nobody uses may be missing.
            values.update(zip(node.outputs, map(_settled, parts), strict=False))
        result = values[self._returned]
        if not isinstance(result, Tensor):
            raise ValueError("what it returns does not depend on the pictures")
        return result


def _settled(value: Value) -> Value:
    """Return known sizes without the number of pictures as plain numbers."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        sizes = value.flatten().tolist()
        return value.astype(np.int64) if all(isinstance(one, int) for one in sizes) else value
    return value


def read_onnx(file: Path) -> Built:
    """Read a classifier.

    Raises:
        ImportFailedError: it is not an ONNX file, or uses something that is not accepted; or the
            package ``onnx`` is missing.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(file))
        nodes, stored = _nodes(model), _stored(model)
        given, shape, last = _input(model, stored)
        returned = _output(model)
        _check_names(nodes, {*stored, given}, returned)
        network = _Graph(nodes, stored, given, returned, last)
        said = {one.key: one.value for one in model.metadata_props}
        stated = next((said[key] for key in _LABELS if key in said), None)
        return Built(
            network,
            shape,
            None if stated is None else read_labels(stated),
            read_numbers("mean", said.get("mean")),
            read_numbers("std", said.get("std")),
        )
    except (DecodeError, OSError, ValueError, TypeError, LookupError, UnfitError) as error:
        reason = " ".join(str(error).split())[:500]
        raise ImportFailedError(f"{file}: cannot be imported ({reason})") from None
    except onnx.checker.ValidationError as error:  # weights that lie in another folder
        reason = " ".join(str(error).split())[:500]
        raise ImportFailedError(f"{file}: cannot be imported ({reason})") from None


def _nodes(model: Any) -> list[Node]:
    opsets = {one.domain: one.version for one in model.opset_import}
    opset = next((opsets[domain] for domain in _DOMAINS if domain in opsets), None)
    if opset is None or opset not in OPSETS:
        raise ValueError(
            f"uses operator set {opset}; expected {OPSETS[0]} to {OPSETS[-1]}: export it again"
        )
    nodes = []
    for node in model.graph.node:
        name = node.name or next(iter(node.output), "")
        if node.domain not in _DOMAINS or node.op_type not in OPERATORS:
            domain = f"{node.domain}." if node.domain not in _DOMAINS else ""
            raise ValueError(
                f"node {name} calls {domain}{node.op_type}, which is not accepted{_hint(node)}"
            )
        attributes = {one.name: _attribute(one) for one in node.attribute}
        nodes.append(
            Node(name, node.op_type, tuple(node.input), tuple(node.output), attributes, opset)
        )
    return nodes


def _hint(node: Any) -> str:
    """Say what to do about a common operator that is not accepted."""
    if any(part in node.op_type.lower() for part in ("quantize", "qlinear", "integer")):
        return ": the network is quantised; import the float network (the service measures int8)"
    if node.op_type in ("ArgMax", "TopK", "ZipMap", "NonMaxSuppression"):
        return ": a classifier returns its logits; export it without what follows them"
    if node.op_type in ("If", "Loop", "Scan"):
        return ": what it computes could depend on the pictures' values; export it without branches"
    return "; write that part with other operators, or export the network by torch.export"


def _attribute(attribute: Any) -> Any:
    """Return an attribute's value: numbers, text, lists of numbers, or an array."""
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return _array(value)
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, int | float | str) or (
        isinstance(value, Sequence) and all(isinstance(one, int | float) for one in value)
    ):
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    raise ValueError(f"has an attribute {attribute.name} of a kind that is not accepted")


def _stored(model: Any) -> dict[str, Value]:
    if model.graph.sparse_initializer:
        raise ValueError("holds sparse weights; export it with dense ones")
    return {one.name: _array(one) for one in model.graph.initializer}


def _array(stored: Any) -> Value:
    """Return a stored array: known if it may be sizes, limits or an exponent, else a tensor."""
    import onnx

    array: Known = onnx.numpy_helper.to_array(stored)
    if array.dtype.kind in "iub" or (array.dtype.kind == "f" and array.size == 1):
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"{stored.name} holds values of a type that is not accepted")
    return torch.from_numpy(np.array(array))


def _input(model: Any, stored: Mapping[str, Value]) -> tuple[str, Shape | None, bool]:
    """Return the name of the pictures, their shape, and whether channels are the last axis."""
    inputs = [one for one in model.graph.input if one.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs)
        raise ValueError(f"takes {len(inputs)} inputs ({names}); expected only the pictures")
    kind = inputs[0].type.tensor_type
    sizes = [one.dim_value if one.HasField("dim_value") else None for one in kind.shape.dim]
    if kind.elem_type != _FLOAT or len(sizes) != 4:
        raise ValueError(
            "expected one float32 input [batch, channels, height, width]; its input has type "
            f"{kind.elem_type} and {len(sizes)} axes"
        )
    batch, *shape = sizes
    if batch is not None:
        raise ValueError(
            f"takes exactly {batch} pictures at a time; export it with a batch of any size: "
            "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), or dynamic_axes with {0: 'batch'} of "
            "the input"
        )
    few = (1, 3, 4)
    last = shape[0] not in few and shape[2] in few
    if last:
        shape = [shape[2], shape[0], shape[1]]
    whole = [one for one in shape if one is not None]
    return inputs[0].name, (whole[0], whole[1], whole[2]) if len(whole) == 3 else None, last


def _output(model: Any) -> str:
    names = [one.name for one in model.graph.output]
    if len(names) != 1:
        raise ValueError(f"returns {', '.join(names)}; expected only the logits")
    return str(names[0])


def _check_names(nodes: Sequence[Node], names: set[str], returned: str) -> None:
    """Refuse a node that uses what no earlier node computes, or that computes something again."""
    for node in nodes:
        missing = [name for name in node.inputs if name and name not in names]
        if missing:
            raise ValueError(f"node {node.name} uses {missing[0]}, which nothing computes before")
        names |= {name for name in node.outputs if name}
    if returned not in names:
        raise ValueError(f"returns {returned}, which nothing computes")
