// Asks an already built libllama for the facts that tests/golden records. Not part of OllamaPy's build.
//
//   c++ -O2 -std=c++17 -I$LLAMA_SRC/include -I$LLAMA_SRC/ggml/include oracle_llama.cpp -o oracle_llama
//       $LLAMA_BUILD/src/libllama.a $LLAMA_BUILD/ggml/src/libggml.a $LLAMA_BUILD/ggml/src/libggml-cpu.a
//       $LLAMA_BUILD/ggml/src/libggml-base.a -fopenmp -lpthread -ldl
//
// One job per line on stdin, results on stdout:
//   oracle_llama tokenize MODEL            job: ADD_SPECIAL PARSE_SPECIAL HEX; the ids, or ! if refused
//   oracle_llama logits MODEL default|f32  job: FROM TO id id ...; logits of those rows, raw f32
//   oracle_llama greedy MODEL N            job: id id ...; N lines "top1 logp1 top2 logp2"
//
// "default" is what llama_*_default_params say (f16 KV, flash attention auto, repacked weights); "f32" keeps
// K and V in f32, without flash attention or repacking. ORACLE_THREADS sets the threads (default 2).

#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Tokens = std::vector<llama_token>;
using Model = std::unique_ptr<llama_model, decltype(&llama_model_free)>;
using Context = std::unique_ptr<llama_context, decltype(&llama_free)>;

void only_errors(ggml_log_level level, const char* text, void*) {
    if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

Model load(const char* path, bool vocab_only, bool repack) {
    llama_model_params params = llama_model_default_params();
    params.vocab_only = vocab_only;
    params.use_extra_bufts = repack;
    Model model(llama_model_load_from_file(path, params), llama_model_free);
    if (!model) throw std::runtime_error("cannot load the model");
    return model;
}

Context open(const Model& model, uint32_t n_ctx, bool f32) {
    llama_context_params params = llama_context_default_params();
    const char* threads = std::getenv("ORACLE_THREADS");
    params.n_ctx = n_ctx;
    params.n_threads = params.n_threads_batch = threads ? std::atoi(threads) : 2;
    if (f32) {
        params.type_k = params.type_v = GGML_TYPE_F32;
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    Context context(llama_init_from_model(model.get(), params), llama_free);
    if (!context) throw std::runtime_error("cannot open a context");
    return context;
}

// Decodes `tokens` at positions begin.., asking for logits of the rows from `first_output` on.
void decode(llama_context* context, const Tokens& tokens, size_t begin, size_t first_output) {
    llama_batch batch = llama_batch_init(static_cast<int32_t>(tokens.size()), 0, 1);
    batch.n_tokens = static_cast<int32_t>(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
        batch.token[i] = tokens[i];
        batch.pos[i] = static_cast<llama_pos>(begin + i);
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = i >= first_output;
    }
    const int32_t rc = llama_decode(context, batch);
    llama_batch_free(batch);
    if (rc != 0) throw std::runtime_error("llama_decode failed");
}

Tokens rest_of(std::istringstream& line) {
    Tokens tokens;
    for (llama_token id; line >> id;) tokens.push_back(id);
    return tokens;
}

void tokenize(const Model& model) {
    const llama_vocab* vocab = llama_model_get_vocab(model.get());
    for (std::string job; std::getline(std::cin, job);) {
        std::istringstream line(job);
        bool add_special = false, parse_special = false;
        std::string hex, text;
        line >> add_special >> parse_special >> hex;
        for (size_t i = 0; i + 1 < hex.size(); i += 2)
            text += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
        Tokens ids(4 * text.size() + 16);
        try {
            const int32_t n =
                llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), ids.data(),
                               static_cast<int32_t>(ids.size()), add_special, parse_special);
            if (n < 0) throw std::runtime_error("llama_tokenize failed");
            for (int32_t i = 0; i < n; ++i) std::printf("%d ", ids[i]);
            std::printf("\n");
        } catch (const std::exception&) {  // some invalid UTF-8
            std::printf("!\n");
        }
    }
}

void logits(const Model& model, bool f32) {
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
    const Context context = open(model, 1024, f32);
    for (std::string job; std::getline(std::cin, job);) {
        std::istringstream line(job);
        size_t from = 0, to = 0;
        line >> from >> to;
        const Tokens tokens = rest_of(line);
        llama_memory_clear(llama_get_memory(context.get()), true);
        decode(context.get(), tokens, 0, from);
        for (size_t i = from; i < to; ++i) {
            std::fwrite(llama_get_logits_ith(context.get(), static_cast<int32_t>(i)), sizeof(float), n_vocab,
                        stdout);
        }
        std::fflush(stdout);
    }
}

void greedy(const Model& model, int steps) {
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
    const Context context = open(model, 1024, false);
    for (std::string job; std::getline(std::cin, job);) {
        std::istringstream line(job);
        Tokens tokens = rest_of(line);
        llama_memory_clear(llama_get_memory(context.get()), true);
        size_t done = 0;
        for (int step = 0; step < steps; ++step) {
            decode(context.get(), tokens, done, tokens.size() - 1);
            done += tokens.size();
            const float* row = llama_get_logits_ith(context.get(), -1);
            int top[2] = {0, 1};
            if (row[1] > row[0]) std::swap(top[0], top[1]);
            for (int i = 2; i < n_vocab; ++i) {
                if (row[i] > row[top[0]]) {
                    top[1] = top[0];
                    top[0] = i;
                } else if (row[i] > row[top[1]]) {
                    top[1] = i;
                }
            }
            double sum = 0;
            for (int i = 0; i < n_vocab; ++i) sum += std::exp(static_cast<double>(row[i]) - row[top[0]]);
            const double log_sum = row[top[0]] + std::log(sum);
            std::printf("%d %.6f %d %.6f\n", top[0], row[top[0]] - log_sum, top[1], row[top[1]] - log_sum);
            tokens.assign(1, top[0]);
        }
        std::fflush(stdout);
    }
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc < 3)
        throw std::runtime_error("usage: oracle_llama tokenize|logits|greedy MODEL [default|f32|N]");
    llama_log_set(only_errors, nullptr);
    llama_backend_init();
    const std::string what = argv[1], mode = argc > 3 ? argv[3] : "";
    const Model model = load(argv[2], what == "tokenize", mode != "f32");
    if (what == "tokenize") tokenize(model);
    if (what == "logits") logits(model, mode == "f32");
    if (what == "greedy") greedy(model, std::stoi(mode));
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "oracle_llama: %s\n", error.what());
    return 1;
}
