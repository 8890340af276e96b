"""h run by OpenVINO on CPUs: converted from PyTorch, for each size of passes.

It is another h than PyTorch's, in the stated number format and no other: by default OpenVINO uses
bfloat16 if the processor has it.

The network is recorded on tensors without values, so Python that looks at a value is refused
instead of being recorded as if the value never changed. The record is a graph of PyTorch's own
operators, which OpenVINO's frontend converts one by one; an operator that it does not know is
refused. Recording needs PyTorch's compiler, whose import alone takes a second, so OpenVINO's graph
is kept on disk (:mod:`models.cache`), and runs as it is read from there the first time, too.
"""

import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import quantised
from models.cache import cache_path, make_room
from models.execution import Format, ProviderError
from models.files import write_whole
from models.networks.row_noise import RowNoise
from models.quantised import Ranges

# How much logits may differ from PyTorch's in float32: in float32 as a share of the largest
# (rounding stays below a hundredth of this, and a lower number format far above it), in the others
# by root mean square as a share of their standard deviation (the shipped models have 0.02 in int8
# and up to 0.011 in bfloat16, EfficientNet-Lite0 behind photo-denoiser 0.051).
TOLERANCE: dict[Format, float] = {"float32": 1e-3, "bfloat16": 0.2, "int8": 0.1}
# OpenVINO's hints for them. What is not int8 of an int8 graph is float32.
_HINTS: dict[Format, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
# Parts of oneDNN's names for instruction sets that have bfloat16.
_WITH_BFLOAT16 = ("BF16", "FP16", "AMX", "AVX10", "VNNI_2", "DEFAULT", "ALL")
# A model has passes of at most two sizes, and each is converted and kept.
SIZES = 2
# The bytes of all graphs that are kept.
MOST_KEPT = 2**28


def _openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports each import and conversion."""
    # Python then finds no such module, and OpenVINO uses an empty replacement.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


class Converted:
    """One network.

    Args:
        network: h in float32 on the CPU, in evaluation mode.
        threads: the number of threads that it may use.
        precision: its number format.
        ranges: for int8, the ranges of its layers' inputs (:mod:`models.quantised`).
        digest: of the files that the network comes from; without it nothing is kept on disk.
    """

    def __init__(
        self,
        network: nn.Module,
        threads: int = 1,
        precision: Format = "float32",
        ranges: Ranges | None = None,
        digest: str | None = None,
    ) -> None:
        self._network, self._threads, self._ranges = network, threads, ranges
        self._precision: Format = precision
        self._digest = digest
        # By rows, the one used last at the end; each with its source, whose memory OpenVINO may
        # share. A pass may be made in one thread while another converts.
        self._built: dict[int, tuple[Any, object]] = {}
        self._lock = threading.Lock()

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the logits of ``pictures`` [rows, …], float32, as a new tensor.

        A pass of another size than the last two sizes converts the network again.

        Raises:
            ProviderError: it cannot be converted.
        """
        request = self._request(tuple(pictures.shape))
        given = pictures.to(torch.float32).contiguous().numpy()
        # Given to infer itself, it would cost a tenth of a short pass to find out what it is.
        request.set_input_tensor(_openvino().Tensor(given, shared_memory=True))
        (logits,) = request.infer(share_outputs=True).values()
        return torch.from_numpy(np.array(logits))

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Convert the network for passes of ``shape``, if it is not yet.

        Raises:
            ProviderError: it cannot be converted.
        """
        self._request(shape)

    def _request(self, shape: tuple[int, ...]) -> Any:
        with self._lock:
            built = self._built.pop(shape[0], None)
            if built:
                self._built[shape[0]] = built
                return built[0]
        built = self._build(shape)
        with self._lock:
            self._built[shape[0]] = built
            while len(self._built) > SIZES:
                del self._built[next(iter(self._built))]
        return built[0]

    def _build(self, shape: tuple[int, ...]) -> tuple[Any, object]:
        kept = self._kept(shape)
        with _refusing():
            if self._precision == "bfloat16" and not has_bfloat16():
                raise ValueError("this processor has no bfloat16")
            if kept is not None and (found := _read(kept)):
                return self._compile(found[0]), found
            source = _record(self._network, shape)
            model = _convert(source, shape)
            if self._ranges is not None:
                quantised.quantise(model, self._ranges)
            if kept is not None and _write(model, kept) and (found := _read(kept)):
                return self._compile(found[0]), found
            return self._compile(model), source

    def _compile(self, model: Any) -> Any:
        return _compile(model, self._threads, self._precision)

    def _kept(self, shape: tuple[int, ...]) -> Path | None:
        """Return the file in which the graph for passes of ``shape`` is kept."""
        if self._digest is None:
            return None
        ranges = None if self._ranges is None else dict(self._ranges)
        return cache_path("graphs", self._digest, shape, ranges, _code())


def ranges_of(network: nn.Module, passes: Iterable[Tensor]) -> Ranges:
    """Return the range of the input of each layer of a network, for int8.

    Args:
        network: h in float32 on the CPU, in evaluation mode.
        passes: noisy pictures [rows, …], all of one shape.

    Raises:
        ProviderError: the network cannot be converted, or none of its layers multiplies by weights.
    """
    met: dict[str, list[tuple[float, float]]] = {}
    request: Any = None
    with _refusing():
        for pictures in passes:
            if request is None:
                graph = _record(network, tuple(pictures.shape))
                model = _convert(graph, tuple(pictures.shape))
                met = {name: [] for name in quantised.sites(model)}
                request = _compile(quantised.showing_given(model), 1, "float32")
            request.infer([pictures.to(torch.float32).contiguous().numpy()])
            for index, limits in enumerate(met.values()):
                values = np.array(request.get_output_tensor(index).data)
                limits.append(quantised.limits_of(values))
    return {
        name: (min(low for low, _ in limits), max(high for _, high in limits))
        for name, limits in met.items()
    }


@cache
def _code() -> str:
    """Return a digest of what makes a graph, apart from the versions of libraries."""
    files = Path(__file__), Path(quantised.__file__)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _write(model: Any, file: Path) -> bool:
    """Keep a graph; say whether that is possible, as the disk may be full or only for reading."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            graph, constants = Path(folder, "graph.xml"), Path(folder, "graph.bin")
            _openvino().serialize(model, graph, constants)
            parts = graph.read_bytes(), constants.read_bytes()
        content = len(parts[0]).to_bytes(8, "big") + b"".join(parts)
        write_whole(file, hashlib.sha256(content).digest() + content, 0o600)
        make_room(file.parent, MOST_KEPT)
    except (OSError, RuntimeError):
        return False
    return True


def _read(file: Path) -> tuple[Any, object] | None:
    """Return the graph that is kept in a file, and the memory of its constants.

    None if there is none, or it is damaged.
    """
    try:
        if file.stat().st_size > MOST_KEPT:
            return None
        kept = file.read_bytes()
        file.touch()  # it is in use
    except OSError:
        return None
    digest, content = kept[:32], kept[32:]
    if hashlib.sha256(content).digest() != digest:
        return None
    end = 8 + int.from_bytes(content[:8], "big")
    graph, constants = content[8:end], np.frombuffer(content[end:], np.uint8)
    return _openvino().Core().read_model(graph, _openvino().Tensor(constants)), constants


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn any error inside into one that says that OpenVINO cannot run the network."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # whatever the network's code or either library raises
        reason = " ".join(str(error).split())[:300]
        kind = type(error).__name__
        raise ProviderError(f"OpenVINO cannot run the network: {kind}: {reason}") from error


def _record(network: nn.Module, shape: tuple[int, ...]) -> torch.fx.GraphModule:
    """Record the operators of a pass of ``shape``, none of which writes into its arguments."""
    from torch.fx.experimental.proxy_tensor import make_fx

    if any(isinstance(module, RowNoise) for module in network.modules()):
        raise ValueError(
            "it draws noise from the bits of its own values, which OpenVINO rounds otherwise; run "
            "it by PyTorch"
        )
    with torch.no_grad():
        pure = torch.func.functionalize(network, remove="mutations_and_views")
        # The network's own tensors have values: they are constants.
        traced = make_fx(pure, tracing_mode="fake", _allow_non_fake_inputs=True)
        return traced(torch.zeros(shape))


def _convert(graph: torch.fx.GraphModule, shape: tuple[int, ...]) -> Any:
    """Return OpenVINO's graph for a recorded one, in float32."""
    _openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchFXPythonDecoder(graph)  # OpenVINO does not keep it alive
    model = frontend.convert(frontend.load(decoder))
    model.reshape(list(shape))
    quantised.fold(model)
    return model


@cache
def has_bfloat16() -> bool:
    """Whether the processor has it; without, OpenVINO would run the network in float32."""
    # oneDNN obeys this variable, of which the list of capabilities takes no notice.
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if not any(part in most for part in _WITH_BFLOAT16):
        return False
    return "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _compile(model: Any, threads: int, precision: Format) -> Any:
    """Return an OpenVINO request that runs a graph."""
    openvino = _openvino()
    hint = _HINTS[precision]
    options = {
        # The format of everything that is not int8.
        "INFERENCE_PRECISION_HINT": hint,
        "EXECUTION_MODE_HINT": "ACCURACY",
        # No scales that depend on the values of a pass.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # It would change this thread's arithmetic from then on.
        "CPU_DENORMALS_OPTIMIZATION": False,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # The worker decides which processors it may use.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    if compiled.get_property("INFERENCE_PRECISION_HINT") != getattr(openvino.Type, hint):
        raise ValueError(f"it does not keep to {hint}")
    return compiled.create_infer_request()


def check_likeness(converted: Tensor, eager: Tensor, precision: Format = "float32") -> None:
    """Check a conversion: the logits of a pass must be PyTorch's, except for rounding.

    In int8 and bfloat16 this finds kernels that are wrong on this processor, such as those whose
    sums saturate; :mod:`models.evaluation.pairs` measures what a number format costs.

    Args:
        converted: [rows, labels].
        eager: [rows, labels], of the same pictures in float32.
        precision: the number format of ``converted``.

    Raises:
        ProviderError: they differ by more.
    """
    difference = converted - eager
    off, reach = difference.abs().max(), eager.abs().max()
    if precision != "float32":
        off, reach = difference.square().mean().sqrt(), eager.std()
    if not off <= TOLERANCE[precision] * reach:
        raise ProviderError(
            f"OpenVINO's logits in {precision} are off by {off:.3g} from PyTorch's, of up to "
            f"{eager.abs().max():.3g}: it does not run the network as it is"
        )
