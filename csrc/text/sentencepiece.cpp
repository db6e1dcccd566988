// SentencePiece (Llama 2, Gemma): characters merge into the neighbouring pair of the best score as long as
// the pair is a token; what is no token falls back to byte tokens. Spaces are written as U+2581.
#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "errors.h"
#include "text/merge.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace ollamapy {

namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// Ascending ranks for descending scores. The bits of an IEEE number sort like a signed magnitude.
uint32_t rank_of(float score) {
    const auto bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 and 0 are equal
    return bits & 0x80000000u ? bits : 0x7FFFFFFFu - bits;
}

class SentencePiece final : public Tokenizer {
  public:
    explicit SentencePiece(Vocabulary loaded) : Tokenizer(std::move(loaded)) {
        bool complete = true;
        for (size_t byte = 0; byte < 256; ++byte) {
            bytes_[byte] = byte_token(static_cast<uint8_t>(byte));
            if (bytes_[byte] < 0) {
                const char character = static_cast<char>(byte);
                bytes_[byte] = vocabulary().find({&character, 1});
            }
            complete = complete && bytes_[byte] >= 0;
        }
        if (!complete && vocabulary().unknown < 0) {
            throw FileError(
                "metadata key 'tokenizer.ggml.tokens' has neither a token for every byte nor an unknown "
                "token");
        }
        for (const std::string_view token : vocabulary().tokens) {
            for (size_t at = token.find(kSpaceMark, 1); at != std::string_view::npos;
                 at = token.find(kSpaceMark, at + 1)) {
                goes_on_[static_cast<uint8_t>(token[at - 1])] = true;
            }
        }
    }

    const char* kind() const override { return "spm"; }

  private:
    void encode_text(std::string_view text, bool first, std::vector<int32_t>& out) const override {
        std::string escaped;
        escaped.reserve(text.size() + text.size() / 2);
        if (first && vocabulary().add_space_prefix) escaped += kSpaceMark;
        for (const char c : text) {
            if (c == ' ') {
                escaped += kSpaceMark;
            } else {
                escaped += c;
            }
        }
        // A pair that no token contains never merges: cut where a space mark follows a byte that it follows
        // in no token. The result is the same, and the parts are words.
        Merger merger;
        const std::string_view whole = escaped;
        size_t begin = 0;
        for (size_t at = whole.find(kSpaceMark, 1); at != std::string_view::npos;
             at = whole.find(kSpaceMark, at + 1)) {
            if (goes_on_[static_cast<uint8_t>(whole[at - 1])]) continue;
            encode_part(whole.substr(begin, at - begin), merger, out);
            begin = at;
        }
        encode_part(whole.substr(begin), merger, out);
    }

    void encode_part(std::string_view part, Merger& merger, std::vector<int32_t>& out) const {
        merger.clear();
        for (size_t i = 0; i < part.size();) {
            const size_t end = i + unicode::decode(part.substr(i)).length;
            merger.add(-1, static_cast<uint32_t>(i), static_cast<uint32_t>(end));
            i = end;
        }
        merger.run([&](const Symbol& left, const Symbol& right) -> Merge {
            const size_t length = right.end - left.begin;
            if (length > vocabulary().longest) return {0, -1};
            const int32_t token = vocabulary().find(part.substr(left.begin, length));
            if (token < 0) return {0, -1};
            return {rank_of(vocabulary().scores[static_cast<size_t>(token)]), token};
        });
        for (int32_t i = 0; i >= 0; i = merger.symbols[static_cast<size_t>(i)].next) {
            const Symbol& symbol = merger.symbols[static_cast<size_t>(i)];
            const std::string_view text = part.substr(symbol.begin, symbol.end - symbol.begin);
            const int32_t token = symbol.id >= 0 ? symbol.id : vocabulary().find(text);
            if (token >= 0) {
                out.push_back(token);
            } else {
                append_bytes(text, out);
            }
        }
    }

    void append_bytes(std::string_view character, std::vector<int32_t>& out) const {
        const auto known = [&](char byte) { return bytes_[static_cast<uint8_t>(byte)] >= 0; };
        if (!std::all_of(character.begin(), character.end(), known)) {
            out.push_back(vocabulary().unknown);
            return;
        }
        for (const char byte : character) out.push_back(bytes_[static_cast<uint8_t>(byte)]);
    }

    void append_text(std::string_view token, std::string& out) const override {
        size_t begin = 0;
        for (size_t at = token.find(kSpaceMark); at != std::string_view::npos;
             at = token.find(kSpaceMark, begin)) {
            out.append(token.substr(begin, at - begin)).push_back(' ');
            begin = at + kSpaceMark.size();
        }
        out.append(token.substr(begin));
    }

    std::array<int32_t, 256> bytes_;   // tokens of single bytes; -1: none
    std::array<bool, 256> goes_on_{};  // bytes that a space mark follows in some token
};

}  // namespace

std::shared_ptr<const Tokenizer> make_sentencepiece(Vocabulary vocabulary) {
    return std::make_shared<SentencePiece>(std::move(vocabulary));
}

}  // namespace ollamapy
