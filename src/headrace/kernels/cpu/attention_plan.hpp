// AttentionPlan: the tasks of one step's attention, and the memory they work in.
//
// Usage, once per step:   plan.build(slices, pool().threads());
// and once per layer:     Attention attention = plan.attention();  // set queries, keys, values, out
//                         pool().each(plan.tasks(), [&](int task, int thread) {
//                             kernels->attend(attention, task, thread); });
#pragma once

#include <vector>

#include "attention.hpp"

namespace headrace {

class AttentionPlan {
  public:
    // Throws std::invalid_argument for a shape that the kernels do not know.
    explicit AttentionPlan(const AttentionShape& shape);

    // Plan the attention of these slices on so many threads. The arrays of `slices` must outlive
    // the use of attention(). Allocates only when a step is larger than every one before it.
    void build(const Slices& slices, int threads);

    int tasks() const { return static_cast<int>(tasks_.size()); }
    Attention attention();
    const AttentionShape& shape() const { return shape_; }

  private:
    struct Costed {
        AttentionTask task;
        int64_t cost;
    };

    int64_t keys_of_tiles(const Slices& slices) const;
    void add_tile(const Slices& slices, int slice, int first, int rows, int64_t grain);
    void add(const AttentionTask& task, int64_t cost) { costed_.push_back({task, cost}); }

    AttentionShape shape_;
    Slices slices_{};
    int threads_ = 1;
    AttentionScratch layout_;
    std::vector<Costed> costed_;
    std::vector<AttentionTask> tasks_;
    std::vector<AttentionMerge> merges_;
    std::vector<float> partials_;
    std::vector<uint8_t> scratch_;
    int partial_splits_ = 0;
};

}  // namespace headrace
