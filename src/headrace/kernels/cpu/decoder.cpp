#include "decoder.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include "pool.hpp"

namespace headrace {
namespace {

constexpr int INLINE_ROWS = 2;  // so few rows are done before another thread has noticed

int64_t now() {
    using namespace std::chrono;
    return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

float half_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
    const uint32_t exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | fraction << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        const float small = static_cast<float>(fraction) * (1.0f / (1 << 24));
        return sign ? -small : small;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

}  // namespace

void Buffer::Free::operator()(void* p) const { std::free(p); }

void* Buffer::at_least(size_t bytes) {
    if (bytes > size_) {
        const size_t size = (bytes + bytes / 4 + 63) / 64 * 64;
        data_.reset();  // before the new one, so that both are never held
        size_ = 0;
        data_.reset(std::aligned_alloc(64, size));
        if (!data_) throw std::bad_alloc();
        std::memset(data_.get(), 0, size);  // rows nobody wrote are finite
        size_ = size;
    }
    return data_.get();
}

void Embedding::row(int64_t token, int width, float* out) const {
    const uint8_t* row = data + static_cast<size_t>(token) * row_bytes;
    if (format == Format::float32) {
        std::memcpy(out, row, static_cast<size_t>(width) * 4);
    } else if (format == Format::bf16) {
        for (int i = 0; i < width; ++i) {
            uint16_t word;
            std::memcpy(&word, row + 2 * i, 2);
            const uint32_t bits = static_cast<uint32_t>(word) << 16;
            std::memcpy(out + i, &bits, 4);
        }
    } else {
        for (int b = 0; b < width / 32; ++b, row += 34) {
            uint16_t scale;
            std::memcpy(&scale, row, 2);
            const float d = half_to_float(scale);
            const int8_t* q = reinterpret_cast<const int8_t*>(row + 2);
            for (int i = 0; i < 32; ++i) out[32 * b + i] = d * static_cast<float>(q[i]);
        }
    }
}

Decoder::Decoder(const DecoderShape& shape, const Kernels* kernels)
    : shape_(shape), kernels_(kernels), plan_(shape.attention()) {}

void Decoder::set_head(std::vector<float> norm, const Weight* head) {
    head_norm_ = std::move(norm);
    head_ = head;
}

template <class Function>
void Decoder::timed(const char* name, Function&& function) {
    if (spans_ == nullptr) return function();
    const int64_t start = now();
    function();
    spans_->push_back({name, layer_, start, now()});
}

// function(begin, end) over ranges of rows.
template <class Function>
void Decoder::by_rows(int rows, Function&& function) {
    const int threads = pool().threads();
    if (rows <= INLINE_ROWS || threads == 1) return function(0, rows);
    const int grain = std::max(2, (rows + 4 * threads - 1) / (4 * threads));
    pool().each((rows + grain - 1) / grain, [&](int task, int) {
        function(task * grain, std::min(rows, (task + 1) * grain));
    });
}

Rows Decoder::rows_of(int width, int count, int which) {
    Rows rows{};
    rows.kind = shape_.kind;
    rows.width = round_up(width, CHUNK);
    const size_t blocks = static_cast<size_t>(count) * rows.blocks();
    rows.data = data_[which].of<uint8_t>(rows.stride() * count);
    rows.scale = scales_[which].of<float>(blocks);
    rows.sum = sums_[which].of<int32_t>(blocks);
    return rows;
}

void Decoder::norm(const float* x, const std::vector<float>& weight, const Rows& out, int rows) {
    timed("norm", [&] {
        by_rows(rows, [&](int begin, int end) {
            kernels_->norm(x, shape_.hidden, weight.data(), shape_.eps, out, begin, end);
        });
    });
}

void Decoder::multiply(const char* name, const Weight& weight, const Rows& x, int rows, float* y,
                       size_t stride, Finish finish) {
    timed(name, [&] {
        const Tasks tasks = plan_tasks(weight, rows, pool().threads());
        pool().each(tasks.count(), [&](int t, int) {
            kernels_->product({&weight, x, y, stride, finish, tasks.row_begin(t), tasks.row_end(t),
                               tasks.unit_begin(t), tasks.unit_end(t)});
        });
    });
}

void Decoder::gate(const LayerWeights& layer, const Rows& x, const Rows& out, int rows) {
    timed("gate, up", [&] {
        const Tasks tasks = plan_tasks(*layer.gate_up, rows, pool().threads());
        pool().each(tasks.count(), [&](int t, int) {
            kernels_->gated({layer.gate_up, x, out, tasks.row_begin(t), tasks.row_end(t),
                             tasks.unit_begin(t), tasks.unit_end(t)});
        });
    });
}

void Decoder::rotate(const StepRows& step, const LayerWeights& layer, uint8_t* keys,
                     uint8_t* values) {
    timed("rotate, store", [&] {
        RotateStore job{};
        job.shape = plan_.shape();
        job.qkv = qkv_.of<float>(0);
        job.qkv_stride = shape_.qkv_width();
        job.cos = cos_;
        job.sin = sin_;
        job.positions = step.positions;
        job.slots = slots_.of<int32_t>(0);
        job.norm_weights = layer.head_norms.empty() ? nullptr : layer.head_norms.data();
        job.norm_eps = shape_.head_eps;
        job.keys = keys;
        job.values = values;
        job.queries = queries_.of<uint16_t>(0);
        by_rows(step.rows, [&](int begin, int end) { kernels_->rotate_store(job, begin, end); });
    });
}

void Decoder::attend(const StepRows& step, const uint8_t* keys, const uint8_t* values,
                     const Rows& out) {
    timed("attention", [&] {
        const int columns = shape_.heads * shape_.head_dim;
        const bool direct = plan_.shape().writes_rows();
        Attention job = plan_.attention();
        job.queries = queries_.of<uint16_t>(0);
        job.keys = keys;
        job.values = values;
        if (direct)
            job.out = out;
        else
            job.out_float = attended_.of<float>(static_cast<size_t>(step.padded) * columns);
        pool().each(plan_.tasks(), [&](int t, int thread) { kernels_->attend(job, t, thread); });
        if (!direct)
            by_rows(step.padded, [&](int begin, int end) {
                kernels_->quantise(job.out_float, columns, out, begin, end);
            });
    });
}

// Of the last layer only rows whose logits are wanted go on. Returns how many.
int Decoder::keep_sampled(const StepRows& step) {
    const float* x = x_.of<float>(0);
    float* kept = kept_.of<float>(static_cast<size_t>(std::max(step.samples, 1)) * shape_.hidden);
    for (int i = 0; i < step.samples; ++i)
        std::memcpy(kept + static_cast<size_t>(i) * shape_.hidden,
                    x + static_cast<size_t>(step.sampled[i]) * shape_.hidden,
                    static_cast<size_t>(shape_.hidden) * 4);
    return step.samples;
}

void Decoder::forward(const StepRows& step, uint8_t* cache, size_t cache_rows, float* logits,
                      size_t logits_stride, std::vector<Span>* spans) {
    const PoolTurn turn;
    spans_ = spans;
    layer_ = -1;
    const int rows = step.padded, hidden = shape_.hidden;
    const int columns = shape_.heads * shape_.head_dim;
    const size_t layer_bytes = cache_rows * shape_.cache_row();
    float* x = x_.of<float>(static_cast<size_t>(rows) * hidden);
    float* qkv = qkv_.of<float>(static_cast<size_t>(rows) * shape_.qkv_width());
    queries_.of<uint16_t>(static_cast<size_t>(rows) * columns);
    timed("embed", [&] {
        int32_t* slots = slots_.of<int32_t>(step.rows);
        std::copy(step.slots, step.slots + step.rows, slots);
        for (int r = 0; r < rows; ++r)
            embedding_.row(r < step.rows ? step.tokens[r] : 0, hidden,
                           x + static_cast<size_t>(r) * hidden);
        plan_.build(step.slices, pool().threads());
    });
    int live = rows;
    for (const LayerWeights& layer : layers_) {
        ++layer_;
        uint8_t* keys = cache + 2 * static_cast<size_t>(layer_) * layer_bytes;
        const Rows normed = rows_of(hidden, rows, 0);
        norm(x, layer.attn_norm, normed, live);
        multiply("qkv", *layer.qkv, normed, live, qkv, shape_.qkv_width(), Finish::store);
        rotate(step, layer, keys, keys + layer_bytes);
        const Rows attended = rows_of(columns, rows, 1);
        attend(step, keys, keys + layer_bytes, attended);
        multiply("attention out", *layer.o, attended, live, x, hidden, Finish::add);
        if (layer_ + 1 == layers()) {
            live = keep_sampled(step);
            x = kept_.of<float>(0);
            if (live == 0) return;
        }
        norm(x, layer.mlp_norm, normed, live);
        const Rows gated = rows_of(shape_.intermediate, rows, 2);
        gate(layer, normed, gated, live);
        multiply("down", *layer.down, gated, live, x, hidden, Finish::add);
    }
    layer_ = -1;
    const Rows last = rows_of(hidden, rows, 0);
    norm(x, head_norm_, last, live);
    multiply("head", *head_, last, live, logits, logits_stride, Finish::store);
}

}  // namespace headrace
