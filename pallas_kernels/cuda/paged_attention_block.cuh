// One warp's part of paged_attention_decode.cu: a block of keys and values in shared memory folded into the softmax of up to
// 16 queries, and softmaxes of several warps or chunks put together. Macros: see there.
#pragma once

#include "tensor_core.cuh"

namespace {

constexpr int KEYS = 16, D = HEAD_DIM, G = GROUP, LANES = TOKENS * G;
constexpr int THREADS = WARPS * 32;
constexpr bool NARROW = EXPONENT > 0;
constexpr int ROW = D * (NARROW ? 1 : 2);   // bytes of a key
constexpr int PIECES = ROW / 16;            // that are copied at once
constexpr int PITCH = (PIECES | 1) * 16;    // an odd number of pieces, so that eight rows lie in different banks
constexpr int BLOCK = KEYS * PITCH;         // bytes of a block of keys, or of values, in shared memory
constexpr int COPIES = KEYS * PIECES / 32;  // that a lane makes of one
constexpr bool SECOND_HALF = LANES > 8;     // whether rows 8 to 15 of a product are queries
constexpr int HALVES = SECOND_HALF ? 2 : 1;
constexpr float NOTHING = -1e30f;           // a maximum before any key was seen
constexpr float LOG2E = 1.4426950408889634f;
static_assert(PAGE % KEYS == 0 && D % (NARROW ? 32 : 16) == 0 && LANES <= 16);

// What one warp knows of the softmax of its segment. Lane l holds queries l/4 and l/4+8.
struct Softmax {
  float acc[D / 8][4];
  float top[2], total[2];
};

// A query is read as the products want it: of columns in the order in which keys come out of shared memory.
__device__ __forceinline__ void read_query(Bits& first, Bits& second, const ELEMENT* row, int k, int lane) {
  if constexpr (NARROW) {
    uint2 four = *reinterpret_cast<const uint2*>(row + k * 16 + lane % 4 * 4);
    first = __byte_perm(four.x, four.y, 0x5410);
    second = __byte_perm(four.x, four.y, 0x7632);
  } else {
    first = *reinterpret_cast<const Bits*>(row + k * 16 + lane % 4 * 2);
    second = *reinterpret_cast<const Bits*>(row + k * 16 + lane % 4 * 2 + 8);
  }
}

struct Factors {  // of a kv head's scores
  float inner, outer;  // score · inner is what tanh takes, if there is a softcap; score or tanh · outer is in units of log2
};

// Folds one block in shared memory into the softmax; low, high: the keys that queries l/4 and l/4+8 see, if `part`.
__device__ __forceinline__ void attend_block(Softmax& softmax, const Bits (&q)[D / 16][4], uint32_t keys, bool part,
                                             const int (&low)[2], const int (&high)[2], Factors factors, int lane) {
  uint32_t values = keys + BLOCK;
  float scores[2][4] = {};  // of keys 0 to 7, 8 to 15
  if constexpr (NARROW) {
    uint32_t at = keys + lane % 16 * PITCH + (lane & 16);
#pragma unroll
    for (int k = 0; k < D / 16; k += 2) {
      Bits four[4];  // 16 columns of both halves of the keys, and the next 16
      load_tiles(four, at + k * 16);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Bits even, odd;
        widen<ELEMENT, NARROW ? EXPONENT : 4>(four[i], even, odd);
        multiply_add<ELEMENT>(scores[i % 2], q[k + i / 2], even, odd);
      }
    }
  } else {
    // K as it lies is the transposed operand: (keys 0-7, 8 columns), (keys 0-7, next 8), (keys 8-15, ..), (.., next 8)
    uint32_t at = keys + ((lane & 16) / 2 + lane % 8) * PITCH + (lane & 8) * 2;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      Bits b[4];
      load_tiles(b, at + k * 32);
      multiply_add<ELEMENT>(scores[0], q[k], b[0], b[1]);
      multiply_add<ELEMENT>(scores[1], q[k], b[2], b[3]);
    }
  }
  if (factors.inner != 0.f) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 2 * HALVES; ++i)  // tanh
        scores[n][i] = 1.f - __fdividef(2.f, exp2_fast(fminf(scores[n][i] * factors.inner, 120.f)) + 1.f);
  }
  Bits weights[4] = {};
  bool higher = false;
  float tops[2];
