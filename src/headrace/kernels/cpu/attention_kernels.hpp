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
    const AttentionTask& task;
    int head;
    int queries;   // rows * group; query r * group + g
    int position;  // of the first row
    uint8_t* scratch;
    const AttentionTask* next;  // the task that this thread is likely to get next, or null

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
    const size_t row = static_cast<size_t>(t.a.slices.row[t.task.slice]) + t.task.first;
    for (int q = 0; q < t.queries; ++q) {
        const int tile = q / SCORE_QUERIES * SCORE_QUERIES;
        const int width = t.queries - tile < SCORE_QUERIES ? t.queries - tile : SCORE_QUERIES;
        const uint16_t* from =
            t.a.queries + ((row + q / group) * t.a.shape.heads + t.head * group + q % group) * dim;
        uint32_t* to = t.packed() + static_cast<size_t>(tile) * (dim / 2) + (q - tile);
        for (int d = 0; d < dim / 2; ++d) to[d * width] = load_u32(from + 2 * d);
    }
}

// What a thread reads in the order it does so: the groups of one split's keys, then its values, then
// the first ones of what comes after.
struct Reads {
    int count;  // of keys, and of values
    int ahead;  // how many groups are fetched ahead
    const uint8_t* at[3 * SPLIT_GROUPS];

    Groups keys() const { return {count, at, at + ahead}; }
    Groups values() const { return {count, at + count, at + count + ahead}; }
};

// Enough to keep the memory busy during a softmax, little enough that the first-level cache holds it
// besides what is being worked on.
constexpr size_t AHEAD_BYTES = 16384;

inline int ahead_of(const CacheShape& cache) {
    const size_t groups = AHEAD_BYTES / cache.group_bytes();
    return groups < SPLIT_GROUPS ? static_cast<int>(groups) : SPLIT_GROUPS;
}

// Where groups of the split beginning at `begin` are in `array`, `count` of them.
inline void find_groups(const Attention& a, int slice, int head, const uint8_t* array, int begin,
                        int count, const uint8_t** at) {
    const CacheShape& cache = a.shape.cache;
    const int32_t* table = a.slices.tables + a.slices.table_begin[slice];
    const size_t row_bytes = cache.row_bytes(), group_bytes = cache.group_bytes();
    const uint8_t* base = array + row_bytes * head + cache.scales();
    const int per_block = cache.block_size / GROUP_TOKENS;
    int block = begin / cache.block_size, inside = begin % cache.block_size / GROUP_TOKENS;
    for (int g = 0; g < count; ++g) {
        at[g] = base + row_bytes * cache.kv_heads * table[block] + group_bytes * inside;
        if (++inside == per_block) {
            inside = 0;
            ++block;
        }
    }
}

inline int groups_of(int keys) {
    return ((keys < SPLIT ? keys : SPLIT) + GROUP_TOKENS - 1) / GROUP_TOKENS;
}

// The first groups of what this thread reads after a split: the next split, the next head's first,
// or the next task's. Returns how many there are, `most` at most.
inline int find_following(const Tile& t, int split, int most, const uint8_t** at) {
    const AttentionTask* task = &t.task;
    int head = t.head;
    if (++split == task->split_end) {
        if (++head == task->head_end) {
            task = t.next;
            if (task == nullptr) return 0;
            head = task->head_begin;
        }
        split = task->split_begin;
    }
    const int keys = t.a.slices.start[task->slice] + task->first + task->rows - split * SPLIT;
    const int groups = groups_of(keys);
    const int count = groups < most ? groups : most;
    find_groups(t.a, task->slice, head, t.a.keys, split * SPLIT, count, at);
    return count;
}

inline void find_reads(const Tile& t, int split, Reads& reads) {
    const int begin = split * SPLIT;
    const int count = reads.count = groups_of(t.seen(t.task.rows - 1, begin));
    find_groups(t.a, t.task.slice, t.head, t.a.keys, begin, count, reads.at);
    find_groups(t.a, t.task.slice, t.head, t.a.values, begin, count, reads.at + count);
    const int ahead = reads.ahead = ahead_of(t.a.shape.cache);
    const uint8_t** after = reads.at + 2 * count;
    for (int g = find_following(t, split, ahead, after); g < ahead; ++g) after[g] = after[-1];
}

// The scales of an int8 split's keys or values.
inline const float* find_scales(const Tile& t, int begin, const Groups& groups) {
    const CacheShape& cache = t.a.shape.cache;
    float* scales = reinterpret_cast<float*>(t.scratch + t.a.layout.scales);
    for (int g = 0; g < groups.count; ++g) {
        const int inside = (begin + GROUP_TOKENS * g) % cache.block_size / GROUP_TOKENS;
        const uint8_t* row = groups.at[g] - cache.group_bytes() * inside - cache.scales();
        store(scales + GROUP_TOKENS * g,
              load(reinterpret_cast<const float*>(row) + GROUP_TOKENS * inside));
    }
    return scales;
}

