// A call by XLA as a handler sees it: buffers and static attributes. Included by every kernel that HANDLER binds.
//
// On XLA's C interface: compiling its C++ headers takes nvcc longer than compiling a kernel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "xla/ffi/api/c_api.h"

class Call {
 public:
  explicit Call(const XLA_FFI_CallFrame* frame) : frame_(frame) {
    XLA_FFI_Stream_Get_Args get = {};
    get.struct_size = XLA_FFI_Stream_Get_Args_STRUCT_SIZE;
    get.ctx = frame->ctx;
    if (frame->api->XLA_FFI_Stream_Get(&get)) throw "XLA has no stream for the call";
    stream = static_cast<cudaStream_t>(get.stream);
  }

  template <typename T>
  const T* argument(int i) const {
    return static_cast<const T*>(buffer(i).data);
  }
  template <typename T>
  T* result(int i) const {
    return static_cast<T*>(static_cast<XLA_FFI_Buffer*>(frame_->rets.rets[i])->data);
  }
  int64_t size(int i, int axis) const { return buffer(i).dims[axis]; }  // of an argument
  int arguments() const { return frame_->args.size; }

  template <typename T>  // numpy scalars: float for float32, int64_t for int64
  T attribute(const char* name) const {
    const XLA_FFI_Attrs& attrs = frame_->attrs;
    for (int i = 0; i < attrs.size; ++i) {
      const XLA_FFI_ByteSpan& span = *attrs.names[i];
      if (span.len == strlen(name) && !memcmp(span.ptr, name, span.len))
        return *static_cast<const T*>(static_cast<const XLA_FFI_Scalar*>(attrs.attrs[i])->value);
    }
    throw name;
  }

  cudaStream_t stream;

 private:
  const XLA_FFI_Buffer& buffer(int i) const { return *static_cast<XLA_FFI_Buffer*>(frame_->args.args[i]); }

  const XLA_FFI_CallFrame* frame_;
};

// In a kernel that may start before the one in front has ended: what that one wrote may be read from here on.
__device__ __forceinline__ void wait_for_kernel_in_front() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// The kernel behind may start, as far as it does, once all thread blocks have come here.
__device__ __forceinline__ void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;"); }

// Launches kernel<<<blocks, threads, shared, stream>>>. `early`: it may start before the kernel in front has ended, whose
// results it reads behind wait_for_kernel_in_front. `cluster`: blocks along x that run together.
template <typename... Parameters, typename... Given>
void launch(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared, cudaStream_t stream, bool early,
            int cluster, Given... given) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = early;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = cluster;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = early ? attributes : attributes + 1;
  config.numAttrs = early + (cluster > 1);
  cudaError_t error = cudaSuccess;
  if (shared) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (cluster > 8 && error == cudaSuccess)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (error == cudaSuccess) error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(given)...);
  if (error != cudaSuccess) throw cudaGetErrorString(error);
}

inline XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame, void (*run)(const Call&)) {
  if (auto* asked = frame->extension_start; asked && asked->type == XLA_FFI_Extension_Metadata) {  // what are you?
    XLA_FFI_Metadata* told = reinterpret_cast<XLA_FFI_Metadata_Extension*>(asked)->metadata;
    told->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
    told->traits = XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE;
    told->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
    return nullptr;
  }
  try {
    run(Call(frame));
    return nullptr;
  } catch (const char* message) {
    XLA_FFI_Error_Create_Args error = {};
    error.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
    error.message = message;
    error.errc = XLA_FFI_Error_Code_INTERNAL;
    return frame->api->XLA_FFI_Error_Create(&error);
  }
}

// Defines the symbol that jax.ffi registers; run: void(const Call&), which throws what went wrong as const char*.
#define HANDLER(symbol, run) \
  extern "C" XLA_FFI_Error* symbol(XLA_FFI_CallFrame* frame) { return handle(frame, run); }
