// The next panel's weights, asked for while this one's are multiplied: the first tile of a panel
// would otherwise wait for memory, and the others leave memory idle.
#pragma once

#include "simd.hpp"

namespace headrace {
namespace HEADRACE_ISA {

struct Stretch {
    const uint8_t* at;  // null where nothing comes next
    size_t bytes;
};

// A tile's share of a stretch, fetched in equal parts while the tile goes over its blocks.
struct Ahead {
    const uint8_t* at = nullptr;
    int lines = 0;

    // Share `tile` of `tiles`, in `blocks` parts.
    static Ahead share(const Stretch& next, int tile, int tiles, int blocks) {
        if (next.at == nullptr) return {};
        const size_t parts = static_cast<size_t>(tiles) * blocks;
        const size_t lines = (next.bytes / 64 + parts - 1) / parts;
        return {next.at + 64 * lines * blocks * tile, static_cast<int>(lines)};
    }
    HEADRACE_INLINE void fetch() {
        for (int i = 0; i < lines; ++i, at += 64) prefetch(at);
    }
};

}  // namespace HEADRACE_ISA
}  // namespace headrace
