// The pages of a model: one pool per layer group. Which page holds what is decided above (ollamapy/engine).
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "errors.h"
#include "graph/program.h"
#include "runtime/memory.h"

namespace ollamapy {

class KVCache {
  public:
    // pages: how many pages each group of the program gets. Throws InvalidError, std::bad_alloc. The
    // reservation costs memory only as pages are written.
    KVCache(const Program& program, const std::vector<int64_t>& pages) : pages_(pages) {
        if (pages.size() != program.groups.size()) {
            throw InvalidError("the program has " + std::to_string(program.groups.size()) +
                               " layer groups, not " + std::to_string(pages.size()));
        }
        for (size_t i = 0; i < pages.size(); ++i) {
            const int64_t bytes = program.groups[i].page_bytes;
            if (pages[i] < 0 || pages[i] > INT32_MAX ||
                (bytes > 0 && pages[i] > (int64_t{1} << 46) / bytes)) {
                throw InvalidError("a pool of " + std::to_string(pages[i]) + " pages");
            }
            strides_.push_back(bytes);
            types_.push_back(program.groups[i].type);
            pools_.emplace_back(static_cast<size_t>(pages[i] * bytes));
        }
    }

    const std::vector<int64_t>& pages() const { return pages_; }
    uint8_t* pool(int group) const { return pools_[group].as<uint8_t>(); }
    int64_t stride(int group) const { return strides_[group]; }  // bytes from page to page
    void copy_page(int group, int64_t from, int64_t to) const {
        const int64_t n = strides_[group];
        std::copy_n(pool(group) + from * n, n, pool(group) + to * n);
    }
    // Give the memory of some pages of a group back to the system; what they held is lost. No step may be
    // using them. Throws InvalidError.
    void give_back(int64_t group, std::vector<int64_t> pages) const {
        if (group < 0 || group >= static_cast<int64_t>(pools_.size()))
            throw InvalidError("layer group " + std::to_string(group));
        std::sort(pages.begin(), pages.end());
        if (!pages.empty() && (pages.front() < 0 || pages.back() >= pages_[group]))
            throw InvalidError("a page beyond the " + std::to_string(pages_[group]) + " of the pool");
        for (size_t first = 0, last; first < pages.size(); first = last) {
            // Neighbours together: a system page may hold the end of one and the beginning of the next.
            for (last = first + 1; last < pages.size() && pages[last] <= pages[last - 1] + 1;) ++last;
            pools_[group].give_back(static_cast<size_t>(pages[first] * strides_[group]),
                                    static_cast<size_t>((pages[last - 1] + 1) * strides_[group]));
        }
    }
    // Whether the pages are those that a program's layer groups ask for.
    bool fits(const Program& program) const {
        if (program.groups.size() != pages_.size()) return false;
        for (size_t i = 0; i < pages_.size(); ++i) {
            if (strides_[i] != program.groups[i].page_bytes || types_[i] != program.groups[i].type) {
                return false;
            }
        }
        return true;
    }
    size_t nbytes() const {
        size_t total = 0;
        for (const AlignedBuffer& pool : pools_) total += pool.bytes();
        return total;
    }

  private:
    std::vector<int64_t> pages_;
    std::vector<int64_t> strides_;
    std::vector<cpu::KvType> types_;
    std::vector<AlignedBuffer> pools_;
};

}  // namespace ollamapy
