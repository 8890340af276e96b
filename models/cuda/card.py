"""What passes need of a GPU: memory, a stream, graphs, and the noise kernel.

The tests have a card that does the same on the processor, so this module holds nothing else.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, NamedTuple, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device import DeviceError, DeviceLostError
from models.memory import is_out_of_memory

_THREADS = 256
# A thread of the kernel makes so many coordinates.
COORDINATES = 8
# In which form the kernel writes what it draws.
KINDS: dict[torch.dtype, int] = {torch.int32: 0, torch.float32: 1, torch.bfloat16: 2}


class Drawing(NamedTuple):
    """The arguments of the noise kernel, as noise.cu has them; addresses are integers."""

    key: int
    number: int
    rows: int
    first: int
    edges: int
    lowest: int
    low: int
    high: int
    segments: int
    length: int
    bits: int
    width: int
    coordinates: int
    step: float
    kind: int
    out: int
    told: int


# The types of the arguments.
TYPES = (
    *(ctypes.c_void_p,) * 5,
    ctypes.c_int,
    *(ctypes.c_void_p,) * 3,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_uint32,
    ctypes.c_uint64,
    ctypes.c_float,
    ctypes.c_int,
    *(ctypes.c_void_p,) * 2,
)


class Event(Protocol):
    """A place in a stream."""

    def record(self) -> None:
        """Be here, after everything that was enqueued before."""

    def query(self) -> bool:
        """Say whether the stream has come here."""

    def synchronize(self) -> None:
        """Wait until it has."""


class Card:
    """A GPU. Everything that is enqueued through it runs in one stream, in order.

    Args:
        name: the device, as PyTorch names it.

    Raises:
        DeviceError: its driver or NVRTC do not work.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        use_exact_formats()
        with failures(name):
            # Without a number PyTorch takes the current device, which may change.
            self.index = torch.device(name).index or 0
            self._stream = torch.cuda.Stream(self.index)  # type: ignore[no-untyped-call]
            self._draw, self._end = _load_kernels(self.index)

    @contextmanager
    def current(self, after_caller: bool = False) -> Iterator[None]:
        """Enqueue what is computed inside into the card's stream.

        With ``after_caller`` it comes after what the caller has enqueued in PyTorch's own stream.
        """
        with failures(self.name), torch.cuda.device(self.index):
            if after_caller:
                self._stream.wait_stream(torch.cuda.default_stream(self.index))
            with torch.cuda.stream(self._stream):
                yield

    def wait(self) -> None:
        """Wait for everything that was enqueued."""
        with failures(self.name):
            self._stream.synchronize()

    def send(self, values: NDArray[Any]) -> Tensor:
        """Return a copy on the card; nobody waits for it."""
        return torch.from_numpy(values).pin_memory().to(self.name, non_blocking=True)

    def pinned(self, size: int) -> Tensor:
        """Return memory of this machine, [size] uint8, from and to which copies do not wait."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def event(self) -> Event:
        """Return an event on which waiting leaves the processor to others."""
        event: Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        return event

    def draw(self, drawing: Drawing) -> None:
        """Enqueue the noise kernel."""
        threads = -(-drawing.coordinates // COORDINATES)
        self._launch(self._draw, -(-threads // _THREADS), drawing, TYPES)

    def end_pass(self, number: int) -> None:
        """Enqueue the end of a pass, whose number is at the address ``number``."""
        self._launch(self._end, 1, (number,), (ctypes.c_void_p,))

    def _launch(
        self, function: Any, blocks: int, values: tuple[Any, ...], types: tuple[Any, ...]
    ) -> None:
        from cuda.bindings import driver

        stream = torch.cuda.current_stream(self.index).cuda_stream
        shape = blocks, 1, 1, _THREADS, 1, 1
        _take(driver.cuLaunchKernel(function, *shape, 0, stream, (tuple(values), types), 0))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a graph of ``work``; calling it enqueues all of it in one launch.

        The algorithms and the memory that ``work`` uses are those of the capture, for ever. The
        memory is the graph's own, and free again when the graph is gone. ``work`` runs a few times
        before, so that libraries are set up.

        Raises:
            Exception: whatever ``work`` raises; a RuntimeError if it cannot be captured.
        """
        for _ in range(3):
            work()
        graph, raised = torch.cuda.CUDAGraph(), None
        capturing = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        try:
            with capturing:
                try:
                    check_formats()
                    work()
                except Exception as error:
                    raised = error
                    raise
        except Exception as error:
            # Ending a failed capture fails as well, with less to say.
            raise (raised or error) from None
        return graph.replay

    def memory(self) -> tuple[int, int]:
        """Return the bytes in use on the whole GPU, and all there are."""
        with failures(self.name):
            free, total = torch.cuda.mem_get_info(self.index)
        return total - free, total

    def free(self) -> None:
        """Give back what PyTorch keeps for later."""
        with failures(self.name):
            torch.cuda.empty_cache()


