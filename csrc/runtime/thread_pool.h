// Threads that run one parallel region at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace ollamapy {

// CPUs this process may use: its affinity mask, cut by the cgroup's quota (rounded up). At least 1.
int usable_cpus();

// Meeting point of a fixed number of threads. Waits by spinning for a bounded time, then sleeps, so that a
// thread whose partner was descheduled gives the core away.
class Barrier {
  public:
    explicit Barrier(int threads) : threads_(threads) {}
    void wait();

  private:
    const int threads_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> generation_{0};
    std::atomic<int> sleepers_{0};
};

class ThreadPool {
  public:
    // threads >= 1 counts the caller of run().
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const { return threads_; }

    // Keeps the calling thread on the CPU of this thread of the pool, which the pool's own threads do by
    // themselves; whoever calls run() all its life may. Does nothing unless there is a thread for every CPU
    // that this process may use: then each has its own, and the kernel, which moves a woken thread to the
    // core of whoever woke it, would put two on one (measured: a third of the time of steps with 8 or 16
    // streams).
    void stay(int thread) const;

    // Run body(thread) on every thread, the caller being thread 0, and return when all have ended. Regions of
    // different callers follow one another. body must not throw.
    void run(const std::function<void(int)>& body);

    // For use inside a region.
    Barrier& barrier() { return barrier_; }

  private:
    void work(int thread);

    const int threads_;
    std::vector<int> cpus_;  // by thread, or empty
    Barrier barrier_;
    std::mutex region_;
    const std::function<void(int)>* body_ = nullptr;
    std::atomic<uint32_t> epoch_{0};
    std::atomic<int> running_{0};
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> workers_;
};

}  // namespace ollamapy
