"""The noise kernel on the processor: the same source, compiled by g++."""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from models.cuda.card import TYPES, Drawing, failures

SOURCE = Path(__file__).parents[3] / "models" / "cuda" / "noise.cu"
# What CUDA has and C++ lacks.
SHIM = """
#include <cstring>
#define __device__
#define __global__
#define __forceinline__ inline
struct Index { unsigned x; };
static Index blockIdx, blockDim, threadIdx;
struct uint4 { unsigned x, y, z, w; };
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static unsigned __float_as_uint(float value) {
  unsigned bits; std::memcpy(&bits, &value, 4); return bits;
}
"""
DRIVER = """
extern "C" void run_draw(const u32* key, u64* pass, const u64* rows, const int* first,
                    const u64* edges, int lowest, const int* low, const int* high,
                    const i64* segments, int count, int bits, u32 m, u64 coordinates,
                    float step, int kind, void* out, u32* told) {
  blockDim.x = 128;
  for (u64 i = 0; 8 * i < coordinates + 8 * 300; i++) {  // some threads have nothing to do
    blockIdx.x = i / 128; threadIdx.x = i % 128;
    draw(key, pass, rows, first, edges, lowest, low, high, segments, count, bits, m, coordinates,
         step, kind, out, told);
  }
}
extern "C" void run_end(u64* pass) {
  for (u32 block = 0; block < 2; block++)
    for (u32 thread = 0; thread < 2; thread++) {
      blockIdx.x = block; threadIdx.x = thread; end_pass(pass);
    }
}
"""


@cache
def library() -> ctypes.CDLL:
    """Compile the kernel's source, unchanged, once."""
    folder = Path(tempfile.mkdtemp())
    source, built = folder / "noise.cpp", folder / "noise.so"
    source.write_text(SHIM + SOURCE.read_text() + DRIVER)
    # Threads write through pointers of several types, as CUDA allows.
    compiler = next(filter(shutil.which, ("g++", "clang++", "c++")))
    command = [compiler, "-O2", "-Wall", "-Wno-unknown-pragmas", "-Werror", "-fno-strict-aliasing"]
    command += ["-shared", "-fPIC", "-Wl,-Bsymbolic", str(source), "-o", str(built)]
    subprocess.run(command, check=True, timeout=300)
    found = ctypes.CDLL(str(built))
    shutil.rmtree(folder)
    found.run_draw.argtypes = TYPES
    found.run_end.argtypes = [ctypes.c_void_p]
    return found


class HostEvent:
    """An event of a stream in which everything is done at once."""

    def __init__(self, card: "HostCard") -> None:
        self.card = card

    def record(self) -> None:
        self.card.did.append("event")

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.card.waits += 1
        if self.card.sick:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


class HostCard:
    """The processor in place of a GPU: the kernel's own source, and h without a graph.

    It counts what it is asked for. ``room`` is the largest pass for which h has memory.
    """

    def __init__(self) -> None:
        self.name = "cpu"
        self.did: list[str] = []
        self.waits, self.sick, self.room = 0, False, 10**9
        self.graphs = self.refuses = 0
        self.loses_copies = False

    @contextmanager
    def current(self, after_caller: bool = False) -> Iterator[None]:
        with failures(self.name):
            yield

    def wait(self) -> None:
        self.waits += 1

    def send(self, values: NDArray[Any]) -> torch.Tensor:
        self.did.append("send")
        return torch.from_numpy(values.copy())

    def pinned(self, size: int) -> torch.Tensor:
        self.did.append("pinned")
        return torch.empty(size, dtype=torch.uint8)

    def event(self) -> HostEvent:
        return HostEvent(self)

    def draw(self, drawing: Drawing) -> None:
        self.did.append("draw")
        library().run_draw(*drawing)

    def end_pass(self, number: int) -> None:
        library().run_end(number)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        for _ in range(3):
            work()
        self.graphs += 1

        def replay() -> None:
            self.did.append("graph")
            work()

        return replay

    def memory(self) -> tuple[int, int]:
        return 1, 2

    def free(self) -> None:
        self.did.append("free")
