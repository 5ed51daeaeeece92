// Weights and products for Python: packing at load, products for tests and measurements.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "pack.hpp"
#include "pool.hpp"

namespace headrace {
namespace {

namespace nb = nanobind;
using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using Matrix = std::pair<std::string, Array>;

Kind kind_of(const std::string& name) {
    if (name == "int8") return Kind::int8;
    if (name == "native") return Kind::native;
    if (name == "bf16") return Kind::bf16;
    throw std::invalid_argument("the format is '" + name + "'; choose int8, native or bf16");
}

const char* name_of(Kind kind) {
    return kind == Kind::int8 ? "int8" : kind == Kind::native ? "native" : "bf16";
}

Stored stored_of(const std::string& name) {
    constexpr std::pair<const char*, Stored> known[] = {
        {"F32", Stored::f32},   {"F16", Stored::f16},   {"BF16", Stored::bf16},
        {"Q8_0", Stored::q8_0}, {"Q4_0", Stored::q4_0}, {"Q4_1", Stored::q4_1},
    };
    for (const auto& [text, type] : known)
        if (name == text) return type;
    throw std::invalid_argument("the type is '" + name +
                                "'; choose F32, F16, BF16, Q8_0, Q4_0 or Q4_1, or dequantise it");
}

std::string size_text(const Array& a) {
    std::string text = "[";
    for (size_t i = 0; i < a.ndim(); ++i) text += (i ? ", " : "") + std::to_string(a.shape(i));
    return text + "]";
}

// The piece, and in k its columns (to be the same as k where that is above zero).
Piece piece_of(const Matrix& matrix, int& k) {
    const auto& [name, array] = matrix;
    const Stored type = stored_of(name);
    const bool floats = type == Stored::f32 && array.dtype() == nb::dtype<float>();
    if (array.ndim() != 2 || (!floats && array.dtype() != nb::dtype<uint8_t>()))
        throw std::invalid_argument("a matrix of type " + name + " must be " +
                                    (type == Stored::f32 ? "float32 [n, k] or " : "") +
                                    "uint8 [n, bytes of a row]; it has the shape " +
                                    size_text(array));
    const size_t bytes = array.shape(1) * (floats ? 4 : 1), unit = stored_bytes(type);
    const size_t columns = bytes / unit * stored_block(type);
    if (bytes % unit != 0)
        throw std::invalid_argument("rows of type " + name + " come in blocks of " +
                                    std::to_string(unit) + " bytes; these have " +
                                    std::to_string(bytes));
    if (array.shape(0) < 1 || columns < 1 || array.shape(0) > (1u << 24) || columns > (1u << 20))
        throw std::invalid_argument("a matrix must have 1 to 2^24 rows and 1 to 2^20 columns; it "
                                    "has the shape " + size_text(array));
    if (k > 0 && columns != static_cast<size_t>(k))
        throw std::invalid_argument("matrices of one weight need the same number of columns; they "
                                    "have " + std::to_string(k) + " and " +
                                    std::to_string(columns));
    k = static_cast<int>(columns);
    return {type, static_cast<int>(array.shape(0)), static_cast<const uint8_t*>(array.data())};
}

const float* bias_of(const std::optional<Vector>& bias, size_t rows) {
    if (!bias) return nullptr;
    if (bias->shape(0) != rows)
        throw std::invalid_argument("the bias has " + std::to_string(bias->shape(0)) +
                                    " values for " + std::to_string(rows) + " rows");
    for (size_t i = 0; i < rows; ++i)
        if (!std::isfinite(bias->data()[i]))
            throw std::invalid_argument("value " + std::to_string(i) +
                                        " of the bias is not finite; the file is damaged");
    return bias->data();
}

std::shared_ptr<PackedWeight> pack(const std::string& kind, const std::vector<Matrix>& matrices,
                                   const std::optional<Vector>& bias) {
    const Kind format = kind_of(kind);
    std::vector<Piece> pieces;
    int k = 0;
    size_t rows = 0;
    for (const Matrix& matrix : matrices) {
        pieces.push_back(piece_of(matrix, k));
        rows += static_cast<size_t>(pieces.back().n);
    }
    if (rows > (1u << 24)) throw std::invalid_argument("a weight may have at most 2^24 rows");
    const float* values = bias_of(bias, rows);
    nb::gil_scoped_release release;
    return PackedWeight::pack(format, pieces, k, values);
}

std::shared_ptr<PackedWeight> pack_gated(const std::string& kind, const Matrix& gate,
                                         const Matrix& up, const std::optional<Vector>& gate_bias,
                                         const std::optional<Vector>& up_bias) {
    const Kind format = kind_of(kind);
    int k = 0;
    const Piece first = piece_of(gate, k), second = piece_of(up, k);
    if (gate_bias.has_value() != up_bias.has_value())
        throw std::invalid_argument("gate and up need a bias both, or none");
    const float* values = bias_of(gate_bias, static_cast<size_t>(first.n));
    const float* up_values = bias_of(up_bias, static_cast<size_t>(second.n));
    nb::gil_scoped_release release;
    return PackedWeight::pack_gated(format, first, second, k, values, up_values);
}

// Rows and their memory.
struct Activations {
    Rows rows;
    std::vector<uint8_t> data;
    std::vector<float> scale;
    std::vector<int32_t> sum;

