#include "cpu/peak.h"

namespace ollamapy::cpu {

namespace {

constexpr int kLanesAtOnce = 32;

int32_t int8(int64_t rounds) {
    uint32_t sums[kLanesAtOnce];  // unsigned: they wrap around
    for (int i = 0; i < kLanesAtOnce; ++i) sums[i] = static_cast<uint32_t>(i);
    for (int64_t round = 0; round < rounds; ++round) {
        for (uint32_t& sum : sums) sum += static_cast<uint32_t>(static_cast<int8_t>(sum) * 3);
    }
    uint32_t total = 0;
    for (const uint32_t sum : sums) total += sum;
    return static_cast<int32_t>(total);
}

float f32(int64_t rounds) {
    float sums[kLanesAtOnce];
    for (int i = 0; i < kLanesAtOnce; ++i) sums[i] = static_cast<float>(i);
    for (int64_t round = 0; round < rounds; ++round) {
        for (float& sum : sums) sum = sum * 0.5f + 1.0f;
    }
    float total = 0;
    for (const float sum : sums) total += sum;
    return total;
}

}  // namespace

const PeakKernels& peak_portable() {
    static constexpr PeakKernels kTable = {kLanesAtOnce * 2, kLanesAtOnce * 2, int8, f32};
    return kTable;
}

}  // namespace ollamapy::cpu
