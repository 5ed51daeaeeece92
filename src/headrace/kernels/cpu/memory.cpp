// Weights are carved one after the other from slabs of huge pages: a page of 2 MiB to each weight
// alone would leave a third of the memory of a small model's weights unused. A slab is given back
// when nothing that was carved from it is left; its parts are not used a second time.
#include "memory.hpp"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace headrace {
namespace {

constexpr size_t LINE = 64, HUGE_PAGE = size_t{2} << 20, SLAB = size_t{32} << 20;

size_t round_to(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

// Zeros on whole huge pages; on Linux not in memory before they are touched.
struct Slab {
    explicit Slab(size_t bytes) : size(bytes) {
#if defined(__linux__)
        void* all = mmap(nullptr, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (all == MAP_FAILED) throw std::bad_alloc();
        uint8_t* start = static_cast<uint8_t*>(all);
        const size_t skipped = round_to(reinterpret_cast<uintptr_t>(start), HUGE_PAGE) -
                               reinterpret_cast<uintptr_t>(start);
        if (skipped > 0) munmap(start, skipped);
        munmap(start + skipped + size, HUGE_PAGE - skipped);
        data = start + skipped;
        madvise(data, size, MADV_HUGEPAGE);  // a hint; failing costs little
#else
        data = static_cast<uint8_t*>(std::aligned_alloc(HUGE_PAGE, size));
        if (data == nullptr) throw std::bad_alloc();
        std::memset(data, 0, size);
#endif
    }
    ~Slab() {
#if defined(__linux__)
        munmap(data, size);
#else
        std::free(data);
#endif
    }
    Slab(const Slab&) = delete;
    Slab& operator=(const Slab&) = delete;

    uint8_t* data = nullptr;
    size_t size, used = 0;
};

}  // namespace

std::shared_ptr<uint8_t> take_memory(size_t size) {
    static std::mutex mutex;
    static std::weak_ptr<Slab> current;
    size = round_to(size, LINE);
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<Slab> slab = current.lock();
    if (!slab || slab->size - slab->used < size) {
        const bool alone = size > SLAB / 4;
        slab = std::make_shared<Slab>(alone ? round_to(size, HUGE_PAGE) : SLAB);
        if (!alone) current = slab;
    }
    uint8_t* start = slab->data + slab->used;
    slab->used += size;
    return std::shared_ptr<uint8_t>(std::move(slab), start);
}

}  // namespace headrace
