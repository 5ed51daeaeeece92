#include "probes.hpp"

#include <cstring>

#include "features.hpp"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>
#define HEADRACE_PROBE_X86 1
#endif

namespace headrace {
namespace {

#if defined(__GNUC__) || defined(__clang__)
#define HEADRACE_INLINE inline __attribute__((always_inline))
#define HEADRACE_VECTORS 1
#else
#define HEADRACE_INLINE inline
#define HEADRACE_VECTORS 0
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

// Four streams, a quarter of the data each: more of them in flight than one prefetcher follows.
template <int Width>
HEADRACE_INLINE uint64_t read_once(const uint8_t* data, size_t size) {
    constexpr int streams = 4;
#if HEADRACE_VECTORS
    using Vector = typename VectorOf<uint64_t, Width>::type;
#else
    using Vector = uint64_t;
    static_assert(Width == 1, "no vector types here");
#endif
    Vector sums[streams] = {};
    const size_t quarter = size / sizeof(sums) * sizeof(Vector);
    for (size_t i = 0; i < quarter; i += sizeof(Vector)) {
#if HEADRACE_VECTORS
#pragma GCC unroll 4
#endif
        for (int j = 0; j < streams; ++j) {
            Vector value;
            std::memcpy(&value, data + j * quarter + i, sizeof(Vector));
            sums[j] += value;
        }
    }
    uint64_t lanes[Width * streams] = {};
    std::memcpy(lanes, sums, sizeof(sums));
    uint64_t total = 0;
    for (uint64_t lane : lanes) total += lane;
    for (size_t i = streams * quarter; i < size; ++i) total += data[i];
    return total;
}

uint64_t read_portable(const uint8_t* data, size_t size) {
    return read_once<HEADRACE_VECTORS ? 2 : 1>(data, size);
}

#if defined(HEADRACE_PROBE_X86)
__attribute__((target("avx2"))) uint64_t read_avx2(const uint8_t* data, size_t size) {
    return read_once<4>(data, size);
}
__attribute__((target("avx512f"))) uint64_t read_avx512(const uint8_t* data, size_t size) {
    return read_once<8>(data, size);
}
#endif

// Twelve independent chains hide the latency of the units that run them. The sums are named one by
// one and the instructions written out: gcc 12 keeps an array of sums in memory, and a product with
// its addition is not fused under -ffp-contract=off.
#define HEADRACE_TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
constexpr int chains = 12;

#if defined(HEADRACE_PROBE_X86)
#define HEADRACE_SUM(i) Vector sum##i = {};
#define HEADRACE_CHAIN(i) \
    __asm__ volatile(HEADRACE_STEP : "+v"(sum##i), "=&v"(scratch) : "v"(x), "v"(y));
// A function that repeats HEADRACE_STEP on all sums: %0 a sum, %1 scratch, %2 and %3 constants.
#define HEADRACE_CHAINS(name, targets, Number, width, first, second)             \
    __attribute__((target(targets))) void name(int64_t rounds) {                 \
        using Vector = VectorOf<Number, width>::type;                            \
        const Vector x = Vector{} + first, y = Vector{} + second;                \
        Vector scratch;                                                          \
        HEADRACE_TWELVE(HEADRACE_SUM)                                            \
        for (int64_t i = 0; i < rounds; ++i) { HEADRACE_TWELVE(HEADRACE_CHAIN) } \
    }

// The float sums settle at y / (1 - x) = 1: denormal numbers would slow the units down.
#define HEADRACE_STEP "vfmadd213ps %3, %2, %0"
HEADRACE_CHAINS(float_avx512, "avx512f", float, 16, 0.999f, 0.001f)
HEADRACE_CHAINS(float_avx2, "avx2,fma", float, 8, 0.999f, 0.001f)
#undef HEADRACE_STEP

#define HEADRACE_STEP "vdpbf16ps %3, %2, %0"  // of pairs of 1.0
HEADRACE_CHAINS(bfloat16_avx512, "avx512f,avx512bf16", int32_t, 16, 0x3f803f80, 0x3f803f80)
#undef HEADRACE_STEP

#define HEADRACE_STEP "vpdpbusd %3, %2, %0"
HEADRACE_CHAINS(int8_avx512_vnni, "avx512f,avx512vnni", int32_t, 16, 0x03030303, 0x05050505)
#undef HEADRACE_STEP

// Without VNNI: products of bytes to 16 bits, pairs of these to 32, and to the sum.
#define HEADRACE_STEP \
    "vpmaddubsw %3, %2, %1\n\tvpmaddwd %2, %1, %1\n\tvpaddd %1, %0, %0"
HEADRACE_CHAINS(int8_avx512, "avx512f,avx512bw", int32_t, 16, 0x03030303, 0x05050505)
HEADRACE_CHAINS(int8_avx2, "avx2", int32_t, 8, 0x03030303, 0x05050505)
#undef HEADRACE_STEP
#endif

#if HEADRACE_VECTORS
void float_portable(int64_t rounds) {
    using Vector = VectorOf<float, 4>::type;
    const Vector x = {0.999f, 0.999f, 0.999f, 0.999f}, y = {0.001f, 0.001f, 0.001f, 0.001f};
#define HEADRACE_SUM_PORTABLE(i) Vector sum##i = y * float(i);
#define HEADRACE_CHAIN_PORTABLE(i) sum##i = sum##i * x + y;
#define HEADRACE_TOTAL(i) total += sum##i;
    HEADRACE_TWELVE(HEADRACE_SUM_PORTABLE)
    for (int64_t i = 0; i < rounds; ++i) { HEADRACE_TWELVE(HEADRACE_CHAIN_PORTABLE) }
    Vector total = y;
    HEADRACE_TWELVE(HEADRACE_TOTAL)
    volatile float sink = total[0] + total[1] + total[2] + total[3];
    (void)sink;
}
#endif

// A way to run a kind of product, and the operations of one instruction chain's step.
struct Way {
    const char* kind;
    const char* needs;
    void (*run)(int64_t rounds);
    double operations;
};

// The fastest first; the last of a kind needs nothing.
const Way ways[] = {
#if defined(HEADRACE_PROBE_X86)
    {"float32", "avx512f", float_avx512, 2.0 * 16},
    {"float32", "fma", float_avx2, 2.0 * 8},
    {"bfloat16", "avx512_bf16", bfloat16_avx512, 2.0 * 32},
    {"int8", "avx512_vnni", int8_avx512_vnni, 2.0 * 64},
    {"int8", "avx512bw", int8_avx512, 2.0 * 64},
    {"int8", "avx2", int8_avx2, 2.0 * 32},
#endif
#if HEADRACE_VECTORS
    {"float32", "", float_portable, 2.0 * 4},
#endif
};

}  // namespace

uint64_t stream_read(const uint8_t* data, size_t size, int passes) {
    auto read = read_portable;
#if defined(HEADRACE_PROBE_X86)
    if (has("avx512f"))
        read = read_avx512;
    else if (has("avx2"))
        read = read_avx2;
#endif
    uint64_t total = 0;
    for (int pass = 0; pass < passes; ++pass) total += read(data, size);
    return total;
}

double multiply_add(const char* kind, double operations) {
    for (const Way& way : ways) {
        if (std::strcmp(way.kind, kind) != 0 || !(*way.needs == 0 || has(way.needs))) continue;
        const double per_round = way.operations * chains;
        const auto rounds = static_cast<int64_t>(operations / per_round) + 1;
        way.run(rounds);
        return per_round * static_cast<double>(rounds);
    }
    return 0.0;
}

}  // namespace headrace
