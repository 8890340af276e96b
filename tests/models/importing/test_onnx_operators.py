"""Every operator computes what ONNX's own reference implementation computes, in numpy."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from models.importing.onnx_graph import read_onnx
from models.importing.onnx_operators import OPERATORS
from tests.models.importing.onnx_files import OPSET, classifier, model, saved

BATCH, CHANNELS, SIDE = 3, 4, 6


class Case(NamedTuple):
    """A node with ``x`` as its first input, or where ``at`` says, and arrays for the others."""

    operator: str
    arrays: tuple[Any, ...] = ()
    attributes: dict[str, Any] = {}  # noqa: RUF012
    opset: int = OPSET
    at: int = 0


def floats(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).uniform(0.2, 1.5, shape).astype(np.float32)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def number(value: float) -> NDArray[np.float32]:
    return np.array(value, dtype=np.float32)


PLAIN = (
    *("Abs", "Neg", "Exp", "Erf", "Floor", "Ceil", "Round"),
    *("Sign", "Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Mish"),
    *("HardSwish", "HardSigmoid", "Selu", "Elu", "Celu", "LeakyRelu", "Gelu"),
    *(
        "Identity",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Flatten",
        "Transpose",
        "Softmax",
        "LogSoftmax",
    ),
    *("ReduceMean", "ReduceMax"),
)
PER_CHANNEL = tuple(floats(CHANNELS) for _ in range(4))
CASES = [
    *(Case(name) for name in PLAIN),
    Case("Reciprocal"),
    Case("Log", (), {"shift": True}),
    Case("Sqrt", (), {"shift": True}),
    Case("Elu", (), {"alpha": 0.3}),
    Case("Celu", (), {"alpha": 2.0}),
    Case("LeakyRelu", (), {"alpha": 0.2}),
    Case("HardSigmoid", (), {"alpha": 0.3, "beta": 0.4}),
    Case("Selu", (), {"alpha": 1.1, "gamma": 0.9}),
    Case("Gelu", (), {"approximate": "tanh"}),
    Case("PRelu", (floats(CHANNELS, 1, 1),)),
    Case("Clip", (number(-0.5), number(0.7))),
    Case("Clip", (), {"min": -0.5, "max": 0.7}, 10),
    Case("Cast", (), {"to": TensorProto.DOUBLE}),
    *(Case(name, (floats(CHANNELS, 1, 1),)) for name in ("Add", "Sub", "Mul", "Div", "Min", "Max")),
    *(Case(name, (number(2.5),), {}, OPSET, at) for name in ("Sub", "Div") for at in (0, 1)),
    Case("Sum", (floats(1, SIDE), floats(1))),
    Case("Pow", (number(2.0),)),
    Case("Mod", (number(0.3),), {"fmod": 1}),
    Case("Conv", (floats(8, CHANNELS, 3, 3), floats(8)), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    Case("Conv", (floats(8, CHANNELS, 3, 2),), {"pads": [0, 1, 2, 0], "dilations": [2, 1]}),
    Case("Conv", (floats(8, 1, 3, 3),), {"group": 4}),
    Case("Conv", (floats(2, CHANNELS, 3, 3),), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", (floats(2, CHANNELS, 2, 2),), {"auto_pad": "SAME_LOWER"}),
    Case("Conv", (floats(2, CHANNELS, 2, 2),), {"auto_pad": "VALID"}),
    Case("MaxPool", (), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("MaxPool", (), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    Case("MaxPool", (), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case("AveragePool", (), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("AveragePool", (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", (), {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "count_include_pad": 1}),
    Case("AveragePool", (), {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("BatchNormalization", PER_CHANNEL, {"epsilon": 1e-3}),
    Case("LayerNormalization", (floats(SIDE), floats(SIDE)), {"epsilon": 1e-3}),
    Case("LayerNormalization", (floats(CHANNELS, SIDE, SIDE),), {"axis": 1}),
    Case("InstanceNormalization", PER_CHANNEL[:2]),
    Case("GroupNormalization", PER_CHANNEL[:2], {"num_groups": 2}, 21),
    Case("MatMul", (floats(SIDE, 5),)),
    Case("MatMul", (floats(5, SIDE),), {}, OPSET, 1),
    Case("Einsum", (floats(SIDE, 5),), {"equation": "bchw,wk->bchk"}),
    Case("Softmax", (), {"axis": 1}),
    *(Case(f"Reduce{name}", (ints(2, 3),)) for name in ("Max", "Min", "L1", "L2", "SumSquare")),
    Case("ReduceSum", (ints(-1),), {"keepdims": 0}),
    Case("ReduceMean", (), {"axes": [2, 3], "keepdims": 0}, 13),
    Case("ReduceMean", (ints(),), {"noop_with_empty_axes": 1}),
    Case("Reshape", (ints(0, -1, SIDE),)),
    Case("Reshape", (ints(-1, CHANNELS * SIDE * SIDE),), {"allowzero": 1}),
    Case("Flatten", (), {"axis": 2}),
    Case("Flatten", (), {"axis": -1}),
    Case("Transpose", (), {"perm": [0, 2, 3, 1]}),
    Case("Unsqueeze", (ints(1, -1),)),
    Case("Unsqueeze", (), {"axes": [1]}, 12),
    Case("Concat", (floats(BATCH, 2, SIDE, SIDE),), {"axis": 1}),
    Case("Slice", (ints(1), ints(2**62), ints(-1), ints(2))),
    Case("Slice", (ints(0, -3), ints(2, -1))),
    Case("Slice", (), {"starts": [1], "ends": [3], "axes": [2]}, 9),
    Case("Gather", (ints(0, -1),), {"axis": 2}),
    Case("Gather", (np.array(1),), {"axis": -1}),
    Case("Gather", (np.array([[0, 1], [2, 3]]),), {"axis": 1}),
    Case("Expand", (ints(2, 1, 1, 1, SIDE),)),
    Case("Pad", (ints(0, 0, 1, 2, 0, 0, 0, 3), number(0.5))),
    Case("Pad", (ints(1, 1), number(0.0), ints(3)), {"mode": "reflect"}),
    Case("Pad", (ints(0, 0, 1, 1, 0, 0, 2, 2),), {"mode": "edge"}),
    Case("Pad", (), {"pads": [0, 0, 1, 0, 0, 0, 0, 0], "value": 2.0}, 9),
    Case("Tile", (ints(1, 2, 1, 1),)),
    Case("DepthToSpace", (), {"blocksize": 2}),
    Case("DepthToSpace", (), {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", (), {"blocksize": 3}),
    Case("Dropout", (number(0.5),)),
]


def evaluate(made: Any, x: NDArray[Any], folder: Path) -> None:
    """Compare the file's network with the reference."""
    expected = ReferenceEvaluator(made).run(None, {"x": x})[0]
    network = read_onnx(saved(made, folder / "net.onnx")).network
    found = network(torch.from_numpy(x)).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator}-{case.opset}")
