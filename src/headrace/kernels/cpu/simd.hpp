// Sixteen lanes of 32 bits, and the few things kernels do with them, for the instruction set that
// this translation unit is compiled for. Kernels are written once on these names and compiled once
// per instruction set, each in its own namespace HEADRACE_ISA.
//
// Whoever includes this must not use templates or inline functions of the standard library with
// external linkage: the linker keeps one copy for all builds, and it might be the AVX-512 one.
//
//   F32, I32      16 floats, 16 int32           B64   64 bytes of packed weights
//   dot_small     acc[l] += sum over j < 4 of w.u8[4 l + j] * x.s8[4 l + j], exact for w below 16
//   dot_biased    likewise of (w - 128) * x, for x above -128, where sums begin with
//                 biased_start(-128 * sum of x): processors differ in how they get there
//   dot_bf16      acc[l] += w.bf16[2 l] * x.bf16[0] + w.bf16[2 l + 1] * x.bf16[1]
//   split_nibbles 64 bytes of nibbles: byte j of a lane holds columns j (low) and 4 + j (high)
//   step_nibbles  likewise, each nibble as the byte ((dq q + mq) mod 2^16) >> 8; dq and mq hold a
//                 16-bit number twice in every lane, as twice_low and twice_high make them
//   low_half, high_half, load_half   finite IEEE half numbers to floats
//   store_bf16_apart   16 floats to every other word, without touching those between
//   pack_bf16     32 floats to 64 bytes of bf16, rounded to nearest
//   sum, highest  over the lanes, in one fixed order
#pragma once

#include <cstdint>
#include <cstring>

#ifndef HEADRACE_ISA
#error "HEADRACE_ISA names the instruction set; see CMakeLists.txt"
#endif

#if defined(__GNUC__)
#define HEADRACE_INLINE inline __attribute__((always_inline))
#define HEADRACE_INLINE_LAMBDA __attribute__((always_inline))
#define HEADRACE_NOINLINE __attribute__((noinline))
#else
#define HEADRACE_INLINE inline
#define HEADRACE_INLINE_LAMBDA
#define HEADRACE_NOINLINE
#endif

#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "simd_avx512.hpp"
#elif defined(__AVX2__) && defined(__FMA__)
#include "simd_avx2.hpp"
#else
#include "simd_portable.hpp"
#endif

namespace headrace {
namespace HEADRACE_ISA {

// Calls f with the constants 0, 1 ... COUNT - 1. Arrays that are only indexed by such constants live
// in registers; loops that the compiler unrolls itself often leave them in memory.
template <int N>
struct Index {
    constexpr operator int() const { return N; }
};
template <int COUNT, class Function>
HEADRACE_INLINE void unrolled(const Function& f) {
    if constexpr (COUNT > 0) {
        unrolled<COUNT - 1>(f);
        f(Index<COUNT - 1>{});
    }
}

// Ask for the cache line at p, into the second-level cache.
HEADRACE_INLINE void prefetch(const void* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p, 0, 2);
#else
    (void)p;
#endif
}

inline uint32_t load_u32(const void* p) {
    uint32_t x;
    std::memcpy(&x, p, 4);
    return x;
}

// exp for x <= 88, within 2 units in the last place; exactly 0 below -87.3. Per lane: the same
// input gives the same bits in any lane. Cody-Waite reduction and a minimax polynomial of degree 6
// (coefficients as in the Cephes library's expf).
inline F32 exp(F32 x) {
    const F32 low = set1(-87.33f);
    const Mask dead = less(x, low);
    x = max(x, low);
    const I32 n = round_to_int(mul(x, set1(1.44269504088896341f)));
    const F32 nf = to_float(n);
    F32 r = fma(nf, set1(-0.693359375f), x);
    r = fma(nf, set1(2.12194440e-4f), r);
    F32 p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = fma(p, mul(r, r), add(r, set1(1.0f)));
    return zero_where(dead, scale_by_power(p, n));
}

// x / (1 + exp(-x))
inline F32 silu(F32 x) {
    const F32 e = exp(min(sub(set1(0.0f), x), set1(87.0f)));
    return div(x, add(set1(1.0f), e));
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
