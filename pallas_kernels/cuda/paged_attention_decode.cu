// Attention of few tokens a row over keys and values in pages; bound by reading them. Bound by paged_attention/cuda.py;
// the contract and its words are those of paged_attention/decode.py.
//
// A thread block attends one chunk of a query tile's keys with one kv head. Its warps take blocks of KEYS keys in turn, each
// with a ring of them under way of its own; at the end the warps' sums are put together. A tile of one chunk is written at
// once, the chunks of others are put together by the second kernel, whose thread blocks wait on the device already when the
// first one ends.
//
// Macros: ELEMENT (of queries), EXPONENT (bits of it in values of 8 bits; 0: pages hold ELEMENTs), HEAD_DIM, GROUP (query
// heads of a kv head), TOKENS (of a query tile, at most), PAGE, WARPS, STAGES, RESIDENT (thread blocks of an SM).

#include "call.cuh"
#include "paged_attention_block.cuh"

namespace {

struct __align__(16) Chunk {  // of the keys of a query tile; a row of the array `chunks`
  int row, token, length, context;  // of the tile; length 0: not a chunk
  int begin, end, alone, unused;    // keys; whether the tile has no other chunk
};

struct __align__(16) Split {  // tile of several chunks; a row of the array `splits`
  int token, length, first, count;  // first and number of its chunks; count 0: not a tile
};

struct Plan {
  const Chunk* chunks;    // [W]
  const Split* splits;    // [M]
  const int* table;       // [S, P]
  const float* sinks;     // [H] or null
  const float* kv_scale;  // [2, K] or null
  int places;             // W
  int width, window;      // window: 0 is none
  float scale, softcap;   // softcap: 0 is none
};

// The first key that the token at `position` sees.
__device__ __forceinline__ int lowest_key(const Plan& plan, int position) {
  return plan.window ? max(position + 1 - plan.window, 0) : 0;
}

// Query m of a tile: where its four values from `column` on go.
__device__ __forceinline__ void write(const Plan& plan, int token, int kv_heads, int head, int m, int column, float4 sum,
                                      float total, ELEMENT* out) {
  float factor = total > 0.f ? 1.f / total : 0.f;
  if (plan.kv_scale) factor *= plan.kv_scale[kv_heads + head];
  uint2 packed = {pack<ELEMENT>(sum.x * factor, sum.y * factor), pack<ELEMENT>(sum.z * factor, sum.w * factor)};
  int64_t query = (int64_t(token + m / G) * kv_heads + head) * G + m % G;
  *reinterpret_cast<uint2*>(out + query * D + column) = packed;
}

// A thread block's part: chunk number `place`, with one kv head.
__device__ __forceinline__ void attend_chunk(const Plan& plan, Chunk chunk, int place, const ELEMENT* q, const char* kv,
                                             ELEMENT* out, float* part, Weight* part_weight) {
  extern __shared__ __align__(128) char shared[];
  __shared__ Weight weights[WARPS][LANES];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.x, kv_heads = gridDim.x;

  // The warp's blocks of keys begin at keys first, first + STEP, ...; where 32 of them lie is known ahead, one a lane.
  constexpr int STEP = WARPS * KEYS;
  int lowest = lowest_key(plan, chunk.context - chunk.length), first = chunk.begin + warp * KEYS;
  const int* table = plan.table + int64_t(chunk.row) * plan.width;
  auto look = [&](int number) {  // blocks of the pool
    int key = first + number * STEP;
    if (key >= chunk.end) return 0;
    return (table[key / PAGE] * 2 * kv_heads + head) * (PAGE / KEYS) + key % PAGE / KEYS;
  };
  int here = look(lane), next = 0;
  if (first + 32 * STEP < chunk.end) next = look(lane + 32);
  char* ring = shared + warp * RING;
  const char* lane_source = kv + lane * 16;
  int64_t to_values = int64_t(kv_heads) * PAGE * ROW;
  int copied = 0;
  auto copy_next = [&]() {  // block number `copied`, into its place of the ring; empty past the end
    int block = __shfl_sync(~0u, here, copied % 32), key = first + copied * STEP;
    if (key < chunk.end) {
      const char* source = lane_source + int64_t(block) * (KEYS * ROW);
      uint32_t to = shared_address(ring) + copied % STAGES * (2 * BLOCK);
#pragma unroll
      for (int i = 0; i < COPIES; ++i) {
        int piece = i * 32 + lane, row = piece / PIECES;
        bool wanted = key + row >= lowest && key + row < chunk.end;
        uint32_t at = to + row * PITCH + piece % PIECES * 16;
        copy_async(at, source + i * 512, wanted);
        copy_async(at + BLOCK, source + to_values + i * 512, wanted);
      }
    }
    commit_copies();
    if (++copied % 32 == 0) {
      here = next;
      next = look(copied + 32 + lane);
    }
  };
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) copy_next();

