// WordPiece (BERT): text is normalized and cut into words, and a word into the longest tokens from left to
// right. Follows the reference (BertNormalizer and BertPreTokenizer of Hugging Face's tokenizers). GGUF
// writes a token that begins a word with U+2581 before it, and one that goes on without the "##".
#include <string>

#include "text/tokenizer.h"
#include "text/unicode.h"

namespace ollamapy {

namespace {

constexpr std::string_view kWordMark = "\xE2\x96\x81";  // U+2581
constexpr char32_t kWordMarkCode = 0x2581;
constexpr size_t kLongestWord = 100;  // characters; a longer word is unknown

bool is_ideograph(char32_t code) {
    return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) ||
           (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B73F) ||
           (code >= 0x2B740 && code <= 0x2B81F) ||
           (code >= 0x2B920 && code <= 0x2CEAF) ||  // sic: not from 0x2B820
           (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x2F800 && code <= 0x2FA1F);
}

bool is_punctuation(char32_t code) {
    if (code < 0x80) {
        return (code >= '!' && code <= '/') || (code >= ':' && code <= '@') || (code >= '[' && code <= '`') ||
               (code >= '{' && code <= '~');
    }
    return unicode::traits(code) & unicode::kPunctuation;
}

class WordPiece final : public Tokenizer {
  public:
    explicit WordPiece(Vocabulary loaded) : Tokenizer(std::move(loaded)) {}

    const char* kind() const override { return "wordpiece"; }

  private:
    // The word that is being read.
    struct Word {
        std::string text;  // after the word mark
        size_t characters = 0;
        bool marked = false;  // contains U+2581, which GGUF's vocabulary cannot write

        void add(char32_t code) {
            if (characters == 0) text = kWordMark;
            unicode::append(text, code);
            ++characters;
            marked = marked || code == kWordMarkCode;
        }
    };

    void encode_text(std::string_view text, bool, std::vector<int32_t>& out) const override {
        Word word;
        while (!text.empty()) {
            const unicode::Decoded next = unicode::decode(text);
            text.remove_prefix(next.length);
            const uint8_t traits = unicode::traits(next.code);
            const bool line = next.code == '\t' || next.code == '\n' || next.code == '\r';
            if (!line && (next.code == unicode::kReplacement || (traits & unicode::kControl))) continue;
            if (traits & unicode::kSpace) {
                end_word(word, out);
            } else if (is_ideograph(next.code)) {
                end_word(word, out);
                add_normalized(next.code, word, out);
                end_word(word, out);
            } else {
                add_normalized(next.code, word, out);
            }
        }
        end_word(word, out);
    }

    void add_normalized(char32_t code, Word& word, std::vector<int32_t>& out) const {
        if (!vocabulary().strip_accents) {
            add(code, word, out);
            if (code == 0x130 && vocabulary().lowercase)
                word.add(0x307);  // the one letter whose lower case has two characters
            return;
        }
        for (const char32_t base : unicode::base_characters(code)) {
            if (base) add(base, word, out);
        }
    }

    void add(char32_t code, Word& word, std::vector<int32_t>& out) const {
        if (vocabulary().lowercase) code = unicode::lowercase(code);
        if (!is_punctuation(code)) {
            word.add(code);
            return;
        }
        end_word(word, out);
        word.add(code);
        end_word(word, out);
    }

    void end_word(Word& word, std::vector<int32_t>& out) const {
        if (word.characters == 0) return;
        if (!encode_word(word, out)) out.push_back(vocabulary().unknown);
        word = {};
    }

    // False when the word is unknown; then it adds nothing.
    bool encode_word(const Word& word, std::vector<int32_t>& out) const {
        if (word.marked || word.characters > kLongestWord) return false;
        const std::string_view text = word.text;
        const size_t before = out.size();
        for (size_t begin = 0; begin < text.size();) {
            const size_t least = begin == 0 ? kWordMark.size() : 0;  // the mark alone is no beginning
            size_t length = std::min(vocabulary().longest, text.size() - begin);
            int32_t token = -1;
            while (length > least && (token = vocabulary().find(text.substr(begin, length))) < 0) --length;
            if (token < 0) {
                out.resize(before);
                return false;
            }
            out.push_back(token);
            begin += length;
        }
        return true;
    }

    void append_text(std::string_view token, std::string& out) const override {
        if (token.starts_with(kWordMark)) {
            out.push_back(' ');
            token.remove_prefix(kWordMark.size());
        }
        out.append(token);
    }
};

}  // namespace

std::shared_ptr<const Tokenizer> make_wordpiece(Vocabulary vocabulary) {
    return std::make_shared<WordPiece>(std::move(vocabulary));
}

}  // namespace ollamapy
