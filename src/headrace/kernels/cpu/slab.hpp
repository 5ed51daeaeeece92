// Memory of packed weights: cut from large slabs of huge pages, so that the weights of a model lie
// one after the other in the order of their packing and few pages cover them all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace headrace {

// Zeroed, on a cache line. A slab is given back when the last of its parts is gone.
std::shared_ptr<uint8_t> take_from_slab(size_t size);

}  // namespace headrace
