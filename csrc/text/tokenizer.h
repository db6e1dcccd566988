// Text to tokens and back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf_file.h"

namespace ollamapy {

enum class TokenType : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

class Tokenizer {
  public:
    virtual ~Tokenizer() = default;
    virtual const char* kind() const = 0;  // "bpe", "spm", "wordpiece"
    virtual std::vector<int32_t> encode(std::string_view text, bool add_special, bool parse_special) const = 0;
    // The bytes a token stands for; a control token has none unless special.
    virtual std::string piece(int32_t token, bool special) const = 0;
    // (vocabulary accessors, BOS/EOS/EOG as in _core.pyi are declared by the implementation of this room)
};

// Throws FileError for a vocabulary that is missing, inconsistent or of an unknown kind. Keeps the file alive.
std::shared_ptr<Tokenizer> load_tokenizer(std::shared_ptr<const GGUFFile> file);

}  // namespace ollamapy
