#include "text/unicode.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>

#include "text/unicode_tables.h"

namespace ollamapy::unicode {

namespace {

constexpr char32_t kEnd = 0x110000;

// The ranges of the generated table, spread out: one byte per code point, of which only the pages in use stay
// in cache.
std::unique_ptr<uint8_t[]> spread_traits() {
    auto table = std::make_unique<uint8_t[]>(kEnd);
    for (size_t i = 0; i < std::size(unicode_tables::kTraits); ++i) {
        const uint32_t first = unicode_tables::kTraits[i] >> 8;
        const uint32_t end =
            i + 1 < std::size(unicode_tables::kTraits) ? unicode_tables::kTraits[i + 1] >> 8 : kEnd;
        std::memset(table.get() + first, unicode_tables::kTraits[i] & 0xFF, end - first);
    }
    return table;
}

// Hangul syllables decompose by arithmetic (Unicode, chapter 3.12).
constexpr char32_t kSyllables = 0xAC00, kSyllableCount = 11172;
constexpr char32_t kLeading = 0x1100, kVowels = 0x1161, kTrailing = 0x11A7;
constexpr char32_t kVowelCount = 21, kTrailingCount = 28;

}  // namespace

uint8_t traits(char32_t code) {
    static const std::unique_ptr<uint8_t[]> table = spread_traits();
    return code < kEnd ? table[code] : 0;
}

char32_t lowercase(char32_t code) {
    if (code < 0x80) return code - U'A' < 26 ? code + 32 : code;
    const auto* run =
        std::lower_bound(std::begin(unicode_tables::kLowercase), std::end(unicode_tables::kLowercase), code,
                         [](const auto& item, char32_t wanted) { return item.last < wanted; });
    if (run == std::end(unicode_tables::kLowercase) || code < run->first) return code;
    if ((code - run->first) % static_cast<uint32_t>(run->step) != 0) return code;
    return static_cast<char32_t>(static_cast<int32_t>(code) + run->difference);
}

std::array<char32_t, 3> base_characters(char32_t code) {
    if (code < 0x80) return {code, 0, 0};
    if (code - kSyllables < kSyllableCount) {
        const char32_t index = code - kSyllables, trailing = index % kTrailingCount;
        return {kLeading + index / (kVowelCount * kTrailingCount),
                kVowels + index / kTrailingCount % kVowelCount, trailing ? kTrailing + trailing : 0};
    }
    if (traits(code) & kNonspacing) return {0, 0, 0};
    const auto* base =
        std::lower_bound(std::begin(unicode_tables::kBases), std::end(unicode_tables::kBases), code,
                         [](const auto& item, char32_t wanted) { return item.code < wanted; });
    if (base == std::end(unicode_tables::kBases) || base->code != code) return {code, 0, 0};
    return {base->parts[0], base->parts[1], base->parts[2]};
}

Decoded decode(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t lead = byte(0);
    if (lead < 0x80) return {lead, 1, true, false};
    if (lead < 0xC2 || lead > 0xF4) return {kReplacement, 1, false, false};
    const uint8_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    // The second byte alone tells overlong forms, surrogates and what lies above U+10FFFF.
    uint8_t low = 0x80, high = 0xBF;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    char32_t code = lead & (0x7F >> length);
    for (uint8_t i = 1; i < length; ++i) {
        if (i >= text.size()) return {kReplacement, i, false, true};
        if (byte(i) < low || byte(i) > high) return {kReplacement, i, false, false};
        code = code << 6 | (byte(i) & 0x3F);
        low = 0x80, high = 0xBF;
    }
    return {code, length, true, false};
}

void append(std::string& out, char32_t code) {
    const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
        put(code);
        return;
    }
    if (code < 0x800) {
        put(0xC0 | code >> 6);
    } else {
        if (code < 0x10000) {
            put(0xE0 | code >> 12);
        } else {
            put(0xF0 | code >> 18);
            put(0x80 | (code >> 12 & 0x3F));
        }
        put(0x80 | (code >> 6 & 0x3F));
    }
    put(0x80 | (code & 0x3F));
}

std::string_view well_formed(std::string_view text, std::string& storage) {
    size_t position = 0;
    while (position < text.size()) {
        if (position + 8 <= text.size()) {  // skip ASCII by words
            uint64_t word;
            std::memcpy(&word, text.data() + position, 8);
            if ((word & 0x8080808080808080u) == 0) {
                position += 8;
                continue;
            }
        }
        const Decoded next = decode(text.substr(position));
        if (!next.well_formed) break;
        position += next.length;
    }
    if (position == text.size()) return text;
    storage.assign(text.substr(0, position));
    while (position < text.size()) {
        const Decoded next = decode(text.substr(position));
        append(storage, next.code);
        position += next.length;
    }
    return storage;
}

}  // namespace ollamapy::unicode
