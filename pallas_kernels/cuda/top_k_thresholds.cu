// The search of top_k/bracket.py with a row in the shared memory of a cluster of thread blocks. Bound by top_k/cuda.py.
//
// Every thread keeps some values of the row, in fours, and the largest of each four, which spares it most of them. A pass
// adds up, for CUTS cuts, how many values reach them and their probability: within a warp by shuffles, then every warp
// gives its sums to all blocks of the cluster, so that all know the same and a pass costs one barrier. Once few values are
// left between the ends of the bracket, one warp takes them and ends the search by itself. Sums are added in a fixed order:
// equal rows give equal thresholds.

#include "call.cuh"
#include "tensor_core.cuh"

namespace {

constexpr int CUTS = 3, THREADS = 512, CLUSTER = 8;
constexpr int WARPS = THREADS / 32, SENDERS = WARPS * CLUSTER;
constexpr int FEW = 512, FEW_A_LANE = FEW / 32;  // values that one warp takes over
constexpr int LOWEST = -0x7F800001;              // image(-inf)
__device__ constexpr float PROBES[CUTS] = {16.f, 6.f, 2.f};  // below the largest: where the first pass looks
constexpr unsigned ALL = ~0u;
constexpr std::false_type COUNT;  // what a pass adds up: counts alone, or
constexpr std::true_type WEIGH;   // probabilities as well
static_assert(SENDERS % 32 == 0);

// float32 as ordered integers.
__device__ __forceinline__ int image(float x) {
  int bits = __float_as_int(x);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

__device__ __forceinline__ float value(int image) { return __int_as_float(image ^ ((image >> 31) & 0x7FFFFFFF)); }

__device__ __forceinline__ void sync_cluster() {
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}

// Where a variable in shared memory lies in another block of the cluster.
template <typename T>
__device__ __forceinline__ T* in_block(T* here, int rank) {
  return static_cast<T*>(__cluster_map_shared_rank(here, rank));
}

struct Sums {  // of the values that reach each cut
  int count[CUTS];
  float mass[CUTS];
};

struct Shared {
  Sums sums[2][SENDERS];  // in turns, so that a pass can send while another block still reads the one before
  float most[SENDERS];
  int counts[SENDERS];
  float few[FEW];
};

struct Bracket {  // {x >= value(low)} is enough, {x >= value(high)} is not
  int low, high, low_count, high_count;
  float high_mass;

  __device__ __forceinline__ int inside() const { return low_count - high_count; }
  __device__ __forceinline__ bool settled(int exact) const {
    return uint32_t(high) - uint32_t(low) <= 1 || inside() <= 1 || low_count == exact;
  }
  __device__ __forceinline__ void learn(int at, bool enough, int count, float mass) {
    if (enough && at > low) low = at, low_count = count;
    if (!enough && at < high) high = at, high_count = count, high_mass = mass;
  }
};

struct Goal {
  bool by_mass;
  int count;
  float mass;

  __device__ __forceinline__ bool reached(int n, float m) const { return by_mass ? m >= mass && n > 0 : n >= count; }
  __device__ __forceinline__ int exact() const { return by_mass ? 0 : count; }
};

struct Weight {  // unnormalised probability, at most 1
  float peak, scale;

  __device__ __forceinline__ float operator()(float x) const { return exp2f((x - peak) * scale); }
};

template <bool WEIGHED>
__device__ __forceinline__ void add(Sums& s, float x, const float (&cut)[CUTS], Weight weight) {
  float w = WEIGHED ? weight(x) : 0.f;
#pragma unroll
  for (int c = 0; c < CUTS; ++c) {
    s.count[c] += x >= cut[c];
    if (WEIGHED) s.mass[c] += x >= cut[c] ? w : 0.f;
  }
}

template <bool WEIGHED>
__device__ __forceinline__ void add(Sums& s, float4 x, const float (&cut)[CUTS], Weight weight) {
  add<WEIGHED>(s, x.x, cut, weight), add<WEIGHED>(s, x.y, cut, weight);
  add<WEIGHED>(s, x.z, cut, weight), add<WEIGHED>(s, x.w, cut, weight);
}

__device__ __forceinline__ Sums sum_warp(Sums s, bool weigh) {
#pragma unroll
  for (int c = 0; c < CUTS; ++c) s.count[c] = __reduce_add_sync(ALL, s.count[c]);
  if (weigh)
#pragma unroll
    for (int c = 0; c < CUTS; ++c)
#pragma unroll
      for (int step = 16; step; step /= 2) s.mass[c] += __shfl_xor_sync(ALL, s.mass[c], step);
  return s;
}

// Narrows until the bracket is settled or at most `few` values are inside. total(cuts) → Sums.
template <class Total>
__device__ __forceinline__ void narrow(Bracket& b, const Goal& goal, int few, bool probe, Total total) {
  while (!b.settled(goal.exact()) && b.inside() > few) {
    int step = max(int((uint32_t(b.high) - uint32_t(b.low)) >> 2), 1), at[CUTS];
    float cut[CUTS];
#pragma unroll
    for (int c = 0; c < CUTS; ++c) {
      at[c] = probe ? image(value(b.high) - PROBES[c]) : b.low + (c + 1) * step;
      at[c] = min(max(at[c], b.low), b.high);
      cut[c] = value(at[c]);
    }
    probe = false;
    Sums s = total(cut);
#pragma unroll
    for (int c = 0; c < CUTS; ++c) b.learn(at[c], goal.reached(s.count[c], s.mass[c]), s.count[c], s.mass[c]);
  }
}

__global__ void __launch_bounds__(THREADS, 2)
    find_thresholds(const float* __restrict__ logits, const float* __restrict__ temperature, const int* __restrict__ top_k,
                    const float* __restrict__ top_p, const float* __restrict__ min_p, float* __restrict__ out, int V, int fours) {
  extern __shared__ __align__(16) float4 values[];  // [fours] NaN past the end: below every cut
  float* largest = reinterpret_cast<float*>(values + fours);  // [fours]
  __shared__ Shared shared;
  int row = blockIdx.y, rank = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int sender = rank * WARPS + warp;
  int k = top_k[row];
  float p = top_p[row], least = min_p[row], heat = temperature[row];
  bool by_count = k > 0 && k < V;
  if (!by_count && p >= 1.f && least <= 0.f) {  // the whole cluster leaves
    if (rank == 0 && threadIdx.x == 0) out[row] = -INFINITY;
    return;
  }

  // A thread reads only what it has written itself.
  const float* source = logits + int64_t(row) * V;
  for (int i = threadIdx.x; i < fours; i += THREADS) {
    int at = (rank * fours + i) * 4;
    if (V % 4 == 0 && at < V) {
      copy_async(shared_address(values + i), source + at, true);
    } else {
      values[i] = {at < V ? source[at] : NAN, at + 1 < V ? source[at + 1] : NAN, at + 2 < V ? source[at + 2] : NAN,
                   at + 3 < V ? source[at + 3] : NAN};
    }
  }
  commit_copies();
  wait_for_copies<0>();
  float most = -INFINITY;
  for (int i = threadIdx.x; i < fours; i += THREADS) {
    float4 x = values[i];
    largest[i] = fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w));
    most = fmaxf(most, largest[i]);
  }

