// Row-wise kernels: normalisation, and activations into the format that products read.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace headrace {
namespace HEADRACE_ISA {

// Quantise one block of an int8 row: scale = max|x| / 127, values rounded to nearest.
template <int BLOCK>
inline void put_block(const float* x, int8_t* data, float* scale, int32_t* sum) {
    F32 top = set1(0.0f), all = set1(0.0f);
    for (int i = 0; i < BLOCK; i += LANES) {
        const F32 v = load(x + i);
        top = max(top, abs(v));
        all = fma(v, set1(0.0f), all);  // 0, or NaN where a value is not finite
    }
    const float high = highest(top);
    const F32 inverse = set1(high > 0.0f ? 127.0f / high : 0.0f);
    I32 total = set1_i32(0);
    for (int i = 0; i < BLOCK; i += LANES) {
        const I32 q = round_to_int(mul(load(x + i), inverse));
        store_i8(data + i, q);
        total = add_i32(total, q);
    }
    *scale = high * (1.0f / 127.0f) + HEADRACE_ISA::sum(all);
    *sum = sum_i32(total) * (BLOCK == 64 ? -128 : 1);
}

// Write 64 values as columns [64 chunk, 64 chunk + 64) of a row.
inline void put_chunk(const Rows& out, int row, int chunk, const float* x) {
    uint8_t* data = out.data + out.stride() * static_cast<size_t>(row);
    const size_t at = static_cast<size_t>(row) * out.blocks();
    if (out.kind == Kind::int8) {
        put_block<64>(x, reinterpret_cast<int8_t*>(data) + 64 * chunk, out.scale + at + chunk,
                      out.sum + at + chunk);
    } else if (out.kind == Kind::native) {
        for (int h = 2 * chunk; h < 2 * chunk + 2; ++h, x += 32)
            put_block<32>(x, reinterpret_cast<int8_t*>(data) + 32 * h, out.scale + at + h,
                          out.sum + at + h);
    } else {
        uint16_t* words = reinterpret_cast<uint16_t*>(data) + 64 * chunk;
        for (int i = 0; i < 64; i += LANES) store_bf16(words + i, load(x + i));
    }
}

// Calls value(i) for the LANES columns from i on, for all `width` columns of a row (the rest of the
// last chunk is zero), and writes what comes back.
template <class Value>
inline void put_row(const Rows& out, int row, int width, Value value) {
    alignas(64) float chunk[CHUNK];
    for (int c = 0; c * CHUNK < out.width; ++c) {
        for (int i = 0; i < CHUNK; i += LANES) {
            const int rest = width - (c * CHUNK + i);
            store(chunk + i, rest > 0 ? value(c * CHUNK + i, rest) : set1(0.0f));
        }
        put_chunk(out, row, c, chunk);
    }
}

inline F32 load_rest(const float* p, int rest) {
    return rest >= LANES ? load(p) : load_first(p, rest);
}

inline void norm(const float* x, int width, const float* weight, float eps, const Rows& out,
                 int row_begin, int row_end) {
    for (int r = row_begin; r < row_end; ++r) {
        const float* row = x + static_cast<size_t>(r) * width;
        F32 squares = set1(0.0f);
        for (int i = 0; i < width; i += LANES) {
            const F32 v = load_rest(row + i, width - i);
            squares = fma(v, v, squares);
        }
        const float mean = HEADRACE_ISA::sum(squares) / static_cast<float>(width);
        const F32 factor = set1(1.0f / __builtin_sqrtf(mean + eps));
        put_row(out, r, width, [&](int i, int rest) {
            return mul(mul(load_rest(row + i, rest), factor), load_rest(weight + i, rest));
        });
    }
}

inline void quantise(const float* x, int width, const Rows& out, int row_begin, int row_end) {
    for (int r = row_begin; r < row_end; ++r) {
        const float* row = x + static_cast<size_t>(r) * width;
        put_row(out, r, width, [&](int i, int rest) { return load_rest(row + i, rest); });
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
