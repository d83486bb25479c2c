// What lies between the fused qkv product and attention, in one pass over the product; bound by reading and writing it.
// Bound by rope_write/cuda.py; the contract and its words are those of rope_write/__init__.py.
//
// A lane holds 16 bytes of either half of a head, which rotation turns into one another; neighbouring lanes hold the rest of
// the head. It keeps its token's angles while it goes over HEADS heads: queries, keys and values alike.
//
// Macros: ELEMENT, EXPONENT (bits of it in values of 8 bits; 0: pages hold ELEMENTs), HEAD_DIM, GROUP (query heads of a kv
// head), PAGE, NORMED (0 or 1).

#include "call.cuh"
#include "tensor_core.cuh"

namespace {

constexpr int D = HEAD_DIM, G = GROUP, PLACES = G + 2;  // of a kv head: its queries, its key, its value
constexpr int EACH = 8;                                 // values of a half that a lane holds
constexpr int USED = D / (2 * EACH);                    // lanes of a head
constexpr int LANES = USED <= 4 ? 4 : USED <= 8 ? 8 : 16;
constexpr int HEADS = 2;  // that a lane goes over
constexpr int THREADS = 128;
static_assert(D % 16 == 0 && USED <= LANES);

struct Half {  // a lane's values of one half of a head
  float x[EACH];

  __device__ __forceinline__ void unpack(uint4 words) {
    const Bits bits[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 two = both<ELEMENT>(bits[i]);
      x[2 * i] = two.x, x[2 * i + 1] = two.y;
    }
  }
  __device__ __forceinline__ uint4 packed() const {
    return {pack<ELEMENT>(x[0], x[1]), pack<ELEMENT>(x[2], x[3]), pack<ELEMENT>(x[4], x[5]), pack<ELEMENT>(x[6], x[7])};
  }
  __device__ __forceinline__ void read(const float* from) {
    *reinterpret_cast<float4*>(x) = *reinterpret_cast<const float4*>(from);
    *reinterpret_cast<float4*>(x + 4) = *reinterpret_cast<const float4*>(from + 4);
  }
};

// Two values to eight bits each, at most the largest that those hold.
__device__ __forceinline__ uint16_t narrow(float low, float high) {
  uint16_t two;
  if constexpr (EXPONENT == 5)
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(two) : "f"(high), "f"(low));
  else
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(two) : "f"(high), "f"(low));
  return two;
}

__device__ __forceinline__ uint4 read16(const ELEMENT* from) { return __ldg(reinterpret_cast<const uint4*>(from)); }

struct Arrays {
  const ELEMENT* qkv;      // [T, K, G + 2, D]
  const float *cos, *sin;  // [T, D/2]
  const int *page, *offset;
  const ELEMENT *query_norm, *key_norm;  // [D] or null
  const float* kv_scale;                 // [2, K] or null
  ELEMENT* q;                            // [T, K·G, D]
  char* pages;                           // [N, 2, K, page, D]
};

