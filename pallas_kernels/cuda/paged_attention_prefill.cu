// Attention of rows with any number of new tokens on Hopper; bound by matrix products. Bound by
// paged_attention/cuda_prefill.py, which plans the tiles.
//
// A tile is 128 query rows: consecutive tokens of one row of the batch, for all query heads of one kv head. Thread blocks
// stay, one an SM, and take the tiles from the longest to the shortest. In each, two warpgroups multiply, 64 query rows
// each, and the four warps of a third one bring what they need: blocks of keys, blocks of values, and the queries of either
// warpgroup, a tile ahead if there is room. While one block of keys is being weighed, the products of the values before it
// are under way, also from one tile to the next; and the two warpgroups take turns, so that one multiplies while the other
// weighs. A tile that is much longer than its share of all keys comes in parts, which a second kernel puts together.
//
// Macros: ELEMENT, HEAD_DIM, GROUP (query heads of a kv head), PAGE, KEYS (of a block), QUERY_STAGES, TURNS.

#include "call.cuh"
#include "hopper.cuh"

namespace {

constexpr int D = HEAD_DIM, G = GROUP;
constexpr int ROWS = 64, WARPGROUPS = 2;  // query rows of a warpgroup, and warpgroups that multiply
constexpr int TILE_ROWS = ROWS * WARPGROUPS;
constexpr int THREADS = (WARPGROUPS + 1) * 128;
constexpr int STAGES = 2;  // blocks of keys, and as many of values
constexpr int PANELS = (D + PANEL - 1) / PANEL;
constexpr int CHUNKS = D / 8;                         // pieces of 16 bytes in a row
constexpr int BOX = PAGE < KEYS ? PAGE : KEYS;        // keys of a copy
constexpr int BOXES = KEYS / BOX;                     // of a panel
constexpr int KEYS_PANEL = KEYS * PANEL_PITCH, ROWS_PANEL = ROWS * PANEL_PITCH;  // bytes
constexpr int BLOCK_BYTES = PANELS * KEYS_PANEL, QUERY_BYTES = PANELS * ROWS_PANEL;
constexpr float LOG2E = 1.4426950408889634f;
constexpr float NOTHING = -1e30f;  // a maximum before any key was seen
static_assert(D % 16 == 0 && KEYS % 16 == 0 && KEYS % BOX == 0 && PAGE % BOX == 0 && BOX % 8 == 0);
static_assert(BOXES * PANELS <= 32, "one copy a lane");
using Keys = Product<ELEMENT, KEYS>;

struct Plan {
  const int4* tiles;   // row, first token, tokens (0: no tile, nor after it), keys that its last token sees (0: none);
                       // and first block of keys, the one past the last, which part of a tile this is, of how many
  const int* context;  // [S]
  const int* table;    // [S, P]
  const float* sinks;  // [H], or null
  float* part;         // [slots, 128, D] sums of the parts of tiles, a slot for each (place in the plan, kv head)
  float2* weight;      // [slots, 128] their maxima, as exponents of two, and totals
  int count, width, heads, kv_heads, window;  // window: 0 is none
  float scale, softcap;                       // softcap: 0 is none
};

struct Shared {
  alignas(1024) char queries[WARPGROUPS][QUERY_STAGES][QUERY_BYTES];  // and a tile's results at its end
  alignas(1024) char keys[STAGES][BLOCK_BYTES];
  alignas(1024) char values[STAGES][BLOCK_BYTES];
  uint64_t queries_full[WARPGROUPS][QUERY_STAGES], queries_free[WARPGROUPS][QUERY_STAGES];
  uint64_t keys_full[STAGES], keys_free[STAGES], values_full[STAGES], values_free[STAGES];
  uint64_t tail;
};
constexpr int SHARED_BYTES = sizeof(Shared) + 1024;  // aligned by hand

struct Tile {
  int row, token, tokens, head;
  int first;        // position of the first token
  int lowest, end;  // keys [lowest, end) are visible to some token
  int first_block, last_block, part, parts;
  int slot;
};

// The tiles of this thread block, those without keys at the end. Every other round through the plan goes backwards, so that
// the sums of all blocks are about even.
struct Tiles {
  const Plan& plan;
  int round = 0;

