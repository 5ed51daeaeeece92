// Cuts a step's attention into tasks of similar cost, longest first.
#include "attention_plan.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace headrace {
namespace {

// A key costs reading it (worth about as much as this many queries' arithmetic) and the queries.
constexpr int READ_COST = 16;
constexpr int TASKS_PER_THREAD = 4;  // at least so many, so that threads finish together

int64_t cost_of(int64_t keys, int queries) { return keys * (READ_COST + queries); }

size_t result_floats(const AttentionShape& shape) {
    return static_cast<size_t>(shape.tile_queries()) * (shape.cache.head_dim + 2);
}

AttentionScratch scratch_layout(const AttentionShape& shape) {
    const size_t queries = shape.tile_queries(), dim = shape.cache.head_dim;
    const bool narrow = shape.cache.format == CacheFormat::int8;
    size_t used = 0;
    const auto take = [&](size_t bytes) {
        const size_t begin = used;
        used += (bytes + 63) / 64 * 64;
        return begin;
    };
    AttentionScratch layout{};
    layout.queries = take(queries * dim * 2);
    layout.scores = take(queries * SCORE_STRIDE * 4);
    layout.weights = take(queries * WEIGHT_STRIDE * 2);
    layout.result = take(result_floats(shape) * 4);
    layout.split = take(result_floats(shape) * 4);
    layout.wide = take(narrow ? SPLIT * dim * 2 : 0);
    layout.scales = take(narrow ? SPLIT * 4 : 0);
    layout.bytes = used;
    return layout;
}

}  // namespace

AttentionPlan::AttentionPlan(const AttentionShape& shape) : shape_(shape) {
    const CacheShape& cache = shape.cache;
    cache_row_bytes(cache.format, cache.block_size, cache.head_dim);  // throws
    if (cache.kv_heads < 1 || shape.heads < cache.kv_heads || shape.heads % cache.kv_heads != 0)
        throw std::invalid_argument("attention heads: " + std::to_string(shape.heads) +
                                    " query heads are no multiple of " +
                                    std::to_string(cache.kv_heads) + " key/value heads");
    layout_ = scratch_layout(shape);
}

// What a thread should get at a time; whole tiles of one head are cut into splits if they cost more.
int64_t AttentionPlan::keys_of_tiles(const Slices& slices) const {
    int64_t total = 0;
    const int step = shape_.tile_rows();
    for (int s = 0; s < slices.count; ++s)
        for (int first = 0; first < slices.length[s]; first += step) {
            const int rows = std::min(step, slices.length[s] - first);
            total += cost_of(slices.start[s] + first + rows, rows * shape_.group());
        }
    return total * shape_.cache.kv_heads;
}

void AttentionPlan::build(const Slices& slices, int threads) {
    slices_ = slices;
    threads_ = threads;
    costed_.clear();
    merges_.clear();
    partial_splits_ = 0;
    const int64_t grain =
        threads == 1 ? INT64_MAX : keys_of_tiles(slices) / (threads * TASKS_PER_THREAD);
    const int step = shape_.tile_rows();
    for (int s = 0; s < slices.count; ++s)
        for (int first = 0; first < slices.length[s]; first += step)
            add_tile(slices, s, first, std::min(step, slices.length[s] - first), grain);
    std::sort(costed_.begin(), costed_.end(), [](const Costed& a, const Costed& b) {
        return a.cost != b.cost ? a.cost > b.cost
                                : a.task.slice != b.task.slice ? a.task.slice < b.task.slice
                                                               : a.task.first < b.task.first;
    });
    tasks_.clear();
    for (const Costed& costed : costed_) tasks_.push_back(costed.task);
    const size_t floats = result_floats(shape_) * partial_splits_;
    if (partials_.size() < floats) partials_.resize(floats);
    const size_t bytes = layout_.bytes * threads + 64;
    if (scratch_.size() < bytes) scratch_.assign(bytes, 0);
}

void AttentionPlan::add_tile(const Slices& slices, int slice, int first, int rows, int64_t grain) {
    const int heads = shape_.cache.kv_heads;
    const int keys = slices.start[slice] + first + rows;
    const int splits = (keys + SPLIT - 1) / SPLIT;
    const int64_t cost = cost_of(keys, rows * shape_.group());
    AttentionTask task{slice, first, rows, 0, heads, 0, splits, -1};
    if (cost * heads <= grain) {
        add(task, cost * heads);
        return;
    }
    const int64_t pieces = std::min<int64_t>(splits, (cost + grain) / (grain + 1));
    const int size = static_cast<int>((splits + pieces - 1) / std::max<int64_t>(pieces, 1));
    for (int head = 0; head < heads; ++head) {
        task.head_begin = head;
        task.head_end = head + 1;
        if (size >= splits) {
            add(task, cost);
            continue;
        }
        const int parts = (splits + size - 1) / size;
        task.merge = static_cast<int32_t>(merges_.size());
        merges_.push_back({parts, parts, splits, partial_splits_});
        partial_splits_ += splits;
        for (int s = 0; s < splits; s += size) {
            task.split_begin = s;
            task.split_end = std::min(s + size, splits);
            const int covered = std::min(task.split_end * SPLIT, keys) - s * SPLIT;
            add(task, cost_of(covered, rows * shape_.group()));
        }
    }
}

Attention AttentionPlan::attention() {
    Attention a{};
    a.shape = shape_;
    a.slices = slices_;
    a.tasks = tasks_.data();
    a.task_count = tasks();
    a.threads = threads_;
    a.merges = merges_.data();
    a.partials = partials_.data();
    a.partial_floats = result_floats(shape_);
    const uintptr_t start = reinterpret_cast<uintptr_t>(scratch_.data());
    a.scratch = scratch_.data() + ((start + 63) / 64 * 64 - start);
    a.layout = layout_;
    return a;
}

}  // namespace headrace
