// What the text of a token says about it. Files often leave out which tokens end a generation, or mark
// control tokens as normal ones; the lists are those of llama.cpp (llama-vocab.cpp, "auto-detect special
// tokens by text").
#include <algorithm>
#include <array>
#include <cctype>
#include <set>
#include <string>

#include "text/vocabulary.h"

namespace ollamapy {

namespace {

using Names = std::span<const std::string_view>;

constexpr std::string_view kEndOfGeneration[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
};

// Parts of a fill-in-the-middle prompt. A model that writes padding, a repository or a file mark is done.
constexpr std::string_view kFimPrefix[] = {"<|fim_prefix|>",  "<fim-prefix>", "<fim_prefix>",
                                           "<｜fim▁begin｜>", "<PRE>",        "▁<PRE>",
                                           "<|code_prefix|>", "<|prefix|>"};
constexpr std::string_view kFimSuffix[] = {"<|fim_suffix|>",  "<fim-suffix>", "<fim_suffix>",
                                           "<｜fim▁hole｜>",  "<SUF>",        "▁<SUF>",
                                           "<|code_suffix|>", "<|suffix|>"};
constexpr std::string_view kFimMiddle[] = {"<|fim_middle|>",  "<fim-middle>", "<fim_middle>",
                                           "<｜fim▁end｜>",   "<MID>",        "▁<MID>",
                                           "<|code_middle|>", "<|middle|>"};
constexpr std::string_view kFimPadding[] = {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"};
constexpr std::string_view kFimRepository[] = {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>",
                                               "<reponame>"};
constexpr std::string_view kFimFile[] = {"<|file_sep|>"};

struct FimPart {
    Names names;
    std::string_view field, old_field;
    bool ends_generation;
};

constexpr FimPart kFimParts[] = {
    {kFimPrefix, "fim_pre_token_id", "prefix_token_id", false},
    {kFimSuffix, "fim_suf_token_id", "suffix_token_id", false},
    {kFimMiddle, "fim_mid_token_id", "middle_token_id", false},
    {kFimPadding, "fim_pad_token_id", "", true},
    {kFimRepository, "fim_rep_token_id", "", true},
    {kFimFile, "fim_sep_token_id", "", true},
};

class WellKnown {
  public:
    explicit WellKnown(Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

    void apply() {
        for (const FimPart& part : kFimParts) add_fim(part);
        for (const std::string_view name : kEndOfGeneration) {
            if (const int32_t id = vocabulary_.find(name); id >= 0) {
                ends_.insert(id);
                mark_control(id);
            }
        }
        // Harmony's marks are read by its parser, so they stay visible.
        for (const std::string_view name : {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}) {
            retype(name, kUserDefinedToken);
        }
        if (vocabulary_.kind != TokenizerKind::kWordPiece && vocabulary_.eos >= 0)
            ends_.insert(vocabulary_.eos);
        for (const std::string_view field : {"eot_token_id", "eom_token_id"}) {
            if (const int32_t id = read_token_id(vocabulary_, field); id >= 0) ends_.insert(id);
        }
        // Ollama's files list further ones.
        if (const auto* ids = vocabulary_.file->get_array<int32_t>("tokenizer.ggml.eos_token_ids")) {
            for (const int32_t id : *ids) ends_.insert(check_token_id(vocabulary_, "eos_token_ids", id));
        }
        // In these two formats <|end|> only ends a message.
        if (ends("<|end|>") && ((ends("<|return|>") && (ends("<|call|>") || ends("<|calls|>"))) ||
                                (ends("<|flush|>") && (ends("<|call|>") || ends("<|calls|>"))))) {
            ends_.erase(vocabulary_.find("<|end|>"));
            retype("<|end|>", kUserDefinedToken);
        }
        if (ends("</s>") && (ends("<|tool_response>") || ends("<|plamo:eos|>"))) {
            ends_.erase(vocabulary_.find("</s>"));
            retype("</s>", kNormalToken);
        }
        vocabulary_.end_of_generation.assign(ends_.begin(), ends_.end());
        add_stripping();
    }

  private:
    void mark_control(int32_t id) { vocabulary_.flags[static_cast<size_t>(id)] |= kControlToken; }

    void retype(std::string_view name, TokenFlag flag) {
        if (const int32_t id = vocabulary_.find(name); id >= 0)
            vocabulary_.flags[static_cast<size_t>(id)] = flag;
    }

    bool ends(std::string_view name) const { return ends_.contains(vocabulary_.find(name)); }

    void add_fim(const FimPart& part) {
        int32_t id = read_token_id(vocabulary_, part.field);
        if (id < 0 && !part.old_field.empty()) id = read_token_id(vocabulary_, part.old_field);
        for (const std::string_view name : part.names) {
            if (id >= 0) break;
            id = vocabulary_.find(name);
            if (id >= 0) mark_control(id);
        }
        if (id >= 0 && part.ends_generation) ends_.insert(id);
    }

    void strip(std::string_view name, int flag, bool on) {
        const int32_t id = vocabulary_.find(name);
        if (id < 0) return;
        uint8_t& flags = vocabulary_.flags[static_cast<size_t>(id)];
        flags = static_cast<uint8_t>(on ? flags | flag : flags & ~flag);
    }

    // GGUF has no field for added tokens that swallow white space around them: llama.cpp goes by the model's
    // name.
    void add_stripping() {
        const GGUFFile& file = *vocabulary_.file;
        const std::string_view architecture = file.get_string("general.architecture", "");
        std::string name(file.get_string("general.name", ""));
        std::transform(name.begin(), name.end(), name.begin(),
                       [](unsigned char c) { return std::tolower(c); });
        const auto contains = [](std::string_view text, std::string_view part) {
            return text.find(part) != std::string_view::npos;
        };
        const bool jina =
            vocabulary_.kind == TokenizerKind::kBpe &&
            (contains(vocabulary_.pre, "jina-v2-de") || contains(vocabulary_.pre, "jina-v2-es") ||
             contains(vocabulary_.pre, "jina-v2-code"));
        if (jina || contains(architecture, "nomic-bert-moe") || contains(architecture, "jina-bert-v3")) {
            strip("<mask>", kStripLeft, true);
        } else if (contains(name, "phi-3") || contains(name, "phi3")) {
            for (uint8_t& flags : vocabulary_.flags) {
                if (flags & (kControlToken | kUserDefinedToken | kUnknownToken)) flags |= kStripRight;
            }
            strip("</s>", kStripRight, true);
            for (const std::string_view text : {"<unk>", "<s>", "<|endoftext|>"})
                strip(text, kStripRight, false);
        } else if (contains(name, "modern-bert")) {
            strip("[MASK]", kStripLeft, true);
        }
    }

    Vocabulary& vocabulary_;
    std::set<int32_t> ends_;
};

}  // namespace

void apply_well_known_tokens(Vocabulary& vocabulary) {
    WellKnown(vocabulary).apply();
}

}  // namespace ollamapy