__global__ void __launch_bounds__(THREADS)
    rotate_and_write(const Arrays arrays, int tokens, int kv_heads, int num_pages, float eps) {
  int heads = kv_heads * PLACES, stretches = (heads + HEADS - 1) / HEADS;
  int item = (blockIdx.x * THREADS + threadIdx.x) / LANES, lane = threadIdx.x % LANES;
  int token = item / stretches, first = item % stretches * HEADS;
  bool live = token < tokens && lane < USED;
  if (token >= tokens) token = 0;
  int column = min(lane, USED - 1) * EACH;

  uint4 stored[HEADS][2];
  const ELEMENT* from = arrays.qkv + (int64_t(token) * heads + first) * D + column;
#pragma unroll
  for (int h = 0; h < HEADS; ++h)
    if (live && first + h < heads) stored[h][0] = read16(from + h * D), stored[h][1] = read16(from + h * D + D / 2);
  Half cos, sin;
  cos.read(arrays.cos + int64_t(token) * (D / 2) + column);
  sin.read(arrays.sin + int64_t(token) * (D / 2) + column);
  int page = arrays.page[token], offset = arrays.offset[token];

#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    int head = first + h, kv_head = head / PLACES, place = head % PLACES;
    bool mine = live && head < heads, is_value = place == G + 1;
    Half a, b;
    a.unpack(stored[h][0]), b.unpack(stored[h][1]);
    if (NORMED) {
      float squares = 0.f;
#pragma unroll
      for (int i = 0; i < EACH; ++i) squares += a.x[i] * a.x[i] + b.x[i] * b.x[i];
      if (!mine) squares = 0.f;
#pragma unroll
      for (int step = LANES / 2; step; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
      float scale = rsqrtf(squares / D + eps);
      const ELEMENT* norm = place == G ? arrays.key_norm : arrays.query_norm;
      Half gain_a, gain_b;
      gain_a.unpack(read16(norm + column)), gain_b.unpack(read16(norm + column + D / 2));
#pragma unroll
      for (int i = 0; i < EACH; ++i) a.x[i] *= scale, b.x[i] *= scale;
#pragma unroll
      for (int i = 0; i < EACH; ++i) a.x[i] *= gain_a.x[i], b.x[i] *= gain_b.x[i];
      a.unpack(a.packed()), b.unpack(b.packed());
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      float x = a.x[i], y = b.x[i];
      a.x[i] = x * cos.x[i] - y * sin.x[i];
      b.x[i] = y * cos.x[i] + x * sin.x[i];
    }
    uint4 done[2] = {a.packed(), b.packed()};
    if (is_value) done[0] = stored[h][0], done[1] = stored[h][1];
    if (!mine) continue;
    if (place < G) {
      ELEMENT* to = arrays.q + ((int64_t(token) * kv_heads + kv_head) * G + place) * D + column;
      *reinterpret_cast<uint4*>(to) = done[0];
      *reinterpret_cast<uint4*>(to + D / 2) = done[1];
    } else if (unsigned(page) < unsigned(num_pages)) {
      int64_t row = ((int64_t(page) * 2 + is_value) * kv_heads + kv_head) * PAGE + offset;
      if constexpr (EXPONENT == 0) {
        ELEMENT* to = reinterpret_cast<ELEMENT*>(arrays.pages) + row * D + column;
        *reinterpret_cast<uint4*>(to) = done[0];
        *reinterpret_cast<uint4*>(to + D / 2) = done[1];
      } else {
        float scale = arrays.kv_scale ? arrays.kv_scale[is_value * kv_heads + kv_head] : 1.f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          Half x;
          x.unpack(done[half]);
#pragma unroll
          for (int i = 0; i < EACH; ++i) x.x[i] = __fdiv_rn(x.x[i], scale);
          uint2 bytes = {narrow(x.x[0], x.x[1]) | Bits(narrow(x.x[2], x.x[3])) << 16,
                         narrow(x.x[4], x.x[5]) | Bits(narrow(x.x[6], x.x[7])) << 16};
          *reinterpret_cast<uint2*>(arrays.pages + row * D + column + half * (D / 2)) = bytes;
        }
      }
    }
  }
}

void run(const Call& call) {
  Arrays arrays = {};
  arrays.qkv = call.argument<ELEMENT>(0), arrays.cos = call.argument<float>(1), arrays.sin = call.argument<float>(2);
  arrays.page = call.argument<int>(4), arrays.offset = call.argument<int>(5);
  int given = 6;
  if (NORMED) arrays.query_norm = call.argument<ELEMENT>(given++), arrays.key_norm = call.argument<ELEMENT>(given++);
  if (given < call.arguments()) arrays.kv_scale = call.argument<float>(given);
  arrays.q = call.result<ELEMENT>(0), arrays.pages = call.result<char>(1);
  if (arrays.pages != call.argument<char>(3)) throw "rope_write: the pages are not written in place";
  int tokens = call.size(0, 0), kv_heads = call.size(0, 1);
  int64_t items = int64_t(tokens) * ((kv_heads * PLACES + HEADS - 1) / HEADS);
  launch(rotate_and_write, dim3((items * LANES + THREADS - 1) / THREADS), THREADS, 0, call.stream, false, 1, arrays, tokens,
         kv_heads, int(call.size(3, 0)), call.attribute<float>("eps"));
}

}  // namespace

HANDLER(rope_write, run)
