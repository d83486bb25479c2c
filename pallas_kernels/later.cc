// Handlers of libraries that are still being compiled: XLA binds a slot, which calls what bind_slot has put there since.
//
// Loaded by native.py. XLA asks a handler what it is while it compiles a program, and calls it when the program runs. A
// slot then also registers, as cuda/record.cuh does, a name with ".recorded" behind its own, for those that record.

#include <string>
#include <utility>

#include "xla/ffi/api/c_api.h"

namespace {

constexpr int kSlots = 256;
XLA_FFI_Handler *bound[kSlots], *recorder[kSlots];
std::string names[kSlots];  // not registered yet

template <int n>
XLA_FFI_Error* slot(XLA_FFI_CallFrame* frame) {
  if (auto* asked = frame->extension_start; asked && asked->type == XLA_FFI_Extension_Metadata) {
#if __has_include("xla/ffi/api/record_c_api.h")
    if (std::string name = std::exchange(names[n], ""); !name.empty()) {
      XLA_FFI_Handler_Register_Args told = {};
      told.struct_size = XLA_FFI_Handler_Register_Args_STRUCT_SIZE;
      told.name = {name.data(), name.size()};
      told.platform = {"CUDA", 4};
      told.bundle.execute = slot<n>;
      told.bundle.record = [](XLA_FFI_CallFrame* call) {
        return call->extension_start ? slot<n>(call) : recorder[n](call);
      };
      told.traits = XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE;
      if (auto* error = frame->api->XLA_FFI_Handler_Register(&told)) return error;
    }
#endif
    XLA_FFI_Metadata* told = reinterpret_cast<XLA_FFI_Metadata_Extension*>(asked)->metadata;
    told->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
    told->traits = XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE;  // as all of ours, see cuda/call.cuh
    told->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
    return nullptr;
  }
  return bound[n](frame);
}

template <int... n>
XLA_FFI_Handler* at(int wanted, std::integer_sequence<int, n...>) {
  XLA_FFI_Handler* slots[] = {slot<n>...};
  return wanted < kSlots ? slots[wanted] : nullptr;
}

}  // namespace

extern "C" XLA_FFI_Handler* slot_at(int n, const char* name) {
  if (n < kSlots) names[n] = std::string(name) + ".recorded";
  return at(n, std::make_integer_sequence<int, kSlots>());
}
extern "C" void bind_slot(int n, XLA_FFI_Handler* handler, XLA_FFI_Handler* record) {  // record: or null
  bound[n] = handler, recorder[n] = record;
}