  __device__ __forceinline__ Tile next() {  // one without tokens after the last
    int blocks = gridDim.x, block = blockIdx.x, at = round * blocks + (round % 2 ? blocks - 1 - block : block);
    ++round;
    if (at >= plan.count * plan.kv_heads) return {};
    const int4* entry = plan.tiles + at / plan.kv_heads * 2;
    int4 what = uniform(__ldg(entry)), which = uniform(__ldg(entry + 1));
    int first = what.w - what.z, lowest = plan.window ? max(first - plan.window + 1, 0) : 0;
    return {what.x, what.y, what.z, at % plan.kv_heads, first, lowest, what.w, which.x, which.y - 1, which.z, which.w, at};
  }
};

// One warp: the blocks of keys, or of values, of all tiles. Each lane copies one box: some keys of one page, 64 columns.
template <bool VALUES>
__device__ __forceinline__ void bring_blocks(const Plan& plan, const CUtensorMap& pages, Shared& shared) {
  int lane = threadIdx.x % 32, box = lane % BOXES, panel = lane / BOXES, tail_parity = 0;
  uint32_t blocks = shared_address(VALUES ? shared.values : shared.keys), tail = shared_address(&shared.tail);
  blocks += panel * KEYS_PANEL + box * BOX * PANEL_PITCH;
  Ring<STAGES> ring(VALUES ? shared.values_full : shared.keys_full, VALUES ? shared.values_free : shared.keys_free);
  Tiles tiles{plan};
  for (Tile tile = tiles.next(); tile.end; tile = tiles.next()) {
    const int* table = plan.table + int64_t(tile.row) * plan.width;
    int context = __ldg(plan.context + tile.row), last = tile.last_block;
    auto page_of = [&](int block) { return __ldg(table + min((block * KEYS + box * BOX) / PAGE, plan.width - 1)); };
    int page = page_of(tile.first_block);
    for (int block = tile.first_block; block <= last; ++block, ring.next()) {
      int row = ((page * 2 + VALUES) * plan.kv_heads + tile.head) * PAGE + (block * KEYS + box * BOX) % PAGE;
      if (block < last) page = page_of(block + 1);
      uint32_t to = blocks + ring.place * BLOCK_BYTES;
      int low = max(tile.lowest - block * KEYS, 0), high = min(context - block * KEYS, KEYS);
      ring.wait_until_free();
      if (!VALUES || (low < BOX && high == KEYS)) {
        if (lane == 0) arrive_expecting(ring.filled(), BLOCK_BYTES);
        __syncwarp();
        if (panel < PANELS) copy_box(to, pages, panel * PANEL, row, ring.filled());
        continue;
      }
      // Nothing is known of values that no token sees, and a weight of zero does not make NaN harmless: they become zeros.
      int begin = low / BOX, end = (high + BOX - 1) / BOX;
      if (lane == 0) arrive_expecting(tail, (end - begin) * PANELS * BOX * PANEL_PITCH);
      __syncwarp();
      if (panel < PANELS && box >= begin && box < end) copy_box(to, pages, panel * PANEL, row, tail);
      wait(tail, tail_parity);
      tail_parity ^= 1;
      uint4* values = reinterpret_cast<uint4*>(shared.values[ring.place]);
      for (int i = lane; i < BLOCK_BYTES / 16; i += 32) {
        int key = i / (PANEL_PITCH / 16) % KEYS;
        if (key < low || key >= high) values[i] = make_uint4(0, 0, 0, 0);
      }
      publish_stores();
      __syncwarp();
      if (lane == 0) arrive(ring.filled());
    }
  }
}

// Where piece `i` of a tile's query rows lies in global memory, and whether a token has it. A row has CHUNKS pieces.
struct Piece {
  int64_t offset;  // in values
  int place;       // in bytes, in shared memory
  bool live;

