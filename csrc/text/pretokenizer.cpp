// The regular expressions of the models' tokenizer.json files, written out as scanners over characters. Names
// and their expressions are those that llama.cpp gives to tokenizer.ggml.pre (llama-vocab.cpp).
#include "text/pretokenizer.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "text/unicode.h"

namespace ollamapy {

namespace {

using unicode::kLetter;
using unicode::kMark;
using unicode::kNumber;
using unicode::kPunctuation;
using unicode::kSpace;

constexpr std::array<uint8_t, 128> ascii_traits() {
    std::array<uint8_t, 128> table{};
    for (size_t i = 0; i < table.size(); ++i) {
        const char c = static_cast<char>(i);
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
            table[i] = kLetter;
        } else if (c >= '0' && c <= '9') {
            table[i] = kNumber;
        } else if (c == ' ' || (c >= '\t' && c <= '\r')) {
            table[i] = kSpace;
        } else if (std::string_view("!\"#%&'()*,-./:;?@[\\]_{}").find(c) != std::string_view::npos) {
            table[i] = kPunctuation;
        }
    }
    return table;
}

constexpr std::array<uint8_t, 128> kAscii = ascii_traits();

struct Character {
    char32_t code;
    uint8_t traits;
    uint8_t length;  // bytes; 0 past the end
};

// Characters by byte offset, and the parts that the expressions share. Every function that takes a position
// and returns one moves forward over what it matched.
class Text {
  public:
    explicit Text(std::string_view text) : text_(text) {}

    size_t size() const { return text_.size(); }

    Character at(size_t position) const {
        if (position >= text_.size()) return {0, 0, 0};
        const auto byte = static_cast<uint8_t>(text_[position]);
        if (byte < 0x80) return {byte, kAscii[byte], 1};
        const unicode::Decoded next = unicode::decode(text_.substr(position));
        return {next.code, unicode::traits(next.code), next.length};
    }

    // [traits]*
    size_t skip(size_t position, int traits) const {
        for (;;) {
            const Character next = at(position);
            if (!(next.traits & traits)) return position;
            position += next.length;
        }
    }

    // [^traits]*
    size_t skip_others(size_t position, int traits) const {
        for (;;) {
            const Character next = at(position);
            if (next.length == 0 || (next.traits & traits)) return position;
            position += next.length;
        }
    }

    // 's|'t|'re|'ve|'m|'ll|'d, also in upper case if fold. Returns position where there is none.
    size_t contraction(size_t position, bool fold) const {
        if (at(position).code != '\'') return position;
        const auto letter = [&](size_t i) {
            const char32_t code = at(i).code;
            return fold ? unicode::lowercase(code) : code;
        };
        const char32_t first = letter(position + 1);
        if (first == 's' || first == 't' || first == 'm' || first == 'd') return position + 2;
        if (first != 'r' && first != 'v' && first != 'l') return position;
        return letter(position + 2) == (first == 'l' ? U'l' : U'e') ? position + 3 : position;
    }

    // \s+(?!\S)|\s+ : white space, less its last character when a word follows.
    size_t spaces(size_t position) const {
        size_t end = position, last = position;
        for (Character next = at(end); next.traits & kSpace; next = at(end)) {
            last = end;
            end += next.length;
        }
        return end < text_.size() && last > position ? last : end;
    }

    // \s*[\r\n]+ . Returns position where there is none.
    size_t line_ends(size_t position) const {
        size_t end = position;
        for (Character next = at(position); next.traits & kSpace; next = at(position)) {
            position += next.length;
            if (next.code == '\r' || next.code == '\n') end = position;
        }
        return end;
    }

