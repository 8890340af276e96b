"""Classifiers exported by ``torch.export``, read without PyTorch's own loader.

``torch.export.load`` must not read strangers' files: it unpickles, evaluates expressions, and calls
any function of ``torch`` that a graph names. This module reads the graph inside a ``.pt2`` archive
(``models/model.json``; its schema is ``torch/_export/serde/schema.py``) and rebuilds it from the
operators that ``models.networks.foreign.aten`` allows. A bundle stores the graph as
``program.json``, without the parts that are not needed to run it, and its weights with the others.
"""

import json
import operator
import re
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.networks.foreign import aten, rows
from models.networks.foreign.wrapping import normalised

SCHEMA_MAJOR = 8
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
FLOAT32 = 7
STRIDED = 7
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_POSITIONAL = 1
_STRIDED, _RESHAPE = "torch.ops.aten.as_strided.default", "torch.ops.aten.reshape.default"
# Where each kind of tensor that comes with a program has its name.
STORED = {
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}


class Exported(nn.Module):
    """A program as a module: its weights are buffers, named as in the program.

    Every such module has been proven to keep its rows apart (:mod:`models.networks.foreign.rows`).

    Args:
        program: ``program.json``, as :func:`reduced` makes it.

    Raises:
        ValueError: not such a program, or one that this module does not accept.
    """

    def __init__(self, program: bytes) -> None:
        super().__init__()
        self.program = program
        document = _document(program)
        try:
            self.shape = _input_shape(document)
            self.graph = _Builder(document).build()
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"program: malformed ({type(error).__name__}: {error})") from None
        try:
            rows.prove(self.graph, aten.rule, self.shape)
        except ValueError as error:
            raise ValueError(f"program: {error}") from None

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the program's logits."""
        logits: Tensor = self.graph(pictures)
        return logits


def build_exported(
    shape: tuple[int, int, int], labels: int, *, program: bytes, **normalisation: Any
) -> nn.Sequential:
    """Build normalisation and the program, with weights still to be loaded.

    Except ``program``, the arguments and errors are those of
    :func:`models.networks.foreign.wrapping.normalised`.
    """
    network = Exported(program)
    if network.shape != shape:
        raise ValueError(f"the program takes {list(network.shape)}, not {list(shape)}")
    return normalised(network, shape, **normalisation)


def program_of(network: nn.Module) -> bytes | None:
    """Return the program inside ``network``, if there is one."""
    return next((part.program for part in network.modules() if isinstance(part, Exported)), None)


def strip(model: bytes) -> bytes:
    """Return what is needed of an archive's ``model.json``: the graph, without its author's traces.

    Raises:
        ValueError: not the description of an exported program of this schema.
    """
    document = _document(model)
    try:
        whole = document["graph_module"]
        graph = whole["graph"]
        needed = {_name(spec) for spec in graph["inputs"]}
        kept = {
            "schema_version": document["schema_version"],
            "graph_module": {
                "graph": {
                    "inputs": graph["inputs"],
                    "outputs": graph["outputs"],
                    "nodes": [
                        {name: node[name] for name in ("target", "inputs", "outputs")}
                        for node in graph["nodes"]
                    ],
                    "tensor_values": {
                        name: value
                        for name, value in graph["tensor_values"].items()
                        if name in needed
                    },
                },
                "signature": {
                    name: whole["signature"][name] for name in ("input_specs", "output_specs")
                },
            },
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"program: malformed ({type(error).__name__}: {error})") from None
    return json.dumps(kept, separators=(",", ":")).encode()


