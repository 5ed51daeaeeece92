// AVX2 and FMA, with or without AVX-VNNI: two registers of eight lanes each. See simd.hpp.
#pragma once

#include <immintrin.h>

namespace headrace {
namespace HEADRACE_ISA {

struct F32 {
    __m256 a, b;
};
struct I32 {
    __m256i a, b;
};
using B64 = I32;
using Mask = F32;  // all bits of a lane set, or none

constexpr int REGISTERS = 8;

inline F32 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline F32 add(F32 x, F32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F32 sub(F32 x, F32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F32 mul(F32 x, F32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F32 div(F32 x, F32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F32 fma(F32 x, F32 y, F32 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F32 max(F32 x, F32 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F32 min(F32 x, F32 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F32 abs(F32 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline Mask less(F32 x, F32 y) {
    return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
}
inline F32 zero_where(Mask m, F32 x) {
    return {_mm256_andnot_ps(m.a, x.a), _mm256_andnot_ps(m.b, x.b)};
}
inline F32 select(Mask m, F32 yes, F32 no) {
    return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)};
}
inline Mask first_lanes(int n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane)),
            _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane))};
}
inline F32 load_first(const float* p, int n) {
    const Mask m = first_lanes(n);
    return {_mm256_maskload_ps(p, _mm256_castps_si256(m.a)),
            _mm256_maskload_ps(p + 8, _mm256_castps_si256(m.b))};
}
inline void store_first(float* p, F32 x, int n) {
    const Mask m = first_lanes(n);
    _mm256_maskstore_ps(p, _mm256_castps_si256(m.a), x.a);
    _mm256_maskstore_ps(p + 8, _mm256_castps_si256(m.b), x.b);
}

inline float sum(F32 x) {
    const __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float highest(F32 x) {
    const __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

inline I32 set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline B64 load64(const void* p) {
    const __m256i* q = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline I32 load_i32(const int32_t* p) { return load64(p); }
inline void store_i32(int32_t* p, I32 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
inline I32 add_i32(I32 x, I32 y) {
    return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
inline int32_t sum_i32(I32 x) {
    const __m256i b = _mm256_add_epi32(x.a, x.b);
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}
inline F32 to_float(I32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I32 round_to_int(F32 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline F32 scale_by_power(F32 x, I32 n) {
    const __m256i bias = _mm256_set1_epi32(127);
    return mul(x, {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.a, bias), 23)),
                   _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.b, bias), 23))});
}

inline F32 round(F32 x) {
    constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, NEAREST), _mm256_round_ps(x.b, NEAREST)};
}
inline F32 scale_by_whole(F32 x, F32 n) { return scale_by_power(x, round_to_int(n)); }

inline void store_i8(int8_t* p, I32 x) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline F32 load_bf16(const uint16_t* p) {
    const __m128i* q = reinterpret_cast<const __m128i*>(p);
    return {_mm256_castsi256_ps(
                _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q)), 16)),
            _mm256_castsi256_ps(
                _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1)), 16))};
}
inline __m256i round_bf16(__m256 v) {
    const __m256i x = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1));
    const __m256i y = _mm256_add_epi32(x, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_srli_epi32(y, 16);
}
inline __m256i round_bf16(F32 x) {
    const __m256i words = _mm256_packus_epi32(round_bf16(x.a), round_bf16(x.b));
    return _mm256_permute4x64_epi64(words, 0xd8);
}
inline void store_bf16(uint16_t* p, F32 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), round_bf16(x));
}
inline void store_bf16_apart(uint16_t* p, F32 x) {
    uint16_t words[16];
    store_bf16(words, x);
    for (int i = 0; i < 16; ++i) p[2 * i] = words[i];
}
inline B64 pack_bf16(F32 x, F32 y) { return {round_bf16(x), round_bf16(y)}; }
inline I32 load_i8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}

inline void store64(void* p, B64 x) { store_i32(static_cast<int32_t*>(p), x); }
inline B64 broadcast4(uint32_t x) { return set1_i32(static_cast<int>(x)); }

