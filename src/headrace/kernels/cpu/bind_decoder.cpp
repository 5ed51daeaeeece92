// The Python class Decoder: checks what it is given, then runs without the interpreter's lock.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "decoder.hpp"
#include "pack.hpp"

namespace nb = nanobind;

namespace headrace {
namespace {

template <class T, size_t N>
using Array = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, size_t N>
using Writable = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const std::string& message) {
    if (!holds) throw std::invalid_argument(message);
}

std::string expected(const char* what, size_t is, size_t wanted) {
    return std::string(what) + " is " + std::to_string(is) + ", expected " + std::to_string(wanted);
}

std::vector<float> copied(const Array<float, 1>& values, size_t size, const char* what) {
    require(values.size() == size, expected(what, values.size(), size));
    return {values.data(), values.data() + size};
}

// A decoder and the Python objects whose memory it reads.
class PyDecoder {
  public:
    PyDecoder(const std::string& kind, const std::string& cache, int hidden, int heads,
              int kv_heads, int head_dim, int intermediate, int vocab, float eps, float head_eps,
              int block_size, const std::string& kernels)
        : decoder_(shape_of(kind, cache, hidden, heads, kv_heads, head_dim, intermediate, vocab,
                            eps, head_eps, block_size),
                   table_of(kernels)) {}

    void add_layer(const Array<float, 1>& attn_norm, nb::handle qkv,
                   const std::optional<Array<float, 2>>& head_norms, nb::handle o,
                   const Array<float, 1>& mlp_norm, nb::handle gate_up, nb::handle down) {
        const DecoderShape& s = decoder_.shape();
        const size_t hidden = s.hidden;
        LayerWeights layer;
        layer.attn_norm = copied(attn_norm, hidden, "attn_norm's size");
        layer.mlp_norm = copied(mlp_norm, hidden, "mlp_norm's size");
        if (head_norms) {
            const size_t size = static_cast<size_t>(s.heads + s.kv_heads) * s.head_dim;
            require(head_norms->size() == size,
                    expected("head_norms' size", head_norms->size(), size));
            layer.head_norms = {head_norms->data(), head_norms->data() + size};
        }
        const int columns = s.heads * s.head_dim;
        layer.qkv = weight(qkv, (s.heads + 2 * s.kv_heads) * s.head_dim, s.hidden, "qkv");
        layer.o = weight(o, s.hidden, columns, "o");
        layer.gate_up = weight(gate_up, s.intermediate, s.hidden, "gate_up");
        require(layer.gate_up->gated, "gate_up must be packed with pack_gated");
        layer.down = weight(down, s.hidden, s.intermediate, "down");
        decoder_.add_layer(std::move(layer));
    }

    void set_embedding(const std::string& format, const Array<uint8_t, 2>& table) {
        const DecoderShape& s = decoder_.shape();
        Embedding embedding{};
        embedding.data = table.data();
        embedding.row_bytes = table.shape(1);
        size_t bytes = 0;
        if (format == "F32") {
            embedding.format = Embedding::Format::float32;
            bytes = static_cast<size_t>(s.hidden) * 4;
        } else if (format == "BF16") {
            embedding.format = Embedding::Format::bf16;
            bytes = static_cast<size_t>(s.hidden) * 2;
        } else if (format == "Q8_0" && s.hidden % 32 == 0) {
            embedding.format = Embedding::Format::q8_0;
            bytes = static_cast<size_t>(s.hidden) / 32 * 34;
        } else {
            throw std::invalid_argument("embedding format is " + format +
                                        "; use F32, BF16, or Q8_0 with rows in whole blocks");
        }
        require(table.shape(0) == static_cast<size_t>(s.vocab),
                expected("embedding rows", table.shape(0), s.vocab));
        require(table.shape(1) == bytes, expected("embedding row bytes", table.shape(1), bytes));
        kept_.push_back(nb::cast(table));
        decoder_.set_embedding(embedding);
    }

    void set_head(const Array<float, 1>& norm, nb::handle head) {
        const DecoderShape& s = decoder_.shape();
        decoder_.set_head(copied(norm, s.hidden, "norm's size"),
                          weight(head, s.vocab, s.hidden, "head"));
    }

