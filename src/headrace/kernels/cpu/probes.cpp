#include "probes.hpp"

#include <cstring>

#include "features.hpp"

namespace headrace {
namespace {

#if defined(__GNUC__) || defined(__clang__)
#define HEADRACE_INLINE inline __attribute__((always_inline))
#define HEADRACE_VECTORS 1
#else
#define HEADRACE_INLINE inline
#define HEADRACE_VECTORS 0
#endif

#if HEADRACE_VECTORS && defined(__x86_64__)
#define HEADRACE_X86 1
#endif

[[maybe_unused]] bool has(const char* feature) {
    for (const auto& name : cpu_features())
        if (name == feature) return true;
    return false;
}

#if HEADRACE_VECTORS
template <typename Number, int Width>
struct VectorOf {
    typedef Number type __attribute__((vector_size(Width * sizeof(Number))));
};
#endif

// Independent sums: enough loads in flight to be bound by memory, not by the additions.
template <int Width>
HEADRACE_INLINE uint64_t read_once(const uint8_t* data, size_t size) {
    constexpr int sums_kept = 4;
#if HEADRACE_VECTORS
    using Vector = typename VectorOf<uint64_t, Width>::type;
#else
    using Vector = uint64_t;
    static_assert(Width == 1, "no vector types here");
#endif
    Vector sums[sums_kept] = {};
    const size_t whole = size / sizeof(sums);
    for (size_t i = 0; i < whole; ++i) {
#if HEADRACE_VECTORS
#pragma GCC unroll 4
#endif
        for (int j = 0; j < sums_kept; ++j) {
            Vector value;
            std::memcpy(&value, data + i * sizeof(sums) + j * sizeof(Vector), sizeof(Vector));
            sums[j] += value;
        }
    }
    uint64_t lanes[Width * sums_kept] = {};
    std::memcpy(lanes, sums, sizeof(sums));
    uint64_t total = 0;
    for (uint64_t lane : lanes) total += lane;
    for (size_t i = whole * sizeof(sums); i < size; ++i) total += data[i];
    return total;
}

uint64_t read_portable(const uint8_t* data, size_t size) {
    return read_once<HEADRACE_VECTORS ? 2 : 1>(data, size);
}

#if defined(HEADRACE_X86)
__attribute__((target("avx2"))) uint64_t read_avx2(const uint8_t* data, size_t size) {
    return read_once<4>(data, size);
}
__attribute__((target("avx512f"))) uint64_t read_avx512(const uint8_t* data, size_t size) {
    return read_once<8>(data, size);
}
#endif

// `Chains` independent multiply-add chains hide the latency of the two units that run them.
template <int Width, int Chains>
HEADRACE_INLINE double fma_chains(double operations) {
    constexpr double per_round = 2.0 * Width * Chains;
    const auto rounds = static_cast<int64_t>(operations / per_round) + 1;
#if HEADRACE_VECTORS
    using Vector = typename VectorOf<float, Width>::type;
    // The sums settle near 1 to 16: denormal numbers would slow the units down.
    Vector sums[Chains], scale, shift;
    for (int lane = 0; lane < Width; ++lane) {
        scale[lane] = 0.999f;
        shift[lane] = 0.001f * static_cast<float>(lane + 1);
        for (auto& sum : sums) sum[lane] = 1.0f;
    }
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
        for (int c = 0; c < Chains; ++c) sums[c] = sums[c] * scale + shift;
    }
#else
    float sums[Chains][Width];
    for (auto& sum : sums)
        for (float& lane : sum) lane = 1.0f;
    for (int64_t i = 0; i < rounds; ++i)
        for (auto& sum : sums)
            for (float& lane : sum) lane = lane * 0.999f + 0.001f;
#endif
    float total = 0.0f;
    for (auto& sum : sums)
        for (int lane = 0; lane < Width; ++lane) total += sum[lane];
    volatile float sink = total;
    (void)sink;
    return per_round * static_cast<double>(rounds);
}

#if defined(HEADRACE_X86)
__attribute__((target("avx2,fma"))) double fma_avx2(double operations) {
    return fma_chains<8, 12>(operations);
}
__attribute__((target("avx512f"))) double fma_avx512(double operations) {
    return fma_chains<16, 12>(operations);
}
#endif

}  // namespace

uint64_t stream_read(const uint8_t* data, size_t size, int passes) {
    auto read = read_portable;
#if defined(HEADRACE_X86)
    if (has("avx512f"))
        read = read_avx512;
    else if (has("avx2"))
        read = read_avx2;
#endif
    uint64_t total = 0;
    for (int pass = 0; pass < passes; ++pass) total += read(data, size);
    return total;
}

double fma_float32(double operations) {
#if defined(HEADRACE_X86)
    if (has("avx512f")) return fma_avx512(operations);
    if (has("avx2") && has("fma")) return fma_avx2(operations);
#endif
    return fma_chains<4, 12>(operations);
}

}  // namespace headrace
