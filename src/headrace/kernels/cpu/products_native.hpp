// Sums of products with the file's own blocks: per block of 32 columns an exact integer, then
// sum = fma(integer, d * scale, sum) and, where the block has a minimum, fma(m, scale * total, sum).
#pragma once

#include "kernels.hpp"
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

    void next() { at += form_bytes(FORM); }
    void read(int eight, B64 (&w)[2][2]) const {
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
    F32 step(int half) const {
        return MINIMUM ? low_half(load64(at + 64 * half)) : load_half(at + 32 * half);
    }
    F32 minimum(int half) const { return high_half(load64(at + 64 * half)); }
};

template <int ROWS, class Source>
inline void sum_native(Source source, const Rows& x, int row, F32 (&sums)[ROWS][2]) {
    constexpr int SETS = ROWS <= 2 ? 2 : 1;
    const size_t stride = x.stride();
    const int blocks = x.blocks();
    const uint8_t* rows = x.data + stride * static_cast<size_t>(row);
    const float* scale = x.scale + static_cast<size_t>(row) * blocks;
    const int32_t* total = x.sum + static_cast<size_t>(row) * blocks;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) sums[r][0] = sums[r][1] = set1(0.0f);
    for (int b = 0; b < blocks; ++b, source.next()) {
        I32 part[SETS][ROWS][2];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            part[0][r][0] = part[0][r][1] = set1_i32(-Source::OFFSET * total[r * blocks + b]);
            if (SETS == 2) part[SETS - 1][r][0] = part[SETS - 1][r][1] = set1_i32(0);
        }
        for (int eight = 0; eight < 4; ++eight) {
            B64 w[2][2];
            source.read(eight, w);
#pragma GCC unroll 2
            for (int q = 0; q < 2; ++q)
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; ++r) {
                    const B64 v =
                        broadcast4(load_u32(rows + stride * r + 32 * b + 8 * eight + 4 * q));
                    dot_i8(part[q % SETS][r][0], w[q][0], v);
                    dot_i8(part[q % SETS][r][1], w[q][1], v);
                }
        }
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const F32 d = source.step(half);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                I32 all = part[0][r][half];
                if (SETS == 2) all = add_i32(all, part[SETS - 1][r][half]);
                const F32 s = set1(scale[r * blocks + b]);
                sums[r][half] = fma(to_float(all), mul(d, s), sums[r][half]);
            }
            if (!Source::MINIMUM) continue;
            const F32 m = source.minimum(half);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                const float t = scale[r * blocks + b] * static_cast<float>(total[r * blocks + b]);
                sums[r][half] = fma(m, set1(t), sums[r][half]);
            }
        }
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
