#include "runtime/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace ollamapy {

namespace {

using Candidate = SamplerScratch::Candidate;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// ---- Order
// ----------------------------------------------------------------------------------------------------

using cpu::from_sort_key;
using cpu::sort_key;

constexpr int32_t kImpossible = sort_key(-std::numeric_limits<float>::infinity());
constexpr int32_t kInfinite = sort_key(std::numeric_limits<float>::infinity());

// A token with its logit; the greater rank is the higher logit, and of equal ones the lower id.
uint64_t make_rank(int32_t key, int64_t id) {
    return uint64_t{static_cast<uint32_t>(key) ^ 0x80000000u} << 32 | static_cast<uint32_t>(~id);
}
int32_t id_of(uint64_t rank) {
    return static_cast<int32_t>(~static_cast<uint32_t>(rank));
}
float logit_of(uint64_t rank) {
    return from_sort_key(static_cast<int32_t>(static_cast<uint32_t>(rank >> 32) ^ 0x80000000u));
}

// ---- The row
// --------------------------------------------------------------------------------------------------

constexpr int64_t kBlock = cpu::kKeyBlock;

// Fills keys and block_max and returns the greatest key. It sees every logit of the vocabulary, the rest of a
// usual draw only a few blocks.
int32_t load_keys(const float* logits, int64_t n_vocab, SamplerScratch& scratch) {
    if (n_vocab < 1 || n_vocab > std::numeric_limits<int32_t>::max()) {
        throw InvalidError("cannot sample from " + std::to_string(n_vocab) + " logits");
    }
    scratch.keys.resize(static_cast<size_t>(n_vocab));
    scratch.block_max.resize(static_cast<size_t>((n_vocab + kBlock - 1) / kBlock));
    int32_t least, greatest;
    scratch.kernels->sort_keys(logits, n_vocab, scratch.keys.data(), scratch.block_max.data(), &least,
                               &greatest);
    // NaNs lie beyond the infinities, on both sides.
    if (greatest > kInfinite || least < kImpossible) throw SamplingError("the model produced NaN logits");
    if (greatest == kImpossible) throw SamplingError("the model left no token possible: every logit is -inf");
    return greatest;
}

// Ranks of the k best possible tokens into scratch.ranks; in order of ids when that is all of them, else best
// first.
void select_best(int64_t k, SamplerScratch& scratch) {
    const auto n_blocks = static_cast<int64_t>(scratch.block_max.size());
    const auto n_vocab = static_cast<int64_t>(scratch.keys.size());
    int32_t threshold = kImpossible + 1;
    if (k < n_blocks) {
        // The k best blocks hold k tokens that reach the k-th best block's maximum, so the k best tokens do.
        auto& maxima = scratch.block_max_copy;
        maxima = scratch.block_max;
        std::nth_element(maxima.begin(), maxima.begin() + (k - 1), maxima.end(), std::greater<>());
        threshold = std::max(threshold, maxima[k - 1]);
    }
    auto& ranks = scratch.ranks;
    ranks.clear();
    for (int64_t block = 0; block < n_blocks; ++block) {
        if (scratch.block_max[block] < threshold) continue;
        const int64_t end = std::min((block + 1) * kBlock, n_vocab);
        for (int64_t i = block * kBlock; i < end; ++i) {
            if (scratch.keys[i] >= threshold) ranks.push_back(make_rank(scratch.keys[i], i));
        }
    }
    if (k < static_cast<int64_t>(ranks.size())) {
        std::nth_element(ranks.begin(), ranks.begin() + k, ranks.end(), std::greater<>());
        ranks.resize(static_cast<size_t>(k));
    }
}

// The greatest key of a token's block, after keys in it went down.
void renew_block(int64_t block, SamplerScratch& scratch) {
    const auto begin = scratch.keys.begin() + block * kBlock;
    scratch.block_max[block] =
        *std::max_element(begin, begin + std::min<int64_t>(kBlock, scratch.keys.end() - begin));
}

// Penalizes the tokens of the window once each: the repeat penalty pushes a logit down whatever its sign, the
// frequency penalty counts, the presence penalty does not. Infinite logits stay, and finite ones stay finite.
void penalize(std::span<const int32_t> history, const SamplingParams& params, SamplerScratch& scratch) {
    if (params.repeat_penalty == 1 && params.frequency_penalty == 0 && params.presence_penalty == 0) return;
    if (params.repeat_last_n >= 0 && static_cast<uint64_t>(params.repeat_last_n) < history.size()) {
        history = history.last(static_cast<size_t>(params.repeat_last_n));
    }
    const auto n_vocab = static_cast<int64_t>(scratch.keys.size());
    if (scratch.counts.size() < scratch.keys.size()) scratch.counts.resize(scratch.keys.size());
    for (const int32_t token : history) {
        if (token >= 0 && token < n_vocab) ++scratch.counts[token];
    }
    for (const int32_t token : history) {
        if (token < 0 || token >= n_vocab || scratch.counts[token] == 0) continue;
        const int32_t count = std::exchange(scratch.counts[token], 0);
        const int32_t old = scratch.keys[token];
        if (old == kImpossible || old == kInfinite) continue;
        double logit = from_sort_key(old);
        logit = logit <= 0 ? logit * params.repeat_penalty : logit / params.repeat_penalty;
        logit -= count * params.frequency_penalty + params.presence_penalty;
        constexpr double kMax = std::numeric_limits<float>::max();
        const int32_t key = sort_key(static_cast<float>(std::clamp(logit, -kMax, kMax)));
        scratch.keys[token] = key;
        int32_t& greatest = scratch.block_max[token / kBlock];
        if (key >= greatest) {
            greatest = key;
        } else if (old == greatest) {
            renew_block(token / kBlock, scratch);
        }
    }
}

void add_bias(const SamplingParams& params, SamplerScratch& scratch) {
    const auto n_vocab = static_cast<int64_t>(scratch.keys.size());
    for (const auto& [token, bias] : params.logit_bias) {
        if (token < 0 || token >= n_vocab) continue;
        const int32_t old = scratch.keys[token];
        if (old == kImpossible || old == kInfinite) continue;
        constexpr double kMax = std::numeric_limits<float>::max();
        scratch.keys[token] =
            sort_key(static_cast<float>(std::clamp(from_sort_key(old) + bias, -kMax, kMax)));
        renew_block(token / kBlock, scratch);
    }
}

// Makes the tokens that a mask leaves out impossible; nothing may change the keys after it. Throws
// SamplingError when none is left.
void apply_mask(std::span<const uint32_t> mask, SamplerScratch& scratch) {
    static_assert(kBlock == 64);
    if (mask.empty()) return;
    const auto n_vocab = static_cast<int64_t>(scratch.keys.size());
    const auto n_words = static_cast<int64_t>(mask.size());
    int32_t greatest = kImpossible;
    for (int64_t block = 0; block < static_cast<int64_t>(scratch.block_max.size()); ++block) {
        const auto word = [&](int64_t i) { return i < n_words ? uint64_t{mask[i]} : 0; };
        const uint64_t allowed = word(2 * block) | word(2 * block + 1) << 32;
        if (allowed == 0) {
            scratch.block_max[block] = kImpossible;  // nobody looks into such a block: its keys may stay
        } else if (~allowed != 0) {
            const int64_t end = std::min((block + 1) * kBlock, n_vocab);
            int32_t block_greatest = kImpossible;
            for (int64_t i = block * kBlock; i < end; ++i) {
                const int32_t key = (allowed >> (i % kBlock)) & 1 ? scratch.keys[i] : kImpossible;
                scratch.keys[i] = key;
                block_greatest = std::max(block_greatest, key);
            }
            scratch.block_max[block] = block_greatest;
        }
        greatest = std::max(greatest, scratch.block_max[block]);
    }
    if (greatest == kImpossible) throw SamplingError("the grammar leaves no token that the model can choose");
}

// ---- Probabilities
// --------------------------------------------------------------------------------------------

// A logit below the best one. Where the best is infinite, it alone counts.
double below(float logit, float best) {
    return logit == best ? 0.0 : double{logit} - double{best};
}

// log-softmax of raw logits. Where some are infinite, they share the probability.
struct LogSoftmax {
    float best;
    double log_sum = 0;  // log(sum(exp(logit - best)))

