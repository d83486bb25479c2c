// argmax(logits / temperature + Gumbel noise) of a row by a cluster of thread blocks. Bound by gumbel_argmax/cuda.py; the
// noise is that of gumbel_argmax/reference.py, bit for bit up to the rounding of logarithms.
//
// Noise is at most -log of its uniform number, so a value that cannot win with that much needs no logarithms, and one that
// cannot win with the most there is needs no random bits: values below `keep` as a rule, and those of flat tails.

#include "call.cuh"

namespace {

constexpr int CLUSTER = 8, EACH = 4;  // values of either half of the vocabulary that a thread takes at a time
constexpr float LOG2E = 1.4426950408889634f;
constexpr float MOST_NOISE = 23.f;  // -log(2^-33), rounded up
constexpr unsigned ALL = ~0u;

struct Best {
  float score;
  int token;

  __device__ __forceinline__ void learn(float s, int t) {
    if (s > score || (s == score && t < token)) score = s, token = t;
  }
};

struct Key {
  uint32_t seed, position;
};

__device__ __forceinline__ int image(float x) {  // float32 as ordered integers
  int bits = __float_as_int(x);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

__device__ __forceinline__ float largest(float x) {  // of a warp
  int most = __reduce_max_sync(ALL, image(x));
  return __int_as_float(most ^ ((most >> 31) & 0x7FFFFFFF));
}

// Threefry-2x32 with 20 rounds.
__device__ __forceinline__ uint2 threefry(Key key, uint32_t x, uint32_t y) {
  constexpr int TURNS[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key.seed, key.position, key.seed ^ key.position ^ 0x1BD11BDA};
  x += keys[0], y += keys[1];
#pragma unroll
  for (int group = 0; group < 5; ++group) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x += y;
      y = __funnelshift_l(y, y, TURNS[group % 2][i]) ^ x;
    }
    x += keys[(group + 1) % 3];
    y += keys[(group + 2) % 3] + group + 1;
  }
  return {x, y};
}

__device__ __forceinline__ float uniform(uint32_t bits) {
  return fminf((__uint2float_rn(bits) + 0.5f) * 2.3283064365386963e-10f, 0.99999994f);
}

struct Values {  // of one half
  float x[EACH];

  __device__ __forceinline__ void read(const float* row, int at, int end, bool aligned, float keep) {
    float4 four = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    if (aligned) {
      if (at < end) four = __ldcs(reinterpret_cast<const float4*>(row + at));
    } else {
      if (at < end) four.x = row[at];
      if (at + 1 < end) four.y = row[at + 1];
      if (at + 2 < end) four.z = row[at + 2];
      if (at + 3 < end) four.w = row[at + 3];
    }
    x[0] = four.x >= keep ? four.x : -INFINITY, x[1] = four.y >= keep ? four.y : -INFINITY;
    x[2] = four.z >= keep ? four.z : -INFINITY, x[3] = four.w >= keep ? four.w : -INFINITY;
  }
  __device__ __forceinline__ float most() const { return fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])); }
};

__global__ void __launch_bounds__(1024)
    choose(const float* __restrict__ logits, const float* __restrict__ temperature, const uint32_t* __restrict__ seed,
           const uint32_t* __restrict__ position, const float* __restrict__ keep, int* __restrict__ out, int V) {
  __shared__ Best warps[32];
  __shared__ Best blocks[CLUSTER];
  int s = blockIdx.y, rank = blockIdx.x, lane = threadIdx.x % 32;
  int half = (V + 1) / 2, stride = CLUSTER * blockDim.x * EACH;
  const float* row = logits + int64_t(s) * V;
  bool hot = temperature[s] > 0.f, aligned = half % EACH == 0 && V % EACH == 0;
  float scale = hot ? 1.f / temperature[s] : 1.f, least = keep ? keep[s] : -INFINITY;
  Key key = {seed[s], position[s]};
  Best best = {-INFINITY, V - 1};
  float to_beat = -INFINITY;  // the warp's best score

  Values low, high;
  auto read = [&](Values& low, Values& high, int at) {
    low.read(row, at, half, aligned, least), high.read(row, at + half, at < half ? V : 0, aligned, least);
  };
  int at = (rank * blockDim.x + threadIdx.x) * EACH;
  read(low, high, at);
  for (int begin = 0; begin < half; begin += stride, at += stride) {
    Values next_low, next_high;
    read(next_low, next_high, at + stride);
    float most = fmaxf(low.most(), high.most());
    if (!hot) {
      if (most >= best.score)
#pragma unroll
        for (int i = 0; i < EACH; ++i) best.learn(low.x[i], at + i), best.learn(high.x[i], at + i + half);
    } else if (__any_sync(ALL, fmaf(most, scale, MOST_NOISE) >= to_beat && most > -INFINITY)) {
      bool learnt = false;
      float margin = 0.01f + fabsf(to_beat) * 1e-6f;  // for what rounding may cost
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        uint2 bits = threefry(key, at + i, 0);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float x = h ? high.x[i] : low.x[i], u = uniform(h ? bits.y : bits.x);
          float bound = to_beat == -INFINITY ? INFINITY : exp2f((fmaf(x, scale, -to_beat) + margin) * LOG2E);
          if (u <= bound && x > -INFINITY) {
            best.learn(fmaf(x, scale, -logf(-log1pf(-u))), at + i + h * half);
            learnt = true;
          }
        }
      }
      if (__any_sync(ALL, learnt)) to_beat = largest(best.score);
    }
    low = next_low, high = next_high;
  }

  auto best_of_warp = [&](Best mine) {
    float most = largest(mine.score);
    return Best{most, __reduce_min_sync(ALL, mine.score == most ? mine.token : V - 1)};
  };
  best = best_of_warp(best);
  if (lane == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  __cluster_barrier_arrive();  // all blocks run before any of them is written to
  __cluster_barrier_wait();
  if (threadIdx.x < 32) {
    best = best_of_warp(lane < blockDim.x / 32 ? warps[lane] : Best{-INFINITY, V - 1});
    if (lane == 0) *static_cast<Best*>(__cluster_map_shared_rank(&blocks[rank], 0)) = best;
  }
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
  if (rank || threadIdx.x >= 32) return;
  best = best_of_warp(lane < CLUSTER ? blocks[lane] : Best{-INFINITY, V - 1});
  if (lane == 0) out[s] = best.token;
}

void run(const Call& call) {
  int S = call.size(0, 0);
  launch(choose, dim3(CLUSTER, S), S > 32 ? 256 : 1024, 0, call.stream, false, CLUSTER, call.argument<float>(0),
         call.argument<float>(1), call.argument<uint32_t>(2), call.argument<uint32_t>(3),
         call.arguments() > 4 ? call.argument<float>(4) : nullptr, call.result<int>(0), int(call.size(0, 1)));
}

}  // namespace

HANDLER(gumbel_argmax, run)