    Activations(Kind kind, int count, int width) : rows{kind, width, nullptr, nullptr, nullptr} {
        data.resize(rows.stride() * count + 64);
        const size_t blocks = static_cast<size_t>(rows.blocks()) * count;
        scale.resize(blocks);
        sum.resize(blocks);
        rows.data = data.data() + (64 - reinterpret_cast<uintptr_t>(data.data()) % 64) % 64;
        rows.scale = scale.data();
        rows.sum = sum.data();
    }

    float value(int row, int column) const {
        const uint8_t* line = rows.data + rows.stride() * row;
        if (rows.kind == Kind::bf16) {
            const uint32_t bits = static_cast<uint32_t>(line[2 * column]) << 16 |
                                  static_cast<uint32_t>(line[2 * column + 1]) << 24;
            float value;
            std::memcpy(&value, &bits, 4);
            return value;
        }
        const int block = row * rows.blocks() + column / block_of(rows.kind);
        return rows.scale[block] * static_cast<float>(static_cast<int8_t>(line[column]));
    }
};

// How a product is to be run, where not as the plan says.
struct Way {
    std::string kernels;
    std::optional<int> few_rows, unit_grain, row_grain;
};

struct Job {
    Weight weight;
    const Kernels* kernels;
    Tasks tasks;
    int rows;

    Job(const PackedWeight& packed, const Floats& x, const Way& way, bool gated)
        : weight(packed.view()), rows(static_cast<int>(x.shape(0))) {
        if (weight.gated != gated)
            throw std::invalid_argument(gated ? "this weight was not packed with pack_gated"
                                              : "this weight was packed for gated");
        if (x.shape(1) != static_cast<size_t>(weight.k) || x.shape(0) > (1u << 20))
            throw std::invalid_argument("x must be float32 [rows, " + std::to_string(weight.k) +
                                        "] of at most 2^20 rows; it is [" +
                                        std::to_string(x.shape(0)) + ", " +
                                        std::to_string(x.shape(1)) + "]");
        kernels = choose_kernels(way.kernels.empty() ? nullptr : way.kernels.c_str());
        if (kernels == nullptr)
            throw std::invalid_argument("there are no kernels '" + way.kernels +
                                        "' that this processor runs");
        if (way.few_rows) weight.few_rows = *way.few_rows;
        tasks = plan_tasks(weight, rows, pool().threads());
        if (way.unit_grain.value_or(1) < 1 || way.row_grain.value_or(1) < 1)
            throw std::invalid_argument("unit_grain and row_grain must be at least 1");
        tasks.unit_grain = way.unit_grain.value_or(tasks.unit_grain);
        tasks.row_grain = way.row_grain.value_or(tasks.row_grain);
    }

