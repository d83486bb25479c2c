// The experts of a single token: bound by reading their weights, which all warps of the device share evenly. Bound by
// grouped_matmul/one_token.py; the contract is that of grouped_matmul/__init__.py.
//
// A warp of the first kernel takes a feature inside an expert, its gate's row and its up's; one of the second kernel takes a
// feature outside, the rows of all experts, whose weights it has read when the first kernel ends.
//
// Macros: ELEMENT, PAIRS (experts of the token), EXPERTS, OUTSIDE and INSIDE (features), BLOCKS (thread blocks).

#include "record.cuh"
#include "tensor_core.cuh"

namespace {

constexpr int WARPS = 8, THREADS = WARPS * 32;
constexpr int EACH = 8;  // values of 16 bytes
constexpr unsigned ALL = ~0u;
static_assert(OUTSIDE % EACH == 0 && INSIDE % EACH == 0);

__device__ __forceinline__ uint4 stream16(const ELEMENT* from) {  // weights are read once
  uint4 words;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "l"(from));
  return words;
}

__device__ __forceinline__ float dot(uint4 a, uint4 b, float sum) {
  const Bits x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float2 left = both<ELEMENT>(x[i]), right = both<ELEMENT>(y[i]);
    sum = fmaf(left.x, right.x, sum);
    sum = fmaf(left.y, right.y, sum);
  }
  return sum;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(ALL, value, lanes);
  return value;
}

constexpr int parts(int values) { return (values / EACH + 31) / 32; }

template <int N, int PARTS = parts(N)>
struct Row {  // a lane's part of up to PARTS * 32 * EACH of a row's N values, from `first` on
  uint4 words[PARTS];

  // Zeros past the end, and of a row that is not `live`.
  __device__ __forceinline__ void read(const ELEMENT* row, int lane, bool live, int first = 0) {
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
      int at = first + (i * 32 + lane) * EACH;
      words[i] = live && at < N ? stream16(row + at) : uint4{0, 0, 0, 0};
    }
  }
  __device__ __forceinline__ float times(const uint4* shared, int lane, float sum, int first = 0) const {
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
      int at = first / EACH + i * 32 + lane;
      if (at < N / EACH) sum = dot(words[i], shared[at], sum);
    }
    return sum;
  }
};

constexpr int TOGETHER = parts(OUTSIDE) < 8 ? parts(OUTSIDE) : 8;  // of the first weight's rows, gate and up

// Experts whose rows of the second weight a warp holds at a time: what fits about 90 registers.
constexpr int HELD = (parts(INSIDE) <= 3 ? 24 : 20) / parts(INSIDE);
constexpr int AT_ONCE = HELD < PAIRS ? HELD : PAIRS;
static_assert(AT_ONCE > 0);

}  // namespace

__global__ void __launch_bounds__(THREADS, 2)
    experts_gate_up(const ELEMENT* x, const int* chosen, const ELEMENT* weight, ELEMENT* hidden) {
  __shared__ uint4 tokens[OUTSIDE / EACH];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  wait_for_kernel_in_front();
  let_next_kernel_start();  // only now: the next kernel reads `chosen` without waiting
  for (int i = threadIdx.x; i < OUTSIDE / EACH; i += THREADS) tokens[i] = reinterpret_cast<const uint4*>(x)[i];
  __syncthreads();
  for (int item = blockIdx.x + BLOCKS * warp; item < PAIRS * INSIDE; item += BLOCKS * WARPS) {
    int pair = item / INSIDE, inside = item % INSIDE, expert = __ldg(chosen + pair);
    bool live = unsigned(expert) < EXPERTS;
    const ELEMENT* row = weight + (int64_t(live ? expert : 0) * 2 * INSIDE + inside) * OUTSIDE;
    float g = 0, u = 0;
#pragma unroll
    for (int first = 0; first < OUTSIDE; first += TOGETHER * 32 * EACH) {
      Row<OUTSIDE, TOGETHER> gate, up;
      gate.read(row, lane, live, first), up.read(row + int64_t(INSIDE) * OUTSIDE, lane, live, first);
      g = gate.times(tokens, lane, g, first), u = up.times(tokens, lane, u, first);
    }
    g = warp_sum(g), u = warp_sum(u);
    if (lane == 0) hidden[item] = ELEMENT(g / (1 + __expf(-g)) * u);
  }
}

__global__ void __launch_bounds__(THREADS, 2) experts_down(const ELEMENT* hidden, const int* chosen, const float* shares,
                                                           const ELEMENT* weight, ELEMENT* out) {
  __shared__ uint4 tokens[PAIRS][INSIDE / EACH];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  Row<INSIDE> rows[AT_ONCE];
  auto read = [&](int outside, int from) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      int expert = from + i < PAIRS ? __ldg(chosen + from + i) : EXPERTS;
      bool live = unsigned(expert) < EXPERTS;
      rows[i].read(weight + (int64_t(live ? expert : 0) * OUTSIDE + outside) * INSIDE, lane, live);
    }
  };
  int outside = blockIdx.x + BLOCKS * warp;
  if (outside < OUTSIDE) read(outside, 0);
  wait_for_kernel_in_front();
  let_next_kernel_start();
  for (int i = threadIdx.x; i < PAIRS * INSIDE / EACH; i += THREADS)
    tokens[0][i] = reinterpret_cast<const uint4*>(hidden)[i];
  __syncthreads();
  while (outside < OUTSIDE) {
    float sum = 0;
#pragma unroll 1
    for (int from = 0; from < PAIRS; from += AT_ONCE) {
      if (from) read(outside, from);
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i)
        if (from + i < PAIRS) sum += __ldg(shares + from + i) * rows[i].times(tokens[from + i], lane, 0);
    }
    sum = warp_sum(sum);
    if (lane == 0) out[outside] = ELEMENT(sum);
    outside += BLOCKS * WARPS;
    if (outside < OUTSIDE) read(outside, 0);
  }
}

namespace {

void run(const Call& call) {
  const ELEMENT* x = call.argument<ELEMENT>(0);
  const int* chosen = call.argument<int>(1);
  const float* shares = call.argument<float>(2);
  ELEMENT *out = call.result<ELEMENT>(0), *hidden = call.result<ELEMENT>(1);
  launch_early(call, experts_gate_up, dim3(BLOCKS), THREADS, 0, 1, x, chosen, call.argument<ELEMENT>(3), hidden);
  launch_early(call, experts_down, dim3(BLOCKS), THREADS, 0, 1, hidden, chosen, shares, call.argument<ELEMENT>(4), out);
}

}  // namespace

RECORDED_HANDLER(experts_one_token, run)
