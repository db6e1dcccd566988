#if defined(OLLAMAPY_EMULATE_AVX512)
#include "cpu/avx512_emulation.h"
#else
#include <immintrin.h>
#endif

#include "cpu/peak.h"

namespace ollamapy::cpu {

namespace {

constexpr int kChains = 12;  // covers a latency of 5 cycles at two instructions a cycle

int32_t int8(int64_t rounds) {
    __m512i sums[kChains];
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_epi32(i);
    const __m512i a = _mm512_set1_epi8(1);
    const __m512i b = _mm512_set1_epi8(-1);
    for (int64_t round = 0; round < rounds; ++round) {
        for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
    }
    for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    float lanes[16];
    _mm512_storeu_ps(lanes, _mm512_cvtepi32_ps(sums[0]));
    return static_cast<int32_t>(lanes[0]);
}

float f32(int64_t rounds) {
    __m512 sums[kChains];
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
    const __m512 a = _mm512_set1_ps(0.5f);
    const __m512 b = _mm512_set1_ps(1.0f);
    for (int64_t round = 0; round < rounds; ++round) {
        for (int i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
    }
    for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
    float lanes[16];
    _mm512_storeu_ps(lanes, sums[0]);
    return lanes[0];
}

}  // namespace

const PeakKernels& peak_avx512() {
    static constexpr PeakKernels kTable = {kChains * 64 * 2, kChains * 16 * 2, int8, f32};
    return kTable;
}

}  // namespace ollamapy::cpu
