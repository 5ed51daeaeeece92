// A weight matrix as the kernels read it. pack.hpp makes and owns the memory.
//
// PANEL output channels are kept together, the inner dimension in groups of four (two for bf16):
//
//   bytes    [k / 4][2][16][4] u8       vectors of 16 channels, 4 columns each
//   words    [k / 2][2][16][2] bf16
//   nibbles  [k / 8][2][16][4] u8       byte j of a channel: column j low, column 4 + j high
//
// in `many` (any number of rows reads it) and, for int8, perhaps in `few` besides:
//
//   int8    many: bytes, u8 = w + 128. few: per 32 columns [32] u32 (dq | mq << 16), then nibbles;
//           u8 = ((dq q + mq) mod 2^16) >> 8, the same as in `many`.
//   native  many: per 32 columns [32] u16 d, or [32] u32 (d | m << 16), both IEEE half; then nibbles
//           or bytes. w = d (value - offset) + m.
//   bf16    many: words.
#pragma once

#include "kernels.hpp"

namespace headrace {

// How a panel's blocks of 32 look in the native format.
enum class Form : uint8_t {
    q4_0,  // d, nibbles, offset 8
    q4_1,  // d and m, nibbles, offset 0
    q8_0,  // d, bytes, offset 128
    q8_1,  // d and m, bytes, offset 128; where types meet in a panel
};

constexpr bool has_minimum(Form form) { return form == Form::q4_1 || form == Form::q8_1; }
constexpr bool has_nibbles(Form form) { return form == Form::q4_0 || form == Form::q4_1; }
// Bytes of 32 columns of a panel.
constexpr int form_bytes(Form form) {
    return PANEL * ((has_minimum(form) ? 4 : 2) + (has_nibbles(form) ? 16 : 32));
}
constexpr int FEW_BYTES = form_bytes(Form::q4_1);

// Up to this many rows reading fewer bytes is worth the work of opening nibbles.
constexpr int FEW_ROWS = 8;

struct Panel {
    const uint8_t* many;
    const uint8_t* few;  // null where there are no nibbles
    Form form;           // of native panels
};

struct Weight {
    Kind kind;
    bool gated;          // panels of 16 rows of gate and the same 16 of up
    int n;               // output channels; of a gated weight, of gate alone
    int k;               // columns
    int width;           // columns, padded to a multiple of CHUNK
    int panels;          // of a gated weight a multiple of 4
    int few_rows;        // up to this many rows `few` is read
    const Panel* panel;  // [panels]
    const float* scale;  // [panels][PANEL], the D of int8; null otherwise
    const float* bias;   // [panels][PANEL], zeros where there is none
    size_t many_bytes, few_bytes;  // few_bytes: what a product of few rows reads
    // Bytes that a product of so many rows reads.
    size_t bytes_read(int rows) const { return rows <= few_rows ? few_bytes : many_bytes; }
    int units() const { return gated ? panels / 4 : panels; }
};

// How a product is cut: `unit_grain` panels (groups of 4 of a gated weight) by `row_grain` rows a
// task. Tasks that read the same weights follow one another.
struct Tasks {
    int units, rows, unit_grain, row_grain;
    int row_tasks() const { return (rows + row_grain - 1) / row_grain; }
    int count() const { return (units + unit_grain - 1) / unit_grain * row_tasks(); }

    int unit_begin(int task) const { return task / row_tasks() * unit_grain; }
    int unit_end(int task) const { return smaller(unit_begin(task) + unit_grain, units); }
    int row_begin(int task) const { return task % row_tasks() * row_grain; }
    int row_end(int task) const { return smaller(row_begin(task) + row_grain, rows); }

  private:
    static int smaller(int a, int b) { return a < b ? a : b; }
};

// Long runs of panels, because a run's first panel is not fetched ahead; as many for every thread as
// for the others; and more than one a thread, for one that is kept from its core.
inline Tasks plan_tasks(const Weight& weight, int rows, int threads) {
    const int units = weight.units();
    Tasks best = {units, rows, units, rows > 0 ? rows : 1};
    if (threads <= 1) return best;
    const int rows_of_tiles = 12;
    int row_tasks = 1;  // where panels are too few for the threads, rows are cut as well
    while (units * row_tasks < 2 * threads && rows >= 2 * row_tasks * rows_of_tiles) row_tasks *= 2;
    best.row_grain = (best.row_grain + row_tasks - 1) / row_tasks;
    const int most_units = 48;  // in a run; half a megabyte or more, nothing to gain beyond
    const int fewest = units / (most_units * threads) > 2 ? units / (most_units * threads) : 2;
    int least = 0;
    for (int each = fewest; each <= fewest + 4; ++each) {
        Tasks tasks = best;
        tasks.unit_grain = (units * row_tasks + each * threads - 1) / (each * threads);
        if (tasks.unit_grain > units) tasks.unit_grain = units;
        const int rounds = (tasks.count() + threads - 1) / threads;
        const int longest = rounds * tasks.unit_grain * tasks.row_grain;
        if (least != 0 && longest >= least) continue;
        least = longest;
        best.unit_grain = tasks.unit_grain;
    }
    return best;
}

}  // namespace headrace