    void set_rope(const Array<float, 2>& cos, const Array<float, 2>& sin) {
        const size_t dim = decoder_.shape().head_dim;
        require(cos.shape(1) == dim && sin.shape(1) == dim && cos.shape(0) == sin.shape(0),
                "cos and sin must both be [positions, head_dim]");
        positions_ = cos.shape(0);
        kept_.push_back(nb::cast(cos));
        kept_.push_back(nb::cast(sin));
        decoder_.set_rope(cos.data(), sin.data());
    }

    nb::object forward(const Array<int32_t, 1>& tokens, const Array<int32_t, 1>& positions,
                       const Array<int64_t, 1>& slots, const Array<int32_t, 1>& rows,
                       const Array<int32_t, 1>& starts, const Array<int32_t, 1>& lengths,
                       const Array<int32_t, 1>& table_begins, const Array<int32_t, 1>& tables,
                       const Array<int32_t, 1>& sampled, int padded,
                       const Writable<uint8_t, 4>& cache, const Writable<float, 2>& logits,
                       bool profile) {
        StepRows step{};
        step.padded = padded;
        step.rows = static_cast<int>(slots.size());
        step.tokens = tokens.data();
        step.positions = positions.data();
        step.slots = slots.data();
        step.slices.count = static_cast<int>(starts.size());
        step.slices.start = starts.data();
        step.slices.length = lengths.data();
        step.slices.row = rows.data();
        step.slices.table_begin = table_begins.data();
        step.slices.tables = tables.data();
        step.samples = static_cast<int>(sampled.size());
        step.sampled = sampled.data();
        require(step.rows >= 1 && step.padded >= step.rows && tokens.size() == slots.size() &&
                    positions.size() == slots.size(),
                "tokens, positions and slots must be [rows], 1 <= rows <= padded");
        require(lengths.size() == starts.size() && rows.size() == starts.size() &&
                    table_begins.size() == starts.size(),
                "rows, starts, lengths and table_begins must have one entry a slice");
        check_values(step, tables.size(), cache.shape(2));
        require(cache.shape(0) == static_cast<size_t>(decoder_.layers()) && cache.shape(1) == 2 &&
                    cache.shape(3) == decoder_.shape().cache_row(),
                "the cache must be [layers, 2, rows, row bytes]");
        const size_t padded_vocab = round_up(decoder_.shape().vocab, PANEL);
        require(logits.shape(0) >= sampled.size() && logits.shape(1) >= padded_vocab,
                "logits must have room for the samples and the vocabulary in whole panels");
        std::vector<Span> spans;
        {
            nb::gil_scoped_release release;
            decoder_.forward(step, cache.data(), cache.shape(2), logits.data(), logits.shape(1),
                             profile ? &spans : nullptr);
        }
        if (!profile) return nb::none();
        nb::list found;
        for (const Span& span : spans)
            found.append(nb::make_tuple(span.name, span.layer, span.start, span.end));
        return found;
    }

  private:
    static DecoderShape shape_of(const std::string& kind, const std::string& cache, int hidden,
                                 int heads, int kv_heads, int head_dim, int intermediate,
                                 int vocab, float eps, float head_eps, int block_size) {
        DecoderShape shape{};
        if (kind == "int8")
            shape.kind = Kind::int8;
        else if (kind == "native")
            shape.kind = Kind::native;
        else if (kind == "bf16")
            shape.kind = Kind::bf16;
        else
            throw std::invalid_argument("kind is " + kind + "; use int8, native or bf16");
        if (cache != "bf16" && cache != "int8")
            throw std::invalid_argument("cache is " + cache + "; use bf16 or int8");
        shape.cache = cache == "bf16" ? CacheFormat::bf16 : CacheFormat::int8;
        for (int size : {hidden, heads, kv_heads, head_dim, intermediate, vocab, block_size})
            require(size >= 1, "every size must be at least 1");
        require(heads % kv_heads == 0, "heads must be a multiple of kv_heads");
        shape.hidden = hidden, shape.heads = heads, shape.kv_heads = kv_heads;
        shape.head_dim = head_dim, shape.intermediate = intermediate, shape.vocab = vocab;
        shape.eps = eps, shape.head_eps = head_eps, shape.block_size = block_size;
        return shape;
    }

