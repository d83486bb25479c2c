// The product of some hundred tokens with a layer's gates and ups, and silu(gate) · up of it, in one kernel: what lies
// between the two is never stored. As fast as the weight is read, or as the matrix units are. Bound by matmul/cuda_gated.py.
//
// A tile is 128 tokens, HALF gates and their ups: a thread holds a gate and its up in registers. Two warpgroups multiply,
// 64 tokens each, and one thread brings stages of 64 inputs into a ring, of the weight before the kernel in front has
// ended. Thread blocks stay, one an SM, and take tile after tile: while results are stored, stages of the next tile arrive.
//
// Macros: ELEMENT, HALF, PROCESSORS (of the device).

#include "hopper.cuh"
#include "record.cuh"

namespace {

constexpr int TOKENS = 128;  // of a tile
constexpr int WORKERS = 256, THREADS = WORKERS + 128;
constexpr int TOKEN_BYTES = TOKENS * PANEL_PITCH, HALF_BYTES = HALF * PANEL_PITCH, STAGE = TOKEN_BYTES + 2 * HALF_BYTES;
constexpr int PITCH = 256, CHUNKS = HALF / 8;  // bytes of a row of results, and pieces of 16 bytes in it
constexpr int STAGES = 4;
static_assert(HALF % 16 == 0 && HALF * 2 <= PITCH);
using Tile = Product<ELEMENT, 2 * HALF>;

struct Arrays {
  ELEMENT* out;  // [T, F]
  int tokens, outputs, inputs;
};

struct Shared {
  alignas(1024) char stages[STAGES][STAGE];  // tokens, gates, ups
  char results[TOKENS * PITCH];
  uint64_t full[STAGES], free[STAGES];
};
constexpr int SHARED_BYTES = sizeof(Shared) + 1024;  // aligned by hand

// Thread blocks side by side have the same rows of the weight.
struct Place {
  int token, output;  // the first ones of a tile

  __device__ __forceinline__ Place(int at, const Arrays& arrays) {
    int tall = (arrays.tokens + TOKENS - 1) / TOKENS;
    token = at % tall * TOKENS, output = at / tall * HALF;
  }
};

// One thread: brings all stages of all tiles.
__device__ __forceinline__ void bring(Ring<STAGES> ring, uint32_t stages, const CUtensorMap& weight, const CUtensorMap& x,
                                      const Arrays& arrays, int tiles) {
  auto bring_weight = [&](const Ring<STAGES>& ring, const Place& place, int i) {
    uint32_t to = stages + ring.place * STAGE + TOKEN_BYTES;
    arrive_expecting(ring.filled(), STAGE);
    copy_box(to, weight, i * PANEL, place.output, ring.filled());
    copy_box(to + HALF_BYTES, weight, i * PANEL, arrays.outputs + place.output, ring.filled());
  };
  auto bring_tokens = [&](const Ring<STAGES>& ring, const Place& place, int i) {
    copy_box(stages + ring.place * STAGE, x, i * PANEL, place.token, ring.filled());
  };
  int steps = arrays.inputs / PANEL, ahead = min(STAGES, steps), at = blockIdx.x;
  Place first(at, arrays);
  Ring<STAGES> early = ring;
  for (int i = 0; i < ahead; ++i, early.next()) bring_weight(early, first, i);
  wait_for_kernel_in_front();
  for (int i = 0; i < ahead; ++i, ring.next()) bring_tokens(ring, first, i);
  for (int from = ahead; at < tiles; at += gridDim.x, from = 0) {
    Place place(at, arrays);
    for (int i = from; i < steps; ++i, ring.next()) {
      ring.wait_until_free();
      bring_weight(ring, place, i), bring_tokens(ring, place, i);
    }
  }
}

__device__ __forceinline__ float2 rounded(float x, float y) { return both<ELEMENT>(pack<ELEMENT>(x, y)); }

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.f + __expf(-x)); }

__device__ __forceinline__ Bits gated(float2 gate, float2 up) {
  gate = rounded(gate.x, gate.y), up = rounded(up.x, up.y);
  gate = rounded(silu(gate.x), silu(gate.y));
  return pack<ELEMENT>(gate.x * up.x, gate.y * up.y);
}

