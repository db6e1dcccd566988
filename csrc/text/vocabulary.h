// The vocabulary of a GGUF file, checked once: everything the tokenizers read.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "gguf/gguf_file.h"
#include "text/token_map.h"

namespace ollamapy {

// Values of tokenizer.ggml.token_type.
enum class TokenType : uint8_t {
    kUndefined = 0,
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
};

// What a token is, as bits: its type in the file, and what its well-known text adds (see
// well_known_tokens.cpp).
enum TokenFlag : uint8_t {
    kNormalToken = 1,
    kUnknownToken = 2,
    kControlToken = 4,
    kUserDefinedToken = 8,
    kByteToken = 16,
    kStripLeft = 32,   // swallows white space before it
    kStripRight = 64,  // and after it
};

enum class TokenizerKind : uint8_t { kBpe, kSentencePiece, kWordPiece };

struct Vocabulary {
    std::shared_ptr<const GGUFFile> file;  // owns the bytes that every view here points into
    TokenizerKind kind = TokenizerKind::kBpe;
    std::string_view pre;  // name of the pre-tokenizer; "default" when the file names none
    std::span<const std::string_view> tokens;
    std::span<const std::string_view> merges;  // BPE only
    std::vector<float> scores;                 // SentencePiece only
    std::vector<uint8_t> flags;                // TokenFlag bits of every token
    TokenMap map;
    size_t longest = 0;  // bytes of the longest token

    // Token ids; -1: none.
    int32_t bos = -1, eos = -1, unknown = -1;
    std::vector<int32_t> end_of_generation;  // ascending
    bool add_bos = false, add_eos = false;
    bool add_space_prefix = false;                // SentencePiece only
    bool lowercase = true, strip_accents = true;  // WordPiece only

    int32_t size() const { return static_cast<int32_t>(tokens.size()); }
    int32_t find(std::string_view text) const { return map.find(text); }
    std::string_view text(int32_t token) const { return tokens[static_cast<size_t>(token)]; }
    bool has(int32_t token, int flag) const { return (flags[static_cast<size_t>(token)] & flag) != 0; }
};

// Throws FileError that names the field: unknown kind or pre-tokenizer, missing tokens, scores or merges,
// lengths that differ, ids out of range, scores that are NaN. Where the file is silent, llama.cpp's defaults
// hold, except that a byte-level vocabulary without bos_token_id or eos_token_id has none (there: token 11).
Vocabulary load_vocabulary(std::shared_ptr<const GGUFFile> file);

// The token id under tokenizer.ggml.<field>, -1 when absent. Throws FileError when it is out of range.
int32_t read_token_id(const Vocabulary& vocabulary, std::string_view field);

// The id itself if it is in range. Throws FileError, which names tokenizer.ggml.<field>.
int32_t check_token_id(const Vocabulary& vocabulary, std::string_view field, int64_t id);

// Flags and the end-of-generation set that token texts imply. Called by load_vocabulary.
void apply_well_known_tokens(Vocabulary& vocabulary);

}  // namespace ollamapy
