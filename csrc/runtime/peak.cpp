#include "runtime/peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "cpu/peak.h"
#include "errors.h"

namespace ollamapy {

double measure_peak(Device& device, const std::string& kind, double seconds) {
    if (kind != "int8" && kind != "f32") throw InvalidError("peak must be \"int8\" or \"f32\"");
    if (!(seconds >= 0 && seconds <= 60)) throw InvalidError("seconds must be from 0 to 60");
    using Clock = std::chrono::steady_clock;
    constexpr double kLongEnough = 2e-3;  // to start the threads does not count then
    const cpu::PeakKernels& kernels = *device.isa().peak;
    const bool int8 = kind == "int8";
    const int64_t operations = int8 ? kernels.int8_operations : kernels.f32_operations;
    std::atomic<int64_t> sink{0};
    int64_t rounds = 1024;
    double best = 0;
    const auto start = Clock::now();
    while (true) {
        const auto begin = Clock::now();
        device.pool().run([&](int) {
            const auto found =
                int8 ? static_cast<int64_t>(kernels.int8(rounds)) : static_cast<int64_t>(kernels.f32(rounds));
            sink.fetch_add(found, std::memory_order_relaxed);
        });
        const auto end = Clock::now();
        const double taken = std::chrono::duration<double>(end - begin).count();
        if (taken < kLongEnough) {
            rounds *= 2;
            continue;
        }
        best = std::max(best, static_cast<double>(rounds * operations * device.pool().threads()) / taken);
        if (std::chrono::duration<double>(end - start).count() >= seconds) return best;
    }
}

}  // namespace ollamapy
