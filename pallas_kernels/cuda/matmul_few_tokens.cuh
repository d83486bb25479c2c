// The product of few tokens with a stored weight, with the norm in front of it and the gate or the residual behind it.
// Bound by reading the weight. Instantiated by matmul_few_tokens.cu; the contract is that of matmul/__init__.py.
//
// A thread block makes some outputs of all tokens, of all inputs or of a share of them: then each block of a cluster adds
// up some tokens, whose sums the others store into its memory. One thread copies boxes of the weight and of the tokens into
// a ring of stages, as many ahead as there is room for, the weight's first ones before the kernel in front has ended.
// Weights are the rows of the matrix units, tokens the columns, so few tokens waste nothing. Of a norm, gains are multiplied
// onto the tokens in shared memory, while their squares are summed; its scale is a factor of the sums. Every sum has one
// order, whatever the other tokens are.
#pragma once

#include "call.cuh"
#include "hopper.cuh"

template <typename Element>
struct Arrays {
  const Element *norm, *residual;  // [E], [T, F]; or null
  Element* out;                    // [T, F]
  int tokens, outputs, inputs;
  float eps;
};

// A thread block of TALL warpgroups, for 64 rows of the weight each; a stage holds PANELS · 64 inputs.
template <typename Element_, int TOKENS_, int TALL_, int PANELS_, int STAGES_, int SPLIT_, bool GATED_, bool NORMED_,
          int RESIDENT_>
struct Sizes {
  using Element = Element_;
  static constexpr int TOKENS = TOKENS_, TALL = TALL_, PANELS = PANELS_, STAGES = STAGES_, SPLIT = SPLIT_;
  static constexpr int RESIDENT = RESIDENT_;
  static constexpr bool GATED = GATED_, NORMED = NORMED_;
  static constexpr int ROWS = 64 * TALL, OUTPUTS = GATED ? ROWS / 2 : ROWS;  // with a gate: 8 gates, their 8 ups, ...
  static constexpr int BOX = GATED ? 8 : 64;                                 // rows of the weight copied at once
  static constexpr int STEP = PANELS * PANEL;
  static constexpr int WORKERS = TALL * 128, THREADS = WORKERS + 32;
  static constexpr int WEIGHT_PANEL = ROWS * PANEL_PITCH, TOKEN_PANEL = TOKENS * PANEL_PITCH;
  static constexpr int STAGE = (WEIGHT_PANEL + TOKEN_PANEL) * PANELS;
  // Threads that multiply gains onto tokens, in pieces of 8 values; SLOTS of them sum the squares of the same tokens.
  static constexpr int PIECES = TOKENS * STEP / 8, HANDS = PIECES < WORKERS ? PIECES : WORKERS;
  static constexpr int OWN = TOKENS * 8 > HANDS ? TOKENS * 8 / HANDS : 1, SLOTS = OWN > 1 ? 1 : HANDS / (TOKENS * 8);
  static constexpr int SQUARES = ROWS, PITCH = ROWS + 4;  // floats of a token: sums of its outputs, then of its squares
  static constexpr int OWNED = TOKENS / SPLIT;  // tokens whose sums come together in a block: [SPLIT, OWNED, PITCH]
  static constexpr int RING = STAGE * STAGES, SUMS = TOKENS * PITCH * 4, SUMMED = NORMED ? ROWS + SLOTS : ROWS;
  static constexpr int SUMS_AT = SPLIT > 1 ? RING : 0;  // nobody stores into another block's ring
  static constexpr int BODY = SUMS_AT + SUMS > RING ? SUMS_AT + SUMS : RING;
  static constexpr int BARRIERS = (2 * STAGES + 2) * 8;
  static constexpr int FOURS = (OWNED * OUTPUTS / 4 + WORKERS - 1) / WORKERS;  // results of a thread
  static_assert(TOKENS % 16 == 0 && (!NORMED || (SLOTS <= 4 && PIECES % HANDS == 0)));

