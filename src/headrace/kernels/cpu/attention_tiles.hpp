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
constexpr int SPLIT_GROUPS = SPLIT / GROUP_TOKENS;

// The groups of 16 keys (or values) of a split, wherever their blocks are; and per group what to
// fetch from memory while it is worked on, as the kernels read one cache line of each at a time.
struct Groups {
    int count;
    const uint8_t* const* at;
    const uint8_t* const* ahead;
};

// 32 elements as bf16, from a cache that holds them as they are, or as int8, which bf16 holds exactly.
struct Bf16Line {
    static constexpr int BYTES = 64;
    static B64 read(const uint8_t* p) { return load64(p); }
};
struct Int8Line {
    static constexpr int BYTES = 32;
    static B64 read(const uint8_t* p) {
        const int8_t* x = reinterpret_cast<const int8_t*>(p);
        return pack_bf16(to_float(load_i8(x)), to_float(load_i8(x + LANES)));
    }
};

// Most groups of keys that a tile of Q queries takes at once.
constexpr int score_groups(int queries) {
    int groups = WIDE ? 8 : 4;
    while (groups > 1 && groups * queries > ACCUMULATORS) groups /= 2;
    return groups;
}

// scores[q][16 g + token] of Q queries and G groups. query: [pairs][Q] words of two bf16.
template <class Line, int Q, int G>
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
            k[g] = Line::read(key[g] + Line::BYTES * d);
            __builtin_prefetch(ahead[g] + Line::BYTES * d);
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
template <class Line, int Q>
inline void score_queries(const uint32_t* query, int pairs, const Groups& keys, int begin, int end,
                          float* scores) {
    constexpr int MOST = score_groups(Q);
    const auto tile = [&](auto run, int groups) {
        run(query, pairs, keys.at + begin, keys.ahead + begin, scores + GROUP_TOKENS * begin);
        begin += groups;
    };
    // Groups of large heads are 4 KiB apart or more, so their lines fall into the same sets of the
    // first-level cache: eight of them and what is fetched ahead would drive each other out.
    while (end - begin >= MOST && (MOST <= 4 || pairs <= 32))
        tile(score_tile<Line, Q, MOST>, MOST);
    if constexpr (MOST > 4)
        while (end - begin >= 4) tile(score_tile<Line, Q, 4>, 4);
    if constexpr (MOST > 2)
        if (end - begin >= 2) tile(score_tile<Line, Q, 2>, 2);
    if constexpr (MOST > 1)
        if (end - begin >= 1) tile(score_tile<Line, Q, 1>, 1);
}

using ScoreQueries = void (*)(const uint32_t*, int, const Groups&, int, int, float*);

template <class Line>
inline ScoreQueries find_score(int queries) {
    if constexpr (WIDE) {
        static constexpr ScoreQueries table[] = {
            nullptr,
            score_queries<Line, 1>, score_queries<Line, 2>,  score_queries<Line, 3>,
            score_queries<Line, 4>, score_queries<Line, 5>,  score_queries<Line, 6>,
            score_queries<Line, 7>, score_queries<Line, 8>,  score_queries<Line, 9>,
            score_queries<Line, 10>, score_queries<Line, 11>, score_queries<Line, 12>,
        };
        return table[queries];
    } else {
        static constexpr ScoreQueries table[] = {
            nullptr,
            score_queries<Line, 1>, score_queries<Line, 2>,
            score_queries<Line, 3>, score_queries<Line, 4>,
        };
        return table[queries];
    }
}

// Most vectors of 16 dimensions that a tile of Q queries takes at once.
constexpr int weigh_vectors(int queries) {
    if (!WIDE) return 2;
    return queries <= 3 ? 8 : queries == 4 ? 6 : 4;
}

