// The noise of a pass, drawn where h runs. models/cuda/tables.py says what the tables hold and proves
// the law. NVRTC compiles this file for the GPU at hand; the tests compile it for the processor.
//
// Each row of a pass has m coordinates. Coordinate i of all of them together (row i / m) is made of
// bits 64 i to 64 i + 63 of the keystream of ChaCha20 (RFC 8439, lower bytes first), with block counter
// 0 at the first coordinate and the pass's own nonce. A thread makes one block: eight coordinates.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define SUBSTEPS 4112

__device__ __forceinline__ u32 rotated(u32 x, int bits) { return (x << bits) | (x >> (32 - bits)); }

// RFC 8439, section 2.1.
#define QUARTER_ROUND(a, b, c, d) \
  a += b; d = rotated(d ^ a, 16); \
  c += d; b = rotated(b ^ c, 12); \
  a += b; d = rotated(d ^ a, 8);  \
  c += d; b = rotated(b ^ c, 7);

// RFC 8439, section 2.3: block `counter` of the keystream of a key, with the nonce (pass, 0).
__device__ __forceinline__ void block(const u32* key, u64 pass, u32 counter, u32* x) {
  const u32 start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574,
                         key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7],
                         counter, (u32)pass, (u32)(pass >> 32), 0};
#pragma unroll
  for (int i = 0; i < 16; i++) x[i] = start[i];
#pragma unroll
  for (int round = 0; round < 10; round++) {
    QUARTER_ROUND(x[0], x[4], x[8], x[12])
    QUARTER_ROUND(x[1], x[5], x[9], x[13])
    QUARTER_ROUND(x[2], x[6], x[10], x[14])
    QUARTER_ROUND(x[3], x[7], x[11], x[15])
    QUARTER_ROUND(x[0], x[5], x[10], x[15])
    QUARTER_ROUND(x[1], x[6], x[11], x[12])
    QUARTER_ROUND(x[2], x[7], x[8], x[13])
    QUARTER_ROUND(x[3], x[4], x[9], x[14])
  }
#pragma unroll
  for (int i = 0; i < 16; i++) x[i] += start[i];
}

// The noise, in steps, of a feature on the grid: the number of edges that are at most u, plus the
// lowest noise. first[c] is that number at the lower end of cell c.
__device__ __forceinline__ int on_grid(u64 u, const int* first, const u64* edges, int lowest) {
  const u32 cell = (u32)(u >> 48);
  int low = first[cell], high = first[cell + 1];
  while (low < high) {  // no turn in nearly all cells, one in most others
    const int middle = (low + high) >> 1;
    if (edges[middle] <= u) low = middle + 1; else high = middle;
  }
  return low + lowest;
}

// Whether the noise of u is at least `distance` substeps.
__device__ __forceinline__ bool reaches(u64 u, i64 distance, const i64* segments, int count, int bits) {
  const u64 t = distance < 0 ? (u64)-distance : (u64)distance;
  const u64 segment = t >> bits;
  u64 tail = 0;  // 2^64 P(noise > t)
  if (segment < (u64)count) {
    const i64* c = segments + 4 * segment;
    const i64 x = (i64)(t & ((1ull << bits) - 1));
    i64 p = c[3];
    p = c[2] + ((p * x) >> bits);
    p = c[1] + ((p * x) >> bits);
    tail = (u64)c[0] + (u64)((p * x) >> bits);
  }
  return distance < 0 ? u >= tail : ~u < tail;
}

__device__ __forceinline__ i64 floored(i64 substeps) {
  const i64 quotient = substeps / SUBSTEPS;
  return quotient - (substeps % SUBSTEPS < 0);
}

// z of a feature between grid points, in substeps: the cell of u leaves an interval of the noise, and
// mostly only one z; otherwise the thresholds of those that are left decide.
__device__ __forceinline__ int between(u64 u, int feature, const int* low, const int* high,
                                       const i64* segments, int count, int bits) {
  const u32 cell = (u32)(u >> 48);
  const i64 centred = (i64)feature + SUBSTEPS / 2;
  i64 least = floored(centred + low[cell]), most = floored(centred + high[cell]);
  while (least < most) {
    const i64 middle = (least + most + 1) >> 1;
    if (reaches(u, middle * SUBSTEPS - centred, segments, count, bits)) least = middle;
    else most = middle - 1;
  }
  return (int)least;
}

// float32 to bfloat16, to the nearest, ties to even; z is finite.
__device__ __forceinline__ u32 bfloat16(float value) {
  const u32 bits = __float_as_uint(value);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// rows[r] is the address of the features of row r: m bytes on the grid in steps, or, if its last bit is
// set, m int32 in substeps. out takes z as int32 (kind 0), or z times step as float32 (1) or bfloat16 (2).
// told takes the key and the number of the pass, as they were here.
extern "C" __global__ void draw(const u32* key, const u64* pass, const u64* rows, const int* first,
                                const u64* edges, int lowest, const int* low, const int* high,
                                const i64* segments, int count, int bits, u32 m, u64 coordinates,
                                float step, int kind, void* out, u32* told) {
  const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (8 * i >= coordinates) return;
  if (i == 0) {
    for (int j = 0; j < 8; j++) told[j] = key[j];
    told[8] = (u32)pass[0];
    told[9] = (u32)(pass[0] >> 32);
  }
  u32 x[16];
  block(key, pass[0], (u32)i, x);
  u64 row = 8 * i / m;
  u32 column = (u32)(8 * i - row * m);
  u64 address = rows[row];
  u32 made[8];
#pragma unroll
  for (int j = 0; j < 8; j++) {
    made[j] = 0;
    if (8 * i + j < coordinates) {
      const u64 u = (u64)x[2 * j] | ((u64)x[2 * j + 1] << 32);
      int z;
      if (address & 1)
        z = between(u, ((const int*)(address - 1))[column], low, high, segments, count, bits);
      else
        z = ((const unsigned char*)address)[column] + on_grid(u, first, edges, lowest);
      const float value = (float)z * step;
      made[j] = kind == 0 ? (u32)z : kind == 1 ? __float_as_uint(value) : bfloat16(value);
      if (++column == m && 8 * i + j + 1 < coordinates) {
        column = 0;
        address = rows[++row];
      }
    }
  }
  const int left = coordinates - 8 * i < 8 ? (int)(coordinates - 8 * i) : 8;
  if (kind == 2) {
    unsigned short* to = (unsigned short*)out + 8 * i;
    if (left == 8)
      *(uint4*)to = make_uint4(made[0] | made[1] << 16, made[2] | made[3] << 16,
                               made[4] | made[5] << 16, made[6] | made[7] << 16);
    else
      for (int j = 0; j < left; j++) to[j] = (unsigned short)made[j];
  } else {
    u32* to = (u32*)out + 8 * i;
    if (left == 8) {
      ((uint4*)to)[0] = make_uint4(made[0], made[1], made[2], made[3]);
      ((uint4*)to)[1] = make_uint4(made[4], made[5], made[6], made[7]);
    } else
      for (int j = 0; j < left; j++) to[j] = made[j];
  }
}

// Ends a pass: the next one has another nonce even if its key should not have arrived.
extern "C" __global__ void end_pass(u64* pass) {
  if (blockIdx.x == 0 && threadIdx.x == 0) pass[0] += 1;
}
