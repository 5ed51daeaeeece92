// What the kernels take, and the table of them that every instruction set's build fills in.
#pragma once

#include <cstddef>
#include <cstdint>

namespace headrace {

constexpr int LANES = 16;  // output channels of a vector
constexpr int PANEL = 32;  // weight rows that are packed and multiplied together
constexpr int SCAN = 64;   // values that passes over logits take at once
constexpr int SUMMED = 256;  // values whose sum is one float32; the sums are added in float64
constexpr int CHUNK = 64;  // inner dimensions are padded with zeros to a multiple of this

// How a model's products are computed; one for all its weights.
enum class Kind : uint8_t {
    int8,    // weights int8 per output channel, activations int8 in blocks of 64
    native,  // weights in blocks of 32 with a scale each, activations int8 in blocks of 32
    bf16,    // weights and activations bfloat16
};

constexpr int block_of(Kind kind) { return kind == Kind::int8 ? 64 : 32; }
constexpr int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// Activations as products read them. Row r starts at data + r * stride bytes; columns from the true
// width up to `width` (a multiple of CHUNK) are zero.
struct Rows {
    Kind kind;
    int width;
    uint8_t* data;    // int8 [rows][width], or bf16 uint16 [rows][width]
    float* scale;     // [rows][width / block]: value = scale * int8; NaN where a value is not finite
    int32_t* sum;     // [rows][width / block]: sum of a block's int8 values; of Kind::int8, whose
                      // weights are stored with 128 added, -128 times that
    size_t stride() const { return static_cast<size_t>(width) * (kind == Kind::bf16 ? 2 : 1); }
    int blocks() const { return width / block_of(kind); }
};

struct Weight;  // weight.hpp

enum class Finish : uint8_t { store, add };

// y[r, n] (=, +=) sum over k of x[r, k] w[n, k] (+ bias[n]), for rows and panels in the ranges.
struct Product {
    const Weight* weight;
    Rows x;
    float* y;
    size_t y_stride;  // floats from row to row
    Finish finish;
    int row_begin, row_end, panel_begin, panel_end;
};

// out[r, i] = silu(gate) * up, quantised. The weight holds panels of 16 rows of gate and the same
// 16 of up; a group of 4 panels makes a block of 64 outputs.
struct Gated {
    const Weight* weight;
    Rows x, out;
    int row_begin, row_end, group_begin, group_end;
};

struct Attention;    // attention.hpp
struct RotateStore;  // attention.hpp

struct Kernels {
    const char* name;

    // out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight, quantised; x is float [rows][width].
    void (*norm)(const float* x, int width, const float* weight, float eps, const Rows& out,
                 int row_begin, int row_end);
    // out[r] = x[r], quantised.
    void (*quantise)(const float* x, int width, const Rows& out, int row_begin, int row_end);

    void (*product)(const Product&);
    void (*gated)(const Gated&);

    // Rotate queries and keys of rows, write keys and values to the cache, keep the queries.
    void (*rotate_store)(const RotateStore&, int row_begin, int row_end);
    // One task of the plan (a slice's rows, a group of heads, a range of splits).
    void (*attend)(const Attention&, int task, int thread);

    // Passes over a row of logits or weights; see sampling_kernels.hpp.
    float (*peaks)(const float* x, int n, float* groups);
    void (*weigh)(const float* x, int n, float peak, float inverse, float least, float* w,
                  float* sums);
    void (*cut)(float* w, int n, float least, float* sums);
    int (*reach)(const float* x, int n, float low, float* sums);
    int (*places_within)(const float* x, int n, float low, float high, int32_t* places);
};

// The builds; null where this program was compiled without one. Ask cpu_features() before use.
const Kernels* kernels_avx512_bf16();
const Kernels* kernels_avx512_vnni();
const Kernels* kernels_avx512();
const Kernels* kernels_avx2_vnni();
const Kernels* kernels_avx2();
const Kernels* kernels_portable();

// The best build that this processor runs, or the one named. Null where there is none.
const Kernels* choose_kernels(const char* name = nullptr);

}  // namespace headrace
