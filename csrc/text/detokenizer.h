// Streams tokens into text and never emits a part of a character.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "text/tokenizer.h"

namespace ollamapy {

class Detokenizer {
  public:
    Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool special)
        : tokenizer_(std::move(tokenizer)), special_(special) {}

    // The text that is complete after token: well-formed UTF-8, with U+FFFD for bytes that can be no
    // character. Throws InvalidError for an id out of range.
    std::string push(int32_t token);

    // Ends the stream: an incomplete last character is dropped, so nothing is left to emit.
    std::string flush();

    size_t pending() const { return held_.size(); }

  private:
    std::shared_ptr<const Tokenizer> tokenizer_;
    bool special_;
    std::string held_;  // the beginning of a character, at most 3 bytes
};

}  // namespace ollamapy
