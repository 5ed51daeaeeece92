// Placeholder until the products are written.
#pragma once
#include "kernels.hpp"
#include "simd.hpp"
namespace headrace {
namespace HEADRACE_ISA {
inline void product(const Product&) {}
inline void gated(const Gated&) {}
}  // namespace HEADRACE_ISA
}  // namespace headrace
