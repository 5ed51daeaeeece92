// Probes of the machine's ceilings. Each runs on the calling thread only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace headrace {

// Reads `size` bytes `passes` times; the result is their checksum, so that no read is dropped.
uint64_t stream_read(const uint8_t* data, size_t size, int passes);

// Runs about `operations` float32 additions and multiplications in registers, in fused
// multiply-adds at the widest vector this processor has; returns how many it ran.
double fma_float32(double operations);

}  // namespace headrace
