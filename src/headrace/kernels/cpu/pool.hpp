// One pool of threads for all kernels of the process. See pool.cpp.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace headrace {

class Pool {
  public:
    using Work = void (*)(void* context, int task, int thread);

    // `threads` in all, the calling one included, so threads - 1 are started.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Runs work(context, t, thread) for t in [0, tasks), spread over the threads as they become
    // free, and returns when all are done. Not reentrant; one caller at a time.
    void run(int tasks, Work work, void* context);

    template <class Function>
    void each(int tasks, Function&& function) {
        run(
            tasks,
            [](void* context, int task, int thread) {
                (*static_cast<Function*>(context))(task, thread);
            },
            &function);
    }

  private:
    friend class PoolTurn;
    // Between these the workers wait for work by spinning; outside they sleep.
    void wake();
    void rest();
    void loop(int thread);
    bool help(int thread);

    std::vector<std::thread> workers_;
    Work work_ = nullptr;
    void* context_ = nullptr;
    alignas(64) std::atomic<uint64_t> ticket_{0};  // epoch << 40 | tasks << 20 | next task
    alignas(64) std::atomic<int> unfinished_{0};
    alignas(64) std::atomic<uint32_t> awake_{0};  // odd while work may come; 2^32 - 1 to end
};

// The pool that all kernels of the process share, of one thread until set_pool_threads is called.
// Whoever runs work on it has a PoolTurn.
Pool& pool();

// The right to use the pool, for its lifetime: others (a second engine, say) wait. Not recursive.
class PoolTurn {
  public:
    PoolTurn();
    ~PoolTurn();
    PoolTurn(const PoolTurn&) = delete;
    PoolTurn& operator=(const PoolTurn&) = delete;
};

// Waits for its turn.
void set_pool_threads(int threads);

}  // namespace headrace
