#include "text/detokenizer.h"

#include "text/unicode.h"

namespace ollamapy {

std::string Detokenizer::push(int32_t token) {
    tokenizer_->append_piece(token, special_, held_);
    std::string text;
    std::string_view left = held_;
    while (!left.empty()) {
        const unicode::Decoded next = unicode::decode(left);
        if (next.truncated) break;
        unicode::append(text, next.code);
        left.remove_prefix(next.length);
    }
    held_.erase(0, held_.size() - left.size());
    return text;
}

std::string Detokenizer::flush() {
    held_.clear();
    return {};
}

}  // namespace ollamapy