  __device__ __forceinline__ Piece(const Plan& plan, const Tile& tile, int group, int i) {
    int row = i / CHUNKS, chunk = i % CHUNKS, tile_row = group * ROWS + row, token = tile_row / G;
    offset = ((int64_t(tile.token) + token) * plan.heads + tile.head * G + tile_row % G) * D + chunk * 8;
    place = chunk / 8 * ROWS_PANEL + swizzled(row, chunk % 8);
    live = token < tile.tokens;
  }
};

// One warp: the queries of one warpgroup for all tiles; zeros for rows that no token has.
__device__ __forceinline__ void bring_queries(const Plan& plan, const ELEMENT* q, Shared& shared, int group) {
  int lane = threadIdx.x % 32;
  Ring<QUERY_STAGES> ring(shared.queries_full[group], shared.queries_free[group]);
  Tiles tiles{plan};
  for (Tile tile = tiles.next(); tile.end; tile = tiles.next(), ring.next()) {
    uint32_t to = shared_address(shared.queries[group][ring.place]);
    ring.wait_until_free();
#pragma unroll 4
    for (int i = lane; i < ROWS * CHUNKS; i += 32) {
      Piece piece(plan, tile, group, i);
      copy_async(to + piece.place, piece.live ? q + piece.offset : q, piece.live);
    }
    commit_copies();
    wait_for_copies<0>();
    publish_stores();
    __syncwarp();
    if (lane == 0) arrive(ring.filled());
  }
}

__device__ __forceinline__ void score(float (&s)[KEYS / 2], uint32_t queries, uint32_t keys) {
#pragma unroll
  for (int k = 0; k < D / 16; ++k)
    Keys::keys(s, moved(queries, k / 4 * ROWS_PANEL + k % 4 * 32), moved(keys, k / 4 * KEYS_PANEL + k % 4 * 32), k > 0);
}

// acc += weights · values, for the columns from FROM on.
template <int FROM = 0>
__device__ __forceinline__ void add_values(float (&acc)[D / 2], const Bits (&weights)[KEYS / 16][4], uint32_t values) {
  constexpr int WIDTH = D - FROM >= 128 ? 128 : D - FROM >= 64 ? 64 : D - FROM;
#pragma unroll
  for (int k = 0; k < KEYS / 16; ++k)
    Product<ELEMENT, WIDTH>::values(acc + FROM / 2, weights[k],
                                    moved(values, FROM / PANEL * KEYS_PANEL + k * 16 * PANEL_PITCH));
  if constexpr (FROM + WIDTH < D) add_values<FROM + WIDTH>(acc, weights, values);
}

// What a thread knows of the softmax of its two query rows; totals are of its own columns.
struct Softmax {
  float top[2], total[2];

  __device__ __forceinline__ void reset(const Plan& plan, const Tile& tile, const int (&head)[2], float factor) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {  // a sink is a score that has been seen
      bool sink = plan.sinks && tile.part == 0;
      top[h] = sink ? __ldg(plan.sinks + tile.head * G + head[h]) * LOG2E / factor : NOTHING;
      total[h] = sink && threadIdx.x % 4 == 0 ? 1.f : 0.f;
    }
  }
};

// Scores become weights; `old` is what the weights before are worth now. Score times factor is a power of two.
__device__ __forceinline__ void weigh(float (&s)[KEYS / 2], Softmax& softmax, float (&old)[2], float factor) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float most[2] = {softmax.top[h], s[2 * h]}, sum[2] = {0.f, 0.f};
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) most[i] = fmaxf(most[i], s[4 * j + 2 * h + i]);
    float top = fmaxf(most[0], most[1]);
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    old[h] = exp2_fast((softmax.top[h] - top) * factor);
    softmax.top[h] = top;
    float shift = -top * factor;
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = s[4 * j + 2 * h + i];
        x = exp2_fast(fmaf(x, factor, shift));
        sum[i] += x;
      }
    softmax.total[h] = softmax.total[h] * old[h] + (sum[0] + sum[1]);
  }
}

