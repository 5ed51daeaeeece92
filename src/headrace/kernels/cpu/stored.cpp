#include "stored.hpp"

#include <cmath>

namespace headrace {

uint16_t float_to_half(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);  // NaN
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {  // subnormal: the addition rounds at 2^-24
        float value;
        std::memcpy(&value, &magnitude, 4);
        value += 0.5f;
        uint32_t rounded;
        std::memcpy(&rounded, &value, 4);
        return static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

void read_block(Stored type, const uint8_t* block, Block& out) {
    out.d = half_to_float(load_u16(block));
    out.m = 0.0f;
    if (type == Stored::q8_0) {
        for (int i = 0; i < 32; ++i) out.v[i] = static_cast<int8_t>(block[2 + i]);
        return;
    }
    if (type == Stored::q4_1) out.m = half_to_float(load_u16(block + 2));
    const uint8_t* nibbles = block + (type == Stored::q4_1 ? 4 : 2);
    const int offset = type == Stored::q4_1 ? 0 : 8;
    for (int i = 0; i < 16; ++i) {
        out.v[i] = (nibbles[i] & 15) - offset;
        out.v[16 + i] = (nibbles[i] >> 4) - offset;
    }
}

void read_row(const Piece& piece, int row, int k, float* out) {
    const uint8_t* from = row_start(piece, row, k);
    switch (piece.type) {
        case Stored::f32:
            std::memcpy(out, from, sizeof(float) * static_cast<size_t>(k));
            return;
        case Stored::f16:
            for (int i = 0; i < k; ++i) out[i] = half_to_float(load_u16(from + 2 * i));
            return;
        case Stored::bf16:
            for (int i = 0; i < k; ++i) out[i] = bf16_to_float(load_u16(from + 2 * i));
            return;
        default:
            break;
    }
    Block block;
    for (int i = 0; i < k; i += 32, from += stored_bytes(piece.type)) {
        read_block(piece.type, from, block);
        for (int j = 0; j < 32; ++j)
            out[i + j] = block.d * static_cast<float>(block.v[j]) + block.m;
    }
}

}  // namespace headrace
