// Placeholder until the attention kernels are written.
#pragma once
#include "kernels.hpp"
#include "simd.hpp"
namespace headrace {
namespace HEADRACE_ISA {
inline void rotate_store(const RotateStore&, int, int) {}
inline void attend(const Attention&, int, int) {}
}  // namespace HEADRACE_ISA
}  // namespace headrace