def _input_shape(document: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (channels, height, width) of the pictures that a program takes.

    Raises:
        ValueError: it takes anything but one float32 batch of pictures, of any size.
    """
    whole = document["graph_module"]
    names = [
        _name(spec["user_input"]["arg"])
        for spec in whole["signature"]["input_specs"]
        if "user_input" in spec
    ]
    if len(names) != 1:
        raise ValueError(f"program: takes {len(names)} inputs; expected only the pictures")
    value = whole["graph"]["tensor_values"][names[0]]
    batch, *shape = value["sizes"]
    if value["dtype"] != FLOAT32 or len(shape) != 3 or not all("as_int" in one for one in shape):
        raise ValueError(
            "program: expected one float32 input [batch, channels, height, width] with all sizes "
            "fixed except the batch's"
        )
    if "as_int" in batch:
        raise ValueError(
            f"program: takes exactly {batch['as_int']} pictures at a time; export it with a batch "
            "of any size: dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)"
        )
    channels, height, width = (one["as_int"] for one in shape)
    return channels, height, width


def attribute(name: str) -> str:
    """Return the attribute's name for a program's tensor ``name``: without dots."""
    return re.sub(r"\W", "_", name)


class _Builder:
    """Turns a program's description into an ``fx.GraphModule``."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        whole = document["graph_module"]
        self._described, self._signature = whole["graph"], whole["signature"]
        self._graph = fx.Graph()
        self._root = nn.Module()
        self._values: dict[str, Any] = {}

    def build(self) -> fx.GraphModule:
        self._inputs()
        for node in self._described["nodes"]:
            self._node(node)
        outputs = self._signature["output_specs"]
        if len(outputs) != 1 or "user_output" not in outputs[0]:
            kinds = ", ".join(kind for spec in outputs for kind in spec)
            raise ValueError(
                f"program: returns {kinds}; expected only the logits. A program that changes its "
                "own buffers was exported in training mode: call eval() first"
            )
        self._graph.output(self._value(_name(outputs[0]["user_output"]["arg"])))
        self._graph.lint()
        return fx.GraphModule(self._root, self._graph)

    def _inputs(self) -> None:
        self._pictures = self._graph.placeholder("pictures")
        for spec in self._signature["input_specs"]:
            ((kind, content),) = spec.items()
            if kind == "user_input":
                self._values[_name(content["arg"])] = self._pictures
                continue
            if kind not in STORED:
                raise ValueError(f"program: holds a {kind}; expected parameters and buffers only")
            name = attribute(content[STORED[kind]])
            if hasattr(self._root, name):
                raise ValueError(f"program: two of its tensors are named {name}")
            value = content["arg"]["name"]
            described = self._described["tensor_values"][value]
            sizes = [int(size["as_int"]) for size in described["sizes"]]
            self._root.register_buffer(name, torch.zeros(sizes, dtype=_dtype(described["dtype"])))
            self._values[value] = self._graph.get_attr(name)

    def _node(self, node: Mapping[str, Any]) -> None:
        target = node["target"]
        if aten.is_check(target):
            return
        given = {one["name"]: self._argument(one["arg"]) for one in node["inputs"]}
        try:
            called = aten.function(_RESHAPE if target == _STRIDED else target, given)
        except ValueError as error:
            raise ValueError(f"program: {error}") from None
        if target == _STRIDED:
            given = _as_shape(given)
        positional = [one["name"] for one in node["inputs"] if one["kind"] == _POSITIONAL]
        positional = [name for name in positional if name in given]
        args = tuple(given.pop(name) for name in positional)
        # fx writes keywords into Python as they are.
        if not all(name.isidentifier() and not iskeyword(name) for name in given):
            raise ValueError(f"program: calls {target} with {list(given)}")
        result = self._graph.call_function(called, args, given)
        outputs = node["outputs"]
        if len(outputs) == 1 and "as_tensors" not in outputs[0]:
            self._values[_name(outputs[0])] = result
            return
        if len(outputs) == 1:
            outputs = [{"as_tensor": one} for one in outputs[0]["as_tensors"]]
        for index, part in enumerate(outputs):
            if "as_none" not in part:
                item = self._graph.call_function(operator.getitem, (result, index))
                self._values[_name(part)] = item

    def _value(self, name: str) -> Any:
        if name not in self._values:
            raise ValueError(f"program: uses {name!r}, which nothing computes")
        return self._values[name]

    def _argument(self, argument: Mapping[str, Any]) -> Any:
        ((kind, value),) = argument.items()
        match kind:
            case "as_none":
                return None
            case "as_int" | "as_bool" | "as_string":
                return value
            case "as_float":
                return float(value)  # infinities and NaN are strings
            case "as_ints" | "as_bools":
                return list(value)
            case "as_floats":
                return [float(one) for one in value]
            case "as_tensor":
                return self._value(value["name"])
            case "as_tensors":
                return [self._value(one["name"]) for one in value]
            case "as_optional_tensors":
                return [None if "as_none" in one else self._argument(one) for one in value]
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return self._size(value)
            case "as_sym_ints":
                return [self._size(one) for one in value]
            case "as_scalar_type":
                return _dtype(value)
            case "as_memory_format" if value in _FORMATS:
                return _FORMATS[value]
            case "as_layout" if value == STRIDED:
                return torch.strided
            case "as_device":  # the device of the pictures
                return self._graph.call_function(getattr, (self._pictures, "device"))
        raise ValueError(f"program: has an argument of the kind {kind}, which is not accepted")

    def _size(self, value: Mapping[str, Any]) -> Any:
        return self._value(value["as_name"]) if "as_name" in value else value["as_int"]


def _as_shape(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of ``reshape`` with the effect of these of ``as_strided``.

    Decompositions use ``as_strided`` after pooling to one value for each channel: [batch, channels,
    1, 1], in order and dense. Any other use would read memory by address.

    Raises:
        ValueError: it is another use.
    """
    size = list(given["size"])
    dense = len(size) == 4 and size[2:] == [1, 1] and given["stride"][:2] == [size[1], 1]
    if not dense or given.get("storage_offset"):
        raise ValueError(f"program: calls {_STRIDED}, which may read memory that was never written")
    return {"self": given["self"], "shape": size}


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
        version = document["schema_version"]["major"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"program: not the description of an exported program ({error})") from None
    if version != SCHEMA_MAJOR:
        raise ValueError(
            f"program: of schema version {version}; this release reads {SCHEMA_MAJOR}, which "
            f"PyTorch {torch.__version__} writes: export it again"
        )
    return dict(document)


def _name(argument: Mapping[str, Any]) -> str:
    ((kind, value),) = argument.items()
    if kind == "as_tensor":
        return str(value["name"])
    if kind.startswith("as_sym_"):
        return str(value["as_name"])
    raise ValueError(f"program: expected the name of a value, not {kind}")


def _dtype(number: int) -> torch.dtype:
    if number not in DTYPES:
        raise ValueError(f"program: has numbers of a type that is not accepted ({number})")
    return DTYPES[number]
