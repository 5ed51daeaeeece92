// The cache and the attention kernels for Python: blocks cleared and copied, and whole calls for
// tests and measurements.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attention_plan.hpp"
#include "bindings.hpp"
#include "pool.hpp"

namespace headrace {
namespace {

namespace nb = nanobind;
using CacheArray = nb::ndarray<uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using LayerArray = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Kernel = std::optional<std::string>;

CacheFormat format_of(const std::string& name) {
    if (name == "bf16") return CacheFormat::bf16;
    if (name == "int8") return CacheFormat::int8;
    throw std::invalid_argument("the cache's format is '" + name + "'; choose bf16 or int8");
}

const Kernels& kernels_of(const Kernel& name) {
    const Kernels* found = choose_kernels(name ? name->c_str() : nullptr);
    if (found == nullptr)
        throw std::invalid_argument("this processor runs no build of the kernels named '" + *name +
                                    "'");
    return *found;
}

AttentionShape shape_of(const std::string& format, int heads, int kv_heads, int head_dim,
                        int block_size) {
    AttentionShape shape{{format_of(format), kv_heads, head_dim, block_size}, heads};
    AttentionPlan{shape};  // throws where the kernels do not know it
    return shape;
}

Cache cache_of(const CacheArray& data, int kv_heads) {
    if (kv_heads < 1 || data.shape(1) != 2 || data.shape(2) % kv_heads != 0)
        throw std::invalid_argument("a cache is [layers, 2, blocks * kv heads, row bytes]");
    return {static_cast<int>(data.shape(0)), static_cast<int>(data.shape(2)) / kv_heads,
            data.shape(3) * kv_heads, data.data()};
}

void need(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

// Blocks in an array of one layer.
int64_t blocks_of(const AttentionShape& shape, const LayerArray& array) {
    need(array.shape(1) % shape.cache.block_bytes() == 0, "keys and values hold whole blocks");
    return static_cast<int64_t>(array.shape(1) / shape.cache.block_bytes());
}

using QueryArray = nb::ndarray<nb::numpy, uint16_t, nb::ndim<2>>;
using OutArray = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

template <class Element>
std::pair<Element*, nb::capsule> allocate(size_t count) {
    auto* data = new Element[count]();
    return {data, nb::capsule(data, [](void* p) noexcept { delete[] static_cast<Element*>(p); })};
}

QueryArray rotate_store(const AttentionShape& shape, Floats qkv, Ints positions, Ints slots,
                        Floats cos, Floats sin, LayerArray keys, LayerArray values,
                        std::optional<Floats> norm_weights, float norm_eps, Kernel name) {
    const Kernels& kernels = kernels_of(name);
    const CacheShape& cache = shape.cache;
    const int rows = static_cast<int>(qkv.shape(0));
    const size_t dim = cache.head_dim, width = (shape.heads + 2 * cache.kv_heads) * dim;
    need(qkv.shape(1) == width, "qkv is [rows, (heads + 2 kv heads) * D]");
    need(positions.shape(0) == qkv.shape(0) && slots.shape(0) == qkv.shape(0),
         "positions and slots are one per row");
    need(cos.shape(1) == dim && sin.shape(1) == dim && cos.shape(0) == sin.shape(0),
         "cos and sin are [positions, D]");
    need(!norm_weights || (norm_weights->shape(0) == size_t(shape.heads + cache.kv_heads) &&
                           norm_weights->shape(1) == dim),
         "norm weights are [heads + kv heads, D]");
    need(keys.shape(0) == 1 && values.shape(0) == 1, "keys and values are those of one layer");
    const int64_t blocks = std::min(blocks_of(shape, keys), blocks_of(shape, values));
    for (int r = 0; r < rows; ++r) {
        need(positions.data()[r] >= 0 && size_t(positions.data()[r]) < cos.shape(0),
             "a position is outside the tables");
        need(slots.data()[r] >= 0 && slots.data()[r] < blocks * cache.block_size,
             "a slot is outside the cache");
    }
    auto [queries, owner] = allocate<uint16_t>(static_cast<size_t>(rows) * shape.width());
    const RotateStore work{shape, qkv.data(), width, cos.data(), sin.data(), positions.data(),
                           slots.data(), norm_weights ? norm_weights->data() : nullptr, norm_eps,
                           keys.data(), values.data(), queries};
    {
        nb::gil_scoped_release release;
        const PoolTurn turn;
        constexpr int STEP = 5;  // odd, so that neighbouring tokens are written by two threads
        pool().each((rows + STEP - 1) / STEP, [&](int task, int) {
            kernels.rotate_store(work, STEP * task, std::min(rows, STEP * (task + 1)));
        });
    }
    return QueryArray(queries, {size_t(rows), size_t(shape.width())}, owner);
}

Slices slices_of(const AttentionShape& shape, const Ints& start, const Ints& length,
                 const Ints& row, const Ints& table_begin, const Ints& tables, size_t rows,
                 int64_t blocks) {
    const size_t count = start.shape(0);
    need(length.shape(0) == count && row.shape(0) == count && table_begin.shape(0) == count,
         "starts, lengths, rows and table begins are one per slice");
    for (size_t s = 0; s < count; ++s) {
        const int64_t end = int64_t(start.data()[s]) + length.data()[s];
        const int64_t last = table_begin.data()[s] + (end + shape.cache.block_size - 1) /
                                                         shape.cache.block_size;
        need(start.data()[s] >= 0 && length.data()[s] >= 1, "a slice is empty");
        need(row.data()[s] >= 0 && size_t(row.data()[s]) + length.data()[s] <= rows,
             "a slice's rows are outside the queries");
        need(table_begin.data()[s] >= 0 && last <= int64_t(tables.shape(0)),
             "a slice's blocks are outside the tables");
    }
    for (size_t b = 0; b < tables.shape(0); ++b)
        need(tables.data()[b] >= 0 && tables.data()[b] < blocks, "a block is outside the cache");
    return {static_cast<int>(count), start.data(), length.data(), row.data(), table_begin.data(),
            tables.data()};
}

// The products' format, and what it stands for as floats.
struct OutRows {
    std::vector<uint8_t> data;
    std::vector<float> scale;
    std::vector<int32_t> sum;
    Rows rows;

    OutRows(Kind kind, size_t count, int width) : rows{kind, width, nullptr, nullptr, nullptr} {
        data.resize(count * rows.stride());
        scale.resize(count * rows.blocks());
        sum.resize(count * rows.blocks());
        rows.data = data.data();
        rows.scale = scale.data();
        rows.sum = sum.data();
    }
    float value(size_t row, int column) const {
        const uint8_t* at = rows.data + rows.stride() * row;
        if (rows.kind == Kind::bf16) {
            const uint32_t bits = reinterpret_cast<const uint16_t*>(at)[column] << 16;
            float value;
            std::memcpy(&value, &bits, 4);
            return value;
        }
        const int block = block_of(rows.kind);
        return scale[row * rows.blocks() + column / block] * reinterpret_cast<const int8_t*>(at)[column];
    }
};

std::optional<Kind> kind_of(const std::string& name) {
    if (name == "float32") return std::nullopt;
    if (name == "int8") return Kind::int8;
    if (name == "native") return Kind::native;
    if (name == "bf16") return Kind::bf16;
    throw std::invalid_argument("the output is '" + name +
                                "'; choose float32, int8, native or bf16");
}

OutArray attend(const AttentionShape& shape, Words queries, Ints start, Ints length, Ints row,
                Ints table_begin, Ints tables, LayerArray keys, LayerArray values,
                const std::string& output, Kernel name) {
    const Kernels& kernels = kernels_of(name);
    const std::optional<Kind> kind = kind_of(output);
    const size_t rows = queries.shape(0), width = shape.width();
    need(queries.shape(1) == width, "queries are [rows, heads * D]");
    need(keys.shape(0) == values.shape(0) && keys.shape(1) == values.shape(1),
         "keys and values are arrays of the same layers");
    need(!kind || shape.writes_rows(), "this shape is written as float32 only");
    const int64_t blocks = blocks_of(shape, keys);
    const Slices slices = slices_of(shape, start, length, row, table_begin, tables, rows, blocks);
    auto [floats, owner] = allocate<float>(rows * width);
    OutRows out(kind.value_or(Kind::bf16), kind ? rows : 0, static_cast<int>(width));
    {
        nb::gil_scoped_release release;
        const PoolTurn turn;  // the plan is for its number of threads
        AttentionPlan plan(shape);
        plan.build(slices, pool().threads());
        Attention work = plan.attention();
        work.queries = queries.data();
        work.out_float = floats;
        if (kind) work.out = out.rows;
        for (size_t layer = 0; layer < keys.shape(0); ++layer) {
            work.keys = keys.data() + layer * keys.shape(1);
            work.values = values.data() + layer * values.shape(1);
            pool().each(plan.tasks(),
                        [&](int task, int thread) { kernels.attend(work, task, thread); });
        }
        if (kind)
            for (size_t r = 0; r < rows; ++r)
                for (size_t c = 0; c < width; ++c) floats[r * width + c] = out.value(r, c);
    }
    return OutArray(floats, {rows, width}, owner);
}

}  // namespace

void bind_attention(nb::module_& m) {
    nb::class_<AttentionShape>(m, "AttentionShape",
                               "Heads, their size, and how the cache lies in memory.")
        .def("__init__",
             [](AttentionShape* self, const std::string& format, int heads, int kv_heads,
                int head_dim, int block_size) {
                 new (self) AttentionShape(
                     shape_of(format, heads, kv_heads, head_dim, block_size));
             },
             nb::arg("format"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("head_dim"),
             nb::arg("block_size"))
        .def_prop_ro("row_bytes", [](const AttentionShape& s) { return s.cache.row_bytes(); })
        .def_prop_ro("writes_rows", &AttentionShape::writes_rows);

    m.def(
        "cache_row_bytes",
        [](const std::string& format, int block_size, int head_dim) {
            return cache_row_bytes(format_of(format), block_size, head_dim);
        },
        nb::arg("format"), nb::arg("block_size"), nb::arg("head_dim"),
        "Bytes of one block of one head's keys, or values.");
    m.def(
        "cache_clear",
        [](CacheArray data, int kv_heads, Ints blocks) {
            const Cache cache = cache_of(data, kv_heads);
            nb::gil_scoped_release release;
            cache.clear(blocks.data(), static_cast<int>(blocks.shape(0)));
        },
        nb::arg("cache").noconvert(), nb::arg("kv_heads"), nb::arg("blocks"),
        "Fill blocks with zeros in every layer of [layers, 2, blocks * kv heads, row bytes].");
    m.def(
        "cache_copy",
        [](CacheArray data, int kv_heads, Ints sources, Ints destinations) {
            const Cache cache = cache_of(data, kv_heads);
            need(sources.shape(0) == destinations.shape(0), "a source for every destination");
            nb::gil_scoped_release release;
            cache.copy(sources.data(), destinations.data(), static_cast<int>(sources.shape(0)));
        },
        nb::arg("cache").noconvert(), nb::arg("kv_heads"), nb::arg("sources"),
        nb::arg("destinations"),
        "Copy blocks in every layer; all sources are read before any destination is written.");
    m.def("rotate_store", &rotate_store, nb::arg("shape"), nb::arg("qkv"), nb::arg("positions"),
          nb::arg("slots"), nb::arg("cos"), nb::arg("sin"), nb::arg("keys").noconvert(),
          nb::arg("values").noconvert(), nb::arg("norm_weights") = nb::none(),
          nb::arg("norm_eps") = 0.0f, nb::arg("kernels") = nb::none(),
          "Write rows to one layer's keys and values [1, bytes]; returns queries, bfloat16 bits.");
    m.def("attend", &attend, nb::arg("shape"), nb::arg("queries"), nb::arg("starts"),
          nb::arg("lengths"), nb::arg("rows"), nb::arg("table_begins"), nb::arg("tables"),
          nb::arg("keys"), nb::arg("values"), nb::arg("output") = "float32",
          nb::arg("kernels") = nb::none(),
          "Attention of a step's slices over keys and values [layers, bytes], one layer after the"
          " other; returns the last one's result as float32.");
}

}  // namespace headrace