    static const Kernels* table_of(const std::string& name) {
        const Kernels* table = choose_kernels(name.empty() ? nullptr : name.c_str());
        if (table == nullptr)
            throw std::invalid_argument("kernels is " + name + ", which this processor cannot run");
        return table;
    }

    const Weight* weight(nb::handle object, int rows_out, int rows_in, const char* what) {
        const Weight* found = &nb::cast<const PackedWeight&>(object).view();
        require(found->kind == decoder_.shape().kind, std::string(what) + " is of another kind");
        require(found->k == rows_in, expected(what, found->k, rows_in) + " inputs");
        require(found->n == rows_out, expected(what, found->n, rows_out) + " outputs");
        kept_.push_back(nb::borrow(object));
        return found;
    }

    // A wrong index would read or write memory of others; the checks cost under a microsecond.
    void check_values(const StepRows& step, size_t table_size, size_t cache_rows) const {
        const DecoderShape& s = decoder_.shape();
        const int64_t blocks = static_cast<int64_t>(cache_rows) / s.kv_heads;
        for (int r = 0; r < step.rows; ++r) {
            require(step.tokens[r] >= 0 && step.tokens[r] < s.vocab, "a token is out of range");
            require(step.positions[r] >= 0 &&
                        static_cast<size_t>(step.positions[r]) < positions_,
                    "a position is out of range");
        }
        for (int r = 0; r < step.rows; ++r)
            require(step.slots[r] >= 0 && step.slots[r] < blocks * s.block_size,
                    "a slot is out of range");
        for (int i = 0; i < step.samples; ++i)
            require(step.sampled[i] >= 0 && step.sampled[i] < step.rows,
                    "a sampled row is out of range");
        int next = 0;
        for (int i = 0; i < step.slices.count; ++i) {
            const int end = step.slices.start[i] + step.slices.length[i];
            require(step.slices.row[i] == next && step.slices.length[i] >= 1 &&
                        step.slices.start[i] >= 0,
                    "slices must cover the rows in order");
            next += step.slices.length[i];
            const int first = step.slices.table_begin[i];
            const int count = (end + s.block_size - 1) / s.block_size;
            require(first >= 0 && static_cast<size_t>(first) + count <= table_size,
                    "a block table is too short");
            for (int b = first; b < first + count; ++b)
                require(step.slices.tables[b] >= 0 && step.slices.tables[b] < blocks,
                        "a block id is out of range");
        }
        require(next == step.rows, "slices must cover the rows in order");
    }

    Decoder decoder_;
    size_t positions_ = 0;
    std::vector<nb::object> kept_;
};

}  // namespace

void bind_decoder(nb::module_& m) {
    nb::class_<PyDecoder>(m, "Decoder",
                          "A transformer's layers, run in one call; see models/native.py.")
        .def(nb::init<const std::string&, const std::string&, int, int, int, int, int, int, float,
                      float, int, const std::string&>(),
             nb::kw_only(), nb::arg("kind"), nb::arg("cache"), nb::arg("hidden"), nb::arg("heads"),
             nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("intermediate"), nb::arg("vocab"),
             nb::arg("eps"), nb::arg("head_eps"), nb::arg("block_size"), nb::arg("kernels") = "")
        .def("add_layer", &PyDecoder::add_layer, nb::kw_only(), nb::arg("attn_norm"),
             nb::arg("qkv"), nb::arg("head_norms").none(), nb::arg("o"), nb::arg("mlp_norm"),
             nb::arg("gate_up"), nb::arg("down"))
        .def("set_embedding", &PyDecoder::set_embedding, nb::arg("format"), nb::arg("table"))
        .def("set_head", &PyDecoder::set_head, nb::arg("norm"), nb::arg("head"))
        .def("set_rope", &PyDecoder::set_rope, nb::arg("cos"), nb::arg("sin"))
        .def("forward", &PyDecoder::forward, nb::arg("tokens"), nb::arg("positions"),
             nb::arg("slots"), nb::arg("rows"), nb::arg("starts"), nb::arg("lengths"),
             nb::arg("table_begins"), nb::arg("tables"), nb::arg("sampled"),
             nb::arg("padded"), nb::arg("cache"), nb::arg("logits"), nb::arg("profile") = false,
             "Compute one step into `cache` and `logits`; with `profile`, returns (operator,"
             " layer, start, end) in nanoseconds.");
}

}  // namespace headrace
