// Choosing tokens from rows of logits: what docs/sampling.md defines, a row at a time. A row's
// result is computed by the same operations whatever other rows and however many threads there are.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"

namespace headrace {

// Float32 logits [rows][width], row r at data + r * stride.
struct Logits {
    const float* data;
    int64_t stride;
    int width;
    const float* row(int r) const { return data + stride * r; }
};

// How a row's token is chosen. Temperature 0 takes the most likely one; `top_k` from the width on,
// `top_p` from 1 on and `min_p` 0 cut nothing off. `uniform` is in [0, 1).
struct Draw {
    float temperature;
    int64_t top_k;
    double top_p;
    float min_p;
    double uniform;
};

// Number n of the SplitMix64 generator that starts at `stream`, as a uniform number with 53 bits.
double uniform_number(uint64_t stream, uint64_t n);

// Changes to a row of logits before a token is chosen, in the order they apply; as Edit in
// sampling/penalties.py. Ids are distinct and in range.
struct Edit {
    const int64_t* seen;   // ids of prompt and output
    const float* outputs;  // how often each stands in the output
    int64_t seen_count;
    float repetition, frequency, presence;
    const int64_t* biased;
    const float* biases;
    int64_t biased_count;
    const int64_t* suppressed;
    int64_t suppressed_count;
};

// Memory of one thread, kept from row to row.
struct Scratch {
    std::vector<float> weights, sums, groups, values, edited;
    std::vector<int32_t> ids;
};

// The token chosen, or -1 for a row with a NaN or +inf or nothing but -inf.
int choose_token(const Kernels& kernels, const float* x, int width, const Draw& draw,
                 Scratch& scratch);

// The same after `edit`; -1 also where the row is not sound any more.
int choose_edited(const Kernels& kernels, const float* x, int width, const Draw& draw,
                  const Edit& edit, Scratch& scratch);

// Log-probability of `chosen`, and ids and log-probabilities of the `count` first of the ranking,
// count <= width: those of -inf included, at the end.
float log_probabilities(const Kernels& kernels, const float* x, int width, int chosen, int count,
                        int32_t* ids, float* values, Scratch& scratch);

}  // namespace headrace