    LogSoftmax(const float* logits, int64_t n_vocab, int32_t greatest_key)
        : best(from_sort_key(greatest_key)) {
        double sum = 0;
        for (int64_t i = 0; i < n_vocab; ++i) sum += std::exp(below(logits[i], best));
        log_sum = std::log(sum);
    }
    float operator()(float logit) const { return static_cast<float>(below(logit, best) - log_sum); }
};

// What llama-server reports of tokens whose probability is 0 in float32: its clients know the number. Which
// of them it lists is what its partial sort leaves in place.
void report_impossible(std::span<const float> logits, std::vector<TokenLogprob>& top) {
    if (top.empty() || std::exp(top.back().logprob) > 0) return;
    std::vector<std::pair<float, int32_t>> all(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) all[i] = {logits[i], static_cast<int32_t>(i)};
    const auto last = all.begin() + static_cast<std::ptrdiff_t>(top.size());
    std::partial_sort(all.begin(), last, all.end(),
                      [](const auto& a, const auto& b) { return a.first > b.first; });
    for (size_t i = 0; i < top.size(); ++i) {
        if (std::exp(top[i].logprob) > 0) continue;
        top[i] = {all[i].second, std::numeric_limits<float>::lowest()};
    }
}

std::vector<TokenLogprob> best_logprobs(const LogSoftmax& log_softmax, std::span<const float> logits,
                                        int64_t n, SamplerScratch& scratch) {
    std::vector<TokenLogprob> top;
    if (n <= 0) return top;
    select_best(n, scratch);
    std::sort(scratch.ranks.begin(), scratch.ranks.end(), std::greater<>());
    for (const uint64_t rank : scratch.ranks) {
        const float logprob = log_softmax(logit_of(rank));
        if (logprob == -kInfinity) break;
        top.push_back({id_of(rank), logprob});
    }
    report_impossible(logits, top);
    return top;
}

// Gives every candidate its weight at this temperature and returns their sum. best: the greatest logit among
// them.
double weigh(std::vector<Candidate>& candidates, float best, double temperature) {
    double total = 0;
    for (Candidate& candidate : candidates) {
        candidate.weight = std::exp(below(logit_of(candidate.rank), best) / temperature);
        total += candidate.weight;
    }
    return total;
}

uint64_t best_rank(const std::vector<Candidate>& candidates) {
    uint64_t rank = 0;
    for (const Candidate& candidate : candidates) rank = std::max(rank, candidate.rank);
    return rank;
}
float best_logit(const std::vector<Candidate>& candidates) {
    return logit_of(best_rank(candidates));
}

bool better(const Candidate& a, const Candidate& b) {
    return a.rank > b.rank;
}

// Orders by which a stage takes candidates. A smaller bucket comes first; inside a bucket, `before` decides.
struct ByLogit {
    uint32_t bucket(const Candidate& candidate) const { return ~static_cast<uint32_t>(candidate.rank >> 32); }
    bool before(const Candidate& a, const Candidate& b) const { return a.rank > b.rank; }
};
struct ByDistance {  // of the logit from `below(logit, best) == mean`; ties to the better one
    float best;
    double mean;