// out[q][16 v + lane] of Q queries and V vectors of dimensions, summed over all groups of values.
// weights: bf16 [Q][WEIGHT_STRIDE]; `at` and the stride `dim` say which dimensions.
template <class Line, int Q, int V>
inline void weigh_tile(const uint16_t* weights, const Groups& values, int at, int dim, float* out) {
    constexpr size_t LANE_BYTES = Line::BYTES / LANES;  // a pair of tokens, one dimension
    F32 acc[Q][V];
#pragma GCC unroll 6
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[q][v] = set1(0.0f);
    for (int g = 0; g < values.count; ++g) {
        const uint8_t* value = values.at[g] + LANE_BYTES * at;
        const uint8_t* ahead = values.ahead[g] + LANE_BYTES * at;
        for (int pair = 0; pair < GROUP_TOKENS / 2; ++pair) {
            B64 x[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                x[v] = Line::read(value + Line::BYTES * v);
                __builtin_prefetch(ahead + Line::BYTES * v);
            }
#pragma GCC unroll 6
            for (int q = 0; q < Q; ++q) {
                const B64 w = broadcast4(load_u32(weights + q * WEIGHT_STRIDE));
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) dot_bf16(acc[q][v], x[v], w);
            }
            weights += 2;
            value += LANE_BYTES * dim;
            ahead += LANE_BYTES * dim;
        }
    }
#pragma GCC unroll 6
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store(out + static_cast<size_t>(q) * dim + LANES * v, acc[q][v]);
}

using WeighTile = void (*)(const uint16_t*, const Groups&, int, int, float*);

template <class Line, int Q>
inline WeighTile find_weigh_of(int vectors) {
    constexpr int MOST = weigh_vectors(Q);
    if constexpr (MOST >= 8) {
        if (vectors == 8) return weigh_tile<Line, Q, 8>;
        if (vectors == 7) return weigh_tile<Line, Q, 7>;
    }
    if constexpr (MOST >= 6) {
        if (vectors == 6) return weigh_tile<Line, Q, 6>;
        if (vectors == 5) return weigh_tile<Line, Q, 5>;
    }
    if constexpr (MOST >= 4) {
        if (vectors == 4) return weigh_tile<Line, Q, 4>;
        if (vectors == 3) return weigh_tile<Line, Q, 3>;
    }
    return vectors == 2 ? weigh_tile<Line, Q, 2> : weigh_tile<Line, Q, 1>;
}

template <class Line>
inline WeighTile find_weigh(int queries, int vectors) {
    if constexpr (WIDE) {
        switch (queries) {
            case 6: return find_weigh_of<Line, 6>(vectors);
            case 5: return find_weigh_of<Line, 5>(vectors);
            case 4: return find_weigh_of<Line, 4>(vectors);
            case 3: return find_weigh_of<Line, 3>(vectors);
        }
    }
    return queries == 2 ? find_weigh_of<Line, 2>(vectors) : find_weigh_of<Line, 1>(vectors);
}

// All scores of `count` queries against the keys. query: as packed by pack_queries.
template <class Line>
inline void score_all(const uint32_t* query, int count, int dim, const Groups& keys,
                      float* scores) {
    const int pairs = dim / 2;
    // Few groups at a time, so that they stay in the first-level cache for all queries.
    const int step = count <= SCORE_QUERIES ? SPLIT_GROUPS : 4;
    for (int g = 0; g < keys.count; g += step) {
        const int end = g + step < keys.count ? g + step : keys.count;
        for (int q = 0; q < count; q += SCORE_QUERIES) {
            const int queries = count - q < SCORE_QUERIES ? count - q : SCORE_QUERIES;
            find_score<Line>(queries)(query + static_cast<size_t>(q) * pairs, pairs, keys, g, end,
                                scores + static_cast<size_t>(q) * SCORE_STRIDE);
        }
    }
}

// out [count][dim] = weights [count][WEIGHT_STRIDE] times values.
template <class Line>
inline void weigh_all(const uint16_t* weights, int count, int dim, const Groups& values,
                      float* out) {
    const int vectors = dim / LANES;
    for (int q = 0; q < count; q += WEIGH_QUERIES) {
        const int queries = count - q < WEIGH_QUERIES ? count - q : WEIGH_QUERIES;
        const int most = weigh_vectors(queries), parts = (vectors + most - 1) / most;
        for (int part = 0; part < parts; ++part) {  // near-equal parts: few accumulators are slow
            const int begin = vectors * part / parts, end = vectors * (part + 1) / parts;
            find_weigh<Line>(queries, end - begin)(
                weights + static_cast<size_t>(q) * WEIGHT_STRIDE, values, LANES * begin, dim,
                out + static_cast<size_t>(q) * dim + LANES * begin);
        }
    }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
