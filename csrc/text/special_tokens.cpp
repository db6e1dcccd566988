#include "text/special_tokens.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace ollamapy {

namespace {

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

struct Found {
    size_t begin, end;  // with the white space it swallows
    int32_t token;
};

// An entry that may be cut out at a position: the lowest key goes first.
struct Candidate {
    uint64_t key;  // rank << 32 | position
    int32_t entry;
    bool operator>(const Candidate& other) const { return key > other.key; }
};

}  // namespace

SpecialTokens::SpecialTokens(const Vocabulary& vocabulary, int wanted, int unwanted)
    : vocabulary_(vocabulary) {
    for (int32_t token = 0; token < vocabulary.size(); ++token) {
        const std::string_view text = vocabulary.text(token);
        if (text.empty() || !vocabulary.has(token, wanted) || vocabulary.has(token, unwanted)) continue;
        if (vocabulary.find(text) == token) entries_.push_back({text, token, 0, -1});
    }
    std::sort(entries_.begin(), entries_.end(),
              [](const Entry& a, const Entry& b) { return a.text < b.text; });

    std::vector<uint32_t> order(entries_.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        const Entry &left = entries_[a], &right = entries_[b];
        if (left.text.size() != right.text.size()) return left.text.size() > right.text.size();
        return left.token < right.token;
    });
    for (uint32_t rank = 0; rank < order.size(); ++rank) entries_[order[rank]].rank = rank;

    // In sorted order everything that begins with an entry follows it, so a stack finds the prefixes.
    std::vector<int32_t> open;
    for (size_t i = 0; i < entries_.size(); ++i) {
        while (!open.empty() &&
               !entries_[i].text.starts_with(entries_[static_cast<size_t>(open.back())].text)) {
            open.pop_back();
        }
        entries_[i].prefix = open.empty() ? -1 : open.back();
        open.push_back(static_cast<int32_t>(i));
    }

    first_byte_.fill(0);
    for (const Entry& entry : entries_) ++first_byte_[static_cast<uint8_t>(entry.text[0]) + 1u];
    std::partial_sum(first_byte_.begin(), first_byte_.end(), first_byte_.begin());
}

int32_t SpecialTokens::shorter(int32_t entry, size_t limit) const {
    while (entry >= 0 && entries_[static_cast<size_t>(entry)].text.size() > limit) {
        entry = entries_[static_cast<size_t>(entry)].prefix;
    }
    return entry;
}

int32_t SpecialTokens::longest(std::string_view text) const {
    const auto byte = static_cast<uint8_t>(text[0]);
    const auto begin = entries_.begin() + first_byte_[byte], end = entries_.begin() + first_byte_[byte + 1u];
    // The last entry that does not sort after the text: what the text begins with is that entry or a prefix
    // of it.
    const auto after = std::upper_bound(
        begin, end, text, [](std::string_view wanted, const Entry& entry) { return wanted < entry.text; });
    if (after == begin) return -1;
    const std::string_view last = std::prev(after)->text;
    const size_t limit = std::min(last.size(), text.size());
    const auto common =
        std::mismatch(last.begin(), last.begin() + static_cast<ptrdiff_t>(limit), text.begin()).first;
    return shorter(static_cast<int32_t>(std::prev(after) - entries_.begin()),
                   static_cast<size_t>(common - last.begin()));
}

std::vector<Fragment> SpecialTokens::split(std::string_view text) const {
    std::vector<Candidate> heap;
    const auto offer = [&](size_t position, int32_t entry) {
        const uint64_t rank = entries_[static_cast<size_t>(entry)].rank;
        heap.push_back({rank << 32 | position, entry});
    };
    for (size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<uint8_t>(text[i]);
        if (first_byte_[byte] == first_byte_[byte + 1u]) continue;
        if (const int32_t entry = longest(text.substr(i)); entry >= 0) offer(i, entry);
    }
    if (heap.empty()) return text.empty() ? std::vector<Fragment>{} : std::vector<Fragment>{{text, -1}};

    std::make_heap(heap.begin(), heap.end(), std::greater<>());
    std::vector<Found> found;
    std::vector<uint8_t> taken(text.size(), 0);
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end(), std::greater<>());
        const Candidate best = heap.back();
        heap.pop_back();
        size_t begin = best.key & 0xFFFFFFFF;
        if (taken[begin]) continue;
        const Entry& entry = entries_[static_cast<size_t>(best.entry)];
        size_t end = begin + entry.text.size();
        const auto from = taken.begin() + static_cast<ptrdiff_t>(begin);
        const auto blocked = std::find(from, taken.begin() + static_cast<ptrdiff_t>(end), uint8_t{1});
        if (const auto room = static_cast<size_t>(blocked - from); room < entry.text.size()) {
            const int32_t other = shorter(best.entry, room);
            if (other < 0) continue;
            offer(begin, other);
            std::push_heap(heap.begin(), heap.end(), std::greater<>());
            continue;
        }
        if (vocabulary_.has(entry.token, kStripLeft)) {
            while (begin > 0 && !taken[begin - 1] && is_space(text[begin - 1])) --begin;
        }
        if (vocabulary_.has(entry.token, kStripRight)) {
            while (end < text.size() && !taken[end] && is_space(text[end])) ++end;
        }
        std::fill(taken.begin() + static_cast<ptrdiff_t>(begin), taken.begin() + static_cast<ptrdiff_t>(end),
                  uint8_t{1});
        found.push_back({begin, end, entry.token});
    }

    std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.begin < b.begin; });
    std::vector<Fragment> fragments;
    size_t position = 0;
    for (const Found& item : found) {
        if (item.begin > position) fragments.push_back({text.substr(position, item.begin - position), -1});
        fragments.push_back({{}, item.token});
        position = item.end;
    }
    if (position < text.size()) fragments.push_back({text.substr(position), -1});
    return fragments;
}

}  // namespace ollamapy
