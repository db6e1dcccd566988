// Text to tokens and back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf_file.h"
#include "text/special_tokens.h"
#include "text/vocabulary.h"

namespace ollamapy {

// Immutable once built: any number of threads may use one.
class Tokenizer {
  public:
    virtual ~Tokenizer() = default;
    Tokenizer(const Tokenizer&) = delete;
    Tokenizer& operator=(const Tokenizer&) = delete;

    virtual const char* kind() const = 0;  // "bpe", "spm", "wordpiece"
    const Vocabulary& vocabulary() const { return vocabulary_; }

    // add_special puts BOS and EOS (CLS and SEP) where the file wants them; parse_special recognizes control
    // tokens that are written out. Ill-formed UTF-8 is read as U+FFFD. Throws InvalidError for texts of 2 GiB
    // and more.
    std::vector<int32_t> encode(std::string_view text, bool add_special, bool parse_special) const;

    // Appends the bytes that a token stands for; a control token has none unless special. Throws InvalidError
    // for an id out of range.
    void append_piece(int32_t token, bool special, std::string& out) const;

  protected:
    explicit Tokenizer(Vocabulary vocabulary);

    // Tokens of a stretch of well-formed text, not empty, in which no special token is left. first: it begins
    // the text or follows a special token.
    virtual void encode_text(std::string_view text, bool first, std::vector<int32_t>& out) const = 0;

    // The bytes of a normal token as the vocabulary writes it.
    virtual void append_text(std::string_view token, std::string& out) const = 0;

    // The id of the token that stands for a byte alone ("<0x41>"); -1: none.
    int32_t byte_token(uint8_t byte) const;

  private:
    const Vocabulary vocabulary_;
    const SpecialTokens all_special_, user_defined_;
};

// Throws FileError for a vocabulary that is missing, inconsistent or of an unknown kind. Keeps the file
// alive.
std::shared_ptr<const Tokenizer> load_tokenizer(std::shared_ptr<const GGUFFile> file);

// The kinds, each in its own file.
std::shared_ptr<const Tokenizer> make_bpe(Vocabulary vocabulary);
std::shared_ptr<const Tokenizer> make_sentencepiece(Vocabulary vocabulary);
std::shared_ptr<const Tokenizer> make_wordpiece(Vocabulary vocabulary);

}  // namespace ollamapy
