#include "text/tokenizer.h"

#include <charconv>
#include <limits>
#include <utility>

#include "errors.h"
#include "text/unicode.h"

namespace ollamapy {

namespace {

constexpr int kHiddenToken = kControlToken | kUnknownToken;

// The byte of "<0x41>"; -1 for any other text.
int byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
    unsigned byte = 0;
    const char* end = token.data() + 5;
    const auto [stop, error] = std::from_chars(token.data() + 3, end, byte, 16);
    return error == std::errc() && stop == end ? static_cast<int>(byte) : -1;
}

}  // namespace

Tokenizer::Tokenizer(Vocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)),
      all_special_(vocabulary_, kHiddenToken | kUserDefinedToken, 0),
      user_defined_(vocabulary_, kUserDefinedToken, kHiddenToken) {}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special, bool parse_special) const {
    std::string storage;
    text = unicode::well_formed(text, storage);
    if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
        throw InvalidError("the text is too long to tokenize: " + std::to_string(text.size()) + " bytes");
    }
    std::vector<int32_t> out;
    out.reserve(text.size() / 4 + 2);
    if (add_special && vocabulary_.add_bos && vocabulary_.bos >= 0) out.push_back(vocabulary_.bos);
    bool first = true;
    for (const Fragment& fragment : (parse_special ? all_special_ : user_defined_).split(text)) {
        if (fragment.token >= 0) {
            out.push_back(fragment.token);
        } else {
            encode_text(fragment.text, first, out);
        }
        first = fragment.token >= 0;
    }
    if (add_special && vocabulary_.add_eos && vocabulary_.eos >= 0) out.push_back(vocabulary_.eos);
    return out;
}

void Tokenizer::append_piece(int32_t token, bool special, std::string& out) const {
    if (token < 0 || token >= vocabulary_.size()) {
        throw InvalidError("token " + std::to_string(token) + " is not in the vocabulary of " +
                           std::to_string(vocabulary_.size()));
    }
    const std::string_view text = vocabulary_.text(token);
    if (vocabulary_.has(token, kHiddenToken)) {
        if (special) out += text;
    } else if (vocabulary_.has(token, kUserDefinedToken)) {
        out += text;
    } else if (vocabulary_.has(token, kNormalToken)) {
        append_text(text, out);
    } else if (const int byte = byte_of(text); vocabulary_.has(token, kByteToken) && byte >= 0) {
        out.push_back(static_cast<char>(byte));
    }
}

int32_t Tokenizer::byte_token(uint8_t byte) const {
    constexpr std::string_view kDigits = "0123456789ABCDEF";
    const char text[] = {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
    return vocabulary_.find({text, sizeof text});
}

std::shared_ptr<const Tokenizer> load_tokenizer(std::shared_ptr<const GGUFFile> file) {
    Vocabulary vocabulary = load_vocabulary(std::move(file));
    switch (vocabulary.kind) {
        case TokenizerKind::kBpe:
            return make_bpe(std::move(vocabulary));
        case TokenizerKind::kSentencePiece:
            return make_sentencepiece(std::move(vocabulary));
        case TokenizerKind::kWordPiece:
            return make_wordpiece(std::move(vocabulary));
    }
    throw FileError("metadata key 'tokenizer.ggml.model' names an unknown tokenizer");
}

}  // namespace ollamapy
