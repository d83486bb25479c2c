// Vectors of floats in the compiler's own terms, as wide as the machine's registers, and the two element types.
//
// A sum of products over a row of memory is taken in one fixed order everywhere: lane i adds the elements i, i + LANES,
// i + 2·LANES, …, and `fold` then adds lanes that lie LANES/2, LANES/4, …, 1 apart. So a result never depends on the
// tile that it was computed in.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

namespace kernels {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
constexpr int SUMS = REGISTERS / 2;  // accumulators of a tile: enough to hide the latency of a multiply-add

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline Vector fill(float x) { return x - Vector{}; }
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

constexpr int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Lanes that lie W apart, side by side in two vectors: of a's in the lanes with bit W clear, of b's in the others.
template <int W, int... I>
inline std::pair<Vector, Vector> apart(Vector a, Vector b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(...) __builtin_shuffle(a, b, Integers{__VA_ARGS__})
#endif
  return {SHUFFLE((I / (2 * W) * 2 * W + I % W + (I & W ? LANES : 0))...),
          SHUFFLE((I / (2 * W) * 2 * W + I % W + (I & W ? LANES : 0) + W)...)};
#undef SHUFFLE
}

template <int W>
inline std::pair<Vector, Vector> apart(Vector a, Vector b) {
  return apart<W>(a, b, std::make_integer_sequence<int, LANES>());
}

// LANES vectors → one: lane i is the sum of vector i.
template <int W = LANES / 2>
inline Vector fold(Vector* v) {
  for (int i = 0; i < W; i++) {
    const auto [x, y] = apart<W>(v[i], v[i + W]);
    v[i] = x + y;
  }
  if constexpr (W > 1) return fold<W / 2>(v);
  return v[0];
}

// The sum of one vector's lanes, in the order of `fold`.
template <int W = LANES / 2>
inline float total(Vector v) {
  const auto [x, y] = apart<W>(v, v);
  if constexpr (W > 1) return total<W / 2>(x + y);
  return (x + y)[0];
}

template <int W = LANES / 2>
inline float largest(Vector v) {
  const auto [x, y] = apart<W>(v, v);
  if constexpr (W > 1) return largest<W / 2>(larger(x, y));
  return larger(x, y)[0];
}

// e^x to 1e-7 of it (Cephes' polynomial on ±ln2/2); 0 below -87, and large beyond 88 without being exact.
inline Vector exponential(Vector x) {
  const Vector low = fill(-87.f), high = fill(88.f), magic = fill(12582912.f);  // 1.5 · 2^23: adding it rounds
  Vector inside = x < low ? low : x;
  inside = inside > high ? high : inside;
  const Vector turns = (inside * 1.44269504f + magic) - magic;
  const Vector r = inside - turns * 0.693359375f + turns * 2.12194440e-4f;
  Vector p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  const Integers power = (__builtin_convertvector(turns, Integers) + 127) << 23;
  return x < low ? Vector{} : p * reinterpret_cast<Vector>(power);
}

// The natural logarithm of normal numbers above 0, to 1e-7 of it (Cephes).
inline Vector logarithm(Vector x) {
  const Integers bits = reinterpret_cast<Integers>(x);
  Vector exponent = __builtin_convertvector((bits >> 23) - 126, Vector);
  Vector m = reinterpret_cast<Vector>((bits & 0x7fffff) | 0x3f000000);  // in [1/2, 1)
  exponent = m < 0.707106781f ? exponent - 1.f : exponent;
  m = m < 0.707106781f ? m + m - 1.f : m - 1.f;
  const Vector z = m * m;
  Vector p = 7.0376836292e-2f * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  p = p * m * z - exponent * 2.12194440e-4f - 0.5f * z;
  return m + p + exponent * 0.693359375f;
}

// bfloat16 by its bits.
struct Half {
  uint16_t bits;
};

inline float widened(float x) { return x; }
inline float widened(Half x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}

template <typename T>
inline T narrowed(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {  // to the nearest, of two the even one; NaN stays NaN
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return Half{uint16_t(x == x ? rounded : bits >> 16 | 0x40)};
  }
}

template <typename T>
inline float as_stored(float x) {
  return widened(narrowed<T>(x));
}

}  // namespace kernels
