// Kernels as nodes of XLA's own graphs, where its headers have the means: then a kernel may start before the one in front
// has ended also from one call to the next. A call that is traced instead becomes a graph of its own, whose first kernel
// waits for all that was before. Included by kernels whose weights may be read ahead.
//
// Python cannot register what records a call. RECORDED_HANDLER does so itself, under the name of its library and symbol
// with ".recorded" behind them, when XLA asks the plain handler what it is.
#pragma once

#include "call.cuh"

#if !__has_include("xla/ffi/api/record_c_api.h")

template <typename... Parameters, typename... Given>
void launch_early(const Call& call, void (*kernel)(Parameters...), dim3 blocks, int threads, int shared, int cluster,
                  Given... given) {
  launch(kernel, blocks, threads, shared, call.stream, true, cluster, given...);
}

#define RECORDED_HANDLER(symbol, run) HANDLER(symbol, run)

#else

#include <dlfcn.h>

#include <string>
#include <tuple>

#include "xla/ffi/api/record_c_api.h"

extern "C" const unsigned long long fatbinData[];  // the kernels: nvcc's name for what it made of this source

struct Recording {  // of the call that this thread records
  const XLA_FFI_RecordFrame* frame;
  int done;                // kernels of it
  XLA_FFI_Error* refusal;  // XLA's

  template <typename... Parameters, typename... Given>
  void add(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared, int cluster, Given... given) {
    std::tuple<Parameters...> values(static_cast<Parameters>(given)...);
    XLA_FFI_KernelArg list[sizeof...(Parameters)];
    XLA_FFI_KernelArgs arguments = {list, sizeof...(Parameters)};
    XLA_FFI_KernelArg* next = list;
    std::apply([&](auto&... value) { ((*next++ = {&value, sizeof value, XLA_FFI_KernelArgType_HostValue}), ...); }, values);
    if (frame->action == XLA_FFI_RecordAction_Update) {
      refusal = frame->api->update_launch(frame->record_ctx, frame->commands[done++], &arguments);
    } else {
      const char* name = nullptr;
      if (cudaFuncGetName(&name, reinterpret_cast<const void*>(kernel)) != cudaSuccess) throw "a kernel has no name";
      const uint32_t* head = reinterpret_cast<const uint32_t*>(fatbinData);  // magic, version and its own size, size
      int64_t size = (head[1] >> 16) + *reinterpret_cast<const uint64_t*>(head + 2);
      XLA_FFI_LaunchDims sizes = {{int(blocks.x), int(blocks.y), int(blocks.z)}, {threads, 1, 1}, {0, 0, 0}};
      if (cluster > 1) sizes.cluster = {cluster, 1, 1};
      const XLA_FFI_Command** commands = frame->commands;
      int64_t before = *frame->num_commands;  // kernels of one call run in their order
      refusal = frame->api->create_launch(frame->record_ctx, name, fatbinData, size, XLA_FFI_SourceFormat_CUBIN, sizes,
                                          shared, true, &arguments, before ? commands + before - 1 : nullptr, before > 0,
                                          commands + before);
      if (!refusal) ++*frame->num_commands;
    }
    if (refusal) throw "XLA does not record a kernel";
  }
};

inline thread_local Recording recording = {};

// As `launch`, for kernels that may start early.
template <typename... Parameters, typename... Given>
void launch_early(const Call& call, void (*kernel)(Parameters...), dim3 blocks, int threads, int shared, int cluster,
                  Given... given) {
  if (recording.frame)
    recording.add(kernel, blocks, threads, shared, cluster, given...);
  else
    launch(kernel, blocks, threads, shared, call.stream, true, cluster, given...);
}

inline XLA_FFI_Error* record(XLA_FFI_CallFrame* call, void (*run)(const Call&)) {
  if (call->extension_start) return handle(call, run);
  XLA_FFI_InvokeContext_FindExtension_Args find = {};
  find.struct_size = XLA_FFI_InvokeContext_FindExtension_Args_STRUCT_SIZE;
  find.ctx = call->ctx;
  find.extension_type = XLA_FFI_Extension_Record;
  if (XLA_FFI_Error* error = call->api->XLA_FFI_InvokeContext_FindExtension(&find)) return error;
  recording = {reinterpret_cast<const XLA_FFI_Record_Extension*>(find.extension)->record_frame, 0, nullptr};
  XLA_FFI_Error* error = handle(call, run);
  recording.frame = nullptr;
  if (!recording.refusal) return error;
  XLA_FFI_Error_Destroy_Args destroy = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
  call->api->XLA_FFI_Error_Destroy(&destroy);
  return recording.refusal;
}

inline XLA_FFI_Error* register_recorded(XLA_FFI_CallFrame* call, const char* symbol, XLA_FFI_Handler* execute,
                                        XLA_FFI_Handler* record) {
  Dl_info library;
  if (!dladdr(reinterpret_cast<void*>(execute), &library)) return nullptr;
  std::string name = library.dli_fname;
  name = name.substr(name.rfind('/') + 1);
  name = name.substr(0, name.rfind('.')) + "." + symbol + ".recorded";
  XLA_FFI_Handler_Register_Args told = {};
  told.struct_size = XLA_FFI_Handler_Register_Args_STRUCT_SIZE;
  told.name = {name.data(), name.size()};
  told.platform = {"CUDA", 4};
  told.bundle.execute = execute, told.bundle.record = record;
  told.traits = XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE;
  return call->api->XLA_FFI_Handler_Register(&told);
}

#define RECORDED_HANDLER(symbol, run)                                                         \
  extern "C" XLA_FFI_Error* symbol##_record(XLA_FFI_CallFrame* call) { return record(call, run); } \
  extern "C" XLA_FFI_Error* symbol(XLA_FFI_CallFrame* call) {                                 \
    static bool known = false;                                                                \
    if (call->extension_start && !known) {                                                    \
      known = true;                                                                           \
      if (auto* error = register_recorded(call, #symbol, symbol, symbol##_record)) return error; \
    }                                                                                         \
    return handle(call, run);                                                                 \
  }

#endif
