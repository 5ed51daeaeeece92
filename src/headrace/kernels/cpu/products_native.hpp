// Sums of products with the file's own blocks: per block of 32 columns an exact integer, then
// sum = fma(integer, d * scale, sum) and, where the block has a minimum, fma(m, scale * total, sum).
#pragma once

#include "kernels.hpp"
#include "products_ahead.hpp"
#include "products_sums.hpp"
#include "simd.hpp"
#include "weight.hpp"

namespace headrace {
namespace HEADRACE_ISA {

constexpr int NATIVE_ROWS = REGISTERS >= 32 ? 4 : 2;

template <Form FORM>
struct FromBlocks {
    static constexpr bool MINIMUM = has_minimum(FORM);
    static constexpr int OFFSET = FORM == Form::q4_0 ? 8 : FORM == Form::q4_1 ? 0 : 128;
    const uint8_t* at;

    static HEADRACE_INLINE int32_t start(int32_t total) {
        return has_nibbles(FORM) ? -OFFSET * total : biased_start(-OFFSET * total);
    }
    static HEADRACE_INLINE void dot(I32& acc, B64 w, B64 x) {
        if (has_nibbles(FORM))
            dot_small(acc, w, x);
        else
            dot_biased(acc, w, x);
    }
    void next() { at += form_bytes(FORM); }
    HEADRACE_INLINE void read(int eight, B64 (&w)[2][2]) const {
        const uint8_t* p = at + (MINIMUM ? 4 : 2) * PANEL + (has_nibbles(FORM) ? 128 : 256) * eight;
        if (has_nibbles(FORM)) {
            split_nibbles(load64(p), w[0][0], w[1][0]);
            split_nibbles(load64(p + 64), w[0][1], w[1][1]);
        } else {
            w[0][0] = load64(p);
            w[0][1] = load64(p + 64);
            w[1][0] = load64(p + 128);
            w[1][1] = load64(p + 192);
        }
    }
    HEADRACE_INLINE F32 step(int half) const {
        return MINIMUM ? low_half(load64(at + 64 * half)) : load_half(at + 32 * half);
    }
    HEADRACE_INLINE F32 minimum(int half) const { return high_half(load64(at + 64 * half)); }
};

template <int ROWS, class Source>
HEADRACE_INLINE void sum_native(Source source, const Rows& x, int row, Ahead ahead,
                              F32 (&sums)[ROWS][2]) {
    constexpr int SETS = SUM_SETS<ROWS>;
    const size_t stride = x.stride();
    const int blocks = x.width / 32;
    const uint8_t* rows = x.data + stride * static_cast<size_t>(row);
    const float* scale = x.scale + static_cast<size_t>(row) * blocks;
    const int32_t* total = x.sum + static_cast<size_t>(row) * blocks;
    unrolled<ROWS>([&](auto r) HEADRACE_INLINE_LAMBDA { sums[r][0] = sums[r][1] = set1(0.0f); });
    for (int b = 0; b < blocks; ++b, source.next()) {
        ahead.fetch();
        I32 part[SETS][ROWS][2];
        unrolled<ROWS>([&](auto r) HEADRACE_INLINE_LAMBDA {
            part[0][r][0] = part[0][r][1] = set1_i32(Source::start(total[r * blocks + b]));
            if (SETS == 2) part[SETS - 1][r][0] = part[SETS - 1][r][1] = set1_i32(0);
        });
        for (int eight = 0; eight < 4; ++eight) {
            B64 w[2][2];
            source.read(eight, w);
            unrolled<2>([&](auto q) HEADRACE_INLINE_LAMBDA {
                each_sum<ROWS>([&](auto r, auto half) HEADRACE_INLINE_LAMBDA {
                    const uint8_t* at = rows + stride * r + 32 * b + 8 * eight + 4 * q;
                    Source::dot(part[q % SETS][r][half], w[q][half], broadcast4(load_u32(at)));
                });
            });
        }
        unrolled<2>([&](auto half) HEADRACE_INLINE_LAMBDA {
            const F32 d = source.step(half);
            unrolled<ROWS>([&](auto r) HEADRACE_INLINE_LAMBDA {
                I32 all = part[0][r][half];
                if (SETS == 2) all = add_i32(all, part[SETS - 1][r][half]);
                const F32 s = set1(scale[r * blocks + b]);
                sums[r][half] = fma(to_float(all), mul(d, s), sums[r][half]);
            });
            if constexpr (Source::MINIMUM) {
                const F32 m = source.minimum(half);
                unrolled<ROWS>([&](auto r) HEADRACE_INLINE_LAMBDA {
                    const int at = r * blocks + b;
                    const float t = scale[at] * static_cast<float>(total[at]);
                    sums[r][half] = fma(m, set1(t), sums[r][half]);
                });
            }
        });
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
