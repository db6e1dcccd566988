#include "runtime/runner.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

#include "errors.h"

namespace ollamapy {
namespace {

constexpr int64_t kMaxPosition = int64_t{1} << 30;
constexpr int64_t kMaxGroups = 64;

double monotonic() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// How long a step waits for masks once its logits are there: its company waits with it. One that the draw
// itself computes comes on top; answers whose masks are slow have them computed beforehand.
constexpr auto kMaskPatience = std::chrono::milliseconds(5);

int64_t page_of(int64_t position) {
    return position / cpu::kPageTokens;
}

}  // namespace

void Sequence::set_page(int64_t group, int64_t index, int64_t page) {
    if (group < 0 || group >= kMaxGroups) throw InvalidError("layer group " + std::to_string(group));
    if (index < 0 || index > page_of(kMaxPosition))
        throw InvalidError("page table index " + std::to_string(index));
    if (page < -1 || page > INT32_MAX) throw InvalidError("page " + std::to_string(page));
    if (static_cast<int64_t>(pages_.size()) <= group) pages_.resize(group + 1);
    std::vector<int32_t>& table = pages_[group];
    if (static_cast<int64_t>(table.size()) <= index) table.resize(index + 1, -1);
    table[index] = static_cast<int32_t>(page);
}

Runner::Runner(std::shared_ptr<Device> device)
    : device_(std::move(device)), scratch_(device_->pool().threads()) {
    for (SamplerScratch& scratch : scratch_) scratch.kernels = device_->isa().rows;
    event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    thread_ = std::thread([this] { work(); });
}

Runner::~Runner() {
    close();
    ::close(event_);
}

void Runner::close() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
}

void Runner::check(const Program& program, const KVCache& cache, std::vector<StepItem>& items,
                   bool want_logits) const {
    if (items.empty()) throw InvalidError("a step without items");
    if (program.device != device_) throw InvalidError("the program was compiled for another device");
    if (!cache.fits(program)) throw InvalidError("the cache belongs to another program");
    int64_t rows = 0, outputs = 0;
    for (size_t i = 0; i < items.size(); ++i) {
        StepItem& item = items[i];
        const std::string where = "item " + std::to_string(i) + ": ";
        if (item.count < 1 || item.start < 0 || item.start > kMaxPosition || item.count > kMaxPosition) {
            throw InvalidError(where + std::to_string(item.count) + " tokens from position " +
                               std::to_string(item.start));
        }
        if (item.outputs < 0 || item.outputs > (program.pooled() ? 1 : item.count)) {
            throw InvalidError(where + std::to_string(item.outputs) + " outputs of " +
                               std::to_string(item.count) + " tokens");
        }
        if (item.outputs > 1 && !want_logits)
            throw InvalidError(where + "only one row of a sequence can be sampled");
        if (item.outputs > 0 && !want_logits && !program.pooled() && !item.sequence->sampling()) {
            throw InvalidError(where + "its sequence has no sampling parameters");
        }
        if (program.positions > 0 && item.start + item.count > program.positions) {
            throw InvalidError(where + "the model has " + std::to_string(program.positions) + " positions");
        }
        rows += item.count;
        outputs += item.outputs;
        item.pages = item.sequence->pages();
        item.pages.resize(std::max(item.pages.size(), program.groups.size()));
        for (size_t g = 0; g < program.groups.size(); ++g) {
            const int64_t window = program.groups[g].window;
            const int64_t first =
                program.groups[g].scratch || window == 0 ? 0 : std::max<int64_t>(0, item.start + 1 - window);
            const std::vector<int32_t>& table = item.pages[g];
            for (int64_t page = page_of(first); page <= page_of(item.start + item.count - 1); ++page) {
                if (page >= static_cast<int64_t>(table.size()) || table[page] < 0 ||
                    table[page] >= cache.pages()[g]) {
                    throw InvalidError(where + "group " + std::to_string(g) +
                                       " has no page for positions from " +
                                       std::to_string(page * cpu::kPageTokens));
                }
            }
        }
        if (!program.groups.empty() && program.groups[0].scratch && item.start != 0) {
            throw InvalidError(where + "a bidirectional program takes whole texts");
        }
    }
    if (rows > program.max_rows) {
        throw InvalidError(std::to_string(rows) + " rows, the program takes " +
                           std::to_string(program.max_rows));
    }
    if (outputs > program.max_outputs) {
        throw InvalidError(std::to_string(outputs) + " outputs, the program takes " +
                           std::to_string(program.max_outputs));
    }
}

