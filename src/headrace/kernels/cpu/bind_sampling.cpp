// Choosing tokens from logits, rows spread over the pool.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings.hpp"
#include "pool.hpp"
#include "sampling.hpp"

namespace nb = nanobind;

namespace headrace {
namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
template <class T>
using Column = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Waking a sleeping thread takes some 50 us: less than this many rows are not worth it.
constexpr int SHARED_ROWS = 64;  // rows of which only the largest logit is wanted
constexpr int SHARED_DRAWS = 4;  // rows that are weighed

Logits view(const Matrix& logits) {
    if (logits.shape(1) < 1 || logits.shape(1) > (1u << 30) || logits.stride(1) != 1)
        throw std::invalid_argument("logits must be [rows, vocabulary], each row in one piece");
    return {logits.data(), logits.stride(0), static_cast<int>(logits.shape(1))};
}

const Kernels& build(const std::optional<std::string>& name) {
    static const Kernels* const best = choose_kernels();
    const Kernels* found = name ? choose_kernels(name->c_str()) : best;
    if (found == nullptr) throw std::invalid_argument("no kernels named " + *name + " run here");
    return *found;
}

Scratch& scratch() {
    static thread_local Scratch memory;
    return memory;
}

// Calls work(i) for i in [0, count), on all threads of the pool if that is worth it.
template <class Function>
void each_row(size_t count, size_t shared, Function work) {
    nb::gil_scoped_release release;
    if (count < shared) {
        for (size_t i = 0; i < count; ++i) work(i);
        return;
    }
    const PoolTurn turn;
    pool().each(static_cast<int>(count), [&](int i, int) { work(static_cast<size_t>(i)); });
}

template <class... Columns>
void check_lengths(size_t count, const Columns&... columns) {
    if (((columns.shape(0) != count) || ...))
        throw std::invalid_argument("there must be one value for each row chosen from");
}

void check_rows(const Matrix& logits, const Column<int32_t>& rows) {
    for (size_t i = 0; i < rows.shape(0); ++i)
        if (rows(i) < 0 || static_cast<size_t>(rows(i)) >= logits.shape(0))
            throw std::invalid_argument("row " + std::to_string(rows(i)) + " of " +
                                        std::to_string(logits.shape(0)) + " rows of logits");
}

std::vector<int> most_likely(const Matrix& logits, const std::optional<std::string>& kernels) {
    const Kernels& table = build(kernels);
    const Logits all = view(logits);
    std::vector<int> tokens(logits.shape(0));
    const Draw greedy = {0.0f, 0, 1.0, 0.0f, 0.0};
    each_row(tokens.size(), SHARED_ROWS, [&](size_t i) {
        const float* x = all.row(static_cast<int>(i));
        tokens[i] = choose_token(table, x, all.width, greedy, scratch());
    });
    return tokens;
}

// Lists of several rows one after the other; row r's end at ends[r].
struct Lists {
    Column<int64_t> ends, ids;
    int64_t begin(size_t r) const { return r == 0 ? 0 : ends(r - 1); }
    int64_t count(size_t r) const { return ends(r) - begin(r); }

    void check(size_t rows, size_t values, int64_t width) const {
        if (ends.shape(0) != rows || ids.shape(0) != values)
            throw std::invalid_argument("lists need an end for each row and a value for each id");
        for (size_t r = 0; r < rows; ++r)
            if (count(r) < 0 || ends(r) > static_cast<int64_t>(ids.shape(0)))
                throw std::invalid_argument("the ends of lists must rise up to their length");
        for (size_t i = 0; i < ids.shape(0); ++i)
            if (ids(i) < 0 || ids(i) >= width)
                throw std::invalid_argument("token " + std::to_string(ids(i)) +
                                            " is not in the vocabulary");
    }
};

// What changes in the logits of rows; see Edit.
struct Edits {
    Column<float> repetition, frequency, presence;
    Lists seen;
    Column<float> outputs;
    Lists biased;
    Column<float> biases;
    Lists suppressed;

    void check(size_t rows, int64_t width) const {
        check_lengths(rows, repetition, frequency, presence);
        seen.check(rows, outputs.shape(0), width);
        biased.check(rows, biases.shape(0), width);
        suppressed.check(rows, suppressed.ids.shape(0), width);
    }

