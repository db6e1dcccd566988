// How the threads of a region share an instruction's chunks: each has a contiguous share of its own, so that
// it reads memory as one stream, and who has ended takes chunks of the others.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace ollamapy {

// The part index of count equal ones of [0, total).
struct Range {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
};
constexpr Range share(int64_t total, int64_t index, int64_t count) {
    return {total * index / count, total * (index + 1) / count};
}

class WorkShares {
  public:
    // For so many threads, everything unclaimed. Not while a region runs.
    void start(int threads) {
        if (claims_.size() != static_cast<size_t>(2 * threads)) claims_ = std::vector<Claims>(2 * threads);
        for (Claims& claims : claims_) claims.taken.store(0, std::memory_order_relaxed);
        threads_ = threads;
    }

    // body(chunk) for the chunks of [0, count) that this thread gets. All threads call it with the same
    // rounds in the same order, and meet at a barrier between two of them.
    template <class Body>
    void run(int64_t round, int thread, int64_t count, const Body& body) {
        // The counters of the round before: everyone has left it, and nobody enters the next before the
        // barrier that this thread still has to reach.
        claims(round + 1, thread).store(0, std::memory_order_relaxed);
        for (int i = 0; i < threads_; ++i) {
            const int owner = (thread + i) % threads_;
            const Range range = share(count, owner, threads_);
            std::atomic<int64_t>& taken = claims(round, owner);
            while (taken.load(std::memory_order_relaxed) < range.size()) {
                const int64_t index = taken.fetch_add(1, std::memory_order_relaxed);
                if (index >= range.size()) break;
                body(range.begin + index);
            }
        }
    }

  private:
    struct Claims {
        alignas(64) std::atomic<int64_t> taken{0};
    };
    std::atomic<int64_t>& claims(int64_t round, int thread) {
        return claims_[static_cast<size_t>(round % 2 * threads_ + thread)].taken;
    }

    int threads_ = 1;
    std::vector<Claims> claims_;  // of two rounds: the current one and its neighbour
};

}  // namespace ollamapy
