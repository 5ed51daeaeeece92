// How keys and values lie in the cache, for those who size it, write it and read it.
//
// A layer has two arrays of bytes, keys and values, with one row per (block, kv head) at index
// block * kv_heads + head. Tokens are grouped in sixteens; a row of `block_size` tokens is so many
// groups one after another, so a kernel only ever sees a list of groups, whatever the block size:
//
//   keys    [block_size / 16][D / 2][16 tokens][2]      a vector: one pair of dimensions, 16 tokens
//   values  [block_size / 16][8 pairs][D][2 tokens]     a vector: one pair of tokens, 16 dimensions
//
// Elements are bfloat16, or int8 behind [block_size] floats, a scale per token.
#pragma once

#include <cstddef>
#include <cstdint>

namespace headrace {

constexpr int GROUP_TOKENS = 16;
constexpr int MAX_HEAD_DIM = 256;
constexpr int MAX_BLOCK_SIZE = 256;

enum class CacheFormat : uint8_t { bf16, int8 };

struct CacheShape {
    CacheFormat format;
    int kv_heads, head_dim, block_size;

    size_t element() const { return format == CacheFormat::bf16 ? 2 : 1; }
    // Bytes of the scales in front of a row's elements.
    size_t scales() const { return format == CacheFormat::bf16 ? 0 : sizeof(float) * block_size; }
    size_t group_bytes() const { return element() * GROUP_TOKENS * head_dim; }
    size_t row_bytes() const { return scales() + element() * block_size * head_dim; }
    // Bytes of one block in one of the two arrays of a layer.
    size_t block_bytes() const { return row_bytes() * kv_heads; }
    // Where the key's first pair of dimensions, or the value's first dimension, is in a row.
    size_t key_at(int offset) const {
        return scales() + offset / GROUP_TOKENS * group_bytes() +
               element() * 2 * (offset % GROUP_TOKENS);
    }
    size_t value_at(int offset) const {
        return scales() + element() * (2 * (offset / 2) * static_cast<size_t>(head_dim) + offset % 2);
    }
};

// Bytes of one (block, kv head) in one array. Throws std::invalid_argument unless block_size is a
// multiple of 16 up to 256 and head_dim one of 16 up to 256.
size_t cache_row_bytes(CacheFormat format, int block_size, int head_dim);

// The whole cache: [layers][keys, values][blocks][block_bytes].
struct Cache {
    int layers, blocks;
    size_t block_bytes;  // CacheShape::block_bytes
    uint8_t* data;

    size_t array_bytes() const { return block_bytes * blocks; }
    uint8_t* keys(int layer) const { return data + 2 * array_bytes() * layer; }
    uint8_t* values(int layer) const { return keys(layer) + array_bytes(); }

    // Fill blocks with zeros in every layer. Throws std::invalid_argument for an unknown block.
    void clear(const int32_t* ids, int count) const;
    // Copy blocks in every layer; all sources are read before any destination is written.
    void copy(const int32_t* sources, const int32_t* destinations, int count) const;
};

}  // namespace headrace
