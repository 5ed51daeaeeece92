// Rows of matrices as files store them. Block layouts as in GGML (ggml-common.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "pack.hpp"

namespace headrace {

inline float half_to_float(uint16_t h) {
    // Exact for normal and subnormal numbers: the exponent is moved by a multiplication.
    const uint32_t magnitude = (h & 0x7fffu) << 13, sign = (h & 0x8000u) << 16;
    uint32_t bits = magnitude;
    float value;
    std::memcpy(&value, &bits, 4);
    value *= 0x1p112f;
    if ((h & 0x7c00u) == 0x7c00u) {  // infinities and NaN
        bits = magnitude | 0x7f800000u;
        std::memcpy(&value, &bits, 4);
    }
    return sign ? -value : value;
}

uint16_t float_to_half(float x);  // to nearest, ties to even; too large becomes infinite

inline float bf16_to_float(uint16_t h) {
    const uint32_t bits = static_cast<uint32_t>(h) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint16_t float_to_bf16(float x) {  // to nearest, ties to even; for finite values
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline uint16_t load_u16(const uint8_t* p) {
    uint16_t x;
    std::memcpy(&x, p, 2);
    return x;
}

// 32 columns of a row: w = d v + m. Of q8_0 v is in -128..127, of q4_0 in -8..7, of q4_1 in 0..15.
struct Block {
    float d, m;
    int v[32];
};
void read_block(Stored type, const uint8_t* block, Block& out);

// `row` of the piece as floats.
void read_row(const Piece& piece, int row, int k, float* out);

inline size_t row_bytes(Stored type, int k) {
    return static_cast<size_t>(k / stored_block(type)) * stored_bytes(type);
}
inline const uint8_t* row_start(const Piece& piece, int row, int k) {
    return piece.data + row_bytes(piece.type, k) * static_cast<size_t>(row);
}

}  // namespace headrace
