// Byte-level BPE (GPT-2): text is cut into words, the bytes of a word are symbols, and the pair that the
// merge list ranks best becomes one symbol until none is left.
#include <array>
#include <bit>
#include <random>
#include <string>
#include <unordered_map>

#include "errors.h"
#include "text/merge.h"
#include "text/pretokenizer.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace ollamapy {

namespace {

// GPT-2 writes the bytes of a token as printable characters: those that are printable in Latin-1 stand for
// themselves, the others follow from U+0100 in their order.
struct ByteAlphabet {
    std::array<std::string, 256> characters;
    std::array<int16_t, 0x144> bytes;  // by code point; -1: stands for no byte

    ByteAlphabet() {
        bytes.fill(-1);
        char32_t next = 0x100;
        for (char32_t byte = 0; byte < 256; ++byte) {
            const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
            const char32_t code = printable ? byte : next++;
            unicode::append(characters[byte], code);
            bytes[code] = static_cast<int16_t>(byte);
        }
    }
};

const ByteAlphabet& alphabet() {
    static const ByteAlphabet instance;
    return instance;
}

// Pair of symbols to Merge: a flat hash like TokenMap.
class MergeMap {
  public:
    explicit MergeMap(size_t count) : mask_(std::bit_ceil(count * 2 + 1) - 1), seed_(std::random_device{}()) {
        slots_.resize(mask_ + 1, Slot{kFree, {0, -1}});
    }

    // Keeps the merge that the pair has already.
    void insert(int32_t left, int32_t right, Merge merge) {
        Slot& slot = slots_[probe(pair(left, right))];
        if (slot.pair == kFree) slot = {pair(left, right), merge};
    }

    Merge find(int32_t left, int32_t right) const {
        if (left < 0 || right < 0) return {0, -1};
        return slots_[probe(pair(left, right))].merge;
    }

  private:
    static constexpr uint64_t kFree = ~uint64_t{0};

    struct Slot {
        uint64_t pair;
        Merge merge;
    };

    static uint64_t pair(int32_t left, int32_t right) {
        return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
    }

    size_t probe(uint64_t wanted) const {
        size_t index = fold(wanted ^ seed_) & mask_;
        while (slots_[index].pair != wanted && slots_[index].pair != kFree) index = (index + 1) & mask_;
        return index;
    }

    std::vector<Slot> slots_;
    size_t mask_;
    uint64_t seed_;
};

class Bpe final : public Tokenizer {
  public:
    explicit Bpe(Vocabulary loaded) : Tokenizer(std::move(loaded)), merges_(vocabulary().merges.size()) {
        const PreTokenizer& pre = *find_pre_tokenizer(vocabulary().pre);
        split_ = pre.split;
        ignore_merges_ = pre.ignore_merges;
        load_merges();
    }

    const char* kind() const override { return "bpe"; }

  private:
    void load_merges() {
        // Symbols that merges go through without being tokens get ids beyond the vocabulary.
        std::unordered_map<std::string, int32_t> others;
        const auto symbol = [&](std::string_view text) {
            if (const int32_t id = vocabulary().find(text); id >= 0) return id;
            const int32_t next = vocabulary().size() + static_cast<int32_t>(others.size());
            return others.emplace(text, next).first->second;
        };
        std::string joined;
        for (size_t rank = 0; rank < vocabulary().merges.size(); ++rank) {
            const std::string_view merge = vocabulary().merges[rank];
            const size_t space = merge.find(' ', 1);
            if (space == std::string_view::npos || space + 1 == merge.size()) {
                throw FileError("metadata key 'tokenizer.ggml.merges': merge " + std::to_string(rank) +
                                " does not have two parts");
            }
            const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
            joined.assign(left).append(right);
            merges_.insert(symbol(left), symbol(right), {static_cast<uint32_t>(rank), symbol(joined)});
        }
        for (size_t byte = 0; byte < 256; ++byte) {
            const std::string& text = alphabet().characters[byte];
            tokens_[byte] = vocabulary().find(text);
            const auto other = others.find(text);
            symbols_[byte] = other == others.end() ? tokens_[byte] : other->second;
        }
    }

    void encode_text(std::string_view text, bool, std::vector<int32_t>& out) const override {
        std::vector<uint32_t> ends;
        ends.reserve(text.size() / 4);
        split_(text, ends);
        Merger merger;
        std::string written;
        size_t begin = 0;
        for (const uint32_t end : ends) {
            encode_word(text.substr(begin, end - begin), merger, written, out);
            begin = end;
        }
    }

    void encode_word(std::string_view word, Merger& merger, std::string& written,
                     std::vector<int32_t>& out) const {
        if (ignore_merges_) {
            written.clear();
            for (const char byte : word) written += alphabet().characters[static_cast<uint8_t>(byte)];
            if (const int32_t token = vocabulary().find(written); token >= 0) {
                out.push_back(token);
                return;
            }
        }
        merger.clear();
        for (uint32_t i = 0; i < word.size(); ++i)
            merger.add(symbols_[static_cast<uint8_t>(word[i])], i, i + 1);
        merger.run([&](const Symbol& left, const Symbol& right) { return merges_.find(left.id, right.id); });
        for (int32_t i = 0; i >= 0; i = merger.symbols[static_cast<size_t>(i)].next) {
            const Symbol& symbol = merger.symbols[static_cast<size_t>(i)];
            if (symbol.id >= 0 && symbol.id < vocabulary().size()) {
                out.push_back(symbol.id);
                continue;
            }
            for (const char byte : word.substr(symbol.begin, symbol.end - symbol.begin)) {
                if (const int32_t token = tokens_[static_cast<uint8_t>(byte)]; token >= 0)
                    out.push_back(token);
            }
        }
    }

    void append_text(std::string_view token, std::string& out) const override {
        while (!token.empty()) {
            const unicode::Decoded next = unicode::decode(token);
            const auto& bytes = alphabet().bytes;
            if (next.well_formed && next.code < bytes.size() && bytes[next.code] >= 0) {
                out.push_back(static_cast<char>(bytes[next.code]));
            } else {  // not of the alphabet: it stands for itself
                out.append(token.substr(0, next.length));
            }
            token.remove_prefix(next.length);
        }
    }

    PreTokenizer::Split split_;
    bool ignore_merges_;
    MergeMap merges_;
    std::array<int32_t, 256> symbols_, tokens_;  // of single bytes; -1: none
};

}  // namespace

std::shared_ptr<const Tokenizer> make_bpe(Vocabulary vocabulary) {
    return std::make_shared<Bpe>(std::move(vocabulary));
}

}  // namespace ollamapy
