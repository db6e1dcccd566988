// Finds tokens that are written out in a text (control and user-defined ones) and cuts the text at them.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/vocabulary.h"

namespace ollamapy {

// A stretch of text, or a token found in it.
struct Fragment {
    std::string_view text;
    int32_t token;  // -1: text to tokenize
};

class SpecialTokens {
  public:
    // The tokens that have a flag of `wanted` and none of `unwanted`. Keeps a reference to the vocabulary.
    SpecialTokens(const Vocabulary& vocabulary, int wanted, int unwanted);

    // Longer tokens are cut out first, then those of lower id; each from left to right, where no other token
    // was found before. A stripping token swallows the white space beside it.
    std::vector<Fragment> split(std::string_view text) const;

  private:
    struct Entry {
        std::string_view text;
        int32_t token;
        uint32_t rank;   // order in which tokens are cut out
        int32_t prefix;  // index of the longest other entry that this one begins with; -1: none
    };

    // Index of the longest entry that text begins with and that has at most limit bytes; -1: none.
    int32_t longest(std::string_view text) const;
    int32_t shorter(int32_t entry, size_t limit) const;

    const Vocabulary& vocabulary_;
    std::vector<Entry> entries_;  // sorted by text
    std::array<uint32_t, 257>
        first_byte_;  // entries that begin with byte b: [first_byte_[b], first_byte_[b + 1])
};

}  // namespace ollamapy