__device__ __forceinline__ void round_weights(Bits (&weights)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
#pragma unroll
  for (int k = 0; k < KEYS / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[k][i] = pack<ELEMENT>(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
}

// Scores of keys from `key` on, counted from the tile's first position: bounded, and minus infinity where a query row does
// not see them. Tokens are counted from the tile's first: of the thread's two rows, and of the warpgroup's first and last.
__device__ __forceinline__ void bound_and_mask(float (&s)[KEYS / 2], const Plan& plan, int key, const int (&token)[2],
                                               int lowest, int highest) {
  if (plan.softcap > 0.f) {
    float inner = 2.f * LOG2E * plan.scale / plan.softcap;
#pragma unroll
    for (int i = 0; i < KEYS / 2; ++i)  // tanh
      s[i] = 1.f - __fdividef(2.f, exp2_fast(fminf(s[i] * inner, 120.f)) + 1.f);
  }
  if (key + KEYS - 1 <= lowest && (!plan.window || key > highest - plan.window)) return;
  int column = key + threadIdx.x % 4 * 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    int last = token[h] - column, before = plan.window ? last - plan.window : -KEYS;  // it sees columns (before, last]
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (8 * j + i > last || 8 * j + i <= before) s[4 * j + 2 * h + i] = -INFINITY;
  }
}

// Results of a warpgroup's rows. Means go into the place of their queries, from where whole rows are stored.
__device__ __forceinline__ void store(const Plan& plan, const Tile& tile, ELEMENT* out, const float (&acc)[D / 2],
                                      Softmax softmax, float factor, char* place, int group) {
  int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    softmax.total[h] += __shfl_xor_sync(~0u, softmax.total[h], 1);
    softmax.total[h] += __shfl_xor_sync(~0u, softmax.total[h], 2);
  }
  if (tile.parts > 1) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      int64_t row = int64_t(tile.slot) * TILE_ROWS + group * ROWS + warp * 16 + lane / 4 + 8 * h;
      if (lane % 4 == 0) plan.weight[row] = make_float2(softmax.top[h] * factor, softmax.total[h]);
#pragma unroll
      for (int j = 0; j < CHUNKS; ++j)
        *reinterpret_cast<float2*>(plan.part + row * D + j * 8 + lane % 4 * 2) =
            make_float2(acc[4 * j + 2 * h], acc[4 * j + 2 * h + 1]);
    }
    return;
  }
  meet(3 + group, 128);  // no warp's products read the queries any more
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float inverse = softmax.total[h] > 0.f ? 1.f / softmax.total[h] : 0.f;
#pragma unroll
    for (int j = 0; j < CHUNKS; ++j)
      *reinterpret_cast<Bits*>(place + j / 8 * ROWS_PANEL + swizzled(warp * 16 + lane / 4 + 8 * h, j % 8) + lane % 4 * 4) =
          pack<ELEMENT>(acc[4 * j + 2 * h] * inverse, acc[4 * j + 2 * h + 1] * inverse);
  }
  __syncwarp();
#pragma unroll 4
  for (int i = lane; i < 16 * CHUNKS; i += 32) {
    Piece piece(plan, tile, group, warp * 16 * CHUNKS + i);
    if (piece.live) *reinterpret_cast<uint4*>(out + piece.offset) = *reinterpret_cast<const uint4*>(place + piece.place);
  }
  __syncwarp();
}

__device__ __forceinline__ void store_zeros(const Plan& plan, const Tile& tile, ELEMENT* out, int group) {
  for (int i = threadIdx.x % 128; i < ROWS * CHUNKS; i += 128) {
    Piece piece(plan, tile, group, i);
    if (piece.live) *reinterpret_cast<uint4*>(out + piece.offset) = make_uint4(0, 0, 0, 0);
  }
}

