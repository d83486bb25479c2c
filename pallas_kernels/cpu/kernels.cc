// The handlers that jax.ffi calls, in one source because XLA's headers take longest to compile. Each reads its buffers'
// sizes, cuts its work into items and shares them out; the op folders' cpu.py say what the buffers are.

#include "gumbel_argmax.h"
#include "matmul.h"
#include "paged_attention.h"
#include "rope_write.h"

namespace kernels {
namespace {

using Operands = ffi::RemainingArgs;

Elements elements(const ffi::AnyBuffer& buffer) {
  return {buffer.untyped_data(), buffer.element_type() == ffi::BF16};
}

template <typename T>
T* data(const ffi::AnyBuffer& buffer) {
  return static_cast<T*>(buffer.untyped_data());
}

// x [tokens, inputs], weight [parts, outputs, inputs], [norm [inputs]], [residual [tokens, outputs]]
// → [tokens, outputs]
ffi::Future matmul(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer weight, Operands more, bool norm,
                   bool residual, float eps, ffi::Result<ffi::AnyBuffer> out) {
  Matmul work{};
  work.x = elements(x), work.weight = elements(weight), work.out = elements(*out);
  if (norm) work.norm = data<float>(*more.get<ffi::AnyBuffer>(0));
  if (residual) work.residual = elements(*more.get<ffi::AnyBuffer>(norm));
  work.tokens = x.dimensions()[0], work.inputs = x.dimensions()[1];
  work.parts = weight.dimensions()[0], work.outputs = weight.dimensions()[1];
  work.eps = eps;
  const int64_t items = work.cut(pool.num_threads());
  return share(pool, items, work);
}

// q [T, K, G, D], pages [N, 2, K, page, D], table [S, P], query_start [S + 1], context_len [S], [sinks [K, G]] → as q
ffi::Future paged_attention(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer pages, ffi::AnyBuffer table,
                            ffi::AnyBuffer query_start, ffi::AnyBuffer context_len, Operands more, bool decode_only,
                            float scale, float softcap, int64_t window, ffi::Result<ffi::AnyBuffer> out) {
  PagedAttention work{};
  const auto shape = q.dimensions();
  work.q = elements(q), work.pages = elements(pages), work.out = elements(*out), work.table = data<int32_t>(table);
  work.sinks = more.size() ? data<float>(*more.get<ffi::AnyBuffer>(0)) : nullptr;
  work.P = table.dimensions()[1], work.page = pages.dimensions()[3];
  work.K = shape[1], work.G = shape[2], work.D = shape[3];
  work.scale = scale, work.softcap = softcap, work.window = window;
  if (!work.cut(data<int32_t>(query_start), data<int32_t>(context_len), table.dimensions()[0], shape[0], decode_only))
    memset(out->untyped_data(), 0, out->size_bytes());
  const int64_t items = work.tiles.size() * work.K;
  return share(pool, items, std::move(work));
}

// qkv [T, K, G + 2, D], cos and sin [T, D / 2], page [T], offset [T], pages, [norms [D] of queries and of keys]
// → queries [T, K, G, D], and the pages, which are those given
ffi::Future rope_write(ffi::ThreadPool pool, ffi::AnyBuffer qkv, ffi::AnyBuffer cos, ffi::AnyBuffer sin,
                       ffi::AnyBuffer page, ffi::AnyBuffer offset, ffi::AnyBuffer, Operands more, float eps,
                       ffi::Result<ffi::AnyBuffer> queries, ffi::Result<ffi::AnyBuffer> pages) {
  RopeWrite work{};
  const auto shape = qkv.dimensions();
  work.qkv = elements(qkv), work.queries = elements(*queries), work.pages = elements(*pages);
  work.cos = data<float>(cos), work.sin = data<float>(sin);
  work.page = data<int32_t>(page), work.offset = data<int32_t>(offset);
  if (more.size()) {
    work.query_norm = data<float>(*more.get<ffi::AnyBuffer>(0));
    work.key_norm = data<float>(*more.get<ffi::AnyBuffer>(1));
  }
  work.T = shape[0], work.K = shape[1], work.G = shape[2] - 2, work.D = shape[3];
  work.N = pages->dimensions()[0], work.page_size = pages->dimensions()[3];
  work.eps = eps;
  return share(pool, rounded_up(work.T, RopeWrite::TOKENS) / RopeWrite::TOKENS, work);
}

// logits [S, V], temperature [S], seed [S], position [S], [keep [S]] → [S]
ffi::Future gumbel_argmax(ffi::ThreadPool pool, ffi::AnyBuffer logits, ffi::AnyBuffer temperature, ffi::AnyBuffer seed,
                          ffi::AnyBuffer position, Operands more, ffi::Result<ffi::AnyBuffer> out) {
  GumbelArgmax work{};
  work.logits = data<float>(logits), work.temperature = data<float>(temperature);
  work.keep = more.size() ? data<float>(*more.get<ffi::AnyBuffer>(0)) : nullptr;
  work.seed = data<uint32_t>(seed), work.position = data<uint32_t>(position), work.out = data<int32_t>(*out);
  work.V = logits.dimensions()[1];
  return share(pool, logits.dimensions()[0], work);
}

}  // namespace
}  // namespace kernels

using kernels::ffi::AnyBuffer;
using kernels::ffi::Ffi;
using kernels::ffi::ThreadPool;

XLA_FFI_DEFINE_HANDLER_SYMBOL(matmul, kernels::matmul,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .RemainingArgs()
                                  .Attr<bool>("norm")
                                  .Attr<bool>("residual")
                                  .Attr<float>("eps")
                                  .Ret<AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(paged_attention, kernels::paged_attention,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .RemainingArgs()
                                  .Attr<bool>("decode_only")
                                  .Attr<float>("scale")
                                  .Attr<float>("softcap")
                                  .Attr<int64_t>("window")
                                  .Ret<AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(rope_write, kernels::rope_write,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .RemainingArgs()
                                  .Attr<float>("eps")
                                  .Ret<AnyBuffer>()
                                  .Ret<AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(gumbel_argmax, kernels::gumbel_argmax,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .Arg<AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<AnyBuffer>());
