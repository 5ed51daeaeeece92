// CPUID leaves and bits after Intel's Software Developer's Manual, volume 2A, "CPUID"; the state
// components of XCR0 after volume 1, chapter 13.
#include "features.hpp"

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define HEADRACE_CPUID 1
#include <cpuid.h>
#include <cstdint>
#endif

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace headrace {

#if defined(HEADRACE_CPUID)
namespace {

struct Registers {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers r;
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
    return r;
}

bool bit(unsigned word, int index) { return (word >> index) & 1u; }

uint64_t xcr0() {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
}

// Tile data is granted per process: the kernel lists what may be asked for.
bool tiles_permitted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int get_supported = 0x1021;  // ARCH_GET_XCOMP_SUPP
    uint64_t mask = 0;
    return syscall(SYS_arch_prctl, get_supported, &mask) == 0 && ((mask >> 18) & 1u);
#else
    return false;
#endif
}

}  // namespace
#endif

std::vector<std::string> cpu_features() {
    std::vector<std::string> found;
#if defined(HEADRACE_CPUID)
    const Registers basic = cpuid(1, 0);
    if (!bit(basic.ecx, 27)) return found;  // the OS keeps no extended state
    const uint64_t state = xcr0();
    const bool avx_state = (state & 0x6) == 0x6;
    const bool avx512_state = avx_state && (state & 0xe0) == 0xe0;
    const bool tile_state = (state & 0x60000) == 0x60000 && tiles_permitted();
    const Registers seven = cpuid(7, 0);
    const Registers seven1 = cpuid(7, 1);

    const auto add = [&](bool present, const char* name) {
        if (present) found.emplace_back(name);
    };
    add(avx_state && bit(basic.ecx, 28), "avx");
    add(avx_state && bit(seven.ebx, 5), "avx2");
    add(avx_state && bit(basic.ecx, 12), "fma");
    add(avx_state && bit(basic.ecx, 29), "f16c");
    add(avx_state && bit(seven1.eax, 4), "avx_vnni");
    add(avx512_state && bit(seven.ebx, 16), "avx512f");
    add(avx512_state && bit(seven.ebx, 17), "avx512dq");
    add(avx512_state && bit(seven.ebx, 30), "avx512bw");
    add(avx512_state && bit(seven.ebx, 31), "avx512vl");
    add(avx512_state && bit(seven.ecx, 11), "avx512_vnni");
    add(avx512_state && bit(seven1.eax, 5), "avx512_bf16");
    add(avx512_state && bit(seven.edx, 23), "avx512_fp16");
    add(tile_state && bit(seven.edx, 24), "amx_tile");
    add(tile_state && bit(seven.edx, 25), "amx_int8");
    add(tile_state && bit(seven.edx, 22), "amx_bf16");
#endif
    return found;
}

}  // namespace headrace