// An int8 split's keys or values as bf16, for tiles that read them several times.
struct Wide {
    const uint8_t* at[SPLIT_GROUPS];

    Wide(const Tile& t, const Groups& from) {
        const int elements = GROUP_TOKENS * t.dim();
        uint8_t* to = t.scratch + t.a.layout.wide;
        for (int g = 0; g < from.count; ++g) {
            at[g] = to;
            for (int i = 0; i < elements; i += Int8Line::BYTES, to += 64) {
                __builtin_prefetch(from.ahead[g] + i);
                store64(to, Int8Line::read(from.at[g] + i));
            }
        }
    }
    Groups groups(int count) const { return {count, at, at}; }
};

inline float* scores_of(const Tile& t, int query) {
    return t.scores() + static_cast<size_t>(query) * SCORE_STRIDE;
}
inline uint16_t* weights_of(const Tile& t, int query) {
    return t.weights() + static_cast<size_t>(query) * WEIGHT_STRIDE;
}

inline void soften_all(const Tile& t, int begin, int width, const Result& into) {
    const int group = t.a.shape.group();
    for (int q = 0; q < t.queries; ++q)
        soften(scores_of(t, q), t.seen(q / group, begin), width, weights_of(t, q),
               into.highest + q, into.total + q);
}

inline void attend_split_bf16(const Tile& t, int begin, const Reads& reads, const Result& into) {
    score_all<Bf16Line>(t.packed(), t.queries, t.dim(), reads.keys(), t.scores());
    soften_all(t, begin, reads.count * GROUP_TOKENS, into);
    weigh_all<Bf16Line>(t.weights(), t.queries, t.dim(), reads.values(), into.values);
}

inline void attend_split_int8(const Tile& t, int begin, const Reads& reads, const Result& into) {
    const int group = t.a.shape.group(), width = reads.count * GROUP_TOKENS;
    if (t.queries <= WEIGH_QUERIES) {
        score_all<Int8Line>(t.packed(), t.queries, t.dim(), reads.keys(), t.scores());
    } else {
        const Wide keys(t, reads.keys());
        score_all<Bf16Line>(t.packed(), t.queries, t.dim(), keys.groups(reads.count), t.scores());
    }
    const float* scales = find_scales(t, begin, reads.keys());
    for (int q = 0; q < t.queries; ++q) scale_scores(scores_of(t, q), width, scales);
    soften_all(t, begin, width, into);
    scales = find_scales(t, begin, reads.values());
    for (int q = 0; q < t.queries; ++q)
        scale_weights(weights_of(t, q), t.seen(q / group, begin), scales);
    if (t.queries <= WEIGH_QUERIES) {
        weigh_all<Int8Line>(t.weights(), t.queries, t.dim(), reads.values(), into.values);
    } else {
        const Wide values(t, reads.values());
        weigh_all<Bf16Line>(t.weights(), t.queries, t.dim(), values.groups(reads.count),
                            into.values);
    }
}

// One split of the tile's rows into `into`.
inline void attend_split(const Tile& t, int split, const Result& into) {
    Reads reads;
    find_reads(t, split, reads);
    if (t.a.shape.cache.format == CacheFormat::bf16)
        attend_split_bf16(t, split * SPLIT, reads, into);
    else
        attend_split_int8(t, split * SPLIT, reads, into);
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
    for (int r = 0; r < t.task.rows; ++r) {
        const int row = t.a.slices.row[t.task.slice] + t.task.first + r;
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
inline void attend_piece(const Tile& t) {
    AttentionMerge& merge = t.a.merges[t.task.merge];
    for (int s = t.task.split_begin; s < t.task.split_end; ++s)
        attend_split(t, s, t.partial(merge.begin + s));
    if (__atomic_sub_fetch(&merge.left, 1, __ATOMIC_ACQ_REL) > 0) return;
    merge.left = merge.tasks;  // for the next layer
    const Result result = t.partial(merge.begin);
    for (int s = 1; s < merge.splits; ++s) merge_split(t, s, result, t.partial(merge.begin + s));
    finish(t, result);
}

inline void attend_whole(const Tile& t) {
    const Result result = t.result(t.a.layout.result), more = t.result(t.a.layout.split);
    attend_split(t, 0, result);
    for (int s = 1; s < t.task.split_end; ++s) {
        attend_split(t, s, more);
        merge_split(t, s, result, more);
    }
    finish(t, result);
}

inline void attend(const Attention& a, int index, int thread) {
    const AttentionTask& task = a.tasks[index];
    const AttentionTask* next =
        index + a.threads < a.task_count ? a.tasks + index + a.threads : nullptr;
    const int queries = task.rows * a.shape.group();
    const int position = a.slices.start[task.slice] + task.first;
    uint8_t* scratch = a.scratch + a.layout.bytes * thread;
    for (int head = task.head_begin; head < task.head_end; ++head) {
        const Tile t{a, task, head, queries, position, scratch, next};
        pack_queries(t);
        task.merge < 0 ? attend_whole(t) : attend_piece(t);
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
