"""The noise kernel as the processor runs it: the same source, compiled by g++."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.cuda.tables import Tables
from models.noise import Features

SOURCE = Path(__file__).parents[3] / "models" / "cuda" / "noise.cu"
# What CUDA has and C++ has not.
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
extern "C" void run(const u32* key, u64* pass, const u64* rows, const int* first,
                    const u64* edges, int lowest, const int* low, const int* high,
                    const i64* segments, int count, int bits, u32 m, u64 coordinates,
                    float step, int kind, void* out, u32* told) {
  blockDim.x = 128;
  for (u64 i = 0; 8 * i < coordinates + 8 * 300; i++) {  // some threads have nothing to do
    blockIdx.x = i / 128; threadIdx.x = i % 128;
    draw(key, pass, rows, first, edges, lowest, low, high, segments, count, bits, m, coordinates,
         step, kind, out, told);
  }
  for (u32 block = 0; block < 2; block++)
    for (u32 thread = 0; thread < 2; thread++) {
      blockIdx.x = block; threadIdx.x = thread; end_pass(pass);
    }
}
"""
INT32, FLOAT32, BFLOAT16 = 0, 1, 2
_TYPES = {INT32: np.int32, FLOAT32: np.float32, BFLOAT16: np.uint16}


def build(folder: Path) -> ctypes.CDLL:
    """Compile the kernel's source, unchanged."""
    source, library = folder / "noise.cpp", folder / "noise.so"
    source.write_text(SHIM + SOURCE.read_text() + DRIVER)
    # Threads write through pointers of several types, as CUDA allows.
    command = ["g++", "-O2", "-Wall", "-Wno-unknown-pragmas", "-Werror", "-fno-strict-aliasing"]
    command += ["-shared", "-fPIC", "-Wl,-Bsymbolic", str(source), "-o", str(library)]
    subprocess.run(command, check=True, timeout=300)
    return ctypes.CDLL(str(library))


class Host:
    """Runs the kernel on the processor."""

    def __init__(
        self,
        library: ctypes.CDLL,
        tables: Tables,
        low: NDArray[np.int32],
        high: NDArray[np.int32],
        step: float,
    ) -> None:
        self._library, self._tables, self._ends, self._step = library, tables, (low, high), step
        self.number = np.zeros(1, np.uint64)
        self.told = np.zeros(10, np.uint32)

    def draw(
        self, pictures: list[Features], rows: NDArray[np.intp], key: bytes, kind: int = INT32
    ) -> NDArray[np.generic]:
        """Draw a pass, [rows, m]."""
        held = [one.steps.astype(np.uint8) if one.on_grid else one.steps for one in pictures]
        at = [
            one.ctypes.data + (not kept.on_grid) for one, kept in zip(held, pictures, strict=True)
        ]
        addresses = np.array([at[row] for row in rows], np.uint64)
        width = len(pictures[0].steps)
        out = np.zeros((len(rows), width), _TYPES[kind])
        tables = self._tables
        pointer = lambda array: ctypes.c_void_p(array.ctypes.data)  # noqa: E731
        self._library.run(
            pointer(np.frombuffer(key, np.uint32)),
            pointer(self.number),
            pointer(addresses),
            pointer(tables.first),
            pointer(tables.edges),
            tables.lowest,
            *(pointer(one) for one in self._ends),
            pointer(tables.segments),
            len(tables.segments),
            tables.bits,
            ctypes.c_uint32(width),
            ctypes.c_uint64(out.size),
            ctypes.c_float(self._step),
            kind,
            pointer(out),
            pointer(self.told),
        )
        return out
