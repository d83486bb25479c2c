// Products of tokens with a stored weight, and what stands before and after them in a layer: the op matmul.
//
// A weight's row is read along the inputs, as it lies. Sums run over chunks of DEPTH inputs, each in the order of
// vector.h, one chunk after the other: the same for one token and for thousands.
#pragma once

#include "share.h"
#include "tile.h"

namespace kernels {

struct Matmul {
  static constexpr int64_t DEPTH = PANEL_FLOATS / SUMS;  // inputs of a chunk
  static constexpr int64_t ROWS = 64;                    // tokens of an item
  static constexpr int64_t COLUMNS = 512;                // most outputs of an item
  static constexpr int64_t FETCH_FROM = 8;    // tokens: with fewer, there is nothing to do while memory is read
  static constexpr int64_t SMALL = 1 << 16;   // multiplications that are not worth a second thread

  Elements x, weight, residual, out;  // [tokens, inputs], [parts, outputs, inputs], [tokens, outputs] or none, as that
  const float* norm;                  // [inputs] or none
  int64_t tokens, outputs, inputs, parts;  // 2 parts: gate and up
  float eps;
  int64_t columns = 0, column_items = 0;  // of an item, and in how many the outputs are cut
  int64_t prepared = -1;                  // block of tokens that is in scratch

  // Cuts the work; → number of items.
  int64_t cut(int64_t threads) {
    const int64_t row_items = rounded_up(tokens, ROWS) / ROWS, work = tokens * outputs * inputs * parts;
    const int64_t wanted = work < SMALL ? 1 : rounded_up(4 * threads, row_items) / row_items;
    columns = std::min(COLUMNS, rounded_up(rounded_up(outputs, wanted) / wanted, SUMS));
    column_items = rounded_up(outputs, columns) / columns;
    return tokens && inputs ? row_items * column_items : 0;
  }

  void operator()(int64_t item) {
    const int64_t block = item / column_items, m0 = block * ROWS, rows = std::min(ROWS, tokens - m0);
    const int64_t n0 = item % column_items * columns, width = std::min(columns, outputs - n0);
    const int64_t depth = rounded_up(inputs, LANES);
    float* const sums = scratch(parts * ROWS * columns + ROWS * depth + PANEL_FLOATS);
    float* const made = sums + parts * ROWS * columns;  // [rows, depth]: x as the product takes it
    float* const panel = made + ROWS * depth;
    const bool as_it_lies = !x.half && !norm && depth == inputs;
    if (!as_it_lies && prepared != block) prepare(m0, rows, depth, made);
    prepared = block;
    const float* const left = as_it_lies ? x.floats() + m0 * inputs : made;
    for (int64_t k = 0; k < depth; k += DEPTH) {
      const int64_t chunk = std::min(DEPTH, depth - k), some = panel_rows(chunk);
      for (int part = 0; part < parts; part++)
        for (int64_t n = 0; n < width; n += some) {
          const int64_t first = part * outputs + n0 + n, here = std::min(some, width - n);
          const Panel right = read(weight, first, here, inputs, k, std::min(chunk, inputs - k), panel);
          const bool more = rows >= FETCH_FROM && right.at != panel && n + some < width;
          multiply(left + k, depth, rows, right, rounded_up(here, SUMS), chunk, k > 0,
                   sums + part * ROWS * columns + n, columns,
                   more ? Panel{right.at + some * right.stride, right.stride} : Panel{});
        }
    }
    for (int64_t m = 0; m < rows; m++) finish(m0 + m, n0, width, sums + m * columns);
  }

 private:
  // x, normalised where asked for, in floats, with zeros behind it.
  void prepare(int64_t m0, int64_t rows, int64_t depth, float* made) const {
    for (int64_t m = 0; m < rows; m++, made += depth) {
      widen(x, (m0 + m) * inputs, inputs, made);
      std::fill(made + inputs, made + depth, 0.f);
      if (!norm) continue;
      Vector squares{};
      for (int64_t k = 0; k < depth; k += LANES) squares += load(made + k) * load(made + k);
      const float scale = 1.f / std::sqrt(total(squares) / float(inputs) + eps);
      for (int64_t k = 0; k < inputs; k++) made[k] = made[k] * scale * norm[k];
      if (x.half)
        for (int64_t k = 0; k < inputs; k++) made[k] = as_stored<Half>(made[k]);
    }
  }

  void finish(int64_t m, int64_t n0, int64_t width, float* sums) const {
    const auto stored = [&](float* row) {  // the product rounds to the result's type before anything else happens to it
      if (out.half)
        for (int64_t n = 0; n < width; n++) row[n] = as_stored<Half>(row[n]);
    };
    stored(sums);
    if (parts == 2) {
      float* const up = sums + ROWS * columns;
      stored(up);
      for (int64_t n = 0; n < width; n += LANES) {  // columns are whole vectors
        const Vector gate = load(sums + n);
        store(sums + n, gate / (1.f + exponential(-gate)) * load(up + n));
      }
      stored(sums);
    }
    const int64_t at = m * outputs + n0;
    if (residual.data)
      for (int64_t n = 0; n < width; n++) sums[n] += residual.at(at + n);
    narrow(sums, width, out, at);
  }
};

}  // namespace kernels