  float scale = plan.scale * (plan.kv_scale ? plan.kv_scale[head] : 1.f);
  Factors factors = {0.f, scale * LOG2E};
  if (plan.softcap > 0.f) factors = {2.f * LOG2E * scale / plan.softcap, plan.softcap * LOG2E};
  Bits queries[D / 16][4] = {};
  Softmax softmax = {};
  int begins[2], ends[2];  // keys that queries l/4 and l/4+8 see
#pragma unroll
  for (int h = 0; h < HALVES; ++h) {
    int m = lane / 4 + 8 * h, token = min(m / G, chunk.length - 1), query_head = head * G + m % G;
    ends[h] = min(chunk.context - chunk.length + token + 1, chunk.end);
    begins[h] = lowest_key(plan, chunk.context - chunk.length + token);
    if (m < chunk.length * G) {
      const ELEMENT* row = q + (int64_t(chunk.token + token) * kv_heads * G + query_head) * D;
#pragma unroll
      for (int k = 0; k < D / 16; ++k) read_query(queries[k][h], queries[k][2 + h], row, k, lane);
    }
    softmax.top[h] = NOTHING;
    bool counts = warp == 0 && chunk.begin <= lowest && m < LANES;  // a sink does once a tile
    if (plan.sinks && counts && plan.sinks[query_head] > NOTHING) {
      softmax.top[h] = plan.sinks[query_head] * LOG2E;
      softmax.total[h] = lane % 4 == 0;
    }
  }
  int all_see = min(chunk.context - chunk.length + 1, chunk.end), all_begin = lowest_key(plan, chunk.context - 1);
  int number = 0;
  for (int key = first; key < chunk.end; key += STEP, ++number) {
    wait_for_copies<STAGES - 2>();
    __syncwarp();  // the copies of all lanes are visible, and all have left the block before
    copy_next();
    int low[2] = {begins[0] - key, begins[1] - key}, high[2] = {ends[0] - key, ends[1] - key};
    attend_block(softmax, queries, shared_address(ring) + number % STAGES * (2 * BLOCK),
                 key + KEYS > all_see || key < all_begin, low, high, factors, lane);
  }

  __syncwarp();
  leave(softmax, *reinterpret_cast<Sums*>(ring), weights[warp], lane);
  __syncthreads();
  for (int i = threadIdx.x; i < LANES * (D / 4); i += THREADS) {
    int m = i / (D / 4), column = i % (D / 4) * 4;
    if (m >= chunk.length * G) break;
    Weight whole;
    float4 sum = put_together(
        whole, WARPS, [&](int w) { return weights[w][m]; },
        [&](int w) { return reinterpret_cast<const float4*>(&reinterpret_cast<Sums*>(shared + w * RING)->acc[m][column]); });
    if (chunk.alone) {
      write(plan, chunk.token, kv_heads, head, m, column, sum, whole.total, out);
    } else {
      int64_t at = (int64_t(place) * kv_heads + head) * LANES + m;
      *reinterpret_cast<float4*>(part + at * D + column) = sum;
      if (column == 0) part_weight[at] = whole;
    }
  }
}

