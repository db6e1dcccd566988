#include "runtime/thread_pool.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>

namespace ollamapy {
namespace {

// Pauses before a waiting thread sleeps: some tens of microseconds, longer than any gap between two kernels
// and far shorter than a scheduler's time slice.
constexpr int kSpins = 4000;

// Spin until value differs from old, then sleep in the kernel. Returns the new value.
uint32_t wait_changed(std::atomic<uint32_t>& value, uint32_t old, std::atomic<int>* sleepers) {
    for (int i = 0; i < kSpins; ++i) {
        const uint32_t now = value.load(std::memory_order_acquire);
        if (now != old) return now;
        _mm_pause();
    }
    if (sleepers) sleepers->fetch_add(1, std::memory_order_seq_cst);
    uint32_t now;
    while ((now = value.load(std::memory_order_seq_cst)) == old) value.wait(old, std::memory_order_seq_cst);
    if (sleepers) sleepers->fetch_sub(1, std::memory_order_relaxed);
    return now;
}

// The cgroup v2 CPU quota in CPUs, or 0 when there is none.
double cgroup_quota() {
    std::ifstream groups("/proc/self/cgroup");
    std::string line, path;
    while (std::getline(groups, line)) {
        if (line.rfind("0::", 0) == 0) path = line.substr(3);
    }
    double least = 0;
    // A parent's quota binds as well as the group's own.
    for (;;) {
        std::ifstream file("/sys/fs/cgroup" + path + (path == "/" ? "" : "/") + "cpu.max");
        std::string quota;
        double period = 0;
        if (file >> quota >> period && quota != "max" && period > 0) {
            const double cpus = std::atof(quota.c_str()) / period;
            if (cpus > 0 && (least == 0 || cpus < least)) least = cpus;
        }
        if (path.empty() || path == "/") break;
        path.resize(path.find_last_of('/'));
    }
    return least;
}

// The CPUs of the calling thread's affinity mask; empty if the kernel does not say.
std::vector<int> allowed_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::vector<int> cpus;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
    return cpus;
}

}  // namespace

int usable_cpus() {
    int cpus = static_cast<int>(allowed_cpus().size());
    if (cpus == 0) cpus = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    const double quota = cgroup_quota();
    if (quota > 0) cpus = std::min(cpus, std::max(1, static_cast<int>(std::ceil(quota))));
    return cpus;
}

void Barrier::wait() {
    if (threads_ == 1) return;
    const uint32_t generation = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
        arrived_.store(0, std::memory_order_relaxed);
        generation_.store(generation + 1, std::memory_order_seq_cst);
        if (sleepers_.load(std::memory_order_seq_cst) > 0) generation_.notify_all();
        return;
    }
    wait_changed(generation_, generation, &sleepers_);
}

ThreadPool::ThreadPool(int threads)
    : threads_(std::max(1, threads)), cpus_(allowed_cpus()), barrier_(threads_) {
    if (static_cast<int>(cpus_.size()) != threads_) cpus_.clear();
    workers_.reserve(threads_ - 1);
    for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
    stopping_.store(true);
    epoch_.fetch_add(1);
    epoch_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::stay(int thread) const {
    if (cpus_.empty()) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpus_[thread], &set);
    sched_setaffinity(0, sizeof set, &set);  // if it fails the thread goes where the kernel puts it
}

void ThreadPool::work(int thread) {
    stay(thread);
    uint32_t epoch = 0;
    for (;;) {
        epoch = wait_changed(epoch_, epoch, nullptr);
        if (stopping_.load()) return;
        (*body_)(thread);
        if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_all();
    }
}

void ThreadPool::run(const std::function<void(int)>& body) {
    const std::lock_guard<std::mutex> lock(region_);
    if (threads_ == 1) {
        body(0);
        return;
    }
    body_ = &body;
    running_.store(threads_ - 1, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    epoch_.notify_all();
    body(0);
    for (int i = 0; i < kSpins; ++i) {
        if (running_.load(std::memory_order_acquire) == 0) return;
        _mm_pause();
    }
    int left;
    while ((left = running_.load(std::memory_order_acquire)) != 0) running_.wait(left);
}

}  // namespace ollamapy
