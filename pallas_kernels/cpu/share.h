// One call's work, shared between the calling thread and XLA's own.
//
// Nobody waits: threads take items until none are left, and whoever finishes the last one completes the call. Threads
// of the pool that come late, or never, because other programs hold them, change nothing but the time.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#include "vector.h"
#include "xla/ffi/api/ffi.h"

namespace kernels {

namespace ffi = xla::ffi;

// Calls worker(item) for every item in [0, items), each once, on copies of `worker` that each belong to one thread.
template <typename Worker>
ffi::Future share(ffi::ThreadPool& pool, int64_t items, Worker worker) {
  struct Call {
    Call(int64_t items, Worker&& worker) : items(items), left(items), worker(std::move(worker)) {}
    const int64_t items;
    std::atomic<int64_t> next{0}, left;
    const Worker worker;
    ffi::Promise done;
  };
  auto call = std::make_shared<Call>(items, std::move(worker));
  ffi::Future future(call->done);
  if (items == 0) call->done.SetAvailable();
  auto take_part = [call] {
    int64_t item = call->next.fetch_add(1, std::memory_order_relaxed), finished = 0;
    if (item >= call->items) return;
    Worker mine = call->worker;
    for (; item < call->items; item = call->next.fetch_add(1, std::memory_order_relaxed), finished++) mine(item);
    if (call->left.fetch_sub(finished, std::memory_order_acq_rel) == finished) call->done.SetAvailable();
  };
  for (int64_t i = 1; i < std::min<int64_t>(items, pool.num_threads()); i++) pool.Schedule([=] { take_part(); });
  take_part();
  return future;
}

// This thread's scratch memory, aligned to cache lines; valid until the thread asks again.
inline float* scratch(int64_t floats) {
  struct Memory {
    float* at = nullptr;
    int64_t size = 0;
    ~Memory() { free(at); }
  };
  thread_local Memory memory;
  if (memory.size < floats) {
    free(memory.at);
    memory.at = static_cast<float*>(aligned_alloc(64, rounded_up(4 * floats, 64)));
    memory.size = floats;
  }
  return memory.at;
}

}  // namespace kernels