    double distance(const Candidate& candidate) const {
        return std::abs(below(logit_of(candidate.rank), best) - mean);
    }
    uint32_t bucket(const Candidate& candidate) const {
        return std::bit_cast<uint32_t>(static_cast<float>(distance(candidate)));
    }
    bool before(const Candidate& a, const Candidate& b) const {
        const double from_a = distance(a);
        const double from_b = distance(b);
        return from_a != from_b ? from_a < from_b : a.rank > b.rank;
    }
};

// Reduces scratch.candidates to the shortest prefix, in the given order, whose weight reaches target (exceeds
// it if strict), or leaves all if none does; the prefix's last candidate ends up last. Does not sort a full
// vocabulary: a histogram of weights tells in which range of the order the prefix ends, and only that range
// is looked at again.
template <class Order>
void keep_prefix(SamplerScratch& scratch, double target, bool strict, const Order& order) {
    constexpr size_t kSmall = 256;
    constexpr int kBits = 12;
    const auto reached = [=](double sum) { return strict ? sum > target : sum >= target; };
    auto& open = scratch.candidates;  // the prefix ends among these
    auto& kept = scratch.kept;        // these lie before
    auto& weights = scratch.weights;
    kept.clear();
    double sum = 0;
    while (open.size() > kSmall) {
        uint32_t least = std::numeric_limits<uint32_t>::max();
        uint32_t greatest = 0;
        for (const Candidate& candidate : open) {
            least = std::min(least, order.bucket(candidate));
            greatest = std::max(greatest, order.bucket(candidate));
        }
        if (least == greatest) break;
        const int shift = std::max(0, static_cast<int>(std::bit_width(greatest - least)) - kBits);
        const auto range_of = [&](const Candidate& candidate) {
            return (order.bucket(candidate) - least) >> shift;
        };
        weights.assign(((greatest - least) >> shift) + 1, 0.0);
        for (const Candidate& candidate : open) weights[range_of(candidate)] += candidate.weight;
        uint32_t last = 0;
        while (last + 1 < weights.size() && !reached(sum + weights[last])) sum += weights[last++];
        size_t n_open = 0;
        for (const Candidate& candidate : open) {
            const uint32_t range = range_of(candidate);
            if (range < last) {
                kept.push_back(candidate);
            } else if (range == last) {
                open[n_open++] = candidate;
            }
        }
        open.resize(n_open);
    }
    const auto before = [&](const Candidate& a, const Candidate& b) { return order.before(a, b); };
    if (!std::is_sorted(open.begin(), open.end(), before)) std::sort(open.begin(), open.end(), before);
    for (const Candidate& candidate : open) {
        kept.push_back(candidate);
        sum += candidate.weight;
        if (reached(sum)) break;
    }
    std::swap(open, kept);
}

// ---- Stages
// ---------------------------------------------------------------------------------------------------

// Keeps the tokens whose surprise, -log p, is nearest to the entropy (Meister et al., "Locally Typical
// Sampling", 2022). Their difference is that of the logit from the mean logit, so no logarithm is needed.
void keep_typical(SamplerScratch& scratch, double typical_p) {
    ByDistance order{best_logit(scratch.candidates), 0.0};
    const double total = weigh(scratch.candidates, order.best, 1.0);
    for (const Candidate& candidate : scratch.candidates) {
        order.mean += candidate.weight * below(logit_of(candidate.rank), order.best) / total;
    }
    keep_prefix(scratch, typical_p * total, true, order);
}

// Keeps the best tokens up to the one with which their probability reaches top_p (Holtzman et al., "The
// Curious Case of Neural Text Degeneration", 2020).
void keep_top_p(SamplerScratch& scratch, double top_p) {
    const double total = weigh(scratch.candidates, best_logit(scratch.candidates), 1.0);
    keep_prefix(scratch, top_p * total, false, ByLogit{});
}

// Keeps the tokens at least min_p times as probable as the best (Nguyen et al., "Turning Up the Heat", 2024).
void keep_min_p(std::vector<Candidate>& candidates, double min_p) {
    const float best = best_logit(candidates);
    const float floor = std::min(best, best + static_cast<float>(std::log(min_p)));
    std::erase_if(candidates,
                  [floor](const Candidate& candidate) { return logit_of(candidate.rank) < floor; });
}

int32_t greedy(const SamplerScratch& scratch) {
    const auto block = std::max_element(scratch.block_max.begin(), scratch.block_max.end());
    const auto begin = scratch.keys.begin() + (block - scratch.block_max.begin()) * kBlock;
    return static_cast<int32_t>(std::find(begin, scratch.keys.end(), *block) - scratch.keys.begin());
}

constexpr int64_t kSecondDraw = int64_t{1} << 62;  // beyond every position

int32_t choose(const SamplingParams& params, int64_t position, SamplerScratch& scratch) {
    // Only typical_p can drop the best token.
    if (params.temperature <= 0 && params.typical_p >= 1) return greedy(scratch);

    const auto n_vocab = static_cast<int64_t>(scratch.keys.size());
    select_best(params.top_k > 0 ? std::min(params.top_k, n_vocab) : n_vocab, scratch);
    auto& candidates = scratch.candidates;
    candidates.clear();
    for (const uint64_t rank : scratch.ranks) candidates.push_back({rank, 0.0});
    if (best_logit(candidates) == kInfinity) {
        std::erase_if(candidates,
                      [](const Candidate& candidate) { return logit_of(candidate.rank) != kInfinity; });
    }

    if (params.typical_p < 1) keep_typical(scratch, params.typical_p);
    if (params.top_p < 1) keep_top_p(scratch, params.top_p);
    if (params.min_p > 0) keep_min_p(candidates, params.min_p);
    if (params.temperature <= 0)
        return id_of(std::min_element(candidates.begin(), candidates.end(), better)->rank);

    const double total = weigh(candidates, best_logit(candidates), params.temperature);
    std::erase_if(candidates, [](const Candidate& candidate) { return candidate.weight == 0; });
    const double target = uniform(params.seed, params.branch, static_cast<uint64_t>(position)) * total;
    keep_prefix(scratch, target, true, ByLogit{});
    return id_of(candidates.back().rank);
}

}  // namespace

