// The two products of attention, in register tiles: scores of queries against groups of 16 keys, and
// values weighted and summed. Each output element is one chain of dot products, over pairs of
// dimensions or pairs of keys in ascending order, whatever the tile.
#pragma once

#include "attention.hpp"
#include "simd.hpp"

namespace headrace {
namespace HEADRACE_ISA {

constexpr bool WIDE = REGISTERS >= 32;
constexpr int ACCUMULATORS = WIDE ? 24 : 4;
constexpr int SCORE_QUERIES = WIDE ? 12 : 4;   // most queries of a score tile
constexpr int WEIGH_QUERIES = WIDE ? 6 : 2;    // most queries of a value tile
constexpr int WEIGH_VECTORS = WIDE ? 4 : 2;    // most vectors of 16 dimensions of a value tile
constexpr int SPLIT_GROUPS = SPLIT / GROUP_TOKENS;

// The groups of 16 keys (or values) of a split, wherever their blocks are; and per group what to
// fetch from memory while it is worked on, as the kernels read one cache line of each at a time.
struct Groups {
    int count;
    const uint8_t* const* at;
    const uint8_t* const* ahead;
};

// Most groups of keys that a tile of Q queries takes at once.
constexpr int score_groups(int queries) {
    int groups = WIDE ? 8 : 4;
    while (groups > 1 && groups * queries > ACCUMULATORS) groups /= 2;
    return groups;
}

// scores[q][16 g + token] of Q queries and G groups. query: [pairs][Q] words of two bf16.
template <int Q, int G>
inline void score_tile(const uint32_t* query, int pairs, const uint8_t* const* key,
                       const uint8_t* const* ahead, float* scores) {
    F32 acc[Q][G];
#pragma GCC unroll 12
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) acc[q][g] = set1(0.0f);
    for (int d = 0; d < pairs; ++d, query += Q) {
        B64 k[G];
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
            k[g] = load64(key[g] + 64 * d);
            __builtin_prefetch(ahead[g] + 64 * d);
        }
#pragma GCC unroll 12
        for (int q = 0; q < Q; ++q) {
            const B64 x = broadcast4(query[q]);
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) dot_bf16(acc[q][g], k[g], x);
        }
    }
#pragma GCC unroll 12
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) store(scores + q * SCORE_STRIDE + GROUP_TOKENS * g, acc[q][g]);
}

// Groups [begin, end), as many at once as fit.
template <int Q>
inline void score_queries(const uint32_t* query, int pairs, const Groups& keys, int begin, int end,
                          float* scores) {
    constexpr int MOST = score_groups(Q);
    const auto tile = [&](auto run, int groups) {
        run(query, pairs, keys.at + begin, keys.ahead + begin, scores + GROUP_TOKENS * begin);
        begin += groups;
    };
    while (end - begin >= MOST) tile(score_tile<Q, MOST>, MOST);
    if constexpr (MOST > 4)
        if (end - begin >= 4) tile(score_tile<Q, 4>, 4);
    if constexpr (MOST > 2)
        if (end - begin >= 2) tile(score_tile<Q, 2>, 2);
    if constexpr (MOST > 1)
        if (end - begin >= 1) tile(score_tile<Q, 1>, 1);
}

using ScoreQueries = void (*)(const uint32_t*, int, const Groups&, int, int, float*);

inline ScoreQueries find_score(int queries) {
    if constexpr (WIDE) {
        static constexpr ScoreQueries table[] = {
            nullptr,          score_queries<1>, score_queries<2>,  score_queries<3>,
            score_queries<4>, score_queries<5>, score_queries<6>,  score_queries<7>,
            score_queries<8>, score_queries<9>, score_queries<10>, score_queries<11>,
            score_queries<12>};
        return table[queries];
    } else {
        static constexpr ScoreQueries table[] = {nullptr, score_queries<1>, score_queries<2>,
                                                 score_queries<3>, score_queries<4>};
        return table[queries];
    }
}

