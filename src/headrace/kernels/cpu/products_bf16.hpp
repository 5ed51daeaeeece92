// Sums of bfloat16 products: one float sum per output, two columns at a time in ascending order.
#pragma once

#include "kernels.hpp"
#include "products_ahead.hpp"
#include "products_sums.hpp"
#include "simd.hpp"
#include "weight.hpp"

namespace headrace {
namespace HEADRACE_ISA {

constexpr int BF16_ROWS = REGISTERS >= 32 ? 12 : 2;
constexpr int BF16_BLOCK = 16;  // columns between two looks ahead

template <int ROWS>
HEADRACE_INLINE void sum_bf16(const uint8_t* panel, const Rows& x, int row, Ahead ahead,
                              F32 (&sums)[ROWS][2]) {
    const size_t stride = x.stride();
    const uint8_t* rows = x.data + stride * static_cast<size_t>(row);
    unrolled<ROWS>([&](auto r) HEADRACE_INLINE_LAMBDA { sums[r][0] = sums[r][1] = set1(0.0f); });
    for (int block = 0; block < x.width; block += BF16_BLOCK) {
        ahead.fetch();
        for (int k = block; k < block + BF16_BLOCK; k += 2, panel += 128) {
            const B64 w[2] = {load64(panel), load64(panel + 64)};
            each_sum<ROWS>([&](auto r, auto half) HEADRACE_INLINE_LAMBDA {
                const uint8_t* at = rows + stride * r + 2 * k;
                dot_bf16(sums[r][half], w[half], broadcast4(load_u32(at)));
            });
        }
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