def use_exact_formats() -> None:
    """Compute float32 in float32 from now on: TF32 has 10 bits of it."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # A search for the fastest algorithm may find another one each time.
    torch.backends.cudnn.benchmark = False


def check_formats() -> None:
    """Check that nothing has changed what :func:`use_exact_formats` has set.

    Raises:
        RuntimeError: a network's own code has.
    """
    if torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32:
        raise RuntimeError(
            "TF32 was allowed since the start, so float32 would not be float32: remove "
            "allow_tf32 and set_float32_matmul_precision from the network's code"
        )
    if torch.backends.cudnn.benchmark:
        raise RuntimeError(
            "cuDNN was told to search for algorithms: remove cudnn.benchmark from the network's "
            "code"
        )


@contextmanager
def failures(name: str) -> Iterator[None]:
    """Raise DeviceLostError for errors after which nothing runs in this process on the card."""
    try:
        yield
    except torch.AcceleratorError as error:
        if is_out_of_memory(error):
            raise
        raise DeviceLostError(f"{name}: {str(error).strip().partition(chr(10))[0]}") from error


def compile_kernels(architecture: str) -> bytes:
    """Compile noise.cu for an architecture, such as ``sm_90``, by NVRTC.

    Raises:
        DeviceError: NVRTC is missing, or refuses.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise DeviceError(
            f"cuda.bindings is missing ({error}): install PyTorch's build for CUDA with all that "
            "it requires"
        ) from error
    source = (files("models.cuda") / "noise.cu").read_bytes()
    program = _take(nvrtc.nvrtcCreateProgram(source, b"noise.cu", 0, [], []))
    options = [b"--gpu-architecture=" + architecture.encode(), b"--fmad=false"]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if result:
        log = bytearray(_take(nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        said = bytes(log).strip(b"\0\n ").decode(errors="replace")
        raise DeviceError(f"NVRTC cannot compile the noise kernel for {architecture}: {said}")
    code = bytearray(_take(nvrtc.nvrtcGetCUBINSize(program)))
    _take(nvrtc.nvrtcGetCUBIN(program, code))
    _take(nvrtc.nvrtcDestroyProgram(program))
    return bytes(code)


def _load_kernels(index: int) -> tuple[Any, Any]:
    from cuda.bindings import driver

    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # so that PyTorch's context is current
        major, minor = torch.cuda.get_device_capability()
        module = _take(driver.cuModuleLoadData(compile_kernels(f"sm_{major}{minor}")))
    draw, end = (driver.cuModuleGetFunction(module, name) for name in (b"draw", b"end_pass"))
    return _take(draw), _take(end)


def _take(result: tuple[Any, ...]) -> Any:
    """Return what a call of CUDA's bindings returned beside its status.

    Raises:
        DeviceError: it failed.
    """
    status, *rest = result
    if status:
        raise DeviceError(f"CUDA says {getattr(status, 'name', status)}")
    return rest[0] if rest else None
