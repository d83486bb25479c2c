// One token a row: the largest of logits / temperature + Gumbel noise, in one pass: the op gumbel_argmax.
//
// The noise is the reference's: Threefry-2x32 keyed by (seed, position), counting over the first half of the
// vocabulary; the second half takes the second words.
#pragma once

#include "share.h"
#include "vector.h"

namespace kernels {

struct GumbelArgmax {
  typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

  const float *logits, *temperature, *keep;  // [S, V], [S], [S] or none
  const uint32_t *seed, *position;           // [S]
  int32_t* out;                              // [S]
  int64_t V;

  // The best of some tokens, a lane each; of equal ones the first that came.
  struct Best {
    Vector score = fill(-INFINITY);
    Integers token{};

    void see(Vector scores, Integers tokens) {
      token = scores > score ? tokens : token;
      score = larger(scores, score);
    }
  };

  void operator()(int64_t s) {
    const int64_t half = (V + 1) / 2;
    const float scale = temperature[s] > 0.f ? 1.f / temperature[s] : 1.f, least = keep ? keep[s] : -INFINITY;
    Integers lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    Best first, second;
    for (int64_t i = 0; i < half; i += LANES) {
      Vector low = read(s, i, half, least), high = read(s, half + i, V, least);
      if (temperature[s] > 0.f) {
        Words x = reinterpret_cast<Words>(lane + int32_t(i)), y{};
        threefry(seed[s], position[s], x, y);
        low = low * scale + noise(x);
        high = high * scale + noise(y);
      }
      first.see(low, lane + int32_t(i));
      second.see(high, lane + int32_t(half + i));
    }
    float score = -INFINITY;
    int32_t token = V - 1;
    for (const Best& best : {first, second})
      for (int i = 0; i < LANES; i++)
        if (best.score[i] > score || (best.score[i] == score && best.token[i] < token))
          score = best.score[i], token = best.token[i];
    out[s] = token;
  }

 private:
  // Row s's logits from i on; -inf from `end` on, and where they are below `least`.
  Vector read(int64_t s, int64_t i, int64_t end, float least) const {
    const float* const p = logits + s * V + i;
    Vector x = fill(-INFINITY);
    if (i + LANES <= end)
      x = load(p);
    else if (i < end)
      memcpy(&x, p, 4 * (end - i));
    return x >= least ? x : fill(-INFINITY);
  }

  static void threefry(uint32_t seed, uint32_t position, Words& x, Words& y) {
    constexpr int turns[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
    const uint32_t key[3] = {seed, position, seed ^ position ^ 0x1BD11BDA};
    x += key[0];
    y += key[1];
    for (int group = 0; group < 5; group++) {
      for (int turn : turns[group % 2]) {
        x += y;
        y = ((y << turn) | (y >> (32 - turn))) ^ x;
      }
      x += key[(group + 1) % 3];
      y += key[(group + 2) % 3] + uint32_t(group + 1);
    }
  }

  static Vector noise(Words bits) {
    Vector u = (__builtin_convertvector(bits, Vector) + 0.5f) * 0x1p-32f;  // in (0, 1): both logarithms are finite
    u = u < 1.f - 0x1p-24f ? u : fill(1.f - 0x1p-24f);
    const Vector rest = 1.f - u;
    const Vector exact = rest == 1.f ? fill(1.f) : rest - 1.f;              // what 1 - u lost is made good:
    return -logarithm(rest == 1.f ? u : logarithm(rest) * (u / exact));  // -log1p(-u)
  }
};

}  // namespace kernels