uint64_t Runner::submit(std::shared_ptr<const Program> program, std::shared_ptr<const KVCache> cache,
                        std::vector<StepItem> items, bool want_logits, std::vector<PageCopy> copies) {
    check(*program, *cache, items, want_logits);
    for (const PageCopy& copy : copies) {
        const auto& pages = cache->pages();
        const bool known = copy.group >= 0 && copy.group < static_cast<int64_t>(pages.size());
        if (!known || std::min(copy.from, copy.to) < 0 || std::max(copy.from, copy.to) >= pages[copy.group]) {
            throw InvalidError("a copy of page " + std::to_string(copy.from) + " to " +
                               std::to_string(copy.to) + " of group " + std::to_string(copy.group));
        }
    }
    uint64_t number;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (closing_) throw InvalidError("the device thread has ended");
        number = ++submitted_;
        queue_.push_back(
            {number, std::move(program), std::move(cache), std::move(items), want_logits, std::move(copies)});
    }
    wake_.notify_one();
    return number;
}

std::vector<StepResult> Runner::drain() {
    uint64_t count;
    while (read(event_, &count, sizeof count) > 0) {
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<StepResult> out(std::make_move_iterator(results_.begin()),
                                std::make_move_iterator(results_.end()));
    results_.clear();
    return out;
}

std::vector<StepResult> Runner::wait() {
    {
        std::unique_lock<std::mutex> lock(mutex_);
        idle_.wait(lock, [this] { return finished_ == submitted_; });
    }
    return drain();
}

void Runner::start_profile() {
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [this] { return finished_ == submitted_; });
    executor_.profile.clear();
    executor_.profiling = true;
}

std::vector<int64_t> Runner::stop_profile() {
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [this] { return finished_ == submitted_; });
    executor_.profiling = false;
    return std::exchange(executor_.profile, {});
}

void Runner::work() {
    device_->pool().stay(0);
    for (;;) {
        Step step;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
            if (queue_.empty()) return;
            step = std::move(queue_.front());
            queue_.pop_front();
        }
        StepResult result = run(step);
        step = {};  // what it kept alive goes before the result is seen
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            results_.push_back(std::move(result));
            ++finished_;
        }
        idle_.notify_all();
        const uint64_t one = 1;
        // Fails only when the counter is full, and then the descriptor is readable anyway.
        [[maybe_unused]] const ssize_t written = write(event_, &one, sizeof one);
    }
}

StepResult Runner::run(Step& step) {
    StepResult result;
    result.step = step.number;
    result.started = monotonic();
    try {
        const Program& program = *step.program;
        for (const PageCopy& copy : step.copies)
            step.cache->copy_page(static_cast<int>(copy.group), copy.from, copy.to);
        Batch batch;
        for (size_t i = 0; i < step.items.size(); ++i) {
            const StepItem& item = step.items[i];
            const std::vector<int32_t>& tokens = item.sequence->tokens();
            const auto end = item.start + item.count;
            if (end > static_cast<int64_t>(tokens.size()) ||
                (end < static_cast<int64_t>(tokens.size()) && !step.want_logits && !program.pooled() &&
                 item.outputs > 0)) {
                result.item_errors.emplace_back(i, "the sequence has " + std::to_string(tokens.size()) +
                                                       " tokens where the step ends at " +
                                                       std::to_string(end));
            }
            Batch::Sequence sequence{batch.rows(), item.count, {}};
            for (const auto& table : item.pages) sequence.pages.push_back(table.data());
            const bool bidirectional = !program.groups.empty() && program.groups[0].scratch;
            for (int64_t position = item.start; position < end; ++position) {
                // A failed item's rows stay in the batch with token 0, so that the others find theirs where
                // they were planned.
                int32_t token = position < static_cast<int64_t>(tokens.size()) ? tokens[position] : 0;
                if (token < 0 || (program.vocabulary > 0 && token >= program.vocabulary)) {
                    result.item_errors.emplace_back(i, "token " + std::to_string(token) +
                                                           " is not in the vocabulary of " +
                                                           std::to_string(program.vocabulary));
                    token = 0;
                }
                batch.tokens.push_back(token);
                batch.positions.push_back(static_cast<int32_t>(position));
                batch.limits.push_back(static_cast<int32_t>(bidirectional ? end : position + 1));
            }
            if (program.pooled()) {
                if (item.outputs > 0) batch.outputs.push_back(static_cast<int32_t>(i));
            } else {
                for (int64_t k = item.outputs; k > 0; --k)
                    batch.outputs.push_back(static_cast<int32_t>(batch.rows() - k));
            }
            batch.sequences.push_back(std::move(sequence));
        }
        const float* const output = executor_.run(program, *step.cache, batch);
        if (step.want_logits || program.pooled()) {
            result.output_rows = static_cast<int64_t>(batch.outputs.size());
            result.output_width = program.output_width;
            result.output.assign(output, output + result.output_rows * result.output_width);
        } else {
            sample(step, output, result);
        }
    } catch (const std::exception& error) {
        result.samples.clear();
        result.item_errors.clear();
        result.late.clear();
        result.error = error.what();
    }
    result.ended = monotonic();
    return result;
}

