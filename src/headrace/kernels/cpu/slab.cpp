#include "slab.hpp"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace headrace {
namespace {

constexpr size_t LINE = 64, HUGE_PAGE = size_t{2} << 20, SLAB = size_t{64} << 20;

size_t whole(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

struct Slab {
    uint8_t* data;
    size_t size, used = 0;

    explicit Slab(size_t bytes) : size(whole(bytes, HUGE_PAGE)) {
        // What is never used of it is never backed by memory.
        data = static_cast<uint8_t*>(std::aligned_alloc(HUGE_PAGE, size));
        if (data == nullptr) throw std::bad_alloc();
#if defined(__linux__)
        madvise(data, size, MADV_HUGEPAGE);  // a hint; without it products are a little slower
#endif
    }
    ~Slab() { std::free(data); }
    Slab(const Slab&) = delete;
    Slab& operator=(const Slab&) = delete;
};

}  // namespace

std::shared_ptr<uint8_t> take_from_slab(size_t size) {
    static std::mutex mutex;
    static std::weak_ptr<Slab> current;
    size = whole(size, LINE);
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<Slab> slab = current.lock();
    if (slab == nullptr || slab->size - slab->used < size) {
        slab = std::make_shared<Slab>(size > SLAB ? size : SLAB);
        current = slab;
    }
    uint8_t* part = slab->data + slab->used;
    slab->used += size;
    std::memset(part, 0, size);
    return std::shared_ptr<uint8_t>(slab, part);
}

}  // namespace headrace
