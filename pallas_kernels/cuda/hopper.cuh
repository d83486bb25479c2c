// What sm_90a has beyond tensor_core.cuh: barriers in shared memory that count bytes, copies of boxes of a tensor, and
// matrix products of a warpgroup (four warps), whose operands lie in shared memory. Included by the prefill
// kernel and by the products.
#pragma once

#include <cuda.h>  // types only: the one function of the driver is looked up when it is needed

#include "tensor_core.cuh"

// ---- Barriers. They complete when all arrivals and all expected bytes have come, and then begin their next phase. ----

__device__ __forceinline__ void start_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Until the phase of this parity is over; the one before a barrier's first counts as over, with parity 1.
__device__ __forceinline__ void wait(uint32_t barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      "@over bra OVER;\n"
      "bra AGAIN;\n"
      "OVER:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Barrier `id` (1 to 15) of `threads` threads, some of which only announce themselves.
__device__ __forceinline__ void meet(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void announce(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// N places in shared memory that are filled and emptied in turn, as one side sees them; two barriers each.
template <int N>
struct Ring {
  uint32_t full, free;
  int place = 0, parity = 0;

  __device__ Ring(const uint64_t (&full)[N], const uint64_t (&free)[N])
      : full(shared_address(full)), free(shared_address(free)) {}

  __device__ __forceinline__ uint32_t filled() const { return full + place * 8; }
  __device__ __forceinline__ uint32_t left() const { return free + place * 8; }
  __device__ __forceinline__ void wait_until_filled() const { wait(filled(), parity); }
  __device__ __forceinline__ void wait_until_free() const { wait(left(), parity ^ 1); }
  __device__ __forceinline__ void next() {
    if (++place == N) place = 0, parity ^= 1;
  }
  // Nothing of the place is read any more by this warp.
  __device__ __forceinline__ void leave() {
    if (threadIdx.x % 32 == 0) arrive(left());
    next();
  }
};

// ---- Copies ----

__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// What this thread stored to shared memory is seen by copies and products that begin after the next barrier.
__device__ __forceinline__ void publish_stores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int REGISTERS>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// What all lanes have, so that the compiler knows it: what follows from it may live in uniform registers, from where
// products take the places of their operands.
__device__ __forceinline__ int uniform(int x) { return __reduce_or_sync(~0u, x); }
__device__ __forceinline__ int4 uniform(int4 x) { return {uniform(x.x), uniform(x.y), uniform(x.z), uniform(x.w)}; }

// ---- Products of a warpgroup: asynchronous, in groups. Registers of a product must be left alone until its group has
// been waited for. Operands in shared memory are panels of 64 columns (128 bytes a row, aligned to 1024 bytes) whose
// pieces of 16 bytes are swizzled: piece c of row r lies at c ^ (r % 8). ----

constexpr int PANEL = 64;
constexpr int PANEL_PITCH = 128;  // bytes of a row

__device__ __forceinline__ int swizzled(int row, int piece) { return row * PANEL_PITCH + ((piece ^ (row % 8)) << 4); }

// The lower half of an operand's description, at `address`. Where columns are the outer dimension, panels lie `panel_bytes`
// apart. The upper half says that eight rows take 1024 bytes, and how they are swizzled.
__device__ __forceinline__ uint32_t operand(uint32_t address, int panel_bytes) {
  return address >> 4 | uint32_t(panel_bytes >> 4) << 16;
}
constexpr uint32_t OPERAND_KIND = 1024 >> 4 | 1u << 30;

__device__ __forceinline__ uint32_t moved(uint32_t operand, int bytes) { return operand + (bytes >> 4); }

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int LEFT>  // how many of the newest groups may still be under way
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

template <int N>  // pins the registers of a product to their place in the program: nothing about them is moved past
__device__ __forceinline__ void pin(float (&r)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

template <int N>
__device__ __forceinline__ void pin(Bits (&r)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(r[i][0]), "+r"(r[i][1]), "+r"(r[i][2]), "+r"(r[i][3])::"memory");
}

// c [64, N] (+)= a [64, 16] · b [16, N]. Lane l of warp w holds c's rows 16w + l/4 (registers 0 and 1 of each four) and 8
// below, columns 2 (l%4) and the next of each eight.
template <typename Element, int N>
struct Product;

#define C8(c, i)                                                                                                     \
  "+f"((c)[i]), "+f"((c)[i + 1]), "+f"((c)[i + 2]), "+f"((c)[i + 3]), "+f"((c)[i + 4]), "+f"((c)[i + 5]),            \
      "+f"((c)[i + 6]), "+f"((c)[i + 7])
#define C16(c, i) C8(c, i), C8(c, i + 8)
#define C32(c, i) C16(c, i), C16(c, i + 16)
#define C64(c, i) C32(c, i), C32(c, i + 32)
#define C96(c, i) C64(c, i), C32(c, i + 64)
#define C112(c, i) C96(c, i), C16(c, i + 96)
#define C128(c, i) C64(c, i), C64(c, i + 64)
#define NAMES8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define NAMES16 NAMES8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES32 \
  NAMES16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES64                                                                                                     \
  NAMES32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
          "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES96 \
  NAMES64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82"          \
          ", %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NAMES112 \
  NAMES96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define NAMES128 \
  NAMES112 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// `keys` multiplies by the transpose of rows that lie as they are stored, a [64, 16] · b [N, 16]ᵀ, both in shared memory;
// `values` by rows themselves, with a in registers. P0 to P5 name the operands that follow the accumulators.
#define DEFINE_PRODUCT(ELEMENT_TYPE, TYPE, N, REGISTERS, P0, P1, P2, P3, P4, P5)                                     \
  template <>                                                                                                        \
  struct Product<ELEMENT_TYPE, N> {                                                                                  \
    static __device__ __forceinline__ void keys(float* c, uint32_t a, uint32_t b, bool add) {                        \
      asm volatile("{\n.reg .pred more;\n.reg .b64 left, right;\nsetp.ne.b32 more, " P2 ", 0;\n"                     \
                   "mov.b64 left, {" P0 ", " P3 "};\nmov.b64 right, {" P1 ", " P3 "};\n"                             \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" NAMES##REGISTERS             \
                   "}, left, right, more, 1, 1, 0, 0;\n}"                                                            \
                   : C##REGISTERS(c, 0)                                                                              \
                   : "r"(a), "r"(b), "r"(int(add)), "n"(OPERAND_KIND));                                              \
    }                                                                                                                \
    static __device__ __forceinline__ void values(float* c, const Bits (&a)[4], uint32_t b) {                        \
      asm volatile("{\n.reg .pred more;\n.reg .b64 right;\nsetp.eq.b32 more, 0, 0;\n"                                \
                   "mov.b64 right, {" P4 ", " P5 "};\n"                                                              \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" NAMES##REGISTERS             \
                   "}, {" P0 ", " P1 ", " P2 ", " P3 "}, right, more, 1, 1, 1;\n}"                                   \
                   : C##REGISTERS(c, 0)                                                                              \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(OPERAND_KIND));                         \
    }                                                                                                                \
  };
#define DEFINE_PRODUCTS(ELEMENT_TYPE, TYPE)                                               \
  DEFINE_PRODUCT(ELEMENT_TYPE, TYPE, 16, 8, "%8", "%9", "%10", "%11", "%12", "%13")       \
  DEFINE_PRODUCT(ELEMENT_TYPE, TYPE, 32, 16, "%16", "%17", "%18", "%19", "%20", "%21")    \
  DEFINE_PRODUCT(ELEMENT_TYPE, TYPE, 64, 32, "%32", "%33", "%34", "%35", "%36", "%37")    \
  DEFINE_PRODUCT(ELEMENT_TYPE, TYPE, 128, 64, "%64", "%65", "%66", "%67", "%68", "%69")    \
  DEFINE_PRODUCT(ELEMENT_TYPE, TYPE, 192, 96, "%96", "%97", "%98", "%99", "%100", "%101")  \
  DEFINE_PRODUCT(ELEMENT_TYPE, TYPE, 224, 112, "%112", "%113", "%114", "%115", "%116", "%117") \
  DEFINE_PRODUCT(ELEMENT_TYPE, TYPE, 256, 128, "%128", "%129", "%130", "%131", "%132", "%133")
DEFINE_PRODUCTS(__nv_bfloat16, "bf16")
DEFINE_PRODUCTS(__half, "f16")
#undef DEFINE_PRODUCTS
#undef DEFINE_PRODUCT

// ---- What the driver must be told, on the host. ----

// A matrix [rows, columns] copied in boxes of box_rows rows and PANEL columns; zeros past its ends.
template <typename Element>
CUtensorMap describe(const Element* matrix, int64_t rows, int64_t columns, int box_rows) {
  static void* encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return result == cudaDriverEntryPointSuccess ? found : nullptr;
  }();
  if (!encode) throw "the driver has no cuTensorMapEncodeTiled";
  constexpr auto TYPE =
      std::is_same_v<Element, __half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  cuuint64_t sizes[2] = {cuuint64_t(columns), cuuint64_t(rows)}, pitch[1] = {columns * sizeof(Element)};
  cuuint32_t box[2] = {PANEL, cuuint32_t(box_rows)}, steps[2] = {1, 1};
  CUtensorMap map;
  CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode)(
      &map, TYPE, 2, const_cast<Element*>(matrix), sizes, pitch, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) throw "the driver cannot describe the matrix";
  return map;
}
