// Attention of one task: for each kv head, split after split, scores, weights, weighted values.
// See attention.hpp for the arithmetic.
#pragma once

#include "attention.hpp"
#include "attention_softmax.hpp"
#include "attention_tiles.hpp"
#include "rotate_store.hpp"
#include "rows.hpp"

namespace headrace {
namespace HEADRACE_ISA {

// Rows of a slice and one kv head, and the thread's memory.
struct Tile {
    const Attention& a;
    int slice, first, rows, head;
    int queries;   // rows * group; query r * group + g
    int position;  // of the first row
    uint8_t* scratch;

    int dim() const { return a.shape.cache.head_dim; }
    uint32_t* packed() const { return reinterpret_cast<uint32_t*>(scratch + a.layout.queries); }
    float* scores() const { return reinterpret_cast<float*>(scratch + a.layout.scores); }
    uint16_t* weights() const { return reinterpret_cast<uint16_t*>(scratch + a.layout.weights); }
    Result result(size_t at) const {
        return result_at(reinterpret_cast<float*>(scratch + at), queries, dim());
    }
    Result partial(int split) const {
        return result_at(a.partials + a.partial_floats * split, queries, dim());
    }
    // How many keys of the split beginning at `begin` row r sees; not positive if none.
    int seen(int r, int begin) const {
        const int n = position + r + 1 - begin;
        return n < SPLIT ? n : SPLIT;
    }
};

// The tile's queries as the score kernel wants them: per SCORE_QUERIES of them, [pairs][queries].
inline void pack_queries(const Tile& t) {
    const int group = t.a.shape.group(), dim = t.dim();
    const size_t row = static_cast<size_t>(t.a.slices.row[t.slice]) + t.first;
    for (int q = 0; q < t.queries; ++q) {
        const int tile = q / SCORE_QUERIES * SCORE_QUERIES;
        const int width = t.queries - tile < SCORE_QUERIES ? t.queries - tile : SCORE_QUERIES;
        const uint16_t* from =
            t.a.queries + ((row + q / group) * t.a.shape.heads + t.head * group + q % group) * dim;
        uint32_t* to = t.packed() + static_cast<size_t>(tile) * (dim / 2) + (q - tile);
        for (int d = 0; d < dim / 2; ++d) to[d * width] = load_u32(from + 2 * d);
    }
}

// Where the first `count` groups of a split are in `array`; with int8, where they are once widened.
inline void find_groups(const Tile& t, const uint8_t* array, int begin, Groups& groups) {
    const CacheShape& cache = t.a.shape.cache;
    const int32_t* table = t.a.slices.tables + t.a.slices.table_begin[t.slice];
    const size_t row_bytes = cache.row_bytes(), group_bytes = cache.group_bytes();
    const uint8_t* base = array + row_bytes * t.head + cache.scales();
    const int per_block = cache.block_size / GROUP_TOKENS;
    int block = begin / cache.block_size, inside = begin % cache.block_size / GROUP_TOKENS;
    for (int g = 0; g < groups.count; ++g) {
        groups.at[g] = base + row_bytes * cache.kv_heads * table[block] + group_bytes * inside;
        if (++inside == per_block) {
            inside = 0;
            ++block;
        }
    }
}

// int8 groups to bf16, exactly, and their scales. Changes `groups` to where the bf16 is.
inline void widen(const Tile& t, int begin, Groups& groups) {
    const CacheShape& cache = t.a.shape.cache;
    const int elements = GROUP_TOKENS * cache.head_dim;
    uint8_t* to = t.scratch + t.a.layout.wide;
    float* scales = reinterpret_cast<float*>(t.scratch + t.a.layout.scales);
    for (int g = 0; g < groups.count; ++g) {
        const int inside = (begin + GROUP_TOKENS * g) % cache.block_size / GROUP_TOKENS;
        const uint8_t* row = groups.at[g] - cache.group_bytes() * inside - cache.scales();
        store(scales + GROUP_TOKENS * g,
              load(reinterpret_cast<const float*>(row) + GROUP_TOKENS * inside));
        const int8_t* from = reinterpret_cast<const int8_t*>(groups.at[g]);
        groups.at[g] = to;
        for (int i = 0; i < elements; i += 2 * LANES, to += 64)
            store64(to, pack_bf16(to_float(load_i8(from + i)), to_float(load_i8(from + i + LANES))));
    }
}

// One split of the tile's rows into `into`.
inline void attend_split(const Tile& t, int split, const Result& into) {
    const int begin = split * SPLIT, dim = t.dim(), group = t.a.shape.group();
    const bool narrow = t.a.shape.cache.format == CacheFormat::int8;
    const float* scales = reinterpret_cast<const float*>(t.scratch + t.a.layout.scales);
    const int keys = t.seen(t.rows - 1, begin);
    Groups groups, values;
    groups.count = values.count = (keys + GROUP_TOKENS - 1) / GROUP_TOKENS;
    const int width = groups.count * GROUP_TOKENS;
    find_groups(t, t.a.keys, begin, groups);
    find_groups(t, t.a.values, begin, values);

    if (narrow) widen(t, begin, groups);
    score_all(t.packed(), t.queries, dim, groups, values, t.scores());
    for (int q = 0; q < t.queries; ++q) {
        float* scores = t.scores() + static_cast<size_t>(q) * SCORE_STRIDE;
        if (narrow) scale_scores(scores, width, scales);
        soften(scores, t.seen(q / group, begin), width,
               t.weights() + static_cast<size_t>(q) * WEIGHT_STRIDE, into.highest + q,
               into.total + q);
    }
    if (narrow) {
        widen(t, begin, values);
        for (int q = 0; q < t.queries; ++q)
            scale_weights(t.weights() + static_cast<size_t>(q) * WEIGHT_STRIDE,
                          t.seen(q / group, begin), scales);
    }
    weigh_all(t.weights(), t.queries, dim, values, into.values);
}

// Merge a split into what came before it, for the rows that see any of its keys.
inline void merge_split(const Tile& t, int split, const Result& into, const Result& more) {
    const int group = t.a.shape.group();
    for (int q = 0; q < t.queries; ++q)
        if (t.seen(q / group, split * SPLIT) > 0) merge_query(into, more, q, t.dim());
}

// Divide by the sums of the weights, and hand the rows' columns of this head's group over.
inline void finish(const Tile& t, const Result& result) {
    const int group = t.a.shape.group(), dim = t.dim(), width = group * dim;
    for (int r = 0; r < t.rows; ++r) {
        const int row = t.a.slices.row[t.slice] + t.first + r;
        float* values = result.values + static_cast<size_t>(r) * width;
        for (int g = 0; g < group; ++g) {
            const F32 factor = set1(1.0f / result.total[r * group + g]);
            for (int d = g * dim; d < (g + 1) * dim; d += LANES)
                store(values + d, mul(load(values + d), factor));
        }
        if (t.a.out.data != nullptr) {
            for (int c = 0; c < width; c += CHUNK)
                put_chunk(t.a.out, row, (t.head * width + c) / CHUNK, values + c);
        } else {
            float* out = t.a.out_float + static_cast<size_t>(row) * t.a.shape.width();
            std::memcpy(out + static_cast<size_t>(t.head) * width, values, sizeof(float) * width);
        }
    }
}

// Some splits of a tile; whoever is last merges all of them.
inline void attend_piece(const Tile& t, const AttentionTask& task) {
    AttentionMerge& merge = t.a.merges[task.merge];
    for (int s = task.split_begin; s < task.split_end; ++s)
        attend_split(t, s, t.partial(merge.begin + s));
    if (__atomic_sub_fetch(&merge.left, 1, __ATOMIC_ACQ_REL) > 0) return;
    merge.left = merge.tasks;  // for the next layer
    const Result result = t.partial(merge.begin);
    for (int s = 1; s < merge.splits; ++s)
        merge_split(t, s, result, t.partial(merge.begin + s));
    finish(t, result);
}

inline void attend(const Attention& a, int index, int thread) {
    const AttentionTask& task = a.tasks[index];
    uint8_t* scratch = a.scratch + a.layout.bytes * thread;
    const int queries = task.rows * a.shape.group();
    const int position = a.slices.start[task.slice] + task.first;
    for (int head = task.head_begin; head < task.head_end; ++head) {
        const Tile t{a, task.slice, task.first, task.rows, head, queries, position, scratch};
        pack_queries(t);
        if (task.merge >= 0) {
            attend_piece(t, task);
            continue;
        }
        const Result result = t.result(a.layout.result), more = t.result(a.layout.split);
        attend_split(t, 0, result);
        for (int s = 1; s < task.split_end; ++s) {
            attend_split(t, s, more);
            merge_split(t, s, result, more);
        }
        finish(t, result);
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
