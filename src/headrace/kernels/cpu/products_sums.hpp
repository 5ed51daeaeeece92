// How the sums of a tile are gone through: rows by the two halves of a panel.
#pragma once

#include "simd.hpp"

namespace headrace {
namespace HEADRACE_ISA {

// Sums per output: with few outputs, one addition would wait for the one before.
template <int ROWS>
constexpr int SUM_SETS = REGISTERS >= 32 && ROWS <= 4 ? 2 : 1;

// f(row, half) for all sums, so that what neighbours share needs few registers: the activations of
// a row, or where registers are scarce the weights of a half, which take work to prepare.
template <int ROWS, class Function>
HEADRACE_INLINE void each_sum(const Function& f) {
    if constexpr (REGISTERS >= 32)
        unrolled<ROWS>([&](auto r) HEADRACE_INLINE_LAMBDA {
            f(r, Index<0>{});
            f(r, Index<1>{});
        });
    else
        unrolled<2>([&](auto half) HEADRACE_INLINE_LAMBDA {
            unrolled<ROWS>([&](auto r) HEADRACE_INLINE_LAMBDA { f(r, half); });
        });
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
