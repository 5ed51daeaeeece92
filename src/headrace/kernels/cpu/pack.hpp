// Packing of weight matrices; see weight.hpp for what comes out.
#pragma once

#include <memory>
#include <vector>

#include "weight.hpp"

namespace headrace {

// How a matrix is stored in its file: GGML's names and layouts of blocks.
enum class Stored : uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1 };

constexpr int stored_block(Stored type) { return type < Stored::q8_0 ? 1 : 32; }
constexpr int stored_bytes(Stored type) {  // of a block
    return type == Stored::f32    ? 4
           : type < Stored::q8_0  ? 2
           : type == Stored::q8_0 ? 34
           : type == Stored::q4_0 ? 18
                                  : 20;
}

// Rows of a matrix; `data` holds them one after the other.
struct Piece {
    Stored type;
    int n;
    const uint8_t* data;
};

// A weight and the memory that it points into.
class PackedWeight {
  public:
    // The pieces stacked in order, each [n, k]; bias is null or [sum of n]. Runs on pool().
    // Throws std::invalid_argument where a value is not finite or does not fit the format.
    static std::shared_ptr<PackedWeight> pack(Kind kind, const std::vector<Piece>& pieces, int k,
                                              const float* bias);
    // For Kernels::gated: gate and up [n, k] interleaved; both biases or none.
    static std::shared_ptr<PackedWeight> pack_gated(Kind kind, const Piece& gate, const Piece& up,
                                                    int k, const float* gate_bias,
                                                    const float* up_bias);
    PackedWeight(const PackedWeight&) = delete;
    PackedWeight& operator=(const PackedWeight&) = delete;

    const Weight& view() const { return weight_; }
    size_t nbytes() const { return nbytes_; }
    // The k values that row `row` stands for; of a gated weight rows are gate's, then up's.
    void dense_row(int row, float* out) const;

  private:
    friend class Packer;
    PackedWeight() = default;
    Weight weight_{};
    std::vector<Panel> panels_;
    std::shared_ptr<uint8_t> memory_;
    size_t nbytes_ = 0;
};

}  // namespace headrace
