// Cuts text into the words that byte-level BPE merges within.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace ollamapy {

struct PreTokenizer {
    // Appends the end offset of every word of text, ascending; the last one is text.size(). text is
    // well-formed UTF-8.
    using Split = void (*)(std::string_view text, std::vector<uint32_t>& ends);
    std::string_view name;
    Split split;
    bool ignore_merges = false;  // a word that is a token is taken whole
    bool add_bos = false;        // where the file does not say
};

// By the name in tokenizer.ggml.pre; nullptr when unknown.
const PreTokenizer* find_pre_tokenizer(std::string_view name);

}  // namespace ollamapy