// The results of a warp's 16 tokens, by way of shared memory so that whole pieces of rows are stored.
__device__ __forceinline__ void store(const Place& place, const Arrays& arrays, const float (&acc)[HALF], char* results) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  results += warp * 16 * PITCH;
  auto at = [&](int row, int chunk) { return results + row * PITCH + ((chunk ^ row % 8) << 4); };
#pragma unroll
  for (int chunk = 0; chunk < CHUNKS; ++chunk)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float *gate = acc + chunk * 4 + 2 * h, *up = gate + HALF / 2;
      *reinterpret_cast<Bits*>(at(lane / 4 + 8 * h, chunk) + lane % 4 * 4) = gated({gate[0], gate[1]}, {up[0], up[1]});
    }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < CHUNKS / 2; ++i) {
    int row = (i * 32 + lane) / CHUNKS, chunk = (i * 32 + lane) % CHUNKS;
    int token = place.token + warp * 16 + row, output = place.output + chunk * 8;
    if (token < arrays.tokens && output < arrays.outputs)
      *reinterpret_cast<uint4*>(arrays.out + int64_t(token) * arrays.outputs + output) =
          *reinterpret_cast<const uint4*>(at(row, chunk));
  }
  __syncwarp();
}

__global__ void __launch_bounds__(THREADS, 1)
    multiply(const __grid_constant__ CUtensorMap weight, const __grid_constant__ CUtensorMap x, const Arrays arrays,
             int tiles) {
  extern __shared__ char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory + (1024 - shared_address(memory) % 1024) % 1024);
  int warp = uniform(threadIdx.x / 32);
  Ring<STAGES> ring(shared.full, shared.free);
  uint32_t stages = shared_address(shared.stages);
  if (threadIdx.x == 0) {
    prefetch_map(weight), prefetch_map(x);
    for (int i = 0; i < STAGES; ++i)
      start_barrier(shared_address(shared.full + i), 1), start_barrier(shared_address(shared.free + i), 2);
    publish_barriers();
  }
  __syncthreads();
  let_next_kernel_start();

  if (warp >= WORKERS / 32) {
    give_registers<40>();
    if (threadIdx.x == WORKERS) bring(ring, stages, weight, x, arrays, tiles);
    return;
  }
  take_registers<232>();
  wait_for_kernel_in_front();
  float acc[HALF];
  for (int at = blockIdx.x; at < tiles; at += gridDim.x) {
    uint32_t before = ring.left();
    for (int i = 0; i < arrays.inputs; i += PANEL, ring.next()) {
      ring.wait_until_filled();
      uint32_t stage = stages + ring.place * STAGE;
      uint32_t tokens = operand(stage + warp / 4 * 64 * PANEL_PITCH, 0), rows = operand(stage + TOKEN_BYTES, 0);
      pin(acc);
      begin_products();
#pragma unroll
      for (int k = 0; k < PANEL / 16; ++k) Tile::keys(acc, moved(tokens, k * 32), moved(rows, k * 32), k || i);
      commit_products();
      if (i) {
        wait_for_products<1>();
        if (threadIdx.x % 128 == 0) arrive(before);
      }
      before = ring.left();
    }
    wait_for_products<0>();
    pin(acc);
    if (threadIdx.x % 128 == 0) arrive(before);
    store(Place(at, arrays), arrays, acc, shared.results);
  }
}

void run(const Call& call) {
  Arrays arrays = {call.result<ELEMENT>(0), int(call.size(0, 0)), int(call.size(1, 1)), int(call.size(1, 2))};
  CUtensorMap weight = describe(call.argument<ELEMENT>(1), 2 * arrays.outputs, arrays.inputs, HALF);
  CUtensorMap x = describe(call.argument<ELEMENT>(0), arrays.tokens, arrays.inputs, TOKENS);
  int tiles = (arrays.tokens + TOKENS - 1) / TOKENS * ((arrays.outputs + HALF - 1) / HALF);
  launch_early(call, multiply, dim3(min(tiles, PROCESSORS)), THREADS, SHARED_BYTES, 1, weight, x, arrays, tiles);
}

}  // namespace

RECORDED_HANDLER(matmul_gated, run)
