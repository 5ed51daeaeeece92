// Sums of int8 products: a tile is some rows by one panel. Per block of 64 columns an exact integer,
// then one float fused multiply-add, block by block in ascending order.
#pragma once

#include "kernels.hpp"
#include "products_ahead.hpp"
#include "products_sums.hpp"
#include "simd.hpp"
#include "weight.hpp"

namespace headrace {
namespace HEADRACE_ISA {

// Rows of a tile: integer and float sums of a panel for each must fit the registers.
constexpr int INT8_ROWS = REGISTERS >= 32 ? 6 : 2;
constexpr int NIBBLE_ROWS = REGISTERS >= 32 ? 4 : 2;  // fewer, as opening nibbles takes registers

// Where weights of a panel come from, 8 columns at a time: quads of columns by halves of the panel.
struct FromBytes {
    const uint8_t* panel;
    struct Block {
        const uint8_t* at;
        HEADRACE_INLINE void read(int eight, B64 (&w)[2][2]) const {
            const uint8_t* p = at + 256 * eight;
            w[0][0] = load64(p);
            w[0][1] = load64(p + 64);
            w[1][0] = load64(p + 128);
            w[1][1] = load64(p + 192);
        }
    };
    HEADRACE_INLINE Block block(int b) const {
        return {panel + static_cast<size_t>(b) * (32 * PANEL)};
    }
};

struct FromNibbles {
    const uint8_t* panel;
    struct Block {
        const uint8_t* at;
        B64 dq[2], mq[2];
        HEADRACE_INLINE void read(int eight, B64 (&w)[2][2]) const {
            const uint8_t* p = at + 128 * eight;
            step_nibbles(load64(p), dq[0], mq[0], w[0][0], w[1][0]);
            step_nibbles(load64(p + 64), dq[1], mq[1], w[0][1], w[1][1]);
        }
    };
    HEADRACE_INLINE Block block(int b) const {
        const uint8_t* at = panel + static_cast<size_t>(b) * FEW_BYTES;
        const B64 first = load64(at), second = load64(at + 64);
        return {at + 128,
                {twice_low(first), twice_low(second)},
                {twice_high(first), twice_high(second)}};
    }
};

template <int ROWS, class Source>
HEADRACE_INLINE void sum_int8(const Source& source, const Rows& x, int row, Ahead ahead,
                              F32 (&sums)[ROWS][2]) {
    constexpr int SETS = SUM_SETS<ROWS>;
    const size_t stride = x.stride();
    const int blocks = x.width / 64;
    const uint8_t* rows = x.data + stride * static_cast<size_t>(row);
    const float* scale = x.scale + static_cast<size_t>(row) * blocks;
    const int32_t* total = x.sum + static_cast<size_t>(row) * blocks;
    unrolled<ROWS>([&](auto r) HEADRACE_INLINE_LAMBDA { sums[r][0] = sums[r][1] = set1(0.0f); });
    for (int b = 0; b < blocks; ++b) {
        I32 part[SETS][ROWS][2];
        unrolled<ROWS>([&](auto r) HEADRACE_INLINE_LAMBDA {
            part[0][r][0] = part[0][r][1] = set1_i32(biased_start(total[r * blocks + b]));
            if (SETS == 2) part[SETS - 1][r][0] = part[SETS - 1][r][1] = set1_i32(0);
        });
        for (int h = 0; h < 2; ++h) {
            ahead.fetch();
            const typename Source::Block block = source.block(2 * b + h);
            const uint8_t* columns = rows + 64 * b + 32 * h;
            for (int eight = 0; eight < 4; ++eight) {
                B64 w[2][2];
                block.read(eight, w);
                unrolled<2>([&](auto q) HEADRACE_INLINE_LAMBDA {
                    each_sum<ROWS>([&](auto r, auto half) HEADRACE_INLINE_LAMBDA {
                        const uint8_t* at = columns + stride * r + 8 * eight + 4 * q;
                        dot_biased(part[q % SETS][r][half], w[q][half], broadcast4(load_u32(at)));
                    });
                });
            }
        }
        unrolled<ROWS>([&](auto r) HEADRACE_INLINE_LAMBDA {
            const F32 s = set1(scale[r * blocks + b]);
            unrolled<2>([&](auto half) HEADRACE_INLINE_LAMBDA {
                I32 all = part[0][r][half];
                if (SETS == 2) all = add_i32(all, part[SETS - 1][r][half]);
                sums[r][half] = fma(to_float(all), s, sums[r][half]);
            });
        });
    }
}

// The panel's bytes from its nibbles.
HEADRACE_NOINLINE inline void expand_nibbles(const FromNibbles& source, int width,
                                             uint8_t* bytes) {
    for (int b = 0; b < width / 32; ++b) {
        const FromNibbles::Block block = source.block(b);
        for (int eight = 0; eight < 4; ++eight, bytes += 256) {
            B64 w[2][2];
            block.read(eight, w);
            store64(bytes, w[0][0]);
            store64(bytes + 64, w[0][1]);
            store64(bytes + 128, w[1][0]);
            store64(bytes + 192, w[1][1]);
        }
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
