// Matrix products: every panel against tiles of rows. How rows are cut into tiles, and whether
// weights are read as nibbles or as bytes, changes no bit of a result.
#pragma once

#include <cstdlib>

#include "kernels.hpp"
#include "products_ahead.hpp"
#include "products_bf16.hpp"
#include "products_int8.hpp"
#include "products_native.hpp"
#include "rows.hpp"
#include "simd.hpp"
#include "weight.hpp"

namespace headrace {
namespace HEADRACE_ISA {

// The thread's own memory for the bytes of a panel.
struct Scratch {
    uint8_t* data = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(data); }
    uint8_t* get(size_t wanted) {
        if (wanted > size) {
            std::free(data);
            data = static_cast<uint8_t*>(std::aligned_alloc(64, wanted));
            if (data == nullptr) std::abort();
            size = wanted;
        }
        return data;
    }
};

// Calls tile.run<ROWS>(first row) for tiles of nearly equal numbers of rows.
template <int ROWS, class Tile>
inline void run_tile(const Tile& tile, int rows, int row, const Ahead& ahead) {
    if (rows == ROWS)
        tile.template run<ROWS>(row, ahead);
    else if constexpr (ROWS > 1)
        run_tile<ROWS - 1>(tile, rows, row, ahead);
}
template <class Tile>
inline void run_tiles(const Tile& tile, int begin, int end, const Stretch& next) {
    const int rows = end - begin, tiles = (rows + Tile::ROWS - 1) / Tile::ROWS;
    const int blocks = tile.x.width / Tile::BLOCK;
    for (int t = 0, row = begin; t < tiles; ++t) {
        const int count = (end - row + tiles - t - 1) / (tiles - t);
        run_tile<Tile::ROWS>(tile, count, row, Ahead::share(next, t, tiles, blocks));
        row += count;
    }
}

template <int ROWS, class Put>
HEADRACE_INLINE void put_sums(int row, const F32 (&sums)[ROWS][2], const Put& put) {
    unrolled<ROWS>(
        [&](auto r) HEADRACE_INLINE_LAMBDA { put(row + r, sums[r][0], sums[r][1]); });
}

// Sums of a tile by format, handed to put(row, sums of the panel's first half, of its second).
template <class Source, int MOST, class Put>
struct Int8Tile {
    static constexpr int ROWS = MOST, BLOCK = 32;
    Source source;
    const Rows& x;
    const Put& put;
    template <int R>
    HEADRACE_NOINLINE void run(int row, Ahead ahead) const {
        F32 sums[R][2];
        sum_int8<R>(source, x, row, ahead, sums);
        put_sums<R>(row, sums, put);
    }
};
template <Form FORM, class Put>
struct NativeTile {
    static constexpr int ROWS = NATIVE_ROWS, BLOCK = 32;
    FromBlocks<FORM> source;
    const Rows& x;
    const Put& put;
    template <int R>
    HEADRACE_NOINLINE void run(int row, Ahead ahead) const {
        F32 sums[R][2];
        sum_native<R>(source, x, row, ahead, sums);
        put_sums<R>(row, sums, put);
    }
};
template <class Put>
struct Bf16Tile {
    static constexpr int ROWS = BF16_ROWS, BLOCK = BF16_BLOCK;
    const uint8_t* panel;
    const Rows& x;
    const Put& put;
    template <int R>
    HEADRACE_NOINLINE void run(int row, Ahead ahead) const {
        F32 sums[R][2];
        sum_bf16<R>(panel, x, row, ahead, sums);
        put_sums<R>(row, sums, put);
    }
};

template <Form FORM, class Put>
inline void run_native(const Panel& panel, const Rows& x, int begin, int end, const Stretch& next,
                       const Put& put) {
    run_tiles(NativeTile<FORM, Put>{{panel.many}, x, put}, begin, end, next);
}

inline bool reads_few(const Weight& w, const Panel& panel, int rows) {
    return panel.few != nullptr && rows <= w.few_rows;
}

// What a product of so many rows reads of a panel.
inline Stretch stretch_of(const Weight& w, const Panel& panel, int rows) {
    const size_t width = static_cast<size_t>(w.width);
    if (reads_few(w, panel, rows)) return {panel.few, width / 32 * FEW_BYTES};
    if (w.kind == Kind::native) return {panel.many, width / 32 * form_bytes(panel.form)};
    return {panel.many, width * PANEL * (w.kind == Kind::bf16 ? 2 : 1)};
}

// What to ask for while panel `index` of those up to `end` is multiplied. A single tile is through
// with its panel so soon that it asks for what it needs itself, a little later.
inline Stretch ahead_of(const Weight& w, int index, int end, int rows) {
    const int tile = w.kind == Kind::bf16               ? BF16_ROWS
                     : w.kind == Kind::native           ? NATIVE_ROWS
                     : reads_few(w, w.panel[index], rows) ? NIBBLE_ROWS
                                                        : INT8_ROWS;
    if (rows <= tile) {
        const Stretch own = stretch_of(w, w.panel[index], rows);
        return {own.at + (w.kind == Kind::bf16 ? 8192 : 4096), own.bytes};
    }
    return index + 1 < end ? stretch_of(w, w.panel[index + 1], rows) : Stretch{nullptr, 0};
}

// put(row, first half, second half) for every row of the range: sums over the columns, without the
// int8 weights' scale. More panels follow up to `panel_end`.
template <class Put>
inline void run_panel(const Weight& w, int index, int panel_end, const Rows& x, int begin, int end,
                      const Put& put) {
    const Panel& panel = w.panel[index];
    const Stretch next = ahead_of(w, index, panel_end, end - begin);
    if (w.kind == Kind::bf16) {
        run_tiles(Bf16Tile<Put>{panel.many, x, put}, begin, end, next);
    } else if (w.kind == Kind::native) {
        switch (panel.form) {
            case Form::q4_0: return run_native<Form::q4_0>(panel, x, begin, end, next, put);
            case Form::q4_1: return run_native<Form::q4_1>(panel, x, begin, end, next, put);
            case Form::q8_0: return run_native<Form::q8_0>(panel, x, begin, end, next, put);
            case Form::q8_1: return run_native<Form::q8_1>(panel, x, begin, end, next, put);
        }
    } else if (!reads_few(w, panel, end - begin)) {
        run_tiles(Int8Tile<FromBytes, INT8_ROWS, Put>{{panel.many}, x, put}, begin, end, next);
    } else if (end - begin <= NIBBLE_ROWS) {
        run_tiles(Int8Tile<FromNibbles, NIBBLE_ROWS, Put>{{panel.few}, x, put}, begin, end, next);
    } else {
        static thread_local Scratch scratch;
        uint8_t* bytes = scratch.get(static_cast<size_t>(w.width) * PANEL);
        expand_nibbles({panel.few}, w.width, bytes);
        run_tiles(Int8Tile<FromBytes, INT8_ROWS, Put>{{bytes}, x, put}, begin, end, next);
    }
}

// Sums to values: the weights' scale if they have one, and the bias.
struct Scaling {
    F32 scale[2], bias[2];
    bool scaled;
    Scaling(const Weight& w, int panel) : scaled(w.scale != nullptr) {
        for (int half = 0; half < 2; ++half) {
            const int at = panel * PANEL + half * LANES;
            scale[half] = scaled ? load(w.scale + at) : set1(1.0f);
            bias[half] = load(w.bias + at);
        }
    }
    HEADRACE_INLINE F32 value(F32 sum, int half) const {
        return scaled ? fma(sum, scale[half], bias[half]) : add(sum, bias[half]);
    }
};

HEADRACE_INLINE void put_values(float* y, F32 value, int count, Finish finish) {
    if (count >= LANES)
        store(y, finish == Finish::add ? add(load(y), value) : value);
    else if (count > 0)
        store_first(y, finish == Finish::add ? add(load_first(y, count), value) : value, count);
}

inline void product(const Product& p) {
    const Weight& w = *p.weight;
    for (int panel = p.panel_begin; panel < p.panel_end; ++panel) {
        const Scaling scaling(w, panel);
        const int column = panel * PANEL;
        const auto put = [&](int row, F32 first, F32 second) HEADRACE_INLINE_LAMBDA {
            float* y = p.y + p.y_stride * static_cast<size_t>(row) + column;
            put_values(y, scaling.value(first, 0), w.n - column, p.finish);
            put_values(y + LANES, scaling.value(second, 1), w.n - column - LANES, p.finish);
        };
        run_panel(w, panel, p.panel_end, p.x, p.row_begin, p.row_end, put);
    }
}

inline void gated(const Gated& g) {
    constexpr int ROWS = 48;  // their chunks fit the first-level cache beside a panel
    alignas(64) float chunks[ROWS][CHUNK];
    for (int group = g.group_begin; group < g.group_end; ++group)
        for (int begin = g.row_begin; begin < g.row_end; begin += ROWS) {
            const int end = begin + ROWS < g.row_end ? begin + ROWS : g.row_end;
            for (int j = 0; j < 4; ++j) {
                const Scaling scaling(*g.weight, 4 * group + j);
                const auto put = [&](int row, F32 gate, F32 up) HEADRACE_INLINE_LAMBDA {
                    gate = silu(scaling.value(gate, 0));
                    store(chunks[row - begin] + LANES * j, mul(gate, scaling.value(up, 1)));
                };
                run_panel(*g.weight, 4 * group + j, 4 * g.group_end, g.x, begin, end, put);
            }
            for (int row = begin; row < end; ++row) put_chunk(g.out, row, group, chunks[row - begin]);
        }
}

}  // namespace HEADRACE_ISA
}  // namespace headrace
