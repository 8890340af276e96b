"""h as OpenVINO runs it, on processors: converted from PyTorch, in passes of one size.

It is another h than PyTorch's, in the number format that is said and no other: OpenVINO by itself
takes bfloat16 where the processor has it. Nothing of it is kept on disk.

The network is recorded on tensors without values, so that Python that looks at a value is refused
rather than taken to look at the same value for ever. The record is a graph of PyTorch's own
operators, which OpenVINO's frontend converts one by one; one that it does not know is refused.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import quantised
from models.execution import Format, ProviderError
from models.quantised import Ranges

# How far logits may be from PyTorch's: in float32 as a share of the largest (rounding stays below a
# hundredth of this, and a lesser number format far above), in int8 in quadratic mean as a share of
# their standard deviation (the shipped models have 0.02).
TOLERANCE = {"float32": 1e-3, "int8": 0.1}


def _openvino() -> Any:
    """Import OpenVINO, without what tells its makers of each import and each conversion."""
    # Python then finds no such module, and OpenVINO puts an empty one in its place.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


class Converted:
    """One network.

    Args:
        network: h in float32 on the CPU, in evaluation mode.
        threads: how many it may use.
        ranges: of what its layers are given; it then runs in int8 (:mod:`models.quantised`).
    """

    def __init__(self, network: nn.Module, threads: int = 1, ranges: Ranges | None = None) -> None:
        self._network, self._threads, self._ranges = network, threads, ranges
        self._rows = 0
        self._request: Any = None
        # OpenVINO may share the memory of what it was made of.
        self._graph: Any = None

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the logits of ``pictures`` [rows, …], float32, as a new tensor.

        The first pass of another size than the one before converts the network anew.

        Raises:
            ProviderError: it cannot be converted.
        """
        if len(pictures) != self._rows:
            self._build(tuple(pictures.shape))
        given = pictures.to(torch.float32).contiguous().numpy()
        (logits,) = self._request.infer([given], share_inputs=True, share_outputs=True).values()
        return torch.from_numpy(np.array(logits))

    def _build(self, shape: tuple[int, ...]) -> None:
        self._rows, self._request = 0, None
        with _refusing():
            self._graph = _record(self._network, shape)
            model = _convert(self._graph, shape)
            if self._ranges is not None:
                quantised.quantise(model, self._ranges)
            self._request = _compile(model, self._threads)
        self._rows = shape[0]


def ranges_of(network: nn.Module, passes: Iterable[Tensor]) -> Ranges:
    """Return the range of what each layer of a network is given, for int8.

    Args:
        network: h in float32 on the CPU, in evaluation mode.
        passes: noisy pictures [rows, …], all of one shape.

    Raises:
        ProviderError: the network cannot be converted, or no layer of it multiplies by weights.
    """
    met: dict[str, list[tuple[float, float]]] = {}
    request: Any = None
    with _refusing():
        for pictures in passes:
            if request is None:
                graph = _record(network, tuple(pictures.shape))
                model = _convert(graph, tuple(pictures.shape))
                met = {name: [] for name in quantised.sites(model)}
                request = _compile(quantised.showing_given(model), 1)
            request.infer([pictures.to(torch.float32).contiguous().numpy()])
            for index, limits in enumerate(met.values()):
                values = np.array(request.get_output_tensor(index).data)
                limits.append(quantised.limits_of(values))
    return {
        name: (min(low for low, _ in limits), max(high for _, high in limits))
        for name, limits in met.items()
    }


@contextmanager
def _refusing() -> Iterator[None]:
    """Have whatever goes wrong inside say that OpenVINO cannot run the network."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # whatever the network's code or either library raises
        reason = " ".join(str(error).split())[:300]
        kind = type(error).__name__
        raise ProviderError(f"OpenVINO cannot run the network: {kind}: {reason}") from error


def _record(network: nn.Module, shape: tuple[int, ...]) -> torch.fx.GraphModule:
    """Record the operators of a pass of ``shape``, without any that writes into its arguments."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad():
        pure = torch.func.functionalize(network, remove="mutations_and_views")
        # What is known of the network's own tensors are their values: they are constants.
        traced = make_fx(pure, tracing_mode="fake", _allow_non_fake_inputs=True)
        return traced(torch.zeros(shape))


def _convert(graph: torch.fx.GraphModule, shape: tuple[int, ...]) -> Any:
    """Return OpenVINO's graph of a recorded one, in float32."""
    _openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchFXPythonDecoder(graph)  # OpenVINO does not keep it alive
    model = frontend.convert(frontend.load(decoder))
    model.reshape(list(shape))
    quantised.fold(model)
    return model


def _compile(model: Any, threads: int) -> Any:
    """Return a request of OpenVINO that runs a graph."""
    openvino = _openvino()
    options = {
        # Of what is not int8.
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        # Scales that follow the values of a pass.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # It would make this thread's arithmetic another from then on.
        "CPU_DENORMALS_OPTIMIZATION": False,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Which processors it may use is the worker's affair.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    if compiled.get_property("INFERENCE_PRECISION_HINT") != openvino.Type.f32:
        raise ValueError("it does not keep to float32")
    return compiled.create_infer_request()


def check_likeness(converted: Tensor, eager: Tensor, precision: Format = "float32") -> None:
    """Make sure that a conversion is one: the logits of a pass are PyTorch's, but for rounding.

    In int8 this finds kernels that go wrong on this processor, as those whose sums saturate; what
    int8 costs is for :mod:`models.evaluation.pairs` to measure.

    Args:
        converted: [rows, labels].
        eager: [rows, labels], of the same pictures in float32.
        precision: what ``converted`` was computed in.

    Raises:
        ProviderError: they are others.
    """
    difference = converted - eager
    off, reach = difference.abs().max(), eager.abs().max()
    if precision == "int8":
        off, reach = difference.square().mean().sqrt(), eager.std()
    if not off <= TOLERANCE[precision] * reach:
        raise ProviderError(
            f"OpenVINO's logits in {precision} are off by {off:.3g} from PyTorch's, of up to "
            f"{eager.abs().max():.3g}: it does not run the network as it is"
        )
