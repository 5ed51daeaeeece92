// Plain C++, for any processor; the compiler vectorises what it can. See simd.hpp.
#pragma once

#include <cmath>

namespace headrace {
namespace HEADRACE_ISA {

struct F32 {
    float v[16];
};
struct I32 {
    int32_t v[16];
};
using B64 = I32;
struct Mask {
    bool v[16];
};

constexpr int REGISTERS = 8;

template <class Result, class Function>
inline Result lanes(Function f) {
    Result r;
    for (int i = 0; i < 16; ++i) r.v[i] = f(i);
    return r;
}
inline float bits_to_float(uint32_t x) {
    float y;
    std::memcpy(&y, &x, 4);
    return y;
}
inline uint32_t float_to_bits(float x) {
    uint32_t y;
    std::memcpy(&y, &x, 4);
    return y;
}

inline F32 set1(float x) {
    return lanes<F32>([=](int) { return x; });
}
inline F32 load(const float* p) {
    F32 r;
    std::memcpy(&r, p, 64);
    return r;
}
inline void store(float* p, F32 x) { std::memcpy(p, &x, 64); }
inline F32 add(F32 a, F32 b) {
    return lanes<F32>([&](int i) { return a.v[i] + b.v[i]; });
}
inline F32 sub(F32 a, F32 b) {
    return lanes<F32>([&](int i) { return a.v[i] - b.v[i]; });
}
inline F32 mul(F32 a, F32 b) {
    return lanes<F32>([&](int i) { return a.v[i] * b.v[i]; });
}
inline F32 div(F32 a, F32 b) {
    return lanes<F32>([&](int i) { return a.v[i] / b.v[i]; });
}
inline F32 fma(F32 a, F32 b, F32 c) {  // two roundings: one would cost a library call
    return lanes<F32>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline F32 max(F32 a, F32 b) {
    return lanes<F32>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32 min(F32 a, F32 b) {
    return lanes<F32>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32 abs(F32 a) {
    return lanes<F32>([&](int i) { return bits_to_float(float_to_bits(a.v[i]) & 0x7fffffffu); });
}
inline Mask less(F32 a, F32 b) {
    return lanes<Mask>([&](int i) { return a.v[i] < b.v[i]; });
}
inline F32 zero_where(Mask m, F32 a) {
    return lanes<F32>([&](int i) { return m.v[i] ? 0.0f : a.v[i]; });
}
inline F32 select(Mask m, F32 yes, F32 no) {
    return lanes<F32>([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}
inline Mask first_lanes(int n) {
    return lanes<Mask>([=](int i) { return i < n; });
}
inline F32 load_first(const float* p, int n) {
    return lanes<F32>([=](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store_first(float* p, F32 x, int n) {
    for (int i = 0; i < 16 && i < n; ++i) p[i] = x.v[i];
}

inline float sum(F32 a) {
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    return a.v[0];
}
inline float highest(F32 a) {
    float best = a.v[0];
    for (int i = 1; i < 16; ++i) best = a.v[i] > best ? a.v[i] : best;
    return best;
}

inline I32 set1_i32(int32_t x) {
    return lanes<I32>([=](int) { return x; });
}
inline B64 load64(const void* p) {
    B64 r;
    std::memcpy(&r, p, 64);
    return r;
}
inline I32 load_i32(const int32_t* p) { return load64(p); }
inline void store_i32(int32_t* p, I32 x) { std::memcpy(p, &x, 64); }
inline I32 add_i32(I32 a, I32 b) {
    return lanes<I32>([&](int i) { return a.v[i] + b.v[i]; });
}
inline int32_t sum_i32(I32 a) {
    int32_t s = 0;
    for (int i = 0; i < 16; ++i) s += a.v[i];
    return s;
}
inline F32 to_float(I32 a) {
    return lanes<F32>([&](int i) { return static_cast<float>(a.v[i]); });
}
inline I32 round_to_int(F32 a) {
    return lanes<I32>([&](int i) { return static_cast<int32_t>(::lrintf(a.v[i])); });
}
inline F32 scale_by_power(F32 a, I32 n) {
    return lanes<F32>([&](int i) {
        return a.v[i] * bits_to_float(static_cast<uint32_t>(n.v[i] + 127) << 23);
    });
}

inline F32 round(F32 a) { return to_float(round_to_int(a)); }
inline F32 scale_by_whole(F32 a, F32 n) { return scale_by_power(a, round_to_int(n)); }

inline void store_i8(int8_t* p, I32 a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}

inline F32 load_bf16(const uint16_t* p) {
    return lanes<F32>([=](int i) { return bits_to_float(static_cast<uint32_t>(p[i]) << 16); });
}
inline void store_bf16(uint16_t* p, F32 a) {
    for (int i = 0; i < 16; ++i) {
        const uint32_t x = float_to_bits(a.v[i]);
        p[i] = static_cast<uint16_t>((x + 0x7fff + ((x >> 16) & 1)) >> 16);
    }
}

inline void store64(void* p, B64 a) { std::memcpy(p, &a, 64); }
inline void store_bf16_apart(uint16_t* p, F32 x) {
    uint16_t words[16];
    store_bf16(words, x);
    for (int i = 0; i < 16; ++i) p[2 * i] = words[i];
}
inline B64 pack_bf16(F32 a, F32 b) {
    uint16_t words[32];
    store_bf16(words, a);
    store_bf16(words + 16, b);
    return load64(words);
}
inline I32 load_i8(const int8_t* p) {
    return lanes<I32>([=](int i) { return p[i]; });
}

inline B64 broadcast4(uint32_t x) { return set1_i32(static_cast<int32_t>(x)); }

inline void split_nibbles(B64 q, B64& low, B64& high) {
    for (int i = 0; i < 16; ++i) {
        low.v[i] = q.v[i] & 0x0f0f0f0f;
        high.v[i] = (q.v[i] >> 4) & 0x0f0f0f0f;
    }
}
inline B64 twice_low(B64 a) {
    return lanes<B64>([&](int i) {
        const uint32_t x = static_cast<uint32_t>(a.v[i]);
        return static_cast<int32_t>((x & 0xffffu) | x << 16);
    });
}
inline B64 twice_high(B64 a) {
    return lanes<B64>([&](int i) {
        const uint32_t x = static_cast<uint32_t>(a.v[i]);
        return static_cast<int32_t>(x >> 16 | (x & 0xffff0000u));
    });
}
inline void step_nibbles(B64 q, B64 dq, B64 mq, B64& low, B64& high) {
    uint8_t in[64], out[2][64];
    std::memcpy(in, &q, 64);
    for (int i = 0; i < 64; ++i) {
        const uint32_t d = static_cast<uint32_t>(dq.v[i / 4]), m = static_cast<uint32_t>(mq.v[i / 4]);
        out[0][i] = static_cast<uint8_t>((d * (in[i] & 15u) + m) >> 8);
        out[1][i] = static_cast<uint8_t>((d * (in[i] >> 4) + m) >> 8);
    }
    low = load64(out[0]);
    high = load64(out[1]);
}

inline float half_to_float(uint32_t h) {
    // Exact: the exponent is moved by a multiplication. For finite numbers.
    const float value = bits_to_float((h & 0x7fffu) << 13) * 0x1p112f;
    return bits_to_float(float_to_bits(value) | (h & 0x8000u) << 16);
}
inline F32 load_half(const void* p) {
    uint16_t h[16];
    std::memcpy(h, p, 32);
    return lanes<F32>([&](int i) { return half_to_float(h[i]); });
}
inline F32 low_half(B64 a) {
    return lanes<F32>([&](int i) { return half_to_float(static_cast<uint32_t>(a.v[i])); });
}
inline F32 high_half(B64 a) {
    return lanes<F32>([&](int i) { return half_to_float(static_cast<uint32_t>(a.v[i]) >> 16); });
}

inline int32_t biased_start(int32_t bias) { return bias; }
inline void dot_biased(I32& acc, B64 w, B64 x) {
    uint8_t a[64];
    int8_t b[64];
    std::memcpy(a, &w, 64);
    std::memcpy(b, &x, 64);
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 4; ++j) acc.v[i] += static_cast<int>(a[4 * i + j]) * b[4 * i + j];
}
inline void dot_small(I32& acc, B64 w, B64 x) { dot_biased(acc, w, x); }

inline void dot_bf16(F32& acc, B64 w, B64 x) {
    for (int i = 0; i < 16; ++i) {
        const uint32_t a = static_cast<uint32_t>(w.v[i]), b = static_cast<uint32_t>(x.v[i]);
        acc.v[i] += bits_to_float(a << 16) * bits_to_float(b << 16);
        acc.v[i] += bits_to_float(a & 0xffff0000u) * bits_to_float(b & 0xffff0000u);
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