    Activations quantised(const Floats& x) const {
        Activations out(weight.kind, rows, weight.width);
        kernels->quantise(x.data(), weight.k, out.rows, 0, rows);
        return out;
    }

    void product(const Weight& w, const Rows& x, float* y, Finish finish) const {
        pool().each(tasks.count(), [&](int t, int) {
            kernels->product({&w, x, y, static_cast<size_t>(w.n), finish, tasks.row_begin(t),
                              tasks.row_end(t), tasks.unit_begin(t), tasks.unit_end(t)});
        });
    }

    void gated(const Weight& w, const Rows& x, const Rows& out) const {
        pool().each(tasks.count(), [&](int t, int) {
            kernels->gated({&w, x, out, tasks.row_begin(t), tasks.row_end(t), tasks.unit_begin(t),
                            tasks.unit_end(t)});
        });
    }
};

Result result(std::unique_ptr<float[]> data, int rows, int columns) {
    float* values = data.release();
    nb::capsule owner(values, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return Result(values, {static_cast<size_t>(rows), static_cast<size_t>(columns)}, owner);
}

Result product(const PackedWeight& packed, const Floats& x, const std::string& kernels,
               std::optional<int> few_rows, std::optional<int> unit_grain,
               std::optional<int> row_grain, const std::optional<Floats>& add_to) {
    const Job job(packed, x, {kernels, few_rows, unit_grain, row_grain}, false);
    const size_t size = static_cast<size_t>(job.rows) * job.weight.n;
    if (add_to && add_to->size() != size)
        throw std::invalid_argument("add_to must have the shape of the result");
    std::unique_ptr<float[]> y(new float[size + 1]);
    y[size] = 1.0f;
    if (add_to) std::memcpy(y.get(), add_to->data(), size * sizeof(float));
    const Activations in = job.quantised(x);
    const PoolTurn turn;
    job.product(job.weight, in.rows, y.get(), add_to ? Finish::add : Finish::store);
    if (y[size] != 1.0f) throw std::runtime_error("the product wrote past its last row");
    return result(std::move(y), job.rows, job.weight.n);
}

Result gated(const PackedWeight& packed, const Floats& x, const std::string& kernels,
             std::optional<int> few_rows, std::optional<int> unit_grain,
             std::optional<int> row_grain) {
    const Job job(packed, x, {kernels, few_rows, unit_grain, row_grain}, true);
    const int n = job.weight.n;
    const Activations in = job.quantised(x);
    const Activations out(job.weight.kind, job.rows, round_up(n, CHUNK));
    const PoolTurn turn;
    job.gated(job.weight, in.rows, out.rows);
    std::unique_ptr<float[]> y(new float[static_cast<size_t>(job.rows) * n]);
    for (int r = 0; r < job.rows; ++r)
        for (int i = 0; i < n; ++i) y[static_cast<size_t>(r) * n + i] = out.value(r, i);
    return result(std::move(y), job.rows, n);
}

std::vector<double> time_products(const std::vector<std::shared_ptr<PackedWeight>>& weights, const Floats& x,
                     int passes, const std::string& kernels, std::optional<int> few_rows,
                     std::optional<int> unit_grain, std::optional<int> row_grain) {
    if (weights.empty() || passes < 1)
        throw std::invalid_argument("there must be a weight and a pass to time");
    std::vector<Weight> views;
    for (const auto& weight : weights) {
        views.push_back(weight->view());
        if (few_rows) views.back().few_rows = *few_rows;
        if (views.back().n != views[0].n || views.back().k != views[0].k ||
            views.back().kind != views[0].kind || views.back().gated != views[0].gated)
            throw std::invalid_argument("weights timed together must be alike");
    }
    const Job job(*weights[0], x, {kernels, few_rows, unit_grain, row_grain}, views[0].gated);
    const Activations in = job.quantised(x);
    const Activations out(in.rows.kind, job.rows, round_up(job.weight.n, CHUNK));
    std::vector<float> y(views[0].gated ? 1 : static_cast<size_t>(job.rows) * views[0].n);
    std::vector<double> seconds;
    nb::gil_scoped_release release;
    const PoolTurn turn;
    auto start = std::chrono::steady_clock::now();
    for (int pass = 0; pass < passes; ++pass)
        for (const Weight& view : views) {
            if (view.gated)
                job.gated(view, in.rows, out.rows);
            else
                job.product(view, in.rows, y.data(), Finish::store);
            const auto end = std::chrono::steady_clock::now();
            seconds.push_back(std::chrono::duration<double>(end - start).count());
            start = end;
        }
    return seconds;
}

Result dense(const PackedWeight& packed) {
    const Weight& w = packed.view();
    const int rows = w.gated ? 2 * w.n : w.n;
    std::unique_ptr<float[]> out(new float[static_cast<size_t>(rows) * w.k]);
    for (int r = 0; r < rows; ++r) packed.dense_row(r, out.get() + static_cast<size_t>(r) * w.k);
    return result(std::move(out), rows, w.k);
}

}  // namespace

void bind_products(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<PackedWeight>(m, "Weight", "A weight matrix, packed for the kernels.")
        .def_static("pack", &pack, "kind"_a, "pieces"_a, "bias"_a = nb::none(),
                    "Pack matrices stacked in order. ``pieces``: (GGML type, array) each, where "
                    "the array is uint8 [n, bytes of a row], or float32 [n, k] of type F32. "
                    "``bias``: float32 [rows in all]. Raises ValueError for what does not fit.")
        .def_static("pack_gated", &pack_gated, "kind"_a, "gate"_a, "up"_a,
                    "gate_bias"_a = nb::none(), "up_bias"_a = nb::none(),
                    "Pack gate and up for ``gated``; each a piece as in ``pack``.")
        .def_prop_ro("rows_out", [](const PackedWeight& w) { return w.view().n; })
        .def_prop_ro("rows_in", [](const PackedWeight& w) { return w.view().k; })
        .def_prop_ro("nbytes", &PackedWeight::nbytes)
        .def_prop_ro("format", [](const PackedWeight& w) { return name_of(w.view().kind); })
        .def(
            "bytes_read",
            [](const PackedWeight& w, int rows) { return w.view().bytes_read(rows); }, "rows"_a,
            "Bytes that a product of so many rows reads.")
        .def("dense", &dense,
             "float32 [n, k]: the values it stands for; of a gated weight gate's rows, then up's.");
    m.def("product", &product, "weight"_a, "x"_a.noconvert(), "kernels"_a = "",
          "few_rows"_a = nb::none(), "unit_grain"_a = nb::none(), "row_grain"_a = nb::none(),
          "add_to"_a = nb::none(),
          "x float32 [R, K] times the weight: float32 [R, N]. By name of the kernels, how many rows "
          "read nibbles, and how the work is cut, where not as planned.");
    m.def("gated", &gated, "weight"_a, "x"_a.noconvert(), "kernels"_a = "",
          "few_rows"_a = nb::none(), "unit_grain"_a = nb::none(), "row_grain"_a = nb::none(),
          "silu(x gate) * (x up), quantised and back: float32 [R, I].");
    m.def("time_products", &time_products, "weights"_a, "x"_a.noconvert(), "passes"_a,
          "kernels"_a = "", "few_rows"_a = nb::none(), "unit_grain"_a = nb::none(),
          "row_grain"_a = nb::none(),
          "Seconds of every product of x with one of the weights, run one after the other.");
}

}  // namespace headrace