  static int shared_bytes(int inputs) {
    int gains = NORMED ? (inputs / STEP + SPLIT - 1) / SPLIT * STEP * sizeof(Element) : 0;
    return 1024 + BODY + BARRIERS + gains;
  }
};

__device__ __forceinline__ void copy_bytes(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

__device__ __forceinline__ uint32_t of_block(uint32_t address, int rank) {  // the same place of another of the cluster
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

// To another block's memory, which counts the bytes.
__device__ __forceinline__ void send(uint32_t to, float x, uint32_t barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to),
               "r"(__float_as_uint(x)), "r"(barrier)
               : "memory");
}

template <typename Element>
__device__ __forceinline__ float rounded(float x) {
  return both<Element>(pack<Element>(x, 0.f)).x;
}

template <typename Element>
__device__ __forceinline__ Bits times(Bits a, Bits b) {
  Bits c;
  if constexpr (std::is_same_v<Element, __nv_bfloat16>)
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  else
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}

template <class S>
struct Place {  // of a thread block: its outputs, its share of the inputs in stages, its shared memory
  int first, rank, begin, count;
  char* memory;
  uint32_t ring, gains, barriers;

  __device__ __forceinline__ uint32_t stage(int i) const { return ring + i % S::STAGES * S::STAGE; }
  __device__ __forceinline__ uint32_t tokens(int i) const { return stage(i) + S::PANELS * S::WEIGHT_PANEL; }
  __device__ __forceinline__ uint32_t full(int i) const { return barriers + i % S::STAGES * 8; }
  __device__ __forceinline__ uint32_t free(int i) const { return barriers + (S::STAGES + i % S::STAGES) * 8; }
  __device__ __forceinline__ uint32_t gains_full() const { return barriers + 2 * S::STAGES * 8; }
  __device__ __forceinline__ float* sums(int rank, int token) const {  // the token's, counted from the block's first
    return reinterpret_cast<float*>(memory + S::SUMS_AT) + (rank * S::OWNED + token) * S::PITCH;
  }
  __device__ __forceinline__ uint32_t summed() const { return gains_full() + 8; }
};

// One thread: brings all stages.
template <class S>
__device__ __forceinline__ void bring(const Place<S>& place, const CUtensorMap& weight, const CUtensorMap& x,
                                      const Arrays<typename S::Element>& arrays) {
  auto bring_weight = [&](int i) {
    arrive_expecting(place.full(i), S::STAGE);
    for (int panel = 0; panel < S::PANELS; ++panel)
#pragma unroll 8
      for (int r = 0; r < S::ROWS; r += S::BOX) {
        int row = S::GATED ? place.first + r / 16 * 8 + r / 8 % 2 * arrays.outputs : place.first + r;
        copy_box(place.stage(i) + panel * S::WEIGHT_PANEL + r * PANEL_PITCH, weight,
                 (place.begin + i) * S::STEP + panel * PANEL, row, place.full(i));
      }
  };
  auto bring_tokens = [&](int i) {
    for (int panel = 0; panel < S::PANELS; ++panel)
      copy_box(place.tokens(i) + panel * S::TOKEN_PANEL, x, (place.begin + i) * S::STEP + panel * PANEL, 0,
               place.full(i));
  };
  if (S::NORMED) {
    int bytes = place.count * S::STEP * sizeof(typename S::Element);
    arrive_expecting(place.gains_full(), bytes);
    copy_bytes(place.gains, arrays.norm + place.begin * S::STEP, bytes, place.gains_full());
  }
  int ahead = min(S::STAGES, place.count);
  for (int i = 0; i < ahead; ++i) bring_weight(i);
  wait_for_kernel_in_front();
  for (int i = 0; i < ahead; ++i) bring_tokens(i);
  for (int i = ahead; i < place.count; ++i) {
    wait(place.free(i), (i / S::STAGES - 1) % 2);
    bring_weight(i), bring_tokens(i);
  }
}

