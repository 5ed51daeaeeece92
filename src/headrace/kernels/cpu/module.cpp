// Python bindings of the CPU extension. Every long call releases the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings.hpp"
#include "features.hpp"
#include "kernels.hpp"
#include "pool.hpp"
#include "probes.hpp"

namespace nb = nanobind;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

NB_MODULE(_cpu, m) {
    m.doc() = "Operators and probes in C++ for CPUs.";
    // An interpreter that ends with an engine still loaded leaves its weights to the system.
    nanobind::set_leak_warnings(false);

    m.def("cpu_features", &headrace::cpu_features,
          "Instruction sets that processor and operating system offer, named as in /proc/cpuinfo.");

    m.def(
        "stream_read",
        [](Bytes data, int passes) {
            if (passes < 1) throw std::invalid_argument("passes must be at least 1");
            const uint8_t* start = data.data();
            const size_t size = data.size();
            nb::gil_scoped_release release;
            return headrace::stream_read(start, size, passes);
        },
        nb::arg("data").noconvert(), nb::arg("passes"),
        "Read a one-dimensional uint8 array `passes` times; returns a checksum.");

    m.def(
        "multiply_add",
        [](const std::string& kind, double operations) {
            if (!(operations >= 1.0 && operations <= 1e15))
                throw std::invalid_argument("operations must be in [1, 1e15]");
            nb::gil_scoped_release release;
            return headrace::multiply_add(kind.c_str(), operations);
        },
        nb::arg("kind"), nb::arg("operations"),
        "Run about this many operations of float32, bfloat16 or int8 products in registers; returns"
        " how many were run, 0 where the processor has no instruction for them.");

    m.def(
        "kernels_name", [] { return std::string(headrace::choose_kernels()->name); },
        "The instruction set whose kernels this processor runs.");

    m.def(
        "set_threads",
        [](int threads) {
            if (threads < 1 || threads > 1024)
                throw std::invalid_argument("threads must be in 1..1024");
            headrace::set_pool_threads(threads);
        },
        nb::arg("threads"), "How many threads kernels use, the calling one included.");

    headrace::bind_products(m);
    headrace::bind_attention(m);
    headrace::bind_sampling(m);
    headrace::bind_decoder(m);
}
