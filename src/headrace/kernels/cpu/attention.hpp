// What the attention kernels take. Plain data: the kernels' builds include this.
//
// The arithmetic of one row is a function of its position alone. Keys are cut into splits of SPLIT
// at absolute positions. Within a split: scores, their exact maximum, exp(score - maximum) rounded
// to bfloat16, the sum of those, and the values weighted with them, key after key. The splits'
// results are merged in ascending order. How rows, heads and splits are spread over tasks is the
// plan's business and changes no bit. (Fixed split size as in He 2025, "Defeating nondeterminism in
// LLM inference"; merging as in Dao 2023, "FlashAttention-2".)
#pragma once

#include "cache_layout.hpp"
#include "kernels.hpp"

namespace headrace {

constexpr int SPLIT = 256;        // keys
constexpr int TILE_QUERIES = 48;  // rows of a tile times query heads per kv head; see tile_rows

struct AttentionShape {
    CacheShape cache;
    int heads;

    int group() const { return heads / cache.kv_heads; }
    int width() const { return heads * cache.head_dim; }
    int tile_rows() const { return group() >= TILE_QUERIES ? 1 : TILE_QUERIES / group(); }
    int tile_queries() const { return tile_rows() * group(); }
    // Whether the kernels can write the products' format themselves; else they write floats, and
    // the caller quantises.
    bool writes_rows() const { return group() * cache.head_dim % CHUNK == 0; }
};

// The slices of a step. Rows of a slice are consecutive; row i of it is at position start + i and
// sees positions 0 .. start + i. Block of position p: tables[table_begin + p / block_size].
struct Slices {
    int count;
    const int32_t *start, *length, *row, *table_begin;
    const int32_t* tables;
};

// Query rows [first, first + rows) of a slice, for kv heads [head_begin, head_end) and the splits
// [split_begin, split_end). Where `merge` is not negative the splits are only some of the rows', and
// their results go to partials; then head_end is head_begin + 1.
struct AttentionTask {
    int32_t slice, first, rows;
    int32_t head_begin, head_end;
    int32_t split_begin, split_end;
    int32_t merge;
};

// A tile whose splits are spread over several tasks. The result of split s is at
// partials + (begin + s) * partial_floats.
struct AttentionMerge {
    int32_t left, tasks;  // tasks that have not finished, of how many
    int32_t splits;
    int32_t begin;
};

// Score and weight rows are a cache line or more longer than a split, so that the same columns of
// many rows do not fall into the same few sets of the cache.
constexpr int SCORE_STRIDE = SPLIT + 16;
constexpr int WEIGHT_STRIDE = SPLIT + 32;

// The memory that one thread works in: where each part begins, in bytes, and how many in all.
struct AttentionScratch {
    size_t queries;  // pairs of dimensions, interleaved per tile of the score kernel
    size_t scores;   // float [queries][SCORE_STRIDE]
    size_t weights;  // bf16 [queries][WEIGHT_STRIDE]
    size_t result;   // float [queries][D]: the splits so far; then their maxima, then their totals
    size_t split;    // the same of one split
    size_t wide;     // an int8 split as bf16
    size_t scales;   // float [SPLIT] of an int8 split
    size_t bytes;
};

struct Attention {
    AttentionShape shape;
    Slices slices;
    const AttentionTask* tasks;
    int task_count, threads;
    AttentionMerge* merges;
    float* partials;  // results of splits: weighted values [queries][D], maxima, totals
    size_t partial_floats;
    uint8_t* scratch;  // layout.bytes per thread, 64-byte aligned
    AttentionScratch layout;
    const uint16_t* queries;  // bf16 [rows][heads][D], from rotate_store
    const uint8_t *keys, *values;
    // Where results go: `out` if its data is set (only where shape.writes_rows()), else floats
    // [rows][heads * D].
    Rows out;
    float* out_float;
};

// Rows of a step into the cache. Results: rotated keys and values in their slots, and rotated
// queries / sqrt(D).
struct RotateStore {
    AttentionShape shape;
    const float* qkv;   // [rows][qkv_stride], of which (heads + 2 kv_heads) * D: queries, keys, values
    size_t qkv_stride;
    const float *cos, *sin;  // [positions][D]: x * cos + swapped_halves(x) * sin
    const int32_t* positions;
    const int32_t* slots;       // block * block_size + offset
    const float* norm_weights;  // [heads + kv_heads][D] for models that normalise heads, else null
    float norm_eps;
    uint8_t *keys, *values;
    uint16_t* queries;
};

}  // namespace headrace
