#include <immintrin.h>

#include "cpu/peak.h"

namespace ollamapy::cpu {

namespace {

constexpr int kChains = 12;  // covers a latency of 5 cycles at two instructions a cycle

// Without VNNI a product of bytes takes vpmaddubsw, vpmaddwd and vpaddd.
int32_t int8(int64_t rounds) {
    __m256i sums[kChains];
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_set1_epi32(i);
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i b = _mm256_set1_epi8(-2);
    for (int64_t round = 0; round < rounds; ++round) {
        // One operand is the sum so far: a product of constants would be taken out of the loop.
        for (int i = 0; i < kChains; ++i) {
            const __m256i product = _mm256_madd_epi16(_mm256_maddubs_epi16(sums[i], b), ones);
            sums[i] = _mm256_add_epi32(sums[i], product);
        }
    }
    for (int i = 1; i < kChains; ++i) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
    return _mm256_cvtsi256_si32(sums[0]);
}

float f32(int64_t rounds) {
    __m256 sums[kChains];
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
    const __m256 a = _mm256_set1_ps(0.5f);
    const __m256 b = _mm256_set1_ps(1.0f);
    for (int64_t round = 0; round < rounds; ++round) {
        for (int i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
    }
    for (int i = 1; i < kChains; ++i) sums[0] = _mm256_add_ps(sums[0], sums[i]);
    return _mm256_cvtss_f32(sums[0]);
}

}  // namespace

const PeakKernels& peak_avx2() {
    static constexpr PeakKernels kTable = {kChains * 32 * 2, kChains * 8 * 2, int8, f32};
    return kTable;
}

}  // namespace ollamapy::cpu
