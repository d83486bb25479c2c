// Pairs of a token and an expert, put in order of their experts and cut into tiles, in one kernel. Bound by
// grouped_matmul/tiles_cuda.py; the contract and its words are those of grouped_matmul/tiles.py.
//
// One thread block, whose time is latency alone. A warp counts its own pairs of every expert in a row of shared memory that
// no other warp writes: that gives each pair its rank among those of its expert without atomics, so there is one order.
// Sums over rows and over experts then say where a pair goes.
//
// Macros: EXPERTS, TILE_ROWS (pairs of a tile, at most), WARPS, EACH (pairs of a thread).

#include "record.cuh"

namespace {

constexpr int bits_of(int x) { return x ? 1 + bits_of(x / 2) : 0; }

constexpr int THREADS = WARPS * 32, MOST = THREADS * EACH;  // pairs
constexpr int COLUMNS = EXPERTS / 2 + 1;                    // of two experts; one past the last stands for none
constexpr int BITS = bits_of(EXPERTS);
constexpr unsigned ALL = ~0u;
static_assert(COLUMNS <= THREADS && MOST < 1 << 16);

// The lanes whose expert is this lane's: one vote a bit, as in CUB, which finds match.any slower.
__device__ __forceinline__ unsigned lanes_of_same(int expert) {
  unsigned same = ALL;
#pragma unroll
  for (int bit = 0; bit < BITS; ++bit) {
    bool set = expert >> bit & 1;
    unsigned others = __ballot_sync(ALL, set);
    same &= set ? others : ~others;
  }
  return same;
}

// What an expert has, as in `before`.
__device__ __forceinline__ uint32_t tiles_and_pairs(int expert, int pairs) {
  return expert < EXPERTS ? (pairs + TILE_ROWS - 1) / TILE_ROWS << 16 | pairs : 0;
}

}  // namespace

// With a name of its own, under which XLA looks for it.
__global__ void __launch_bounds__(THREADS) make_tiles(const int* chosen, int* order, int* table, int pairs, int tiles) {
  __shared__ uint32_t counts[WARPS][COLUMNS];  // 16 bits an expert: a warp's pairs of it, then those of the warps before
  __shared__ uint32_t totals[WARPS];
  __shared__ uint32_t before[2 * COLUMNS];  // tiles (upper half) and pairs (lower half) of all experts before one
  __shared__ uint16_t sorted[MOST];
  let_next_kernel_start();
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  auto pair = [&](int i) { return (warp * EACH + i) * 32 + lane; };
#pragma unroll
  for (int c = 0; c < COLUMNS; c += 32)
    if (c + lane < COLUMNS) counts[warp][c + lane] = 0;
  wait_for_kernel_in_front();

  int expert[EACH], place[EACH];
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    int given = pair(i) < pairs ? chosen[pair(i)] : EXPERTS;
    expert[i] = min(unsigned(given), unsigned(EXPERTS));
  }
  uint16_t* mine = reinterpret_cast<uint16_t*>(counts[warp]);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    unsigned same = lanes_of_same(expert[i]);
    int rank = __popc(same & ((1u << lane) - 1)), counted = i ? mine[expert[i]] : 0;
    __syncwarp();
    if (rank == 0) mine[expert[i]] = counted + __popc(same);
    __syncwarp();
    place[i] = counted + rank;
  }
  __syncthreads();

  int column = threadIdx.x;
  uint32_t first = 0, second = 0;  // what the column's experts have
  if (column < COLUMNS) {
    uint32_t both = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      uint32_t here = counts[w][column];
      counts[w][column] = both;
      both += here;
    }
    first = tiles_and_pairs(2 * column, both & 0xFFFF), second = tiles_and_pairs(2 * column + 1, both >> 16);
  }
  uint32_t sum = first + second;  // of the warp's columns up to this one
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    uint32_t other = __shfl_up_sync(ALL, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) totals[warp] = sum;
  __syncthreads();
  uint32_t ahead = sum - first - second;  // of all columns before this one
#pragma unroll
  for (int w = 0; w < (COLUMNS - 1) / 32; ++w) ahead += w < warp ? totals[w] : 0;
  if (column < COLUMNS) before[2 * column] = ahead, before[2 * column + 1] = ahead + first;
#pragma unroll
  for (int i = 0; i < EACH; ++i) place[i] += mine[expert[i]];
  __syncthreads();

#pragma unroll
  for (int i = 0; i < EACH; ++i) sorted[place[i] + (before[expert[i]] & 0xFFFF)] = pair(i);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < EACH; ++i)  // here neighbours write to neighbours
    if (int at = i * THREADS + threadIdx.x; at < pairs) order[at] = sorted[at];

  auto write = [&](int tile, int expert, int start, int length) {
    int* row = table + 3 * tile;
    row[0] = expert, row[1] = start, row[2] = length;
  };
  auto cut = [&](int expert, uint32_t from, uint32_t own) {
    int tile = from >> 16, start = from & 0xFFFF, end = start + int(own & 0xFFFF);
#pragma unroll 1  // here and below: few turns, and code that is read once costs its reading
    for (; start < end; start += TILE_ROWS) write(tile++, expert, start, min(end - start, TILE_ROWS));
  };
  cut(2 * column, ahead, first), cut(2 * column + 1, ahead + first, second);
  uint32_t last = before[EXPERTS - 1];  // places past all tiles read like more of the last expert's
#pragma unroll 1
  for (int tile = int(before[EXPERTS] >> 16) + threadIdx.x; tile < tiles; tile += THREADS)
    write(tile, EXPERTS - 1, int(last & 0xFFFF) + (tile - int(last >> 16)) * TILE_ROWS, 0);
}

namespace {

void run(const Call& call) {
  int pairs = call.size(0, 0), tiles = call.attribute<int64_t>("tiles");
  if (pairs > MOST) throw "expert_tiles: compiled for fewer pairs";
  launch_early(call, make_tiles, dim3(1), THREADS, 0, 1, call.argument<int>(0), call.result<int>(0), call.result<int>(1),
               pairs, tiles);
}

}  // namespace

RECORDED_HANDLER(expert_tiles, run)
