// Attention over pages: the op paged_attention.
//
// An item is a tile of a row's new tokens and one kv head, with all its query heads. Softmax runs online over blocks
// of KEYS keys that start at multiples of it; hidden keys count as exact zeros, so that a token's result depends on
// nothing but its own query and keys. Values that no query of the tile sees are never added: a freed page may hold NaN.
#pragma once

#include <vector>

#include "share.h"
#include "tile.h"

namespace kernels {

struct PagedAttention {
  static constexpr int KEYS = 64;          // of a block of the softmax
  static constexpr int STRIDE = KEYS + SUMS;  // of a query's scores: the last tile may stick out
  static constexpr int QUERIES = 32;       // tokens times heads of a tile, about
  static constexpr float HIDDEN = -1e30f;

  struct Tile {
    int32_t row, token, count, position;  // first token, how many, and the first one's position
  };

  Elements q, pages, out;  // [T, K, G, D], [N, 2, K, page, D], [T, K, G, D]
  const int32_t* table;    // [S, P]
  const float* sinks;      // [K, G] or none
  int64_t P, K, G, D, page;
  float scale, softcap;  // softcap 0: none
  int64_t window;        // 0: none
  std::vector<Tile> tiles;

  // The rows' tokens as tiles; → whether they are all T.
  bool cut(const int32_t* query_start, const int32_t* context_len, int64_t S, int64_t T, bool decode_only) {
    const int most = std::max<int64_t>(1, QUERIES / G);
    int64_t owned = 0;
    for (int s = 0; s < S; s++) {
      const int first = decode_only ? s : query_start[s], last = decode_only ? s + 1 : query_start[s + 1];
      const int context = context_len[s];
      if (context <= 0) continue;
      for (int t = first; t < last; t += most) {
        tiles.push_back({s, t, std::min(most, last - t), context - (last - t)});
        owned += tiles.back().count;
      }
    }
    return owned == T;
  }

  void operator()(int64_t item) {
    const Tile tile = tiles[item / K];
    const int64_t k = item % K, M = tile.count * G, width = rounded_up(D, LANES);
    float* const query = scratch(M * (2 * width + STRIDE + 2) + STRIDE * width);  // [M, width]
    float* const acc = query + M * width;                                          // [M, width]
    float* const scores = acc + M * width;                                         // [M, STRIDE]
    float* const room = scores + M * STRIDE;                                       // [STRIDE, width]
    float* const top = room + STRIDE * width;                                      // [M]
    float* const sum = top + M;                                                    // [M]
    std::fill(query, query + 2 * M * width, 0.f);
    for (int64_t m = 0; m < M; m++) {
      widen(q, at(tile, k, m), D, query + m * width);
      for (int64_t d = 0; d < D; d++) query[m * width + d] *= scale;
      top[m] = sinks ? sinks[k * G + m % G] : HIDDEN;
      sum[m] = sinks ? 1.f : 0.f;
    }
    const int64_t high = tile.position + tile.count;
    const int64_t low = window ? std::max<int64_t>(0, tile.position - window + 1) : 0;
    for (int64_t block = low / KEYS * KEYS; block < high; block += KEYS) {
      const int64_t from = std::max(block, low), to = std::min(block + KEYS, high);
      runs(from, to, [&](int64_t key, int64_t n) {
        // Where whole tiles fit a page, they read on in it, whatever it holds; what they find is hidden.
        const bool fits = page % SUMS == 0;
        const int64_t first = fits ? key / SUMS * SUMS : key, rows = fits ? rounded_up(key + n - first, SUMS) : n;
        multiply(query, width, M, stored(tile.row, k, first, rows, room), rounded_up(rows, SUMS), width, false,
                 scores + (first - block), STRIDE);
      });
      for (int64_t m = 0; m < M; m++) {
        const int64_t position = tile.position + m / G;
        const int64_t begin = window ? std::max(from, position - window + 1) : from;
        weigh(scores + m * STRIDE, begin - block, std::min(to, position + 1) - block, to - block, top[m], sum[m],
              acc + m * width, width);
      }
      runs(from, to, [&](int64_t key, int64_t n) {
        add_weighted(acc, M, width, scores + (key - block), STRIDE, stored(tile.row, K + k, key, n, room), n);
      });
    }
    for (int64_t m = 0; m < M; m++) {
      const float share = 1.f / (sum[m] > 0.f ? sum[m] : 1.f);
      for (int64_t d = 0; d < D; d++) acc[m * width + d] *= share;
      narrow(acc + m * width, D, out, at(tile, k, m));
    }
  }

 private:
  // Where query m of a tile lies in q and out.
  int64_t at(const Tile& tile, int64_t k, int64_t m) const {
    return (((tile.token + m / G) * K + k) * G + m % G) * D;
  }

  // Keys [from, to), cut where pages end.
  template <typename Visit>
  void runs(int64_t from, int64_t to, Visit visit) const {
    for (int64_t key = from, n; key < to; key += n) visit(key, n = std::min(page - key % page, to - key));
  }

  // First row, in [N · 2 · K · page, D], of the page that holds a key; plane: k for keys, K + k for values.
  int64_t first_row(int64_t row, int64_t plane, int64_t key) const {
    return (int64_t(table[row * P + key / page]) * 2 * K + plane) * page;
  }

  Panel stored(int64_t row, int64_t plane, int64_t key, int64_t n, float* room) const {
    const int64_t first = first_row(row, plane, key) + key % page;
    if (!pages.half && D % LANES == 0 && (page % SUMS == 0 || plane >= K)) return {pages.floats() + first * D, D};
    return read(pages, first, n, D, 0, D, room);
  }

  // Scores of one query → weights, in place; of those outside [begin, end) zeros, up to `to`.
  void weigh(float* scores, int64_t begin, int64_t end, int64_t to, float& top, float& sum, float* acc,
             int64_t width) const {
    Integers lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    const auto visible = [&](int64_t i) { return (lane + int(i) >= int(begin)) & (lane + int(i) < int(end)); };
    Vector most = fill(HIDDEN);
    for (int64_t i = 0; i < to; i += LANES) {
      Vector s = load(scores + i);
      if (softcap != 0.f) s = softcap - (2.f * softcap) / (exponential(s * (2.f / softcap)) + 1.f);  // softcap · tanh
      s = visible(i) ? s : fill(HIDDEN);
      store(scores + i, s);
      most = larger(most, s);
    }
    const float before = top;
    top = std::max(top, largest(most));
    Vector added{};
    for (int64_t i = 0; i < to; i += LANES) {
      const Vector weight = visible(i) ? exponential(load(scores + i) - top) : Vector{};
      store(scores + i, weight);
      added += weight;
    }
    if (top != before) {
      const float old = exponential(fill(before - top))[0];
      sum *= old;
      for (int64_t d = 0; d < width; d += LANES) store(acc + d, load(acc + d) * old);
    }
    sum += total(added);
  }
};

}  // namespace kernels
