// The passes over a row of logits or weights that sampling is made of; see sampling.cpp.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace headrace {
namespace HEADRACE_ISA {

// lanes_of: a bit for each lane. put_places: `first` plus the place of each bit; how many.
#if defined(__AVX512F__)
inline uint32_t lanes_of(Mask m) { return m; }
inline int put_places(int32_t* to, int first, uint32_t found) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i place = _mm512_add_epi32(lane, _mm512_set1_epi32(first));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(found), place));
    return __builtin_popcount(found);
}
#else
inline int put_places(int32_t* to, int first, uint32_t found) {
    int count = 0;
    for (; found; found &= found - 1) to[count++] = first + __builtin_ctz(found);
    return count;
}
#endif
#if defined(__AVX512F__)
#elif defined(__AVX2__)
inline uint32_t lanes_of(Mask m) {
    return static_cast<uint32_t>(_mm256_movemask_ps(m.a)) |
           static_cast<uint32_t>(_mm256_movemask_ps(m.b)) << 8;
}
#else
inline uint32_t lanes_of(const Mask& m) {
    uint32_t bits = 0;
    for (int i = 0; i < LANES; ++i) bits |= static_cast<uint32_t>(m.v[i]) << i;
    return bits;
}
#endif

// SCAN values at once: four vectors keep four chains of operations going.
struct Scan {
    F32 a, b, c, d;
};

inline F32 load_or(const float* p, int rest, F32 fill) {
    if (rest >= LANES) return load(p);
    return rest > 0 ? select(first_lanes(rest), load_first(p, rest), fill) : fill;
}

// The values at p, `fill` from `rest` on.
inline Scan load_scan(const float* p, int rest, F32 fill) {
    if (rest >= SCAN) return {load(p), load(p + 16), load(p + 32), load(p + 48)};
    return {load_or(p, rest, fill), load_or(p + 16, rest - 16, fill),
            load_or(p + 32, rest - 32, fill), load_or(p + 48, rest - 48, fill)};
}

inline void store_scan(float* p, int rest, const Scan& v) {
    alignas(64) float values[SCAN];
    float* to = rest >= SCAN ? p : values;
    store(to, v.a);
    store(to + 16, v.b);
    store(to + 32, v.c);
    store(to + 48, v.d);
    if (rest < SCAN)
        for (int i = 0; i < rest; ++i) p[i] = values[i];
}

template <class Function>
inline Scan each(const Scan& v, Function f) {
    return {f(v.a), f(v.b), f(v.c), f(v.d)};
}

inline void add_to(Scan& total, const Scan& v) {
    total = {add(total.a, v.a), add(total.b, v.b), add(total.c, v.c), add(total.d, v.d)};
}

inline F32 fold(const Scan& v) { return add(add(v.a, v.b), add(v.c, v.d)); }

// Largest value of each SCAN of x; returns that of all of them, NaN if x holds a NaN or +inf.
inline float peaks(const float* x, int n, float* groups) {
    const F32 lowest = set1(-__FLT_MAX__), zero = set1(0.0f), none = set1(-__builtin_inff());
    F32 all = none;
    Scan sound = {zero, zero, zero, zero};
    for (int i = 0; i < n; i += SCAN) {
        const Scan v = load_scan(x + i, n - i, none);
        // max gives its second operand where one is NaN; -inf is a legal value.
        sound = {fma(max(lowest, v.a), zero, sound.a), fma(max(lowest, v.b), zero, sound.b),
                 fma(max(lowest, v.c), zero, sound.c), fma(max(lowest, v.d), zero, sound.d)};
        const F32 top = max(max(v.a, v.b), max(v.c, v.d));
        groups[i / SCAN] = highest(top);
        all = max(all, top);
    }
    return highest(all) + HEADRACE_ISA::sum(fold(sound));
}

// Calls f(i, rest, total) for every SCAN values of n; f adds what it finds to `total`, whose sum
// over each SUMMED values goes to `sums`.
template <class Function>
inline void sum_blocks(int n, float* sums, Function f) {
    const F32 zero = set1(0.0f);
    for (int begin = 0; begin < n; begin += SUMMED) {
        Scan total = {zero, zero, zero, zero};
        for (int i = begin; i < begin + SUMMED && i < n; i += SCAN) f(i, n - i, total);
        sums[begin / SUMMED] = HEADRACE_ISA::sum(fold(total));
    }
}

// w = exp((x - peak) * inverse), 0 where that is below `least`; sums of each SUMMED of them.
inline void weigh(const float* x, int n, float peak, float inverse, float least, float* w,
                  float* sums) {
    const F32 p = set1(peak), s = set1(inverse), m = set1(least), out = set1(-__builtin_inff());
    sum_blocks(n, sums, [&](int i, int rest, Scan& total) {
        const Scan v = each(load_scan(x + i, rest, out), [&](F32 logit) {
            const F32 weight = exp(mul(sub(logit, p), s));
            return zero_where(less(weight, m), weight);
        });
        add_to(total, v);
        store_scan(w + i, rest, v);
    });
}

// Weights below `least` become 0; sums of each SUMMED of them.
inline void cut(float* w, int n, float least, float* sums) {
    const F32 m = set1(least), zero = set1(0.0f);
    sum_blocks(n, sums, [&](int i, int rest, Scan& total) {
        const Scan v = each(load_scan(w + i, rest, zero),
                            [&](F32 weight) { return zero_where(less(weight, m), weight); });
        add_to(total, v);
        store_scan(w + i, rest, v);
    });
}

// How many of x are at least `low`; `sums` of those among each SUMMED values.
inline int reach(const float* x, int n, float low, float* sums) {
    const F32 least = set1(low), none = set1(-__builtin_inff());
    int below = 0;
    sum_blocks(n, sums, [&](int i, int rest, Scan& total) {
        add_to(total, each(load_scan(x + i, rest, none), [&](F32 v) {
            const Mask out = less(v, least);
            below += __builtin_popcount(lanes_of(out));
            return zero_where(out, v);
        }));
    });
    const int padding = (n + SCAN - 1) / SCAN * SCAN - n;
    return n - (low > -__builtin_inff() ? below - padding : 0);
}

// Places of the values in [low, high), ascending; how many. Writes up to LANES - 1 more.
inline int places_within(const float* x, int n, float low, float high, int32_t* places) {
    const F32 least = set1(low), end = set1(high), none = set1(-__builtin_inff());
    int count = 0;
    for (int i = 0; i < n; i += LANES) {
        const F32 v = load_or(x + i, n - i, none);
        uint32_t found = lanes_of(less(v, end)) & ~lanes_of(less(v, least));
        if (n - i < LANES) found &= (1u << (n - i)) - 1;
        count += put_places(places + count, i, found);  // no branch: it would be mispredicted
    }
    return count;
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
