// The merging loop that byte-level BPE and SentencePiece share: of all neighbours that may become one symbol,
// the best pair merges, the leftmost first among equals. O(n log n) in the number of symbols.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace ollamapy {

struct Symbol {
    int32_t id;           // -1: not a token
    uint32_t begin, end;  // bytes in the text; empty once merged into the left neighbour
    int32_t previous, next;
};

struct Merge {
    uint32_t rank;  // lowest first
    int32_t id;     // of the new symbol; -1: the two do not merge
};

// Scratch space, reused from word to word.
class Merger {
  public:
    std::vector<Symbol> symbols;

    void clear() { symbols.clear(); }

    void add(int32_t id, uint32_t begin, uint32_t end) {
        const auto index = static_cast<int32_t>(symbols.size());
        if (index > 0) symbols.back().next = index;
        symbols.push_back({id, begin, end, index - 1, -1});
    }

    // find(left, right) gives the Merge of two neighbouring symbols. Afterwards the chain from symbols[0]
    // along `next` is the result.
    template <class Find>
    void run(const Find& find) {
        heap_.clear();
        const auto count = static_cast<int32_t>(symbols.size());
        for (int32_t i = 0; i + 1 < count; ++i) {
            if (const Candidate pair = candidate(i, find); pair.id >= 0) heap_.push_back(pair);
        }
        std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
        while (!heap_.empty()) {
            std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
            const Candidate best = heap_.back();
            heap_.pop_back();
            const auto index = static_cast<int32_t>(best.key & 0xFFFFFFFF);
            Symbol& left = symbols[static_cast<size_t>(index)];
            // Out of date when either half has merged with another symbol since.
            if (left.end != best.middle || left.next < 0) continue;
            Symbol& right = symbols[static_cast<size_t>(left.next)];
            if (right.end != best.end) continue;
            left.id = best.id;
            left.end = right.end;
            left.next = right.next;
            right.end = right.begin;
            if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = index;
            if (left.previous >= 0) push(candidate(left.previous, find));
            if (left.next >= 0) push(candidate(index, find));
        }
    }

  private:
    struct Candidate {
        uint64_t key;          // rank << 32 | index of the left symbol
        uint32_t middle, end;  // where the two symbols ended when they were looked up
        int32_t id;
        bool operator>(const Candidate& other) const { return key > other.key; }
    };

    template <class Find>
    Candidate candidate(int32_t index, const Find& find) const {
        const Symbol& left = symbols[static_cast<size_t>(index)];
        const Symbol& right = symbols[static_cast<size_t>(left.next)];
        const Merge merge = find(left, right);
        return {static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint32_t>(index), left.end, right.end,
                merge.id};
    }

    void push(const Candidate& pair) {
        if (pair.id < 0) return;
        heap_.push_back(pair);
        std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    }

    std::vector<Candidate> heap_;
};

}  // namespace ollamapy
