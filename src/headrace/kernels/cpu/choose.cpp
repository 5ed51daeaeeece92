// Which build of the kernels this processor runs.
#include <algorithm>
#include <string>
#include <vector>

#include "features.hpp"
#include "kernels.hpp"

namespace headrace {
namespace {

struct Build {
    const Kernels* (*table)();
    std::vector<std::string> needs;
};

const std::vector<Build>& builds() {
    static const std::vector<Build> all = {
#if defined(HEADRACE_X86)
        {kernels_avx512_bf16,
         {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16"}},
        {kernels_avx512_vnni, {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}},
        {kernels_avx512, {"avx512f", "avx512bw", "avx512vl", "avx512dq"}},
        {kernels_avx2_vnni, {"avx2", "fma", "avx_vnni"}},
        {kernels_avx2, {"avx2", "fma"}},
#endif
        {kernels_portable, {}},
    };
    return all;
}

}  // namespace

const Kernels* choose_kernels(const char* name) {
    const std::vector<std::string> have = cpu_features();
    for (const Build& build : builds()) {
        const bool runs = std::all_of(build.needs.begin(), build.needs.end(), [&](const auto& f) {
            return std::find(have.begin(), have.end(), f) != have.end();
        });
        const Kernels* table = build.table();
        if (runs && (name == nullptr || std::string(name) == table->name)) return table;
    }
    return nullptr;
}

}  // namespace headrace
