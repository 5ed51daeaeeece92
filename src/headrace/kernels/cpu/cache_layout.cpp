// Checks of the cache's shape, and whole blocks cleared and copied.
#include "cache_layout.hpp"

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "pool.hpp"

namespace headrace {
namespace {

void check_multiple(const char* name, int value, int unit, int most) {
    if (value < unit || value > most || value % unit != 0)
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                    "; the C++ attention needs a multiple of " +
                                    std::to_string(unit) + " up to " + std::to_string(most) +
                                    "; use --weights float32 for other models");
}

void check_blocks(const Cache& cache, const int32_t* ids, int count) {
    for (int i = 0; i < count; ++i)
        if (ids[i] < 0 || ids[i] >= cache.blocks)
            throw std::invalid_argument("block " + std::to_string(ids[i]) +
                                        " is not in the cache of " + std::to_string(cache.blocks) +
                                        " blocks");
}

}  // namespace

size_t cache_row_bytes(CacheFormat format, int block_size, int head_dim) {
    check_multiple("block size", block_size, GROUP_TOKENS, MAX_BLOCK_SIZE);
    check_multiple("head size", head_dim, 16, MAX_HEAD_DIM);
    return CacheShape{format, 1, head_dim, block_size}.row_bytes();
}

void Cache::clear(const int32_t* ids, int count) const {
    check_blocks(*this, ids, count);
    const size_t bytes = block_bytes;
    const PoolTurn turn;
    pool().each(count > 0 ? 2 * layers : 0, [&](int array, int) {
        for (int i = 0; i < count; ++i)
            std::memset(data + array * array_bytes() + bytes * ids[i], 0, bytes);
    });
}

void Cache::copy(const int32_t* sources, const int32_t* destinations, int count) const {
    check_blocks(*this, sources, count);
    check_blocks(*this, destinations, count);
    const size_t bytes = block_bytes;
    std::vector<uint8_t> moved(bytes * count);
    for (int array = 0; array < 2 * layers; ++array) {
        uint8_t* blocks_of = data + array * array_bytes();
        for (int i = 0; i < count; ++i)
            std::memcpy(moved.data() + bytes * i, blocks_of + bytes * sources[i], bytes);
        for (int i = 0; i < count; ++i)
            std::memcpy(blocks_of + bytes * destinations[i], moved.data() + bytes * i, bytes);
    }
}

}  // namespace headrace
