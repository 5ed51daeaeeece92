// Between the two products: scores to weights, and results of splits merged.
#pragma once

#include "attention.hpp"
#include "simd.hpp"

namespace headrace {
namespace HEADRACE_ISA {

constexpr uint32_t BF16_ONES = 0x3f803f80u;

// exp(x) for x <= 0 within 1e-5 of its value, much less than bf16 shows; e^-86 for all x below that,
// and NaN for NaN. 2^f, |f| <= 1/2, is the polynomial of degree 4 with the least relative error, 3e-6.
inline F32 exp_weight(F32 x) {
    const F32 t = mul(max(set1(-86.0f), x), set1(1.44269504088896341f));
    const F32 n = round(t), f = sub(t, n);
    F32 p = set1(9.58285294e-3f);
    p = fma(p, f, set1(5.59064262e-2f));
    p = fma(p, f, set1(2.40240991e-1f));
    p = fma(p, f, set1(6.93124175e-1f));
    p = fma(p, f, set1(1.0f));
    return scale_by_whole(p, n);
}

// Weights of one row's first `seen` scores: exp(score - highest) rounded to bf16, exactly zero from
// there up to `width` (a multiple of 16) and on to a multiple of 32.
inline void soften(const float* scores, int seen, int width, uint16_t* weights, float* highest_out,
                   float* total_out) {
    const F32 never = set1(-__builtin_inff());
    F32 top = never, top2 = never;
    int i = 0;
    for (; i + 2 * LANES <= seen; i += 2 * LANES) {
        top = max(top, load(scores + i));
        top2 = max(top2, load(scores + i + LANES));
    }
    for (; i < seen; i += LANES)
        top = max(top, select(first_lanes(seen - i), load(scores + i), never));
    const float high = highest(max(top, top2));
    const F32 highs = set1(high), zero = set1(0.0f);
    const B64 ones = broadcast4(BF16_ONES);
    F32 total = zero;
    const auto put = [&](F32 a, F32 b) {
        const B64 w = pack_bf16(a, b);
        dot_bf16(total, w, ones);
        store64(weights + i, w);
    };
    for (i = 0; i + 2 * LANES <= seen; i += 2 * LANES)
        put(exp_weight(sub(load(scores + i), highs)),
            exp_weight(sub(load(scores + i + LANES), highs)));
    if (i < seen) {
        const Mask first = first_lanes(seen - i),
                   second = first_lanes(seen - i > LANES ? seen - i - LANES : 0);
        put(select(first, exp_weight(sub(load(scores + i), highs)), zero),
            select(second, exp_weight(sub(load(scores + i + LANES), highs)), zero));
        i += 2 * LANES;
    }
    for (; i < width; i += 2 * LANES) store64(weights + i, broadcast4(0));
    *highest_out = high;
    *total_out = sum(total);
}

// For int8: scores times their keys' scales, and weights times their values' scales.
inline void scale_scores(float* scores, int width, const float* scales) {
    for (int i = 0; i < width; i += LANES)
        store(scores + i, mul(load(scores + i), load(scales + i)));
}
inline void scale_weights(uint16_t* weights, int seen, const float* scales) {
    for (int i = 0; i < seen; i += LANES) {
        F32 w = mul(load_bf16(weights + i), load(scales + i));
        if (seen - i < LANES) w = select(first_lanes(seen - i), w, set1(0.0f));
        store_bf16(weights + i, w);
    }
}

// Weighted values of some queries, unnormalised: values [queries][dim], and per query the highest
// score and the sum of the weights.
struct Result {
    float *values, *highest, *total;
};

inline Result result_at(float* base, int queries, int dim) {
    float* end = base + static_cast<size_t>(queries) * dim;
    return {base, end, end + queries};
}

// into = into and the split after it, for one query.
inline void merge_query(const Result& into, const Result& split, int query, int dim) {
    const float old_high = into.highest[query], new_high = split.highest[query];
    const float high = old_high > new_high ? old_high : new_high;
    alignas(64) float factors[2 * LANES];
    store(factors, exp(set1(old_high - high)));
    store(factors + LANES, exp(set1(new_high - high)));
    const F32 a = load(factors), b = load(factors + LANES);
    float* values = into.values + static_cast<size_t>(query) * dim;
    const float* more = split.values + static_cast<size_t>(query) * dim;
    for (int d = 0; d < dim; d += LANES)
        store(values + d, fma(load(more + d), b, mul(load(values + d), a)));
    into.highest[query] = high;
    into.total[query] = into.total[query] * factors[0] + split.total[query] * factors[LANES];
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