  auto send = [&](auto* slot, const auto& what) {  // to the slot of this warp in all blocks
    if (lane < CLUSTER) *in_block(slot, lane) = what;
  };
  auto total_of = [&](const Sums* sums) {
    Sums s = {};
#pragma unroll
    for (int i = 0; i < SENDERS / 32; ++i)
#pragma unroll
      for (int c = 0; c < CUTS; ++c)
        s.count[c] += sums[i * 32 + lane].count[c], s.mass[c] += sums[i * 32 + lane].mass[c];
    return sum_warp(s, true);
  };

#pragma unroll
  for (int step = 16; step; step /= 2) most = fmaxf(most, __shfl_xor_sync(ALL, most, step));
  sync_cluster();  // all blocks run before any of them is written to
  send(&shared.most[sender], most);
  sync_cluster();
#pragma unroll
  for (int i = 0; i < SENDERS / 32; ++i) most = fmaxf(most, shared.most[i * 32 + lane]);
#pragma unroll
  for (int step = 16; step; step /= 2) most = fmaxf(most, __shfl_xor_sync(ALL, most, step));

  Weight weight{isinf(most) ? 0.f : most, 1.4426950408889634f / heat};
  bool by_mass = p < 1.f && most > -INFINITY;
  float floor = least > 0.f ? most + logf(least) * heat : -INFINITY;
  int turn = 0;
  auto total = [&](auto weigh) {
    return [&, weigh](const float (&cut)[CUTS]) {
      Sums mine = {};
#pragma unroll 2
      for (int i = threadIdx.x; i < fours; i += THREADS) {
        if (!(largest[i] >= cut[0])) continue;  // the lowest
        add<decltype(weigh)::value>(mine, values[i], cut, weight);
      }
      send(&shared.sums[turn][sender], sum_warp(mine, decltype(weigh)::value));
      sync_cluster();
      Sums s = total_of(shared.sums[turn]);
      turn ^= 1;
      return s;
    };
  };