// Multiplies the gains onto the tokens of stage i, and adds their squares. Thread h of HANDS.
template <class S>
__device__ __forceinline__ void normalise(const Place<S>& place, int i, int h, float (&squares)[S::OWN]) {
  using Element = typename S::Element;
#pragma unroll
  for (int j = 0; j < S::PIECES / S::HANDS; ++j) {
    int piece = h + j * S::HANDS, panel = piece / (S::TOKENS * 8), token = piece / 8 % S::TOKENS, column = piece % 8;
    uint32_t at = place.tokens(i) + panel * S::TOKEN_PANEL + swizzled(token, column);
    Bits x[4], gain[4];
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(at));
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(gain[0]), "=r"(gain[1]), "=r"(gain[2]), "=r"(gain[3])
                 : "r"(place.gains + ((i * S::PANELS + panel) * PANEL + column * 8) * 2));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float2 two = both<Element>(x[e]);
      squares[j % S::OWN] = fmaf(two.x, two.x, fmaf(two.y, two.y, squares[j % S::OWN]));
      x[e] = times<Element>(x[e], gain[e]);
    }
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
                 : "memory");
  }
}

template <class S>
__global__ void __launch_bounds__(S::THREADS, S::RESIDENT)
    multiply(const __grid_constant__ CUtensorMap weight, const __grid_constant__ CUtensorMap x,
             const Arrays<typename S::Element> arrays) {
  using Element = typename S::Element;
  extern __shared__ char shared[];
  int warp = uniform(threadIdx.x / 32), lane = threadIdx.x % 32, steps = arrays.inputs / S::STEP;
  bool worker = warp < S::TALL * 4;
  Place<S> place;
  place.rank = blockIdx.x % S::SPLIT, place.first = blockIdx.x / S::SPLIT * S::OUTPUTS;
  place.begin = steps * place.rank / S::SPLIT, place.count = steps * (place.rank + 1) / S::SPLIT - place.begin;
  place.ring = (shared_address(shared) + 1023) / 1024 * 1024;
  place.memory = shared + (place.ring - shared_address(shared));
  place.barriers = place.ring + S::BODY, place.gains = place.barriers + S::BARRIERS;
  if (threadIdx.x == 0) {
    prefetch_map(weight), prefetch_map(x);
    for (int i = 0; i < S::STAGES; ++i) start_barrier(place.full(i), 1), start_barrier(place.free(i), S::TALL);
    start_barrier(place.gains_full(), 1);
    start_barrier(place.summed(), 1);
    publish_barriers();
    if (S::SPLIT > 1) arrive_expecting(place.summed(), S::TOKENS * S::SUMMED * 4);
  }
  __syncthreads();
  if (S::SPLIT > 1) __cluster_barrier_arrive();
  let_next_kernel_start();

  float acc[S::TOKENS / 2] = {}, squares[S::OWN] = {};
  uint2 old[S::FOURS] = {};
  auto result = [&](int i) {  // of the thread's: the token, counted from the block's first, and likewise the first of four
    int item = i * S::WORKERS + threadIdx.x;
    return make_int2(item / (S::OUTPUTS / 4), item % (S::OUTPUTS / 4) * 4);
  };
  auto wanted = [&](int2 at) {
    return at.x < S::OWNED && place.rank * S::OWNED + at.x < arrays.tokens && place.first + at.y < arrays.outputs;
  };
  auto offset = [&](int2 at) {
    return int64_t(place.rank * S::OWNED + at.x) * arrays.outputs + place.first + at.y;
  };

  if (!worker) {
    if (lane == 0) bring(place, weight, x, arrays);
    __syncwarp();
  } else {
    wait_for_kernel_in_front();
    if (arrays.residual)
#pragma unroll
      for (int i = 0; i < S::FOURS; ++i)
        if (int2 at = result(i); wanted(at)) old[i] = *reinterpret_cast<const uint2*>(arrays.residual + offset(at));
    if (S::NORMED) wait(place.gains_full(), 0);
    pin(acc);
    for (int i = 0; i < place.count; ++i) {
      wait(place.full(i), i / S::STAGES % 2);
      if constexpr (S::NORMED) {
        if (S::HANDS == S::WORKERS || threadIdx.x < S::HANDS) normalise(place, i, threadIdx.x, squares);
        publish_stores();
        meet(1, S::WORKERS);
      }
      uint32_t rows = operand(place.stage(i) + warp / 4 * 64 * PANEL_PITCH, 0), columns = operand(place.tokens(i), 0);
      begin_products();
#pragma unroll
      for (int k = 0; k < S::PANELS * 4; ++k)
        Product<Element, S::TOKENS>::keys(acc, moved(rows, k / 4 * S::WEIGHT_PANEL + k % 4 * 32),
                                          moved(columns, k / 4 * S::TOKEN_PANEL + k % 4 * 32), true);
      commit_products();
      if (i) {
        wait_for_products<1>();
        if (threadIdx.x % 128 == 0) arrive(place.free(i - 1));
      }
    }
    wait_for_products<0>();
    pin(acc);
  }

  if constexpr (S::SPLIT > 1)
    __cluster_barrier_wait();  // since long ago, all blocks expect sums
  else
    __syncthreads();  // the ring is read no more
  if (!worker) return;
  auto put = [&](int token, int row, float x) {
    float* at = place.sums(place.rank, token % S::OWNED) + row;
    if constexpr (S::SPLIT > 1)
      send(of_block(shared_address(at), token / S::OWNED), x, of_block(place.summed(), token / S::OWNED));
    else
      *at = x;
  };
#pragma unroll
  for (int n = 0; n < S::TOKENS / 2; ++n)
    put(n / 4 * 8 + lane % 4 * 2 + n % 2, warp * 16 + lane / 4 + n / 2 % 2 * 8, acc[n]);
  if constexpr (S::NORMED)
#pragma unroll
    for (int own = 0; own < S::OWN; ++own) {
      float sum = squares[own];
#pragma unroll
      for (int step = 1; step < 8; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
      int piece = threadIdx.x + own * S::HANDS;
      if (threadIdx.x < S::HANDS && lane % 8 == 0)
        put(piece / 8 % S::TOKENS, S::SQUARES + (S::OWN > 1 ? 0 : piece / (S::TOKENS * 8)), sum);
    }
  if constexpr (S::SPLIT > 1)
    wait(place.summed(), 0);
  else
    meet(1, S::WORKERS);

#pragma unroll
  for (int i = 0; i < S::FOURS; ++i) {
    int2 at = result(i);
    if (!wanted(at)) continue;
    int row = S::GATED ? at.y / 8 * 16 + at.y % 8 : at.y;
    float y[4] = {}, up[4] = {}, square = 0.f;
#pragma unroll
    for (int rank = 0; rank < S::SPLIT; ++rank) {
      const float* sums = place.sums(rank, at.x);
      float4 part = *reinterpret_cast<const float4*>(sums + row);
      y[0] += part.x, y[1] += part.y, y[2] += part.z, y[3] += part.w;
      if (S::GATED) {
        part = *reinterpret_cast<const float4*>(sums + row + 8);
        up[0] += part.x, up[1] += part.y, up[2] += part.z, up[3] += part.w;
      }
      if (S::NORMED)
#pragma unroll
        for (int slot = 0; slot < S::SLOTS; ++slot) square += sums[S::SQUARES + slot];
    }
    float scale = S::NORMED ? rsqrtf(square / arrays.inputs + arrays.eps) : 1.f;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      y[j] = rounded<Element>(y[j] * scale);
      if (S::GATED)
        y[j] = rounded<Element>(rounded<Element>(y[j] / (1.f + __expf(-y[j]))) * rounded<Element>(up[j] * scale));
    }
    float2 low = both<Element>(old[i].x), high = both<Element>(old[i].y);  // zeros without a residual
    *reinterpret_cast<uint2*>(arrays.out + offset(at)) = {pack<Element>(y[0] + low.x, y[1] + low.y),
                                                          pack<Element>(y[2] + high.x, y[3] + high.y)};
  }
}