  private:
    std::string_view text_;
};

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t gpt2_word(const Text& text, size_t position) {
    if (const size_t end = text.contraction(position, false); end > position) return end;
    const size_t start = text.at(position).code == ' ' ? position + 1 : position;
    const Character first = text.at(start);
    if (first.traits & kLetter) return text.skip(start, kLetter);
    if (first.traits & kNumber) return text.skip(start, kNumber);
    if (first.length && !(first.traits & kSpace)) return text.skip_others(start, kSpace | kLetter | kNumber);
    return text.spaces(position);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}|
// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ where \p{L} is any of `letters`.
template <size_t digits, int letters>
size_t llama3_word(const Text& text, size_t position) {
    if (const size_t end = text.contraction(position, true); end > position) return end;
    const Character first = text.at(position);
    if (first.code != '\r' && first.code != '\n' && !(first.traits & kNumber)) {
        const size_t second = position + first.length;
        if ((first.traits | text.at(second).traits) & letters) return text.skip(second, letters);
    }
    if (first.traits & kNumber) {
        for (size_t i = 0; i < digits; ++i) {
            const Character next = text.at(position);
            if (!(next.traits & kNumber)) break;
            position += next.length;
        }
        return position;
    }
    const size_t start = first.code == ' ' ? position + 1 : position;
    const Character other = text.at(start);
    if (other.length && !(other.traits & (kSpace | letters | kNumber))) {
        size_t end = text.skip_others(start, kSpace | letters | kNumber);
        while (text.at(end).code == '\r' || text.at(end).code == '\n') ++end;
        return end;
    }
    if (const size_t end = text.line_ends(position); end > position) return end;
    return text.spaces(position);
}

using Word = size_t (*)(const Text& text, size_t position);

// Words one after the other; offsets are counted from base.
template <Word word>
void split_words(std::string_view part, size_t base, std::vector<uint32_t>& ends) {
    const Text text(part);
    for (size_t position = 0; position < text.size();) {
        position = word(text, position);
        ends.push_back(static_cast<uint32_t>(base + position));
    }
}

template <Word word>
void split_whole(std::string_view text, std::vector<uint32_t>& ends) {
    split_words<word>(text, 0, ends);
}

// \p{N} by itself, and GPT-2's expression within what lies between.
void split_digits_apart(std::string_view whole, std::vector<uint32_t>& ends) {
    const Text text(whole);
    for (size_t position = 0; position < text.size();) {
        const size_t number = text.skip_others(position, kNumber);
        split_words<gpt2_word>(whole.substr(position, number - position), position, ends);
        position = number + text.at(number).length;
        if (position > number) ends.push_back(static_cast<uint32_t>(position));
    }
}

bool is_default_symbol(const Character& next) {
    if (next.code >= 0x80) return next.traits & kPunctuation;
    return (next.traits & kPunctuation) ||
           std::u32string_view(U"$+<=>^~|").find(next.code) != std::u32string_view::npos;
}

// [0-9][0-9][0-9] apart from what lies between, in words of numbers.
void split_thousands(std::string_view part, size_t base, std::vector<uint32_t>& ends) {
    const auto digit = [&](size_t i) { return part[i] >= '0' && part[i] <= '9'; };
    size_t start = 0;
    for (size_t i = 0; i + 3 <= part.size();) {
        if (!(digit(i) && digit(i + 1) && digit(i + 2))) {
            ++i;
            continue;
        }
        if (i > start) ends.push_back(static_cast<uint32_t>(base + i));
        start = i += 3;
        ends.push_back(static_cast<uint32_t>(base + i));
    }
    if (start < part.size()) ends.push_back(static_cast<uint32_t>(base + part.size()));
}

// Four expressions, each within the parts that the one before it cut:
// [\p{P}\$\+<=>\^~\|]+ , GPT-2's, \p{N}+ , [0-9][0-9][0-9]
void split_default(std::string_view whole, std::vector<uint32_t>& ends) {
    const Text text(whole);
    std::vector<uint32_t> words;
    for (size_t position = 0; position < text.size();) {
        const bool symbols = is_default_symbol(text.at(position));
        size_t end = position;
        for (Character next = text.at(end); next.length && is_default_symbol(next) == symbols;
             next = text.at(end)) {
            end += next.length;
        }
        words.clear();
        split_words<gpt2_word>(whole.substr(position, end - position), position, words);
        for (const uint32_t word : words) {
            const Text inside(whole.substr(0, word));
            while (position < word) {
                const bool number = inside.at(position).traits & kNumber;
                const size_t stop =
                    number ? inside.skip(position, kNumber) : inside.skip_others(position, kNumber);
                split_thousands(whole.substr(position, stop - position), position, ends);
                position = stop;
            }
        }
    }
}

constexpr PreTokenizer::Split kGpt2 = split_whole<gpt2_word>;
constexpr PreTokenizer::Split kLlama3 = split_whole<llama3_word<3, kLetter>>;
constexpr PreTokenizer::Split kQwen2 = split_whole<llama3_word<1, kLetter>>;
constexpr PreTokenizer::Split kQwen35 = split_whole<llama3_word<1, kLetter | kMark>>;

constexpr PreTokenizer kPreTokenizers[] = {
    {"default", split_default},

    {"gpt-2", kGpt2},
    {"a.x-4.0", kGpt2},
    {"exaone4", kGpt2},
    {"gigachat", kGpt2},
    {"granite-docling", kGpt2},
    {"jais", kGpt2},
    {"jina-de", kGpt2},
    {"jina-es", kGpt2},
    {"jina-v1-en", kGpt2},
    {"jina-v2-code", kGpt2},
    {"jina-v2-de", kGpt2},
    {"jina-v2-es", kGpt2},
    {"mellum", kGpt2},
    {"modern-bert", kGpt2},
    {"mpt", kGpt2},
    {"olmo", kGpt2},
    {"phi-2", kGpt2},
    {"roberta-bpe", kGpt2},
    {"trillion", kGpt2},

    {"smollm", split_digits_apart},
    {"codeshell", split_digits_apart},
    {"command-r", split_digits_apart},
    {"exaone", split_digits_apart},
    {"mellum2", split_digits_apart},
    {"minerva-7b", split_digits_apart},
    {"refact", split_digits_apart},
    {"starcoder", split_digits_apart},

    {"llama-bpe", kLlama3, true, true},
    {"llama3", kLlama3, true, true},
    {"llama-v3", kLlama3, true, true},
    {"falcon3", kLlama3, true, true},
    {"falcon-h1", kLlama3, true, true},
    {"jina-v5-nano", kLlama3, true, true},
    {"lfm2", kLlama3, true, true},
    {"midm-2.0", kLlama3, true, true},
    {"pixtral", kLlama3, true, true},
    {"chatglm-bpe", kLlama3},
    {"dbrx", kLlama3},
    {"glm4", kLlama3, true},
    {"glm5", kLlama3, true},
    {"smaug-bpe", kLlama3},

    {"qwen2", kQwen2},
    {"deepseek-r1-qwen", kQwen2},
    {"f2llmv2", kQwen2},
    {"grok-2", kQwen2},
    {"hunyuan", kQwen2},
    {"kormo", kQwen2},
    {"megrez", kQwen2},
    {"solar-open", kQwen2},
    {"stablelm2", kQwen2},
    {"qwen35", kQwen35},
};

}  // namespace

const PreTokenizer* find_pre_tokenizer(std::string_view name) {
    const auto* found = std::find_if(std::begin(kPreTokenizers), std::end(kPreTokenizers),
                                     [&](const PreTokenizer& item) { return item.name == name; });
    return found == std::end(kPreTokenizers) ? nullptr : found;
}

}  // namespace ollamapy
