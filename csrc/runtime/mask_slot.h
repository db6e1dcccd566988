// What a grammar says of the tokens of a sequence.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/sampler.h"

namespace ollamapy {

// Where an answer stands in its grammar, through the C interface of the grammar library.
struct GrammarState {
    void* state = nullptr;
    int32_t (*validate)(void* state, const uint32_t* tokens,
                        size_t n_tokens) = nullptr;                             // how many may follow
    int32_t (*fill)(void* state, uint32_t* mask, size_t mask_bytes) = nullptr;  // 0: it is written
    int64_t tokens = 0;  // of the vocabulary; the model may have rows for more, which no grammar knows
};

// Says which tokens may stand at a position, one position at a time: with a mask, or by asking the grammar,
// which is cheap for one token and dear for all. The planner's thread sets it while the step that needs it
// computes, the device thread draws.
class MaskSlot {
  public:
    explicit MaskSlot(GrammarState grammar) : grammar_(grammar) {}

    void set(int64_t position, std::span<const uint32_t> words);
    // The grammar is at this position, and nobody else uses it until the draw is seen. words: its mask where
    // that is there already; it is computed only where the grammar refuses what was drawn without. The draw
    // is the same. Throws InvalidError without a grammar.
    void ask(int64_t position, std::span<const uint32_t> words);
    // No mask will come any more: nobody waits. Returns once no draw uses the grammar, and none will.
    void close();

    // Draws the token of a position. False when what it takes has not come by the deadline, or never will.
    // Throws what the draw throws, and SamplingError when the grammar fails.
    bool draw(int64_t position, std::chrono::steady_clock::time_point deadline,
              const std::function<void(std::span<const uint32_t> mask, const Review& review)>& draw);

    double seconds();  // that the last draw computed a mask

  private:
    void put(int64_t position, std::span<const uint32_t> words, bool asks);

    const GrammarState grammar_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<uint32_t> words_;
    int64_t position_ = -1;
    bool asks_ = false;
    bool closed_ = false;
    double seconds_ = 0;
};

}  // namespace ollamapy
