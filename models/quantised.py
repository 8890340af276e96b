"""int8 in OpenVINO's graphs, with scales that are fixed beforehand.

The input of each convolution, and of each matrix multiplication by weights, is rounded to 8 bits,
on a scale that is the same for every row of every pass: the range found on noisy pictures. Values
outside it are clipped. So a row's logits remain a function of that row alone; scales that depended
on the values of a pass would let rows affect each other.

Weights have 7 bits and a scale for each output channel: processors without VNNI add pairs of 8-bit
products in 16 bits, which larger weights would saturate. So the results are the same on every
processor, except for the order of float32 sums.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.certification.arrays import Floats

Ranges = Mapping[str, tuple[float, float]]

# The largest quantised weight, and the largest value of 8 bits; see the module.
_LARGEST, _EIGHT_BITS = 63, 127
# The percentage of the observed values inside a range: a few extreme values would make it coarse.
PERCENTILE = 99.99
_MULTIPLYING = ("Convolution", "GroupConvolution", "MatMul")


def sites(model: Any) -> dict[str, Any]:
    """Return by name the nodes of a graph that multiply by weights, in the order in which they run.

    Their weights are constants once the graph has been folded (:func:`fold`).
    """
    return {
        node.get_friendly_name().partition("/")[0]: node
        for node in model.get_ordered_ops()
        if node.get_type_name() in _MULTIPLYING
        and node.input_value(1).get_node().get_type_name() == "Constant"
    }


def fold(model: Any) -> None:
    """Compute everything that depends only on constants."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def showing_given(model: Any) -> Any:
    """Return a graph that returns the inputs of all :func:`sites` of a folded graph."""
    import openvino

    given = [node.input_value(0) for node in sites(model).values()]
    if not given:
        raise ValueError("none of its layers multiplies by weights")
    return openvino.Model(given, model.get_parameters())


def quantise(model: Any, ranges: Ranges) -> None:
    """Make a folded graph run in int8.

    Args:
        model: OpenVINO's graph, in float32; it is changed.
        ranges: the range of each input, by the names of its :func:`sites`.

    Raises:
        ValueError: ``ranges`` are of another network.
    """
    found = sites(model)
    if not found or found.keys() != ranges.keys():
        raise ValueError(
            "the scales are not those of this network: pixeldp evaluate --write finds them again"
        )
    rounded: dict[tuple[str, int], Any] = {}
    for name, node in found.items():
        _round_given(node, ranges[name], rounded)
        _round_weights(node)
    model.validate_nodes_and_infer_types()


def _round_given(
    node: Any, limits: tuple[float, float], rounded: dict[tuple[str, int], Any]
) -> None:
    """Round a node's input to 8 bits, once for all nodes with the same input."""
    before = node.input_value(0).get_node()
    # Rounding is monotonic: the maximum may be taken after it, of values with a quarter of the
    # memory.
    place = before.input(0) if before.get_type_name() == "MaxPool" else node.input(0)
    source = place.get_source_output()
    if source.get_node().get_type_name() == "FakeQuantize":
        return
    key = source.get_node().get_friendly_name(), source.get_index()
    if key not in rounded:
        low, high = limits
        if low < 0:  # zero is one of the steps, -128 to 127
            high = max(high, -low * _EIGHT_BITS / (_EIGHT_BITS + 1))
            low = -high * (_EIGHT_BITS + 1) / _EIGHT_BITS
        rounded[key] = _fake(source, np.float32(low), np.float32(high), levels=256)
    place.replace_source_output(rounded[key])


def _round_weights(node: Any) -> None:
    """Round a node's weights to 7 bits, with a scale for each output channel."""
    weights = node.input_value(1)
    values: Floats = weights.get_node().get_data().astype(np.float64)
    axes: tuple[int, ...] = tuple(range(1, values.ndim))
    if node.get_type_name() == "MatMul":
        axes = (values.ndim - 1 if node.get_attributes()["transpose_b"] else values.ndim - 2,)
    elif node.get_type_name() == "GroupConvolution":  # [groups, outputs, inputs, …]
        axes = tuple(range(2, values.ndim))
    largest = np.maximum(np.abs(values).max(axis=axes, keepdims=True), np.finfo(np.float32).tiny)
    reach = (largest * _EIGHT_BITS / _LARGEST).astype(np.float32)
    node.input(1).replace_source_output(_fake(weights, -reach, reach, levels=2 * _EIGHT_BITS + 1))


def _fake(source: Any, low: Any, high: Any, levels: int) -> Any:
    from openvino import opset13

    return opset13.fake_quantize(source, low, high, low, high, levels).output(0)


def limits_of(values: Floats) -> tuple[float, float]:
    """Return the range in which values [N] are rounded: from 0 if none is negative."""
    high = float(np.float32(np.percentile(values, PERCENTILE)))
    low = float(np.float32(np.percentile(values, 100 - PERCENTILE))) if values.min() < 0 else 0.0
    # An empty range has no scale.
    return min(low, 0.0), max(high, 1e-6)
