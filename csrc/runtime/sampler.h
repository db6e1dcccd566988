// Draws a token from a row of logits, in Ollama's order: penalties, top_k, typical_p, top_p, min_p,
// temperature.
//
// A draw is a pure function of the row, the history, the parameters and the position: no state is carried
// from one to the next, so preemption and batching never shift it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "errors.h"

namespace ollamapy {

struct SamplingParams {
    double temperature = 0.8;     // <= 0: greedy
    int64_t top_k = 40;           // <= 0: off
    double top_p = 0.9;           // >= 1: off; at least one candidate is kept
    double min_p = 0.0;           // <= 0: off; at least one candidate is kept
    double typical_p = 1.0;       // >= 1: off; at least one candidate is kept
    double repeat_penalty = 1.0;  // >= 0; 1: off
    double presence_penalty = 0.0;
    double frequency_penalty = 0.0;
    int64_t repeat_last_n = 64;  // tokens of the history that are penalized; 0: none, -1: all
    uint64_t seed = 0;
    uint64_t branch = 0;    // tells the answers of one request apart
    int64_t logprobs = -1;  // < 0: none; n: the chosen token's and the n best
    // (token, what is added to its logit before the penalties); tokens outside the vocabulary are ignored
    std::vector<std::pair<int32_t, double>> logit_bias;

    // Throws InvalidError that names the parameter: not finite, repeat_penalty < 0, repeat_last_n < -1.
    void validate() const;
};

struct TokenLogprob {
    int32_t token;
    float logprob;  // of the model: log-softmax of the raw logits
};

struct Sample {
    int32_t token = -1;
    float logprob = 0.0f;           // nan when logprobs were not asked for
    std::vector<TokenLogprob> top;  // best first, ties to the lower id; impossible tokens (-inf) left out
};

// The model's logits cannot be sampled: NaN among them, or every one -inf, or none that the mask lets pass.
class SamplingError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Memory that draws reuse; one per thread. Its contents are the sampler's own.
struct SamplerScratch {
    struct Candidate {
        uint64_t rank;  // greater: better; logit and id in one number
        double weight;  // exp((logit - max) / temperature)
    };

    const cpu::RowKernels* kernels = cpu::select_isa("").rows;
    std::vector<int32_t> keys;       // [n_vocab] logits as integers of the same order
    std::vector<int32_t> block_max;  // the greatest key of each 64
    std::vector<int32_t> block_max_copy;
    std::vector<uint64_t> ranks;
    std::vector<Candidate> candidates;
    std::vector<Candidate> kept;
    std::vector<double> weights;
    std::vector<int32_t> counts;  // [n_vocab] all zero between draws
};

// Looks at a token that was drawn: empty when it may stand, else the mask from which it is drawn once more.
using Review = std::function<std::span<const uint32_t>(int32_t token)>;

// One draw from logits [n_vocab]. history: the tokens before this one, prompt included; ids outside the
// vocabulary are ignored. position: that of the new token. mask: bit i % 32 of word i / 32 says whether token
// i may be drawn, tokens past its end may not; empty: all may. review: where set, it has the last word; with
// the mask it gives, the distribution is that of a draw from the mask at once, except that top_k, typical_p,
// top_p and min_p first count what it refuses. Log probabilities are those without mask and bias. Safe from
// several threads, each with its own scratch. Throws SamplingError; InvalidError when n_vocab is not between
// 1 and 2^31 - 1.
Sample draw(const float* logits, int64_t n_vocab, std::span<const int32_t> history,
            const SamplingParams& params, int64_t position, SamplerScratch& scratch,
            std::span<const uint32_t> mask = {}, const Review& review = {});

// The n best tokens of logits [n_vocab] with their log probabilities, best first, ties to the lower id;
// impossible tokens (-inf) left out. Throws as draw() does.
std::vector<TokenLogprob> top_logprobs(const float* logits, int64_t n_vocab, int64_t n,
                                       SamplerScratch& scratch);

// The number in [0, 1) that decides a draw: 53 bits of Philox-4x32-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", 2011) with the seed as key and (position, branch) as counter.
double uniform(uint64_t seed, uint64_t branch, uint64_t position);

}  // namespace ollamapy
