// Probes of the machine's ceilings. Each runs on the calling thread only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace headrace {

// Reads `size` bytes `passes` times; the result is their checksum, so that no read is dropped.
uint64_t stream_read(const uint8_t* data, size_t size, int passes);

// Runs about `operations` additions and multiplications of `kind` (float32, bfloat16 or int8 products
// with sums of 32 bits) in registers, with the widest instruction that this processor has for them;
// returns how many it ran, 0 where it has none.
double multiply_add(const char* kind, double operations);

}  // namespace headrace