inline void split_nibbles(B64 q, B64& low, B64& high) {
    const __m256i mask = _mm256_set1_epi8(15);
    low = {_mm256_and_si256(q.a, mask), _mm256_and_si256(q.b, mask)};
    high = {_mm256_and_si256(_mm256_srli_epi16(q.a, 4), mask),
            _mm256_and_si256(_mm256_srli_epi16(q.b, 4), mask)};
}
inline B64 twice_low(B64 x) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13));
    return {_mm256_shuffle_epi8(x.a, order), _mm256_shuffle_epi8(x.b, order)};
}
inline B64 twice_high(B64 x) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15));
    return {_mm256_shuffle_epi8(x.a, order), _mm256_shuffle_epi8(x.b, order)};
}
inline __m256i step_bytes(__m256i even, __m256i odd, __m256i dq, __m256i mq) {
    even = _mm256_add_epi16(_mm256_mullo_epi16(even, dq), mq);
    odd = _mm256_add_epi16(_mm256_mullo_epi16(odd, dq), mq);
    const __m256i high = _mm256_set1_epi16(static_cast<int16_t>(0xff00));
    return _mm256_or_si256(_mm256_srli_epi16(even, 8), _mm256_and_si256(odd, high));
}
inline void step_half(__m256i q, __m256i dq, __m256i mq, __m256i& low, __m256i& high) {
    const __m256i mask = _mm256_set1_epi16(15);
    low = step_bytes(_mm256_and_si256(q, mask), _mm256_and_si256(_mm256_srli_epi16(q, 8), mask),
                     dq, mq);
    high = step_bytes(_mm256_and_si256(_mm256_srli_epi16(q, 4), mask), _mm256_srli_epi16(q, 12),
                      dq, mq);
}
inline void step_nibbles(B64 q, B64 dq, B64 mq, B64& low, B64& high) {
    step_half(q.a, dq.a, mq.a, low.a, high.a);
    step_half(q.b, dq.b, mq.b, low.b, high.b);
}

inline __m256 half_to_float(__m256i h) {
    // Exact: the exponent is moved by a multiplication. For finite numbers.
    const __m256i magnitude = _mm256_slli_epi32(_mm256_and_si256(h, _mm256_set1_epi32(0x7fff)), 13);
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(h, _mm256_set1_epi32(0x8000)), 16);
    const __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(0x1p112f));
    return _mm256_or_ps(value, _mm256_castsi256_ps(sign));
}
inline F32 load_half(const void* p) {
    const __m128i* q = static_cast<const __m128i*>(p);
    return {half_to_float(_mm256_cvtepu16_epi32(_mm_loadu_si128(q))),
            half_to_float(_mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1)))};
}
inline F32 low_half(B64 x) { return {half_to_float(x.a), half_to_float(x.b)}; }
inline F32 high_half(B64 x) {
    return {half_to_float(_mm256_srli_epi32(x.a, 16)), half_to_float(_mm256_srli_epi32(x.b, 16))};
}

#ifdef __AVXVNNI__
inline int32_t biased_start(int32_t bias) { return bias; }
inline void dot_biased(I32& acc, B64 w, B64 x) {
    acc = {_mm256_dpbusd_avx_epi32(acc.a, w.a, x.a), _mm256_dpbusd_avx_epi32(acc.b, w.b, x.b)};
}
inline void dot_small(I32& acc, B64 w, B64 x) { dot_biased(acc, w, x); }
#else
inline int32_t biased_start(int32_t) { return 0; }
inline __m256i dot_small_half(__m256i acc, __m256i w, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline void dot_small(I32& acc, B64 w, B64 x) {
    acc = {dot_small_half(acc.a, w.a, x.a), dot_small_half(acc.b, w.b, x.b)};
}
inline __m256i dot_biased_half(__m256i acc, __m256i w, __m256i x) {
    // |w| * (x with w's sign): sums of pairs fit 16 bits, which those of w + 128 would not.
    w = _mm256_xor_si256(w, _mm256_set1_epi8(static_cast<char>(0x80)));
    return dot_small_half(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
inline void dot_biased(I32& acc, B64 w, B64 x) {
    acc = {dot_biased_half(acc.a, w.a, x.a), dot_biased_half(acc.b, w.b, x.b)};
}
#endif

inline F32 low_bf16(B64 w) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(w.a, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(w.b, 16))};
}
inline F32 high_bf16(B64 w) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_castsi256_ps(_mm256_and_si256(w.a, high)),
            _mm256_castsi256_ps(_mm256_and_si256(w.b, high))};
}
inline void dot_bf16(F32& acc, B64 w, B64 x) {
    acc = fma(low_bf16(w), low_bf16(x), acc);
    acc = fma(high_bf16(w), high_bf16(x), acc);
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