#pragma unroll
  for (int h = 0; h < HALVES; ++h) {
    if (part) {
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          int key = n * 8 + lane % 4 * 2 + i;
          if (key < low[h] || key >= high[h]) scores[n][2 * h + i] = -INFINITY;
        }
    }
    float most = fmaxf(fmaxf(scores[0][2 * h], scores[0][2 * h + 1]), fmaxf(scores[1][2 * h], scores[1][2 * h + 1]));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    tops[h] = fmaxf(softmax.top[h], most * factors.outer);
    higher |= tops[h] > softmax.top[h];
  }
  if (__any_sync(~0u, higher)) {
#pragma unroll
    for (int h = 0; h < HALVES; ++h) {
      float old = exp2_fast(softmax.top[h] - tops[h]);
      softmax.top[h] = tops[h];
      softmax.total[h] *= old;
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        softmax.acc[j][2 * h] *= old;
        softmax.acc[j][2 * h + 1] *= old;
      }
    }
  }
#pragma unroll
  for (int h = 0; h < HALVES; ++h) {
    float w[2][2];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) w[n][i] = exp2_fast(fmaf(scores[n][2 * h + i], factors.outer, -softmax.top[h]));
    softmax.total[h] += (w[0][0] + w[0][1]) + (w[1][0] + w[1][1]);
    weights[h] = pack<ELEMENT>(w[0][0], w[0][1]);
    weights[2 + h] = pack<ELEMENT>(w[1][0], w[1][1]);
  }
  // Both halves of the keys by a piece of columns, and by the next piece, each transposed.
  uint32_t at = values + lane % 16 * PITCH + (lane & 16);
#pragma unroll
  for (int j = 0; j < PIECES; j += 2) {
    Bits b[4];
    load_tiles_transposed(b, at + j * 16);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (NARROW) {  // 16 columns: the even ones and the odd ones
        Bits even[2], odd[2];
        widen<ELEMENT, NARROW ? EXPONENT : 4>(b[2 * i], even[0], odd[0]);
        widen<ELEMENT, NARROW ? EXPONENT : 4>(b[2 * i + 1], even[1], odd[1]);
        multiply_add<ELEMENT>(softmax.acc[2 * (j + i)], weights, even[0], even[1]);
        multiply_add<ELEMENT>(softmax.acc[2 * (j + i) + 1], weights, odd[0], odd[1]);
      } else {
        multiply_add<ELEMENT>(softmax.acc[j + i], weights, b[2 * i], b[2 * i + 1]);
      }
    }
  }
}

struct Sums {  // of a warp; in the place of its ring
  float acc[LANES][D + 8];
};

constexpr int RING = STAGES * 2 * BLOCK > sizeof(Sums) ? STAGES * 2 * BLOCK : sizeof(Sums);  // bytes, of a warp

struct Weight {  // of a query: maximum, and sum of exponentials
  float top, total;
};

__device__ __forceinline__ void leave(const Softmax& softmax, Sums& sums, Weight (&weights)[LANES], int lane) {
#pragma unroll
  for (int h = 0; h < HALVES; ++h) {
    int m = lane / 4 + 8 * h;
    float total = softmax.total[h];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    if (m >= LANES) continue;
    weights[m] = {softmax.top[h], total};
    if constexpr (NARROW) {
#pragma unroll
      for (int j = 0; j < D / 8; j += 2)
        *reinterpret_cast<float4*>(&sums.acc[m][j * 8 + lane % 4 * 4]) =
            make_float4(softmax.acc[j][2 * h], softmax.acc[j + 1][2 * h], softmax.acc[j][2 * h + 1],
                        softmax.acc[j + 1][2 * h + 1]);
    } else {
#pragma unroll
      for (int j = 0; j < D / 8; ++j)
        *reinterpret_cast<float2*>(&sums.acc[m][j * 8 + lane % 4 * 2]) =
            make_float2(softmax.acc[j][2 * h], softmax.acc[j][2 * h + 1]);
    }
  }
}

// Four values of query m and its weight from `n` parts. weight(i) → Weight, acc(i) → where the four lie.
template <typename WeightOf, typename Acc>
__device__ __forceinline__ float4 put_together(Weight& whole, int n, WeightOf weight, Acc acc) {
  whole = {NOTHING, 0.f};
  float4 sum = {};
#pragma unroll 4
  for (int i = 0; i < n; ++i) whole.top = fmaxf(whole.top, weight(i).top);
#pragma unroll 4
  for (int i = 0; i < n; ++i) {
    Weight w = weight(i);
    float share = exp2_fast(w.top - whole.top);
    float4 x = *acc(i);
    whole.total += share * w.total;
    sum.x += share * x.x, sum.y += share * x.y, sum.z += share * x.z, sum.w += share * x.w;
  }
  return sum;
}

}  // namespace
