// One warp's matrix instructions and asynchronous copies (sm_80 and newer). Included by the attention kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

using Bits = uint32_t;  // two neighbouring values of 16 bits

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory, or zeros where not `wanted`; nothing is read then.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(wanted ? 16 : 0));
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int LEFT>  // how many of the newest groups may still be under way
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Four 8x8 tiles of 16-bit values; lanes 8i to 8i+7 hold the addresses of the rows of tile i.
__device__ __forceinline__ void load_tiles(Bits (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void load_tiles_transposed(Bits (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// Two values of 8 bits, the high bytes of both halves, as Elements. Sign, exponent and mantissa go to their places, then
// a product corrects the exponent's bias, of denormal values as well. BITS: of their exponent (4: e4m3, 5: e5m2).
template <typename Element, int BITS>
__device__ __forceinline__ Bits widen_two(Bits high) {
  constexpr bool BRAIN = std::is_same_v<Element, __nv_bfloat16>;
  constexpr int MANTISSA = BRAIN ? 7 : 10, MISSING = (BRAIN ? 8 : 5) - BITS;
  constexpr Bits BIAS = (1 << (14 - MANTISSA)) - 1, FACTOR = (2 * BIAS - ((1 << (BITS - 1)) - 1)) << MANTISSA;
  Bits two = (high & 0x80008000) | ((high & 0x7F007F00) >> MISSING), product;
  if constexpr (BRAIN)
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(two), "r"(FACTOR * 0x10001));
  else
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(two), "r"(FACTOR * 0x10001));
  return product;
}

// Bytes 0 and 2, and bytes 1 and 3.
template <typename Element, int BITS>
__device__ __forceinline__ void widen(Bits four, Bits& even, Bits& odd) {
  even = widen_two<Element, BITS>(four << 8);
  odd = widen_two<Element, BITS>(four);
}

// c [16, 8] += a [16, 16] · b [16, 8]. Lane l holds rows l/4 and l/4+8 of a and c, column l/4 of b.
template <typename Element>
__device__ __forceinline__ void multiply_add(float (&c)[4], const Bits (&a)[4], Bits b0, Bits b1) {
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

template <typename Element>
__device__ __forceinline__ Bits pack(float low, float high) {
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
    __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<Bits&>(both);
  } else {
    __half2 both = __floats2half2_rn(low, high);
    return reinterpret_cast<Bits&>(both);
  }
}

// What `pack` has packed.
template <typename Element>
__device__ __forceinline__ float2 both(Bits two) {
  if constexpr (std::is_same_v<Element, __nv_bfloat16>)
    return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(two));
  else
    return __half22float2(reinterpret_cast<const __half2&>(two));
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