void Runner::sample(const Step& step, const float* logits, StepResult& result) {
    struct Draw {
        int64_t item;
        int64_t row;  // of the logits
        Sample sample{};
        std::string error{};
        bool late = false;
    };
    std::vector<Draw> draws;
    for (size_t i = 0; i < step.items.size(); ++i) {
        if (step.items[i].outputs > 0)
            draws.push_back({static_cast<int64_t>(i), static_cast<int64_t>(draws.size())});
    }
    // Masks may still be on their way: those who need one come last.
    std::stable_partition(draws.begin(), draws.end(), [&](const Draw& draw) {
        return step.items[draw.item].sequence->mask() == nullptr;
    });
    const auto deadline = std::chrono::steady_clock::now() + kMaskPatience;
    const int64_t width = step.program->output_width;
    std::atomic<size_t> next{0};
    const std::function<void(int)> work = [&](int thread) {
        for (size_t n; (n = next.fetch_add(1)) < draws.size();) {
            const StepItem& item = step.items[draws[n].item];
            const auto end =
                static_cast<size_t>(item.start + item.count);  // where the drawn token will stand
            const std::vector<int32_t>& tokens = item.sequence->tokens();
            if (tokens.size() != end) continue;  // reported before
            const auto draw_from = [&](std::span<const uint32_t> mask, const Review& review) {
                draws[n].sample =
                    draw(logits + draws[n].row * width, width, tokens, *item.sequence->sampling(),
                         static_cast<int64_t>(end), scratch_[thread], mask, review);
            };
            try {
                if (MaskSlot* const slot = item.sequence->mask()) {
                    draws[n].late = !slot->draw(static_cast<int64_t>(end), deadline, draw_from);
                } else {
                    draw_from({}, {});
                }
            } catch (const std::exception& error) {
                draws[n].error = error.what();
            }
        }
    };
    if (draws.size() == 1) {
        work(0);
    } else if (!draws.empty()) {
        device_->pool().run(work);
    }
    for (Draw& draw : draws) {
        const StepItem& item = step.items[draw.item];
        std::vector<int32_t>& tokens = item.sequence->tokens();
        if (static_cast<int64_t>(tokens.size()) != item.start + item.count) continue;
        if (draw.late) {
            result.late.push_back(draw.item);
            continue;
        }
        if (!draw.error.empty()) result.item_errors.emplace_back(draw.item, std::move(draw.error));
        // A failed draw still occupies its place: the next step may be planned on it.
        tokens.push_back(draw.sample.token);
        result.samples.push_back({draw.item, std::move(draw.sample)});
    }
    std::erase_if(result.samples, [&](const ItemSample& sample) {
        return std::any_of(result.item_errors.begin(), result.item_errors.end(),
                           [&](const auto& error) { return error.first == sample.item; });
    });
}

}  // namespace ollamapy
