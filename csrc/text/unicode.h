// What the tokenizers need to know of Unicode: UTF-8, character traits, lower case and base characters.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ollamapy::unicode {

// Traits of a code point, as bits. The letters in comments are general categories.
enum Trait : uint8_t {
    kLetter = 1,        // L*
    kNumber = 2,        // N*
    kMark = 4,          // M*
    kNonspacing = 8,    // Mn
    kPunctuation = 16,  // P*
    kControl = 32,      // Cc, Cf, Co, Cs
    kSpace = 64,        // White_Space
};

// A bit set of Trait; 0 for code points that have none, are unassigned or above U+10FFFF.
uint8_t traits(char32_t code);

// Simple lower case: one code point for one code point.
char32_t lowercase(char32_t code);

// The canonical decomposition without nonspacing marks (accents); a single 0 for a mark itself. Zeros pad it.
std::array<char32_t, 3> base_characters(char32_t code);

constexpr char32_t kReplacement = 0xFFFD;

struct Decoded {
    char32_t code;     // kReplacement for ill-formed bytes
    uint8_t length;    // bytes taken, at least 1
    bool well_formed;  // false: the bytes are a maximal subpart of no character
    bool truncated;    // ill-formed only because the text ends: more bytes may complete it
};

// The character at the start of text, which must not be empty. Ill-formed input follows Unicode's
// recommendation (chapter 3.9, "substitution of maximal subparts"), as does Python's errors="replace".
Decoded decode(std::string_view text);

void append(std::string& out, char32_t code);

// The text itself if it is well-formed UTF-8; else a copy in storage with U+FFFD for what is not.
std::string_view well_formed(std::string_view text, std::string& storage);

}  // namespace ollamapy::unicode
