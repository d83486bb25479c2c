// Heads normalised and rotated, keys and values written into their pages: the op rope_write.
#pragma once

#include "share.h"
#include "tile.h"

namespace kernels {

struct RopeWrite {
  static constexpr int64_t TOKENS = 64;  // of an item

  Elements qkv, queries, pages;           // [T, K, G + 2, D], [T, K, G, D], [N, 2, K, page, D]
  const float *cos, *sin;                 // [T, D / 2]
  const float *query_norm, *key_norm;     // [D] or none
  const int32_t *page, *offset;           // [T]
  int64_t T, K, G, D, N, page_size;
  float eps;

  void operator()(int64_t item) {
    float* const head = scratch(rounded_up(D, LANES));
    std::fill(head + D / LANES * LANES, head + rounded_up(D, LANES), 0.f);
    for (int64_t t = item * TOKENS; t < std::min(T, (item + 1) * TOKENS); t++) {
      const bool written = page[t] >= 0 && page[t] < N;
      for (int64_t k = 0; k < K; k++)
        for (int64_t i = 0; i < G + 2; i++) {
          if (i >= G && !written) break;
          widen(qkv, ((t * K + k) * (G + 2) + i) * D, D, head);
          if (i <= G) {
            if (query_norm) normalise(head, i < G ? query_norm : key_norm);
            rotate(head, cos + t * (D / 2), sin + t * (D / 2));
          }
          const int64_t plane = i <= G ? k : K + k;
          if (i < G)
            narrow(head, D, queries, ((t * K + k) * G + i) * D);
          else
            narrow(head, D, pages, ((page[t] * 2 * K + plane) * page_size + offset[t]) * D);
        }
    }
  }

 private:
  void normalise(float* __restrict head, const float* __restrict weight) const {
    Vector squares{};
    for (int64_t d = 0; d < D; d += LANES) squares += load(head + d) * load(head + d);  // behind D lie zeros
    const float scale = 1.f / std::sqrt(total(squares) / float(D) + eps);
    for (int64_t d = 0; d < D; d++) head[d] = head[d] * scale * weight[d];
    round(head);
  }

  void rotate(float* __restrict head, const float* __restrict cos, const float* __restrict sin) const {
    float* __restrict const second = head + D / 2;
    for (int64_t d = 0; d < D / 2; d++) {
      const float a = head[d], b = second[d];
      head[d] = a * cos[d] - b * sin[d];
      second[d] = b * cos[d] + a * sin[d];
    }
    round(head);
  }

  void round(float* head) const {
    if (qkv.half)
      for (int64_t d = 0; d < D; d++) head[d] = as_stored<Half>(head[d]);
  }
};

}  // namespace kernels
