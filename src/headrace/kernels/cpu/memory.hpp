// Memory for weights, in huge pages. See memory.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace headrace {

// `size` bytes of zeros, aligned to 64, that live as long as the pointer or a copy of it does.
// Throws std::bad_alloc.
std::shared_ptr<uint8_t> take_memory(size_t size);

}  // namespace headrace
