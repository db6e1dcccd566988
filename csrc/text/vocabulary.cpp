#include "text/vocabulary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "text/pretokenizer.h"

namespace ollamapy {

namespace {

[[noreturn]] void refuse(std::string_view field, const std::string& problem) {
    throw FileError("metadata key 'tokenizer.ggml." + std::string(field) + "' " + problem);
}

std::string key(std::string_view field) {
    return "tokenizer.ggml." + std::string(field);
}

template <class T>
const std::vector<T>* array(const GGUFFile& file, std::string_view field) {
    return file.get_array<T>(key(field));
}

TokenizerKind kind_of(const GGUFFile& file) {
    const std::string_view model = file.get_string(key("model"), "");
    if (model == "gpt2") return TokenizerKind::kBpe;
    if (model == "llama") return TokenizerKind::kSentencePiece;
    if (model == "bert") return TokenizerKind::kWordPiece;
    if (model.empty()) refuse("model", "is missing: the file has no tokenizer");
    refuse("model", "names an unknown tokenizer: '" + std::string(model) + "'");
}

void check_length(std::string_view field, size_t length, size_t tokens) {
    if (length == tokens) return;
    refuse(field, "has " + std::to_string(length) + " values for " + std::to_string(tokens) + " tokens");
}

uint8_t flags_of(int32_t type, size_t token) {
    switch (static_cast<TokenType>(type)) {
        case TokenType::kUndefined:
        case TokenType::kUnused:
            return 0;
        case TokenType::kNormal:
            return kNormalToken;
        case TokenType::kUnknown:
            return kUnknownToken;
        case TokenType::kControl:
            return kControlToken;
        case TokenType::kUserDefined:
            return kUserDefinedToken;
        case TokenType::kByte:
            return kByteToken;
    }
    refuse("token_type",
           "has the unknown type " + std::to_string(type) + " for token " + std::to_string(token));
}

void load_tokens(Vocabulary& vocabulary) {
    const GGUFFile& file = *vocabulary.file;
    const auto* tokens = array<std::string_view>(file, "tokens");
    if (!tokens) refuse("tokens", "is missing");
    if (tokens->empty()) refuse("tokens", "is empty");
    if (tokens->size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
        refuse("tokens", "is too long");
    vocabulary.tokens = *tokens;
    for (const std::string_view token : *tokens)
        vocabulary.longest = std::max(vocabulary.longest, token.size());

    vocabulary.flags.assign(tokens->size(), kNormalToken);
    if (const auto* types = array<int32_t>(file, "token_type")) {
        check_length("token_type", types->size(), tokens->size());
        for (size_t i = 0; i < types->size(); ++i) {
            const int32_t type = (*types)[i];
            if (type < 0 || type > 6) {
                refuse("token_type",
                       "has the unknown type " + std::to_string(type) + " for token " + std::to_string(i));
            }
            vocabulary.flags[i] = flags_of(type, i);
        }
    }
    vocabulary.map = TokenMap(vocabulary.tokens);
}

void load_scores(Vocabulary& vocabulary) {
    const auto* scores = array<float>(*vocabulary.file, "scores");
    if (!scores) refuse("scores", "is missing");
    check_length("scores", scores->size(), vocabulary.tokens.size());
    for (size_t i = 0; i < scores->size(); ++i) {
        if (std::isnan((*scores)[i])) refuse("scores", "is not a number for token " + std::to_string(i));
    }
    vocabulary.scores = *scores;
}

// The id under the first of these fields that the file has, else the fallback; -1 when that is out of range
// too.
int32_t load_id(const Vocabulary& vocabulary, std::initializer_list<std::string_view> fields,
                int32_t fallback) {
    for (const std::string_view field : fields) {
        if (const int32_t id = read_token_id(vocabulary, field); id >= 0) return id;
    }
    return fallback < vocabulary.size() ? fallback : -1;
}

void load_bpe(Vocabulary& vocabulary) {
    const GGUFFile& file = *vocabulary.file;
    const PreTokenizer* pre = find_pre_tokenizer(vocabulary.pre);
    if (!pre) refuse("pre", "names an unknown pre-tokenizer: '" + std::string(vocabulary.pre) + "'");
    const auto* merges = array<std::string_view>(file, "merges");
    if (!merges) refuse("merges", "is missing");
    vocabulary.merges = *merges;
    vocabulary.add_bos = file.get_bool(key("add_bos_token"), pre->add_bos);
    vocabulary.add_eos = file.get_bool(key("add_eos_token"), false);
    vocabulary.bos = load_id(vocabulary, {"bos_token_id"}, -1);
    vocabulary.eos = load_id(vocabulary, {"eos_token_id"}, -1);
    vocabulary.unknown = load_id(vocabulary, {"unknown_token_id"}, -1);
}

void load_sentencepiece(Vocabulary& vocabulary) {
    const GGUFFile& file = *vocabulary.file;
    load_scores(vocabulary);
    vocabulary.add_bos = file.get_bool(key("add_bos_token"), true);
    vocabulary.add_eos = file.get_bool(key("add_eos_token"), false);
    // All of Gemma's tokenizers go without the prefix; not all files say so.
    const bool gemma = file.get_string("general.architecture", "").starts_with("gemma");
    vocabulary.add_space_prefix = file.get_bool(key("add_space_prefix"), !gemma);
    vocabulary.bos = load_id(vocabulary, {"bos_token_id"}, 1);
    vocabulary.eos = load_id(vocabulary, {"eos_token_id"}, 2);
    vocabulary.unknown = load_id(vocabulary, {"unknown_token_id"}, 0);
}

// BERT always frames a text by [CLS] and [SEP]; they stand as BOS and EOS here.
void load_wordpiece(Vocabulary& vocabulary) {
    const GGUFFile& file = *vocabulary.file;
    vocabulary.add_bos = vocabulary.add_eos = true;
    vocabulary.lowercase = file.get_bool(key("normalizer.lowercase"), true);
    vocabulary.strip_accents = file.get_bool(key("normalizer.strip_accents"), vocabulary.lowercase);
    vocabulary.bos = load_id(vocabulary, {"cls_token_id", "bos_token_id"}, 101);
    vocabulary.eos = load_id(vocabulary, {"seperator_token_id", "eos_token_id"}, 102);
    vocabulary.unknown = load_id(vocabulary, {"unknown_token_id"}, 100);
    if (vocabulary.bos < 0) refuse("cls_token_id", "is missing");
    if (vocabulary.eos < 0) refuse("seperator_token_id", "is missing");
    if (vocabulary.unknown < 0) refuse("unknown_token_id", "is missing");
}

}  // namespace

int32_t read_token_id(const Vocabulary& vocabulary, std::string_view field) {
    if (!vocabulary.file->find(key(field))) return -1;
    return check_token_id(vocabulary, field, vocabulary.file->get_int(key(field), -1));
}

int32_t check_token_id(const Vocabulary& vocabulary, std::string_view field, int64_t id) {
    if (id >= 0 && id < vocabulary.size()) return static_cast<int32_t>(id);
    refuse(field,
           "is " + std::to_string(id) + ", but there are " + std::to_string(vocabulary.size()) + " tokens");
}

Vocabulary load_vocabulary(std::shared_ptr<const GGUFFile> file) {
    Vocabulary vocabulary;
    vocabulary.file = std::move(file);
    vocabulary.kind = kind_of(*vocabulary.file);
    vocabulary.pre = vocabulary.file->get_string(key("pre"), "default");
    load_tokens(vocabulary);
    switch (vocabulary.kind) {
        case TokenizerKind::kBpe:
            load_bpe(vocabulary);
            break;
        case TokenizerKind::kSentencePiece:
            load_sentencepiece(vocabulary);
            break;
        case TokenizerKind::kWordPiece:
            load_wordpiece(vocabulary);
            break;
    }
    apply_well_known_tokens(vocabulary);
    return vocabulary;
}

}  // namespace ollamapy
