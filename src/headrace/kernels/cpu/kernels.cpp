// Compiled once per instruction set; see CMakeLists.txt.
#include "attention_kernels.hpp"
#include "kernels.hpp"
#include "products.hpp"
#include "rows.hpp"
#include "sampling_kernels.hpp"

#define HEADRACE_JOIN_(a, b) a##b
#define HEADRACE_JOIN(a, b) HEADRACE_JOIN_(a, b)
#define HEADRACE_TEXT_(a) #a
#define HEADRACE_TEXT(a) HEADRACE_TEXT_(a)

namespace headrace {

const Kernels* HEADRACE_JOIN(kernels_, HEADRACE_ISA)() {
    static constexpr Kernels table = {
        HEADRACE_TEXT(HEADRACE_ISA), HEADRACE_ISA::norm,         HEADRACE_ISA::quantise,
        HEADRACE_ISA::product,       HEADRACE_ISA::gated,        HEADRACE_ISA::rotate_store,
        HEADRACE_ISA::attend,        HEADRACE_ISA::peaks,        HEADRACE_ISA::weigh,
        HEADRACE_ISA::cut,           HEADRACE_ISA::reach,        HEADRACE_ISA::places_within,
    };
    return &table;
}

}  // namespace headrace
