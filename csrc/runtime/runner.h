// The device thread: it runs planned steps one after the other and never needs the GIL.
//
// A step reads its tokens when it runs, from sequences that earlier steps append sampled tokens to; so the
// planner works one step ahead without knowing them. Finished steps are announced on an eventfd.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "graph/program.h"
#include "runtime/executor.h"
#include "runtime/kv_cache.h"
#include "runtime/mask_slot.h"
#include "runtime/sampler.h"

namespace ollamapy {

// Tokens of one request and the pages that hold their K and V.
class Sequence {
  public:
    // constraint: what decides which token may stand at each position.
    Sequence(std::vector<int32_t> tokens, std::optional<SamplingParams> sampling,
             std::unique_ptr<MaskSlot> constraint)
        : tokens_(std::move(tokens)), sampling_(std::move(sampling)), mask_(std::move(constraint)) {}

    // Page table entry for the planner's thread; -1 drops it. Throws InvalidError.
    void set_page(int64_t group, int64_t index, int64_t page);
    const std::vector<std::vector<int32_t>>& pages() const { return pages_; }

    const std::optional<SamplingParams>& sampling() const { return sampling_; }
    std::vector<int32_t>& tokens() { return tokens_; }  // of the device thread once a step is queued
    MaskSlot* mask() const { return mask_.get(); }      // null: not constrained

  private:
    std::vector<int32_t> tokens_;
    const std::optional<SamplingParams> sampling_;
    std::vector<std::vector<int32_t>> pages_;  // by group
    const std::unique_ptr<MaskSlot> mask_;
};

struct StepItem {
    std::shared_ptr<Sequence> sequence;
    int64_t start = 0;                        // first position
    int64_t count = 0;                        // tokens
    int64_t outputs = 0;                      // of its last rows
    std::vector<std::vector<int32_t>> pages;  // by group, as they were when the step was planned
};

// A page of a group to be copied before a step runs: a text that begins like another goes on by itself.
struct PageCopy {
    int64_t group, from, to;
};

struct ItemSample {
    int64_t item;
    Sample sample;
};

struct StepResult {
    uint64_t step = 0;
    double started = 0, ended = 0;  // seconds of the monotonic clock
    std::vector<ItemSample> samples;
    std::vector<float> output;  // [output_rows][output_width]
    int64_t output_rows = 0, output_width = 0;
    std::optional<std::string> error;  // the whole step failed
    std::vector<std::pair<int64_t, std::string>>
        item_errors;            // (item, why): these failed, the others did not
    std::vector<int64_t> late;  // items that were not sampled because their mask had not come
};

class Runner {
  public:
    explicit Runner(std::shared_ptr<Device> device);
    ~Runner();
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;

    int fileno() const { return event_; }

    // Queue a step. Throws InvalidError for one that does not fit the program or whose pages are missing.
    uint64_t submit(std::shared_ptr<const Program> program, std::shared_ptr<const KVCache> cache,
                    std::vector<StepItem> items, bool want_logits, std::vector<PageCopy> copies = {});
    std::vector<StepResult> drain();  // what is ready
    std::vector<StepResult> wait();   // everything submitted
    void close();

    // Nanoseconds by instruction, summed over the steps that run between the two calls.
    void start_profile();
    std::vector<int64_t> stop_profile();

  private:
    struct Step {
        uint64_t number;
        std::shared_ptr<const Program> program;
        std::shared_ptr<const KVCache> cache;
        std::vector<StepItem> items;
        bool want_logits;
        std::vector<PageCopy> copies;
    };

    void work();
    StepResult run(Step& step);
    void check(const Program& program, const KVCache& cache, std::vector<StepItem>& items,
               bool want_logits) const;
    void sample(const Step& step, const float* logits, StepResult& result);

    std::shared_ptr<Device> device_;
    Executor executor_;  // of the device thread
    std::vector<SamplerScratch> scratch_;
    int event_ = -1;
    std::mutex mutex_;
    std::condition_variable wake_, idle_;
    std::deque<Step> queue_;
    std::deque<StepResult> results_;
    uint64_t submitted_ = 0, finished_ = 0;
    bool closing_ = false;
    std::thread thread_;
};

}  // namespace ollamapy
