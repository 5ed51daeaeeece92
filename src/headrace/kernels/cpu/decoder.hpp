// Decoder: all layers of a step in one call, so that the interpreter is neither needed nor held
// meanwhile. The arithmetic is in the kernels of the table; this is their order, and who has what.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attention_plan.hpp"
#include "kernels.hpp"
#include "weight.hpp"

namespace headrace {

// A buffer that grows and is never copied; 64-byte aligned, contents undefined.
class Buffer {
  public:
    template <class T>
    T* of(size_t count) {
        return static_cast<T*>(at_least(count * sizeof(T)));
    }

  private:
    struct Free {
        void operator()(void* p) const;
    };
    void* at_least(size_t bytes);
    std::unique_ptr<void, Free> data_;
    size_t size_ = 0;
};

// Where the rows of a token come from: the file's own Q8_0 blocks, bfloat16 or float32.
struct Embedding {
    enum class Format { float32, bf16, q8_0 } format;
    const uint8_t* data;
    size_t row_bytes;
    void row(int64_t token, int width, float* out) const;
};

struct LayerWeights {
    std::vector<float> attn_norm, mlp_norm;
    std::vector<float> head_norms;  // [H + K, D], or empty
    const Weight *qkv, *o, *gate_up, *down;
};

struct DecoderShape {
    Kind kind;
    int hidden, heads, kv_heads, head_dim, intermediate, vocab;
    float eps, head_eps;
    CacheFormat cache;
    int block_size;

    AttentionShape attention() const {
        return {{cache, kv_heads, head_dim, block_size}, heads};
    }
    int qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
    size_t cache_row() const { return attention().cache.row_bytes(); }
};

// The rows of one step. `rows` of them belong to slices; up to `padded` go through the products.
struct StepRows {
    int rows, padded;
    const int32_t* tokens;     // [rows], as positions and slots
    const int32_t* positions;
    const int64_t* slots;
    Slices slices;
    int samples;
    const int32_t* sampled;  // rows whose logits are wanted, ascending or not
};

struct Span {
    const char* name;
    int layer;  // -1 outside layers
    int64_t start, end;  // nanoseconds of the steady clock
};

class Decoder {
  public:
    Decoder(const DecoderShape& shape, const Kernels* kernels);

    void add_layer(LayerWeights layer) { layers_.push_back(std::move(layer)); }
    void set_embedding(Embedding table) { embedding_ = table; }
    void set_head(std::vector<float> norm, const Weight* head);
    void set_rope(const float* cos, const float* sin) { cos_ = cos, sin_ = sin; }

    const DecoderShape& shape() const { return shape_; }
    const Kernels* kernels() const { return kernels_; }
    int layers() const { return static_cast<int>(layers_.size()); }

    // Computes a step. `cache` is [layers][keys, values][rows of cache_row_bytes]; `logits` gets
    // `samples` rows, `logits_stride` floats apart, at least the head's padded width each.
    void forward(const StepRows& step, uint8_t* cache, size_t cache_rows, float* logits,
                 size_t logits_stride, std::vector<Span>* spans);

  private:
    Rows rows_of(int width, int count, int which);
    void multiply(const char* name, const Weight& weight, const Rows& x, int rows, float* y,
                  size_t stride, Finish finish);
    void gate(const LayerWeights& layer, const Rows& x, const Rows& out, int rows);
    void norm(const float* x, const std::vector<float>& weight, const Rows& out, int rows);
    void rotate(const StepRows& step, const LayerWeights& layer, uint8_t* keys, uint8_t* values);
    void attend(const StepRows& step, const uint8_t* keys, const uint8_t* values, const Rows& out);
    int keep_sampled(const StepRows& step);
    template <class Function>
    void by_rows(int rows, Function&& function);
    template <class Function>
    void timed(const char* name, Function&& function);

    DecoderShape shape_;
    const Kernels* kernels_;
    std::vector<LayerWeights> layers_;
    Embedding embedding_{};
    std::vector<float> head_norm_;
    const Weight* head_ = nullptr;
    const float *cos_ = nullptr, *sin_ = nullptr;

    AttentionPlan plan_;
    Buffer x_, kept_, qkv_, queries_, slots_, attended_;
    Buffer data_[3], scales_[3], sums_[3];
    int layer_ = -1;
    std::vector<Span>* spans_ = nullptr;
};

}  // namespace headrace