def test_an_operator_is_what_the_reference_is(case: Case, tmp_path: Path) -> None:
    names = [f"c{index}" for index in range(len(case.arrays))]
    inputs = [*names[: case.at], "x", *names[case.at :]]
    attributes = {key: value for key, value in case.attributes.items() if key != "shift"}
    node = helper.make_node(case.operator, inputs, ["y"], **attributes)
    shape = ("batch", CHANNELS, SIDE, SIDE)
    made = model([node], dict(zip(names, case.arrays, strict=True)), shape, opset=case.opset)
    x = np.random.default_rng(1).normal(size=(BATCH, *shape[1:])).astype(np.float32)
    evaluate(made, np.abs(x) + 0.1 if "shift" in case.attributes else x, tmp_path)


def test_values_are_split_compared_and_multiplied_as_by_the_reference(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Split", ["x", "parts"], ["one", "two"], axis=1),
        helper.make_node("Split", ["two"], ["two_a", "two_b"], axis=3, num_outputs=2),
        helper.make_node("Greater", ["one", "limit"], ["large"]),
        helper.make_node("Less", ["one", "small"], ["tiny"]),
        helper.make_node("GreaterOrEqual", ["one", "one"], ["always"]),
        helper.make_node("LessOrEqual", ["one", "small"], ["seldom"]),
        helper.make_node("And", ["always", "seldom"], ["tiny_again"]),
        helper.make_node("Or", ["large", "tiny"], ["some"]),
        helper.make_node("Or", ["some", "tiny_again"], ["either"]),
        helper.make_node("Not", ["either"], ["neither"]),
        helper.make_node("Where", ["neither", "one", "filling"], ["chosen"]),
        helper.make_node("Flatten", ["chosen"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["g"], alpha=0.5, beta=2.0, transB=1),
        helper.make_node("ReduceMean", ["two_b", "axes"], ["m"], keepdims=0),
        helper.make_node("Add", ["g", "m"], ["y"]),
    ]
    stored = {
        **{"parts": ints(1, 3), "limit": number(0.5), "small": number(-1), "axes": ints(2, 3)},
        **{"filling": floats(1, SIDE), "w": floats(3, 36), "b": floats(3)},
    }
    made = model(nodes, stored, ("batch", CHANNELS, SIDE, SIDE))
    x = np.random.default_rng(2).normal(size=(BATCH, CHANNELS, SIDE, SIDE)).astype(np.float32)
    evaluate(made, x, tmp_path)


def test_sizes_are_computed_as_by_the_reference(tmp_path: Path) -> None:
    """The ways in which exporters write expand(batch, …), view(batch, -1) and sqrt(size)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Constant", [], ["minus"], value_int=-1),
        helper.make_node("Unsqueeze", ["n", "first"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Shape", ["flat"], ["width"], start=1),
        helper.make_node("Cast", ["width"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["wide"], ["root"]),
        helper.make_node("Div", ["flat", "root"], ["scaled"]),
        helper.make_node(
            "ConstantOfShape", ["two"], ["ones"], value=helper.make_tensor("v", 7, [1], [1])
        ),
        helper.make_node("Mul", ["ones", "minus"], ["none"]),
        helper.make_node("Concat", ["n1", "one"], ["wanted"], axis=0),
        helper.make_node("Equal", ["wanted", "none"], ["free"]),
        helper.make_node("Where", ["free", "ones", "wanted"], ["sizes"]),
        helper.make_node("Expand", ["token", "sizes"], ["tokens"]),
        helper.make_node("Concat", ["tokens", "scaled"], ["both"], axis=1),
        helper.make_node("Range", ["from", "to", "step"], ["which"]),
        helper.make_node("Gather", ["both", "which"], ["some"], axis=1),
        helper.make_node("Squeeze", ["token"], ["flat_token"]),
        helper.make_node("Add", ["some", "flat_token"], ["y"]),
    ]
    stored = {
        **{"zero": np.array(0), "first": ints(0), "rest": ints(-1), "two": ints(2), "one": ints(1)},
        **{"token": floats(1, 1), "from": np.array(0), "to": np.array(9), "step": np.array(2)},
    }
    made = model(nodes, stored, ("batch", CHANNELS, SIDE, SIDE))
    x = np.random.default_rng(3).normal(size=(BATCH, CHANNELS, SIDE, SIDE)).astype(np.float32)
    evaluate(made, x, tmp_path)


@pytest.mark.parametrize("axis", [1, 3])
def test_an_old_softmax_is_over_all_further_axes(axis: int, tmp_path: Path) -> None:
    """Until operator set 12; the reference has only the later meaning."""
    node = helper.make_node("Softmax", ["x"], ["y"], axis=axis)
    network = read_onnx(saved(model([node], {}, opset=11), tmp_path / "net.onnx")).network
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(network(x), x.flatten(axis).softmax(-1).reshape(x.shape))


def test_every_operator_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    tested = {case.operator for case in CASES}
    assert {name for name in OPERATORS if name not in tested and f'"{name}"' not in text} == set()


@pytest.mark.parametrize(
    ("node", "complaint"),
    [
        (("Dropout", ["x", "half", "on"], {}), "is in training mode"),
        (("BatchNormalization", ["x", *"cccc"], {"training_mode": 1}), "training_mode = 1"),
        (("Cast", ["x"], {"to": TensorProto.COMPLEX64}), "casts to a type"),
        (("Pad", ["x", "pads"], {"mode": "wrap"}), "pads by wrap"),
        (("Slice", ["x", "two", "zero", "zero", "minus"], {}), "has a step of -1"),
        (("Gather", ["x", "x"], {}), "indices that depend on the pictures"),
        (("Reshape", ["x", "x"], {}), "sizes that depend on the pictures"),
        (("ConstantOfShape", ["huge"], {}), "more than 65,536 values"),
        (("Expand", ["two", "huge"], {}), "more than 65,536 values"),
        (("Tile", ["two", "huge"], {}), "more than 65,536 values"),
        (("Range", ["none", "large", "step"], {}), "more than 65,536 values"),
        (("MatMul", ["x", "half"], {}), "cannot be computed"),
    ],
)
def test_what_a_node_may_not_ask_for(node: Any, complaint: str, tmp_path: Path) -> None:
    operator, inputs, attributes = node
    stored = {
        **{"half": number(0.5), "on": np.array(True), "c": floats(3), "pads": ints(*[0] * 8)},
        **{"two": ints(2), "zero": ints(0), "minus": ints(-1), "huge": ints(2**40)},
        **{"none": np.array(0), "large": np.array(2**40), "step": np.array(1)},
    }
    made = classifier(
        last=[
            helper.make_node(operator, inputs, ["z"], **attributes),
            helper.make_node("Identity", ["logits"], ["y"]),
        ],
        stored=stored,
    )
    network = read_onnx(saved(made, tmp_path / "net.onnx")).network
    with pytest.raises(ValueError, match=complaint):
        network(torch.zeros(2, 3, 6, 6))


def test_an_option_that_depends_on_a_picture_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"]),
        helper.make_node("Clip", ["x", "m"], ["y"]),
    ]
    network = read_onnx(saved(model(nodes, {}), tmp_path / "net.onnx")).network
    with pytest.raises(ValueError, match="limits that depend on the pictures"):
        network(torch.zeros(2, 3, 6, 6))
