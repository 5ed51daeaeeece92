// AVX-512 F, BW, VL, DQ; with or without VNNI and BF16. See simd.hpp.
#pragma once

#include <immintrin.h>

namespace headrace {
namespace HEADRACE_ISA {

using F32 = __m512;
using I32 = __m512i;
using B64 = __m512i;
using Mask = __mmask16;

constexpr int REGISTERS = 32;  // vectors of 16 lanes that fit the register file

inline F32 set1(float x) { return _mm512_set1_ps(x); }
inline F32 load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
inline F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
inline F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
inline F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
inline F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
inline F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
inline F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
inline F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
inline F32 abs(F32 a) { return _mm512_abs_ps(a); }
inline Mask less(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline F32 zero_where(Mask m, F32 a) { return _mm512_maskz_mov_ps(_knot_mask16(m), a); }
inline F32 select(Mask m, F32 yes, F32 no) { return _mm512_mask_mov_ps(no, m, yes); }
inline Mask first_lanes(int n) { return static_cast<Mask>(n >= 16 ? 0xffff : (1 << n) - 1); }
inline F32 load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store_first(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }

inline float sum(F32 a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float highest(F32 a) { return _mm512_reduce_max_ps(a); }

inline I32 set1_i32(int32_t x) { return _mm512_set1_epi32(x); }
inline I32 load_i32(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void store_i32(int32_t* p, I32 x) { _mm512_storeu_si512(p, x); }
inline I32 add_i32(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
inline int32_t sum_i32(I32 a) { return _mm512_reduce_add_epi32(a); }
inline F32 to_float(I32 a) { return _mm512_cvtepi32_ps(a); }
inline I32 round_to_int(F32 a) { return _mm512_cvtps_epi32(a); }  // to nearest, ties to even
inline F32 scale_by_power(F32 a, I32 n) {                         // a * 2^n, n in -126..127
    return mul(a, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, set1_i32(127)), 23)));
}

inline F32 round(F32 a) { return _mm512_roundscale_ps(a, 0); }  // to nearest, ties to even
// a * 2^n for whole n in -126..127, which may be close to the limits of float32.
inline F32 scale_by_whole(F32 a, F32 n) { return _mm512_scalef_ps(a, n); }

// The low bytes of values in -128..127.
inline void store_i8(int8_t* p, I32 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}

inline F32 load_bf16(const uint16_t* p) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
// Rounded to nearest, ties to even; for finite values.
inline __m256i round_bf16(F32 a) {
    const __m512i x = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), set1_i32(1));
    const __m512i y = _mm512_add_epi32(x, _mm512_add_epi32(odd, set1_i32(0x7fff)));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(y, 16));
}
inline void store_bf16(uint16_t* p, F32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), round_bf16(a));
}
// To p[0], p[2], .. p[30]; what lies between stays as it is, even while others write it.
inline void store_bf16_apart(uint16_t* p, F32 a) {
    _mm512_mask_storeu_epi16(p, 0x55555555u, _mm512_cvtepu16_epi32(round_bf16(a)));
}
inline B64 pack_bf16(F32 a, F32 b) {  // a's sixteen, then b's
#ifdef __AVX512BF16__
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
#else
    return _mm512_inserti64x4(_mm512_castsi256_si512(round_bf16(a)), round_bf16(b), 1);
#endif
}
inline I32 load_i8(const int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline B64 load64(const void* p) { return _mm512_loadu_si512(p); }
inline void store64(void* p, B64 a) { _mm512_storeu_si512(p, a); }
inline B64 broadcast4(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }

// 64 bytes of nibbles are 8 columns of each lane: byte j of a lane has column j low, 4 + j high.
inline void split_nibbles(B64 q, B64& low, B64& high) {
    const __m512i mask = set1_i32(0x0f0f0f0f);
    low = _mm512_and_si512(q, mask);
    high = _mm512_and_si512(_mm512_srli_epi16(q, 4), mask);
}
inline B64 twice_low(B64 a) {
    return _mm512_shuffle_epi8(
        a, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13)));
}
inline B64 twice_high(B64 a) {
    return _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                      2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15)));
}
inline B64 step_bytes(B64 even, B64 odd, B64 dq, B64 mq) {
    even = _mm512_add_epi16(_mm512_mullo_epi16(even, dq), mq);
    odd = _mm512_add_epi16(_mm512_mullo_epi16(odd, dq), mq);
    // The high bytes of `even` into the low bytes of `odd`.
    const __m512i order = _mm512_broadcast_i32x4(
        _mm_setr_epi8(1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15));
    return _mm512_mask_shuffle_epi8(odd, 0x5555555555555555u, even, order);
}
inline void step_nibbles(B64 q, B64 dq, B64 mq, B64& low, B64& high) {
    const __m512i mask = set1_i32(0x000f000f);
    low = step_bytes(_mm512_and_si512(q, mask),
                     _mm512_and_si512(_mm512_srli_epi16(q, 8), mask), dq, mq);
    high = step_bytes(_mm512_and_si512(_mm512_srli_epi16(q, 4), mask), _mm512_srli_epi16(q, 12),
                      dq, mq);
}

inline F32 load_half(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline F32 low_half(B64 a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }
inline F32 high_half(B64 a) { return low_half(_mm512_srli_epi32(a, 16)); }

// GCC 12 spills accumulators of these products when they are written as intrinsics, which halves
// their rate; as assembly they stay in registers.
#ifdef __AVX512VNNI__
inline int32_t biased_start(int32_t bias) { return bias; }
inline void dot_biased(I32& acc, B64 w, B64 x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
}
inline void dot_small(I32& acc, B64 w, B64 x) { dot_biased(acc, w, x); }
#else
inline int32_t biased_start(int32_t) { return 0; }
inline void dot_small(I32& acc, B64 w, B64 x) {
    const __m512i pairs = _mm512_maddubs_epi16(w, x);
    acc = _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
inline void dot_biased(I32& acc, B64 w, B64 x) {
    // |w| * (x with w's sign): sums of pairs fit 16 bits, which those of w + 128 would not.
    w = _mm512_xor_si512(w, _mm512_set1_epi8(static_cast<char>(0x80)));
    x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    dot_small(acc, _mm512_abs_epi8(w), x);
}
#endif

inline void dot_bf16(F32& acc, B64 w, B64 x) {
#ifdef __AVX512BF16__
    asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
#else
    const __m512i high = set1_i32(static_cast<int>(0xffff0000u));
    acc = fma(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
              _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), acc);
    acc = fma(_mm512_castsi512_ps(_mm512_and_si512(w, high)),
              _mm512_castsi512_ps(_mm512_and_si512(x, high)), acc);
#endif
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
