// New tokens: rotate queries and keys, keep the queries, write keys and values to the cache.
#pragma once

#include "attention.hpp"
#include "simd.hpp"

namespace headrace {
namespace HEADRACE_ISA {

// One head of one row in registers' reach: x itself, and behind it its first half once more, so that
// the halves swapped are the D values from D / 2 on.
struct HeadBuffer {
    alignas(64) float x[MAX_HEAD_DIM + MAX_HEAD_DIM / 2 + LANES];
};

inline void load_head(HeadBuffer& head, const float* x, int dim, const float* norm, float eps) {
    F32 factor = set1(1.0f);
    if (norm != nullptr) {
        F32 squares = set1(0.0f);
        for (int i = 0; i < dim; i += LANES) {
            const F32 v = load(x + i);
            squares = fma(v, v, squares);
        }
        factor = set1(1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(dim) + eps));
    }
    for (int i = 0; i < dim; i += LANES) {
        F32 v = load(x + i);
        if (norm != nullptr) v = mul(mul(v, factor), load(norm + i));
        store(head.x + i, v);
        if (i < dim / 2) store(head.x + dim + i, v);
    }
}

// Call put(i, values) for the LANES dimensions from i on of the rotated head.
template <class Put>
inline void rotate(const HeadBuffer& head, int dim, const float* cos, const float* sin, Put put) {
    for (int i = 0; i < dim; i += LANES) {
        const F32 y = mul(load(head.x + i), load(cos + i));
        put(i, fma(load(head.x + i + dim / 2), load(sin + i), y));
    }
}

// Where one token of one head goes: its row of the cache, and its place among the row's tokens.
struct Slot {
    uint8_t* row;
    int offset;
    float* scale() const { return reinterpret_cast<float*>(row) + offset; }
};

// Into int8: whole numbers of max|x| / 127, and that as the token's scale; NaN where a value is not
// finite.
inline void quantise_head(const float* x, int dim, int8_t* out, float* scale) {
    F32 top = set1(0.0f), all = set1(0.0f);
    for (int i = 0; i < dim; i += LANES) {
        const F32 v = load(x + i);
        top = max(top, abs(v));
        all = fma(v, set1(0.0f), all);
    }
    const float high = highest(top);
    const F32 inverse = set1(high > 0.0f ? 127.0f / high : 0.0f);
    for (int i = 0; i < dim; i += LANES) store_i8(out + i, round_to_int(mul(load(x + i), inverse)));
    *scale = high * (1.0f / 127.0f) + sum(all);
}

// A key's elements (bytes or words) to the cache, pair by pair.
template <class Element>
inline void scatter_key(const Element* x, int dim, uint8_t* out) {
    for (int d = 0; d < dim; d += 2)
        std::memcpy(out + static_cast<size_t>(d) * GROUP_TOKENS * sizeof(Element), x + d,
                    2 * sizeof(Element));
}

inline void put_key(const float* x, const CacheShape& shape, const Slot& slot) {
    const int dim = shape.head_dim;
    uint8_t* out = slot.row + shape.key_at(slot.offset);
    if (shape.format == CacheFormat::bf16) {
        alignas(64) uint16_t words[MAX_HEAD_DIM];
        for (int i = 0; i < dim; i += LANES) store_bf16(words + i, load(x + i));
        scatter_key(words, dim, out);
    } else {
        alignas(64) int8_t bytes[MAX_HEAD_DIM];
        quantise_head(x, dim, bytes, slot.scale());
        scatter_key(bytes, dim, out);
    }
}

// Only the token's own elements are written: another thread may be writing its neighbour's.
inline void put_value(const float* x, const CacheShape& shape, const Slot& slot) {
    const int dim = shape.head_dim;
    uint8_t* out = slot.row + shape.value_at(slot.offset);
    if (shape.format == CacheFormat::bf16) {
        uint16_t* words = reinterpret_cast<uint16_t*>(out);
        for (int i = 0; i < dim; i += LANES) store_bf16_apart(words + 2 * i, load(x + i));
    } else {
        alignas(64) int8_t bytes[MAX_HEAD_DIM];
        quantise_head(x, dim, bytes, slot.scale());
        for (int d = 0; d < dim; ++d) out[2 * d] = static_cast<uint8_t>(bytes[d]);
    }
}

// Ask for the cache lines that a later row's keys and values go to: a key touches as many as it has
// pairs of dimensions, and waiting for them takes longer than the arithmetic.
inline void fetch_slots(const RotateStore& a, int row) {
    const CacheShape& cache = a.shape.cache;
    const int block = a.slots[row] / cache.block_size, offset = a.slots[row] % cache.block_size;
    const size_t element = cache.element(), row_bytes = cache.row_bytes();
    const size_t at = row_bytes * cache.kv_heads * block;
    for (int h = 0; h < cache.kv_heads; ++h) {
        const uint8_t* key = a.keys + at + row_bytes * h + cache.key_at(offset);
        for (size_t i = 0; i < cache.group_bytes(); i += 64) __builtin_prefetch(key + i, 1);
        const uint8_t* value = a.values + at + row_bytes * h + cache.value_at(offset);
        for (size_t i = 0; i < 2 * element * cache.head_dim; i += 64)
            __builtin_prefetch(value + i, 1);
    }
}

inline void rotate_queries(const RotateStore& a, int row, const float* cos, const float* sin) {
    const int dim = a.shape.cache.head_dim;
    const float* x = a.qkv + a.qkv_stride * row;
    const F32 scale = set1(1.0f / __builtin_sqrtf(static_cast<float>(dim)));
    HeadBuffer head;
    for (int h = 0; h < a.shape.heads; ++h) {
        const float* norm = a.norm_weights == nullptr ? nullptr : a.norm_weights + h * dim;
        load_head(head, x + h * dim, dim, norm, a.norm_eps);
        uint16_t* out = a.queries + (static_cast<size_t>(row) * a.shape.heads + h) * dim;
        rotate(head, dim, cos, sin, [&](int i, F32 y) { store_bf16(out + i, mul(y, scale)); });
    }
}

inline void rotate_store(const RotateStore& a, int row_begin, int row_end) {
    const CacheShape& cache = a.shape.cache;
    const int dim = cache.head_dim, heads = a.shape.heads;
    HeadBuffer head;
    alignas(64) float rotated[MAX_HEAD_DIM];
    if (row_begin < row_end) fetch_slots(a, row_begin);
    for (int row = row_begin; row < row_end; ++row) {
        const size_t position = static_cast<size_t>(a.positions[row]) * dim;
        const float *cos = a.cos + position, *sin = a.sin + position;
        if (row + 1 < row_end) fetch_slots(a, row + 1);
        rotate_queries(a, row, cos, sin);
        const int block = a.slots[row] / cache.block_size, offset = a.slots[row] % cache.block_size;
        for (int h = 0; h < cache.kv_heads; ++h) {
            const float* key = a.qkv + a.qkv_stride * row + static_cast<size_t>(heads + h) * dim;
            const float* norm = a.norm_weights;
            if (norm != nullptr) norm += (heads + h) * dim;
            load_head(head, key, dim, norm, a.norm_eps);
            rotate(head, dim, cos, sin, [&](int i, F32 y) { store(rotated + i, y); });
            const size_t at = (static_cast<size_t>(block) * cache.kv_heads + h) * cache.row_bytes();
            put_key(rotated, cache, {a.keys + at, offset});
            put_value(key + static_cast<size_t>(cache.kv_heads) * dim, cache,
                      {a.values + at, offset});
        }
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