// A warpgroup: 64 query rows of all tiles.
__device__ __forceinline__ void attend_rows(const Plan& plan, ELEMENT* out, Shared& shared, int group) {
  int row = group * ROWS + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;  // of the tile, and the one 8 below
  const int tokens[2] = {row / G, (row + 8) / G}, heads[2] = {row % G, (row + 8) % G};
  const int lowest = group * ROWS / G, highest = (group * ROWS + ROWS - 1) / G;
  Ring<QUERY_STAGES> query_ring(shared.queries_full[group], shared.queries_free[group]);
  Ring<STAGES> key_ring(shared.keys_full, shared.keys_free), value_ring(shared.values_full, shared.values_free);
  uint32_t queries_at = operand(shared_address(shared.queries[group]), ROWS_PANEL);
  uint32_t keys_at = operand(shared_address(shared.keys), KEYS_PANEL);
  uint32_t values_at = operand(shared_address(shared.values), KEYS_PANEL);
  float factor = (plan.softcap > 0.f ? plan.softcap : plan.scale) * LOG2E;
  auto take_turn = [&] {
    if constexpr (TURNS) meet(1 + group, 256);
  };
  auto pass_turn = [&] {
    if constexpr (TURNS) announce(2 - group, 256);
  };
  if (group == 1) pass_turn();

  Softmax softmax;
  float acc[D / 2] = {}, s[KEYS / 2], old[2];
  Bits weights[KEYS / 16][4];
  Tiles tiles{plan};
  Tile tile = tiles.next(), next;
  while (tile.end) {
    int block = tile.first_block;
    query_ring.wait_until_filled();
    key_ring.wait_until_filled();
    begin_products();
    score(s, moved(queries_at, query_ring.place * QUERY_BYTES), moved(keys_at, key_ring.place * BLOCK_BYTES));
    commit_products();
    wait_for_products<0>();
    pin(s);
    key_ring.leave();
    softmax.reset(plan, tile, heads, factor);
    bound_and_mask(s, plan, block * KEYS - tile.first, tokens, lowest, highest);
    weigh(s, softmax, old, factor);
    round_weights(weights, s);

    while (true) {  // the scores of the next block, and the values of this one
      bool ends = block == tile.last_block;
      next = ends ? tiles.next() : tile;
      if (ends && (QUERY_STAGES == 1 || !next.end)) break;
      Ring<QUERY_STAGES> next_queries = query_ring;
      if (ends) {
        next_queries.next();
        next_queries.wait_until_filled();
      }
      block = ends ? next.first_block : block + 1;
      key_ring.wait_until_filled();
      take_turn();
      pin(s);
      pin(acc);
      pin(weights);
      begin_products();
      score(s, moved(queries_at, next_queries.place * QUERY_BYTES), moved(keys_at, key_ring.place * BLOCK_BYTES));
      commit_products();
      value_ring.wait_until_filled();
      begin_products();
      add_values(acc, weights, moved(values_at, value_ring.place * BLOCK_BYTES));
      commit_products();
      pass_turn();
      wait_for_products<1>();
      pin(s);
      key_ring.leave();
      const Softmax ended = softmax;
      if (ends) softmax.reset(plan, next, heads, factor);
      bound_and_mask(s, plan, block * KEYS - next.first, tokens, lowest, highest);
      weigh(s, softmax, old, factor);
      // The products of values are not waited for before all is weighed: the compiler would, but not across a branch.
      if (softmax.total[0] + softmax.total[1] < 0.f) __trap();
      wait_for_products<0>();
      pin(acc);
      pin(weights);
      value_ring.leave();
      if (ends) {
        store(plan, tile, out, acc, ended, factor, shared.queries[group][query_ring.place], group);
        query_ring.leave();
        tile = next;
#pragma unroll
        for (int i = 0; i < D / 2; ++i) acc[i] = 0.f;
      } else if (__any_sync(~0u, old[0] < 1.f || old[1] < 1.f)) {
#pragma unroll
        for (int i = 0; i < D / 2; ++i) acc[i] *= old[i / 2 % 2];
      }
      round_weights(weights, s);
    }

    value_ring.wait_until_filled();
    pin(acc);
    pin(weights);
    begin_products();
    add_values(acc, weights, moved(values_at, value_ring.place * BLOCK_BYTES));
    commit_products();
    wait_for_products<0>();
    pin(acc);
    pin(weights);
    value_ring.leave();
    store(plan, tile, out, acc, softmax, factor, shared.queries[group][query_ring.place], group);
    query_ring.leave();
    tile = next;
#pragma unroll
    for (int i = 0; i < D / 2; ++i) acc[i] = 0.f;
  }
  for (; tile.tokens; tile = tiles.next()) store_zeros(plan, tile, out, group);
  if (group == 0) take_turn();  // the last one that was passed
}

__global__ void __launch_bounds__(THREADS, 1)
    attend_tiles(const Plan plan, const __grid_constant__ CUtensorMap pages, const ELEMENT* __restrict__ q,
                 ELEMENT* __restrict__ out) {
  extern __shared__ char unaligned[];
  Shared& shared = *reinterpret_cast<Shared*>(unaligned + (1024 - shared_address(unaligned) % 1024) % 1024);
  if (threadIdx.x == 0) {
    prefetch_map(pages);
    for (int i = 0; i < STAGES; ++i) {
      start_barrier(shared_address(&shared.keys_full[i]), 1);
      start_barrier(shared_address(&shared.values_full[i]), 1);
      start_barrier(shared_address(&shared.keys_free[i]), WARPGROUPS * 4);
      start_barrier(shared_address(&shared.values_free[i]), WARPGROUPS * 4);
    }
    for (int group = 0; group < WARPGROUPS; ++group)
      for (int i = 0; i < QUERY_STAGES; ++i) {
        start_barrier(shared_address(&shared.queries_full[group][i]), 1);
        start_barrier(shared_address(&shared.queries_free[group][i]), 4);
      }
    start_barrier(shared_address(&shared.tail), 1);
    publish_barriers();
  }
  __syncthreads();
  int group = uniform(threadIdx.x / 128);
  if (group < WARPGROUPS) {
    take_registers<224>();
    attend_rows(plan, out, shared, group);
  } else {
    give_registers<56>();
    int warp = threadIdx.x / 32 % 4;
    if (warp == 0) bring_blocks<false>(plan, pages, shared);
    if (warp == 1) bring_blocks<true>(plan, pages, shared);
    if (warp >= 2) bring_queries(plan, q, shared, warp - 2);
  }
}

