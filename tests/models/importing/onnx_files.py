"""ONNX files made by hand, node by node."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
Arrays = Mapping[str, NDArray[Any]]


def model(
    nodes: Sequence[Any],
    stored: Arrays,
    shape: Sequence[int | str] = ("batch", 3, 6, 6),
    *,
    opset: int = OPSET,
    kind: int = TensorProto.FLOAT,
    outputs: Sequence[str] = ("y",),
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Make a model of ``nodes`` from x of ``shape`` to ``outputs``, with stored arrays."""
    graph = helper.make_graph(
        list(nodes),
        "classifier",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 9
    for key, value in (metadata or {}).items():
        entry = made.metadata_props.add()
        entry.key, entry.value = key, value
    return made


def classifier(**options: Any) -> Any:
    """A convolution and a linear layer, 4 labels; ``last`` adds nodes from logits to y."""
    rng = np.random.default_rng(0)
    stored = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
        "v": rng.normal(size=(144, 4)).astype(np.float32),
    }
    last = options.pop("last", [helper.make_node("Identity", ["logits"], ["y"])])
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["logits"]),
        *last,
    ]
    return model(nodes, {**stored, **options.pop("stored", {})}, **options)


def saved(made: Any, file: Path) -> Path:
    onnx.save(made, str(file))
    return file