  Goal goal{false, k, 0.f};
  Bracket bracket{LOWEST, image(most) + 1, V, 0, 0.f};
  if (by_count) {
    narrow(bracket, goal, k <= FEW ? FEW - 1 : 1, true, total(COUNT));
    // While low_count > FEW some of those are above the bracket; with k <= FEW narrowing on ends that.
    while (k <= FEW && bracket.low_count > FEW && !bracket.settled(k))
      narrow(bracket, goal, bracket.inside() / 2, false, total(COUNT));
  }
  bool all_few = by_count && bracket.low_count <= FEW;  // the few will be all values from low on
  if (!all_few) {
    if (by_count) floor = fmaxf(floor, value(bracket.low));
    if (!by_mass) {
      if (rank == 0 && threadIdx.x == 0) out[row] = floor;
      return;
    }
    float cut[CUTS] = {floor, fmaxf(most - PROBES[1] / weight.scale, floor), fmaxf(most - PROBES[2] / weight.scale, floor)};
    Sums s = total(WEIGH)(cut);
    goal = {true, 0, p * s.mass[0]};
    bracket = {image(floor), image(most) + 1, s.count[0], 0, 0.f};
#pragma unroll
    for (int c = 1; c < CUTS; ++c) bracket.learn(image(cut[c]), goal.reached(s.count[c], s.mass[c]), s.count[c], s.mass[c]);
    narrow(bracket, goal, FEW, false, total(WEIGH));
    if (bracket.settled(0)) {
      if (rank == 0 && threadIdx.x == 0) out[row] = value(bracket.low);
      return;
    }
  }

  // The values inside the bracket go to the first block, in a fixed order.
  float from = value(bracket.low), to = all_few ? INFINITY : value(bracket.high);
  auto inside = [&](float x) { return x >= from && (all_few || !(x >= to)); };
  int mine = 0;
  for (int i = threadIdx.x; i < fours; i += THREADS)
    if (largest[i] >= from) {
      float4 x = values[i];
      mine += inside(x.x) + inside(x.y) + inside(x.z) + inside(x.w);
    }
  int before = mine;  // of the lanes up to this one
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    int other = __shfl_up_sync(ALL, before, step);
    if (lane >= step) before += other;
  }
  int of_warp = __shfl_sync(ALL, before, 31);
  send(&shared.counts[sender], of_warp);
  sync_cluster();
  int ahead = 0, found = 0;
#pragma unroll
  for (int i = 0; i < SENDERS / 32; ++i) {
    int n = shared.counts[i * 32 + lane];
    ahead += i * 32 + lane < sender ? n : 0;
    found += n;
  }
  found = min(__reduce_add_sync(ALL, found), FEW);
  int at = __reduce_add_sync(ALL, ahead) + before - mine;
  float* few = in_block(shared.few, 0);
  auto give = [&](float x) {
    if (!inside(x)) return;
    if (at < FEW) few[at] = x;
    ++at;
  };
  for (int i = threadIdx.x; i < fours; i += THREADS)
    if (largest[i] >= from) {
      float4 x = values[i];
      give(x.x), give(x.y), give(x.z), give(x.w);
    }
  sync_cluster();
  if (rank || warp) return;

  float y[FEW_A_LANE];
#pragma unroll
  for (int i = 0; i < FEW_A_LANE; ++i) y[i] = i * 32 + lane < found ? shared.few[i * 32 + lane] : NAN;
  auto total_few = [&](auto weigh) {
    return [&, weigh](const float (&cut)[CUTS]) {
      Sums s = {};
#pragma unroll
      for (int i = 0; i < FEW_A_LANE; ++i) add<decltype(weigh)::value>(s, y[i], cut, weight);
      s = sum_warp(s, decltype(weigh)::value);
#pragma unroll
      for (int c = 0; c < CUTS; ++c) s.count[c] += bracket.high_count, s.mass[c] += bracket.high_mass;
      return s;
    };
  };
  if (all_few) {
    Bracket inner = bracket;
    bracket.high_count = 0, bracket.high_mass = 0.f;  // nothing is outside
    narrow(inner, goal, 1, false, total_few(COUNT));
    floor = fmaxf(floor, value(inner.low));
    if (!by_mass) {
      if (lane == 0) out[row] = floor;
      return;
    }
    float cut[CUTS] = {floor, floor, floor};
    Sums s = total_few(WEIGH)(cut);
    goal = {true, 0, p * s.mass[0]};
    bracket = {image(floor), image(most) + 1, s.count[0], 0, 0.f};
  }
  Bracket inner = bracket;
  narrow(inner, goal, 1, false, total_few(WEIGH));
  if (lane == 0) out[row] = fmaxf(floor, value(inner.low));
}

void run(const Call& call) {
  int S = call.size(0, 0), V = call.size(0, 1);
  int fours = (V + 4 * CLUSTER - 1) / (4 * CLUSTER);
  launch(find_thresholds, dim3(CLUSTER, S), THREADS, fours * 20, call.stream, false, CLUSTER, call.argument<float>(0),
         call.argument<float>(1), call.argument<int>(2), call.argument<float>(3), call.argument<float>(4),
         call.result<float>(0), V, fours);
}

}  // namespace

HANDLER(top_k_thresholds, run)
