// Token text to token id: a flat hash with open addressing, built in one pass (a quarter of a million tokens
// in a few milliseconds) and read by many threads.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string_view>
#include <vector>

namespace ollamapy {

// Multiplies and folds the upper half of the product into the lower one.
inline uint64_t fold(uint64_t word) {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(word) * 0x9E3779B97F4A7C15u;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

class TokenMap {
  public:
    TokenMap() = default;

    // Of equal texts the last one wins; empty texts are left out. The texts must outlive the map.
    explicit TokenMap(std::span<const std::string_view> tokens)
        : tokens_(tokens), mask_(std::bit_ceil(tokens.size() * 2 + 1) - 1), seed_(std::random_device{}()) {
        slots_.resize(mask_ + 1, Slot{0, -1});
        for (size_t id = 0; id < tokens.size(); ++id) {
            if (tokens[id].empty()) continue;
            const uint64_t hash = hash_of(tokens[id]);
            Slot& slot = slots_[probe(tokens[id], hash)];
            slot = {static_cast<uint32_t>(hash >> 32), static_cast<int32_t>(id)};
        }
    }

    // -1 when no token has this text.
    int32_t find(std::string_view text) const {
        if (slots_.empty()) return -1;
        return slots_[probe(text, hash_of(text))].id;
    }

  private:
    struct Slot {
        uint32_t tag;  // upper half of the hash
        int32_t id;    // -1: free
    };

    static uint64_t load(const char* bytes, size_t count) {
        uint64_t word = 0;
        std::memcpy(&word, bytes, count);
        return word;
    }

    // Eight bytes at a time. Seeded, so that no file can be written whose tokens all collide.
    uint64_t hash_of(std::string_view text) const {
        uint64_t hash = seed_ + text.size();
        const char* bytes = text.data();
        size_t left = text.size();
        for (; left > 8; bytes += 8, left -= 8) hash = fold(hash ^ load(bytes, 8));
        // The tail without a variable-size copy: two overlapping halves.
        uint64_t tail = 0;
        if (left >= 4) {
            tail = load(bytes, 4) << 32 | load(bytes + left - 4, 4);
        } else if (left > 0) {
            const auto byte = [&](size_t i) { return static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])); };
            tail = byte(0) << 16 | byte(left / 2) << 8 | byte(left - 1);
        }
        return fold(fold(hash ^ tail) + seed_);
    }

    // Index of the slot that holds text, or of the free one where it belongs.
    size_t probe(std::string_view text, uint64_t hash) const {
        const auto tag = static_cast<uint32_t>(hash >> 32);
        for (size_t index = hash & mask_;; index = (index + 1) & mask_) {
            const Slot& slot = slots_[index];
            if (slot.id < 0) return index;
            if (slot.tag == tag && tokens_[static_cast<size_t>(slot.id)] == text) return index;
        }
    }

    std::span<const std::string_view> tokens_;
    std::vector<Slot> slots_;
    size_t mask_ = 0;
    uint64_t seed_ = 0;
};

}  // namespace ollamapy
