// Tasks are handed out one at a time by a single counter, so a thread that the system takes off its
// core holds up one task only, and threads never split work unevenly for long.
#include "pool.hpp"

#include <chrono>
#include <memory>
#include <mutex>

#if defined(__linux__)
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace headrace {
namespace {

constexpr uint64_t FIELD = (1u << 20) - 1;
constexpr uint32_t STOP = UINT32_MAX;
// A pause is some 40 to 140 cycles. Longer than a phase of a step, shorter than a time slice.
constexpr int SPINS = 2000;

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
#if defined(__linux__)
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
    if (word.load() == value) std::this_thread::sleep_for(std::chrono::microseconds(50));
#endif
}

void wake_all(std::atomic<uint32_t>& word) {
#if defined(__linux__)
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
#else
    (void)word;
#endif
}

}  // namespace

Pool::Pool(int threads) {
    for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { loop(t); });
}

Pool::~Pool() {
    awake_.store(STOP);
    wake_all(awake_);
    for (std::thread& worker : workers_) worker.join();
}

void Pool::wake() {
    if (workers_.empty()) return;
    awake_.fetch_add(1);
    wake_all(awake_);
}

void Pool::rest() {
    if (!workers_.empty()) awake_.fetch_add(1);
}

// Take one task of the current work, if there is one left.
bool Pool::help(int thread) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    for (;;) {
        const uint64_t next = ticket & FIELD, tasks = (ticket >> 20) & FIELD;
        if (next >= tasks) return false;
        if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
            // Our task keeps `unfinished_` above zero, so nobody changes the work meanwhile.
            work_(context_, static_cast<int>(next), thread);
            unfinished_.fetch_sub(1, std::memory_order_acq_rel);
            return true;
        }
    }
}

void Pool::run(int tasks, Work work, void* context) {
    if (workers_.empty() || tasks <= 1) {
        for (int t = 0; t < tasks; ++t) work(context, t, 0);
        return;
    }
    work_ = work;
    context_ = context;
    unfinished_.store(tasks, std::memory_order_relaxed);
    const uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> 40) + 1;
    ticket_.store(epoch << 40 | static_cast<uint64_t>(tasks) << 20, std::memory_order_release);
    while (help(0)) {
    }
    for (int spins = 0; unfinished_.load(std::memory_order_acquire) > 0; ++spins) {
        if (spins < SPINS)
            pause_briefly();
        else
            std::this_thread::yield();  // the last task's thread may need this very core
    }
}

void Pool::loop(int thread) {
    for (int idle = 0;;) {
        if (help(thread)) {
            idle = 0;
            continue;
        }
        const uint32_t awake = awake_.load(std::memory_order_acquire);
        if (awake == STOP) return;
        if (awake % 2 == 0)
            sleep_while(awake_, awake);
        else if (++idle < SPINS)
            pause_briefly();
        else
            std::this_thread::yield();  // on a busy machine somebody else's turn
    }
}

namespace {

struct Shared {
    std::mutex turns;
    std::unique_ptr<Pool> pool{new Pool(1)};
};

// Never destroyed: workers must not be joined while the process is being taken down.
Shared* shared_now = nullptr;

// A forked child has none of the workers, and whoever had the turn may not be there to end it. What
// it leaves behind cannot be destroyed.
[[maybe_unused]] void start_anew() { shared_now = new Shared; }

Shared& shared() {
    static const bool made = [] {
        shared_now = new Shared;
#if defined(__linux__)
        pthread_atfork(nullptr, nullptr, start_anew);
#endif
        return true;
    }();
    (void)made;
    return *shared_now;
}

}  // namespace

Pool& pool() { return *shared().pool; }

PoolTurn::PoolTurn() {
    shared().turns.lock();
    pool().wake();
}

PoolTurn::~PoolTurn() {
    pool().rest();
    shared().turns.unlock();
}

void set_pool_threads(int threads) {
    const std::lock_guard<std::mutex> lock(shared().turns);
    if (pool().threads() != threads) shared().pool.reset(new Pool(threads));
}

}  // namespace headrace