constexpr int MERGED_ROWS = 32, MERGE_THREADS = 256;  // of a thread block

// Thread block (e, head, i): rows 32i to 32i+31 of a tile in parts whose first is place e of the plan.
__global__ void __launch_bounds__(MERGE_THREADS) merge_parts(const Plan plan, ELEMENT* __restrict__ out) {
  wait_for_kernel_in_front();
  int entry = blockIdx.x, head = blockIdx.y;
  int4 what = plan.tiles[2 * entry], which = plan.tiles[2 * entry + 1];
  if (what.z == 0 || which.z > 0 || which.w == 1) return;
  for (int i = threadIdx.x; i < MERGED_ROWS * CHUNKS; i += MERGE_THREADS) {
    int row = blockIdx.z * MERGED_ROWS + i / CHUNKS, column = i % CHUNKS * 8, token = row / G;
    if (token >= what.z) return;
    float top = NOTHING, total = 0.f, sum[8] = {};
    for (int part = 0; part < which.w; ++part) {
      int64_t at = (int64_t(entry + part) * plan.kv_heads + head) * TILE_ROWS + row;
      float2 weight = plan.weight[at];
      float higher = fmaxf(top, weight.x), old = exp2_fast(top - higher), share = exp2_fast(weight.x - higher);
      float x[8];
      *reinterpret_cast<float4*>(x) = *reinterpret_cast<const float4*>(plan.part + at * D + column);
      *reinterpret_cast<float4*>(x + 4) = *reinterpret_cast<const float4*>(plan.part + at * D + column + 4);
      top = higher;
      total = total * old + weight.y * share;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] = sum[j] * old + x[j] * share;
    }
    float inverse = total > 0.f ? 1.f / total : 0.f;
    uint4 packed = {pack<ELEMENT>(sum[0] * inverse, sum[1] * inverse), pack<ELEMENT>(sum[2] * inverse, sum[3] * inverse),
                    pack<ELEMENT>(sum[4] * inverse, sum[5] * inverse), pack<ELEMENT>(sum[6] * inverse, sum[7] * inverse)};
    int64_t offset = ((int64_t(what.y) + token) * plan.heads + head * G + row % G) * D + column;
    *reinterpret_cast<uint4*>(out + offset) = packed;
  }
}

void run(const Call& call) {
  int kv_heads = call.size(4, 2);
  Plan plan{call.argument<int4>(0),
            call.argument<int>(1),
            call.argument<int>(2),
            call.arguments() > 5 ? call.argument<float>(5) : nullptr,
            call.result<float>(1),
            call.result<float2>(2),
            int(call.size(0, 0)),
            int(call.size(2, 1)),
            int(call.size(3, 1)),
            kv_heads,
            int(call.attribute<int64_t>("window")),
            call.attribute<float>("scale"),
            call.attribute<float>("softcap")};
  CUtensorMap pages = describe(call.argument<ELEMENT>(4), call.size(4, 0) * 2 * kv_heads * PAGE, D, BOX);
  launch(attend_tiles, dim3(call.attribute<int64_t>("blocks")), THREADS, SHARED_BYTES, call.stream, false, 1, plan, pages,
         call.argument<ELEMENT>(3), call.result<ELEMENT>(0));
  if (int places = call.attribute<int64_t>("split_places"))
    launch(merge_parts, dim3(places, kv_heads, TILE_ROWS / MERGED_ROWS), MERGE_THREADS, 0, call.stream, true, 1, plan,
           call.result<ELEMENT>(0));
}

}  // namespace

HANDLER(paged_attention_prefill, run)