// out[q][16 v + lane] of Q queries and V vectors of dimensions, summed over all groups of values.
// weights: bf16 [Q][WEIGHT_STRIDE]; `at` and the stride `dim` say which dimensions.
template <int Q, int V>
inline void weigh_tile(const uint16_t* weights, const Groups& values, int at, int dim, float* out) {
    F32 acc[Q][V];
#pragma GCC unroll 6
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[q][v] = set1(0.0f);
    for (int g = 0; g < values.count; ++g) {
        const uint8_t* value = values.at[g] + 4 * at;
        const uint8_t* ahead = values.ahead[g] + 4 * at;
        for (int pair = 0; pair < GROUP_TOKENS / 2; ++pair) {
            B64 x[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                x[v] = load64(value + 64 * v);
                __builtin_prefetch(ahead + 64 * v);
            }
#pragma GCC unroll 6
            for (int q = 0; q < Q; ++q) {
                const B64 w = broadcast4(load_u32(weights + q * WEIGHT_STRIDE));
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) dot_bf16(acc[q][v], x[v], w);
            }
            weights += 2;
            value += 4 * static_cast<size_t>(dim);
            ahead += 4 * static_cast<size_t>(dim);
        }
    }
#pragma GCC unroll 6
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(out + static_cast<size_t>(q) * dim + LANES * v, acc[q][v]);
}

using WeighTile = void (*)(const uint16_t*, const Groups&, int, int, float*);

template <int Q>
inline WeighTile find_weigh_of(int vectors) {
    if constexpr (WIDE) {
        static constexpr WeighTile table[] = {nullptr, weigh_tile<Q, 1>, weigh_tile<Q, 2>,
                                              weigh_tile<Q, 3>, weigh_tile<Q, 4>};
        return table[vectors];
    } else {
        static constexpr WeighTile table[] = {nullptr, weigh_tile<Q, 1>, weigh_tile<Q, 2>};
        return table[vectors];
    }
}

inline WeighTile find_weigh(int queries, int vectors) {
    if constexpr (WIDE) {
        switch (queries) {
            case 6: return find_weigh_of<6>(vectors);
            case 5: return find_weigh_of<5>(vectors);
            case 4: return find_weigh_of<4>(vectors);
            case 3: return find_weigh_of<3>(vectors);
        }
    }
    return queries == 2 ? find_weigh_of<2>(vectors) : find_weigh_of<1>(vectors);
}

// All scores of `count` queries against the keys. query: as packed by pack_queries.
inline void score_all(const uint32_t* query, int count, int dim, const Groups& keys,
                      float* scores) {
    const int pairs = dim / 2;
    // Few groups at a time, so that they stay in the first-level cache for all queries.
    const int step = count <= SCORE_QUERIES ? SPLIT_GROUPS : 4;
    for (int g = 0; g < keys.count; g += step) {
        const int end = g + step < keys.count ? g + step : keys.count;
        for (int q = 0; q < count; q += SCORE_QUERIES) {
            const int queries = count - q < SCORE_QUERIES ? count - q : SCORE_QUERIES;
            find_score(queries)(query + static_cast<size_t>(q) * pairs, pairs, keys, g, end,
                                scores + static_cast<size_t>(q) * SCORE_STRIDE);
        }
    }
}

// out [count][dim] = weights [count][WEIGHT_STRIDE] times values.
inline void weigh_all(const uint16_t* weights, int count, int dim, const Groups& values,
                      float* out) {
    const int vectors = dim / LANES;
    const int parts = (vectors + WEIGH_VECTORS - 1) / WEIGH_VECTORS;
    for (int q = 0; q < count; q += WEIGH_QUERIES) {
        const int queries = count - q < WEIGH_QUERIES ? count - q : WEIGH_QUERIES;
        for (int part = 0; part < parts; ++part) {  // near-equal parts: few accumulators are slow
            const int begin = vectors * part / parts, end = vectors * (part + 1) / parts;
            find_weigh(queries, end - begin)(
                weights + static_cast<size_t>(q) * WEIGHT_STRIDE, values, LANES * begin, dim,
                out + static_cast<size_t>(q) * dim + LANES * begin);
        }
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