// Thread block (kv head, i): chunk i, and every so many thread blocks' behind it. Those that are chunks come first.
__global__ void __launch_bounds__(THREADS, RESIDENT)
    attend_chunks(const Plan plan, const ELEMENT* __restrict__ q, const char* __restrict__ kv, ELEMENT* __restrict__ out,
                  float* __restrict__ part, Weight* __restrict__ part_weight) {
  let_next_kernel_start();
  for (int place = blockIdx.y; place < plan.places; place += gridDim.y) {
    Chunk chunk = plan.chunks[place];
    if (chunk.length == 0) return;
    if (place >= gridDim.y) __syncthreads();  // the sums of the chunk before have been read
    attend_chunk(plan, chunk, place, q, kv, out, part, part_weight);
  }
}

constexpr int GROUPS = 8;  // of threads, which share the chunks of a tile

// Thread block (query, kv head, split tile).
__global__ void __launch_bounds__(GROUPS * D / 4, 1)
    merge_chunks(const Plan plan, ELEMENT* __restrict__ out, const float* __restrict__ part,
                 const Weight* __restrict__ part_weight) {
  __shared__ float4 sums[GROUPS][D / 4];
  __shared__ Weight weights[GROUPS];
  int m = blockIdx.x, head = blockIdx.y, kv_heads = gridDim.y, group = threadIdx.x / (D / 4), four = threadIdx.x % (D / 4);
  Split split = plan.splits[blockIdx.z];
  bool nothing = split.count == 0 || m >= split.length * G;
  if (nothing && (blockIdx.x || blockIdx.y || blockIdx.z)) return;
  wait_for_kernel_in_front();  // in one at least, or this kernel could end before the other one
  if (nothing) return;
  auto at = [&](int i) { return (int64_t(split.first + group + i * GROUPS) * kv_heads + head) * LANES + m; };
  Weight whole;
  sums[group][four] = put_together(
      whole, (split.count - group + GROUPS - 1) / GROUPS, [&](int i) { return part_weight[at(i)]; },
      [&](int i) { return reinterpret_cast<const float4*>(part + at(i) * D) + four; });
  if (four == 0) weights[group] = whole;
  __syncthreads();
  if (group) return;
  float4 sum = put_together(
      whole, GROUPS, [&](int i) { return weights[i]; }, [&](int i) { return &sums[i][four]; });
  write(plan, split.token, kv_heads, head, m, four * 4, sum, whole.total, out);
}

void run(const Call& call) {
  Plan plan = {};
  plan.chunks = call.argument<Chunk>(0), plan.splits = call.argument<Split>(1), plan.table = call.argument<int>(2);
  plan.width = call.size(2, 1);
  int given = 5;  // arguments read so far; the array that is written in place may follow
  if (call.attribute<int64_t>("has_sinks")) plan.sinks = call.argument<float>(given++);
  if (call.attribute<int64_t>("has_scale")) plan.kv_scale = call.argument<float>(given++);
  plan.window = call.attribute<int64_t>("window");
  plan.scale = call.attribute<float>("scale"), plan.softcap = call.attribute<float>("softcap");
  plan.places = call.size(0, 0);
  int blocks = call.attribute<int64_t>("blocks"), M = call.size(1, 0), kv_heads = call.size(4, 2);
  auto* out = call.result<ELEMENT>(0);
  auto* part = call.result<float>(1);
  auto* weight = call.result<Weight>(2);
  if (given < call.arguments() && call.argument<ELEMENT>(given) != out) throw "paged_attention: not written in place";
  launch(attend_chunks, dim3(kv_heads, blocks), THREADS, WARPS * RING, call.stream, false, 1, plan, call.argument<ELEMENT>(3),
         call.argument<char>(4), out, part, weight);
  launch(merge_chunks, dim3(LANES, kv_heads, M), GROUPS * D / 4, 0, call.stream, true, 1, plan, out, part, weight);
}

}  // namespace

HANDLER(paged_attention_decode, run)
