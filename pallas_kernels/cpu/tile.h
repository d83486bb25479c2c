// Tiles of sums: rows of floats against rows of a panel, and a panel's rows added up by weights.
//
// Used by the products and by attention. A tile has SUMS accumulators in registers; which tile computes an element
// changes nothing about its value.
#pragma once

#include <algorithm>

#include "vector.h"

namespace kernels {

// An array of float32 or bfloat16, or none.
struct Elements {
  void* data = nullptr;
  bool half = false;

  float* floats() const { return static_cast<float*>(data); }
  Half* halves() const { return static_cast<Half*>(data); }
  float at(int64_t i) const { return half ? widened(halves()[i]) : floats()[i]; }
};

inline void widen(Elements from, int64_t at, int64_t n, float* to) {
  if (from.half)
    for (int64_t i = 0; i < n; i++) to[i] = widened(from.halves()[at + i]);
  else
    memcpy(to, from.floats() + at, 4 * n);
}

inline void narrow(const float* from, int64_t n, Elements to, int64_t at) {
  if (to.half)
    for (int64_t i = 0; i < n; i++) to.halves()[at + i] = narrowed<Half>(from[i]);
  else
    memcpy(to.floats() + at, from, 4 * n);
}

// Rows of floats, `stride` apart, that a tile may read: in memory as they lie, or copied. By default none.
struct Panel {
  const float* at = nullptr;
  int64_t stride = 0;
};

constexpr int64_t PANEL_FLOATS = SUMS * 512;  // half of a first cache of 64 KB with registers of 16 floats

// Rows of a panel of `depth` inputs: whole tiles, as many as PANEL_FLOATS holds.
inline int64_t panel_rows(int64_t depth) { return std::max<int64_t>(1, PANEL_FLOATS / (SUMS * depth)) * SUMS; }

// Rows [first, first + rows) of an array [, width], inputs [k, k + depth). What tiles cannot read as it lies is copied
// to `room`, with zeros up to whole vectors and whole tiles.
inline Panel read(Elements from, int64_t first, int64_t rows, int64_t width, int64_t k, int64_t depth, float* room) {
  if (!from.half && depth % LANES == 0 && rows % SUMS == 0) return {from.floats() + first * width + k, width};
  const int64_t padded = rounded_up(depth, LANES);
  for (int64_t r = 0; r < rounded_up(rows, SUMS); r++) {
    float* const to = room + r * padded;
    if (r < rows) widen(from, (first + r) * width + k, depth, to);
    std::fill(to + (r < rows ? depth : 0), to + padded, 0.f);
  }
  return {room, padded};
}

// sums[m, n] = (or +=, when `add`) the product of left's row m and the panel's row n, for M rows and SUMS / M of them.
template <int M>
inline void dot_tile(const float* left, int64_t stride, Panel right, int64_t depth, bool add, float* sums, int64_t to) {
  constexpr int N = SUMS / M;
  Vector sum[SUMS] = {};
  for (int64_t k = 0; k < depth; k += LANES) {
    Vector column[N];
    for (int n = 0; n < N; n++) column[n] = load(right.at + n * right.stride + k);
    for (int m = 0; m < M; m++) {
      const Vector row = load(left + m * stride + k);
      for (int n = 0; n < N; n++) sum[m * N + n] += row * column[n];
    }
  }
  float done[SUMS];
  for (int i = 0; i < SUMS; i += LANES) store(done + i, fold(sum + i));
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) {
      float& s = sums[m * to + n];
      s = add ? s + done[m * N + n] : done[m * N + n];
    }
}

// All of left [rows, depth] against all of the panel [columns, depth]; columns: a multiple of SUMS, depth one of LANES.
// `next`, where there is one, is a panel of the same size that comes afterwards: it is fetched meanwhile, a bit a tile.
inline void multiply(const float* left, int64_t stride, int64_t rows, Panel right, int64_t columns, int64_t depth,
                     bool add, float* sums, int64_t to, Panel next = {}) {
  const int64_t bands = std::max<int64_t>(1, rows / 4);
  int64_t fetched = 0;
  const auto tiles = [&](auto tile, int64_t m, int64_t wide) {
    for (int64_t n = 0; n < columns; n += wide) {
      const int64_t due = next.at ? (m / 4 * columns + n + wide) * depth / bands : 0;
      for (; fetched < due; fetched += 16)  // floats of a cache line
        __builtin_prefetch(next.at + fetched / depth * next.stride + fetched % depth, 0, 2);
      const Panel some{right.at + n * right.stride, right.stride};
      tile(left + m * stride, stride, some, depth, add, sums + m * to + n, to);
    }
  };
  int64_t m = 0;
  for (; m + 4 <= rows; m += 4) tiles(dot_tile<4>, m, SUMS / 4);
  for (; m + 2 <= rows; m += 2) tiles(dot_tile<2>, m, SUMS / 2);
  for (; m < rows; m++) tiles(dot_tile<1>, m, SUMS);
}

// acc[m] += Σ_j weights[m, j] · the panel's row j, for M rows and N vectors of them.
template <int M, int N>
inline void weighted_tile(float* acc, int64_t stride, const float* weights, int64_t from, Panel rows, int64_t count) {
  Vector sum[M * N];
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) sum[m * N + n] = load(acc + m * stride + n * LANES);
  for (int64_t j = 0; j < count; j++) {
    Vector value[N];
    for (int n = 0; n < N; n++) value[n] = load(rows.at + j * rows.stride + n * LANES);
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) sum[m * N + n] += weights[m * from + j] * value[n];
  }
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) store(acc + m * stride + n * LANES, sum[m * N + n]);
}

// The same for all of acc [height, width]; width: a multiple of LANES. Rows are added one after the other.
inline void add_weighted(float* acc, int64_t height, int64_t width, const float* weights, int64_t from, Panel rows,
                         int64_t count) {
  const auto tiles = [&](auto wide, auto narrow, int64_t m) {
    int64_t n = 0;
    const auto at = [&](auto tile) {
      tile(acc + m * width + n, width, weights + m * from, from, Panel{rows.at + n, rows.stride}, count);
    };
    for (; n + SUMS / 4 * LANES <= width; n += SUMS / 4 * LANES) at(wide);
    for (; n < width; n += LANES) at(narrow);
  };
  int64_t m = 0;
  for (; m + 4 <= height; m += 4) tiles(weighted_tile<4, SUMS / 4>, weighted_tile<4, 1>, m);
  for (; m + 2 <= height; m += 2) tiles(weighted_tile<2, SUMS / 4>, weighted_tile<2, 1>, m);
  for (; m < height; m++) tiles(weighted_tile<1, SUMS / 4>, weighted_tile<1, 1>, m);
}

}  // namespace kernels