void SamplingParams::validate() const {
    const std::pair<const char*, double> numbers[] = {
        {"temperature", temperature},
        {"top_p", top_p},
        {"min_p", min_p},
        {"typical_p", typical_p},
        {"repeat_penalty", repeat_penalty},
        {"presence_penalty", presence_penalty},
        {"frequency_penalty", frequency_penalty},
    };
    for (const auto& [name, value] : numbers) {
        if (!std::isfinite(static_cast<float>(value))) {
            throw InvalidError(std::string(name) + " is not a finite number");
        }
    }
    for (const auto& [token, bias] : logit_bias) {
        if (!std::isfinite(static_cast<float>(bias))) {
            throw InvalidError("logit_bias of token " + std::to_string(token) + " is not a finite number");
        }
    }
    if (repeat_penalty < 0) throw InvalidError("repeat_penalty is negative");
    if (repeat_last_n < -1) throw InvalidError("repeat_last_n is less than -1");
}

Sample draw(const float* logits, int64_t n_vocab, std::span<const int32_t> history,
            const SamplingParams& params, int64_t position, SamplerScratch& scratch,
            std::span<const uint32_t> mask, const Review& review) {
    const int32_t greatest = load_keys(logits, n_vocab, scratch);
    Sample result;
    const auto choose_token = [&] {
        add_bias(params, scratch);
        penalize(history, params, scratch);
        apply_mask(mask, scratch);
        const int32_t token = choose(params, position, scratch);
        if (!review) return token;
        const std::span<const uint32_t> allowed = review(token);
        if (allowed.empty()) return token;
        apply_mask(allowed, scratch);
        // Another random number: that the first token was refused says where its own lay.
        return choose(params, position | kSecondDraw, scratch);
    };
    if (params.logprobs < 0) {
        result.token = choose_token();
        result.logprob = std::numeric_limits<float>::quiet_NaN();
        return result;
    }
    const LogSoftmax log_softmax(logits, n_vocab, greatest);
    result.top = best_logprobs(log_softmax, {logits, static_cast<size_t>(n_vocab)},
                               std::min(params.logprobs, n_vocab), scratch);
    result.token = choose_token();
    result.logprob = log_softmax(logits[result.token]);
    return result;
}

std::vector<TokenLogprob> top_logprobs(const float* logits, int64_t n_vocab, int64_t n,
                                       SamplerScratch& scratch) {
    const int32_t greatest = load_keys(logits, n_vocab, scratch);
    return best_logprobs(LogSoftmax(logits, n_vocab, greatest), {logits, static_cast<size_t>(n_vocab)},
                         std::min(n, n_vocab), scratch);
}

double uniform(uint64_t seed, uint64_t branch, uint64_t position) {
    uint32_t c0 = static_cast<uint32_t>(position);
    uint32_t c1 = static_cast<uint32_t>(position >> 32);
    uint32_t c2 = static_cast<uint32_t>(branch);
    uint32_t c3 = static_cast<uint32_t>(branch >> 32);
    uint32_t k0 = static_cast<uint32_t>(seed);
    uint32_t k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t{0xD2511F53} * c0;
        const uint64_t p1 = uint64_t{0xCD9E8D57} * c2;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(p1);
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(p0);
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return static_cast<double>((uint64_t{c1} << 32 | c0) >> 11) * 0x1p-53;
}

}  // namespace ollamapy