    Edit of(size_t r) const {
        return {seen.ids.data() + seen.begin(r),
                outputs.data() + seen.begin(r),
                seen.count(r),
                repetition(r),
                frequency(r),
                presence(r),
                biased.ids.data() + biased.begin(r),
                biases.data() + biased.begin(r),
                biased.count(r),
                suppressed.ids.data() + suppressed.begin(r),
                suppressed.count(r)};
    }
};

std::vector<int> choose(const Matrix& logits, const Column<int32_t>& rows,
                        const Column<float>& temperature, const Column<int64_t>& top_k,
                        const Column<double>& top_p, const Column<float>& min_p,
                        const Column<uint64_t>& streams, const Column<int64_t>& positions,
                        const Edits* edits, const std::optional<std::string>& kernels) {
    const Kernels& table = build(kernels);
    const Logits all = view(logits);
    const size_t count = rows.shape(0);
    check_rows(logits, rows);
    check_lengths(count, temperature, top_k, top_p, min_p, streams, positions);
    for (size_t i = 0; i < count; ++i)
        if (!(temperature(i) >= 0.0f) || top_k(i) < 1 || !(top_p(i) > 0.0))
            throw std::invalid_argument("temperatures are at least 0, top_k 1, top_p above 0");
    if (edits != nullptr) edits->check(count, all.width);
    std::vector<int> tokens(count);
    each_row(count, SHARED_DRAWS, [&](size_t i) {
        const uint64_t position = static_cast<uint64_t>(positions(i));
        const Draw draw = {temperature(i), top_k(i), top_p(i), min_p(i),
                           uniform_number(streams(i), position)};
        const float* x = all.row(rows(i));
        tokens[i] = edits == nullptr
                        ? choose_token(table, x, all.width, draw, scratch())
                        : choose_edited(table, x, all.width, draw, edits->of(i), scratch());
    });
    return tokens;
}

template <class T>
using Table = nb::ndarray<nb::numpy, T, nb::ndim<2>>;
template <class T>
Table<T> give(std::unique_ptr<T[]> data, size_t rows, size_t columns) {
    T* values = data.release();
    nb::capsule owner(values, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return Table<T>(values, {rows, columns}, owner);
}

std::tuple<std::vector<float>, Table<int32_t>, Table<float>> log_probabilities_of(
    const Matrix& logits, const Column<int32_t>& rows, const Column<int32_t>& chosen, int count,
    const std::optional<std::string>& kernels) {
    const Kernels& table = build(kernels);
    const Logits all = view(logits);
    const size_t n = rows.shape(0);
    check_rows(logits, rows);
    check_lengths(n, chosen);
    if (count < 0 || count > all.width)
        throw std::invalid_argument("more log-probabilities are asked for than there are tokens");
    for (size_t i = 0; i < n; ++i)
        if (chosen(i) < 0 || chosen(i) >= all.width)
            throw std::invalid_argument("token " + std::to_string(chosen(i)) +
                                        " is not in the vocabulary");
    const size_t columns = static_cast<size_t>(count);
    std::vector<float> own(n);
    std::unique_ptr<int32_t[]> ids(new int32_t[n * columns]);
    std::unique_ptr<float[]> values(new float[n * columns]);
    each_row(n, SHARED_DRAWS, [&](size_t i) {
        own[i] = log_probabilities(table, all.row(rows(i)), all.width, chosen(i), count,
                                   ids.get() + i * columns, values.get() + i * columns, scratch());
    });
    return {own, give(std::move(ids), n, columns), give(std::move(values), n, columns)};
}

}  // namespace

void bind_sampling(nb::module_& m) {
    m.def("most_likely", &most_likely, nb::arg("logits").noconvert(), nb::arg("kernels") = nb::none(),
          "The first token of each row's ranking; -1 where a row is not sound.");
    nb::class_<Edits>(m, "Edits", "Changes to the logits of rows; see sampling/penalties.py.")
        .def(
            "__init__",
            [](Edits* self, const Column<float>& repetition, const Column<float>& frequency,
               const Column<float>& presence, const Column<int64_t>& seen_ends,
               const Column<int64_t>& seen, const Column<float>& outputs,
               const Column<int64_t>& biased_ends, const Column<int64_t>& biased,
               const Column<float>& biases, const Column<int64_t>& suppressed_ends,
               const Column<int64_t>& suppressed) {
                new (self) Edits{repetition,
                                 frequency,
                                 presence,
                                 {seen_ends, seen},
                                 outputs,
                                 {biased_ends, biased},
                                 biases,
                                 {suppressed_ends, suppressed}};
            },
            nb::kw_only(), nb::arg("repetition"), nb::arg("frequency"), nb::arg("presence"),
            nb::arg("seen_ends"), nb::arg("seen"), nb::arg("outputs"), nb::arg("biased_ends"),
            nb::arg("biased"), nb::arg("biases"), nb::arg("suppressed_ends"),
            nb::arg("suppressed"));
    m.def("choose_tokens", &choose, nb::arg("logits").noconvert(), nb::arg("rows"),
          nb::arg("temperature"), nb::arg("top_k"), nb::arg("top_p"), nb::arg("min_p"),
          nb::arg("streams"), nb::arg("positions"), nb::arg("edits").none() = nb::none(),
          nb::arg("kernels") = nb::none(),
          "A token for each of `rows`, drawn as the columns say from logits that `edits` change"
          " first; -1 where a row is not sound, before or after.");
    m.def("log_probabilities", &log_probabilities_of, nb::arg("logits").noconvert(),
          nb::arg("rows"), nb::arg("chosen"), nb::arg("count"), nb::arg("kernels") = nb::none(),
          "Of each row: that of the chosen token, and ids and values of the `count` first.");
}

}  // namespace headrace
