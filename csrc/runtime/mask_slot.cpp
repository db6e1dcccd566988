#include "runtime/mask_slot.h"

#include "errors.h"

namespace ollamapy {

void MaskSlot::put(int64_t position, std::span<const uint32_t> words, bool asks) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        words_.assign(words.begin(), words.end());
        position_ = position;
        asks_ = asks;
    }
    changed_.notify_all();
}

void MaskSlot::set(int64_t position, std::span<const uint32_t> words) {
    put(position, words, false);
}

void MaskSlot::ask(int64_t position, std::span<const uint32_t> words) {
    if (grammar_.state == nullptr) throw InvalidError("the sequence has no grammar to ask");
    put(position, words, true);
}

void MaskSlot::close() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closed_ = true;
    }
    changed_.notify_all();
}

double MaskSlot::seconds() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return seconds_;
}

bool MaskSlot::draw(int64_t position, std::chrono::steady_clock::time_point deadline,
                    const std::function<void(std::span<const uint32_t>, const Review&)>& draw) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_until(lock, deadline, [&] { return closed_ || position_ == position; });
    if (closed_ || position_ != position) return false;
    seconds_ = 0;
    if (!asks_) {
        draw(words_, {});
        return true;
    }
    draw({}, [&](int32_t token) -> std::span<const uint32_t> {
        const auto id = static_cast<uint32_t>(token);
        if (token < grammar_.tokens && grammar_.validate(grammar_.state, &id, 1) == 1) return {};
        if (!words_.empty()) return words_;
        const auto started = std::chrono::steady_clock::now();
        words_.assign(static_cast<size_t>((grammar_.tokens + 31) / 32), 0);
        const bool filled =
            grammar_.fill(grammar_.state, words_.data(), words_.size() * sizeof(uint32_t)) == 0;
        seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
        if (!filled) throw SamplingError("the grammar fails");
        return words_;
    });
    return true;
}

}  // namespace ollamapy
