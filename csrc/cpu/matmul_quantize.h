// Quantization of one activation row with AVX2; the AVX-512 table takes it too, for a row is read once.
// For files with AVX2 or more: internal linkage, as matmul_tiles.h explains.
#pragma once

#include <immintrin.h>

#include "cpu/packed.h"

namespace ollamapy::cpu {

namespace {

void quantize_row(const float* x, const QuantizedRows& out, int64_t row, int64_t block_begin,
                  int64_t block_end) {
    const int64_t c = row % kPanelRows;
    uint8_t* panel = block_of_row(out, row, block_begin);
    const __m256i positive = _mm256_set1_epi32(0x7fffffff);
    for (int64_t block = block_begin; block < block_end; ++block, panel += kPanelBlockBytes, x += kBlock) {
        __m256 v[4];
        for (int i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(x + 8 * i);
        // The bits of |x| order as integers: NaN above infinity above the finite.
        __m256i top = _mm256_and_si256(_mm256_castps_si256(v[0]), positive);
        for (int i = 1; i < 4; ++i)
            top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(v[i]), positive));
        __m128i top4 = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
        top4 = _mm_max_epi32(top4, _mm_shuffle_epi32(top4, 0x4e));
        top4 = _mm_max_epi32(top4, _mm_shuffle_epi32(top4, 0xb1));
        const auto max_bits = static_cast<uint32_t>(_mm_cvtsi128_si32(top4));
        __m256i q = _mm256_setzero_si256();
        float scale = 0.0f;
        if (max_bits >= kInfinity) {
            __builtin_memcpy(&scale, &kQuietNan, 4);
        } else if (max_bits >= kZeroBelow) {
            float max;
            __builtin_memcpy(&max, &max_bits, 4);
            scale = round_scale(max / 127.0f);
            const __m256 inverse = _mm256_set1_ps(127.0f / max);
            __m256i wide[4];
            for (int i = 0; i < 4; ++i) wide[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
            q = _mm256_packs_epi16(_mm256_packs_epi32(wide[0], wide[1]),
                                   _mm256_packs_epi32(wide[2], wide[3]));
            // The packs interleave the 128-bit lanes.
            q = _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        }
        // Sums of pairs of columns, then of every other pair in a 128-bit lane, which is half of the block.
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
        pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4e));
        pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
        const __m128i low = _mm256_castsi256_si128(pairs);
        const __m128i high = _mm256_extracti128_si256(pairs, 1);
        const int32_t sum = _mm_cvtsi128_si32(_mm_madd_epi16(_mm_add_epi16(low, high), _mm_set1_epi16(1)));
        const float scaled_sum = scale * static_cast<float>(sum);
        const int32_t low_pair = _mm_cvtsi128_si32(low);
        const int32_t high_pair = _mm_cvtsi128_si32(high);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(panel + c * kBlock), q);
        __builtin_memcpy(panel + kScaleAt + 4 * c, &scale, 4);
        __builtin_memcpy(panel + kScaledSumAt + 4 * c, &scaled_sum, 4);
        __builtin_memcpy(panel + kPairSumsAt + 4 * c, &low_pair, 4);
        __builtin_memcpy(panel + kPairSumsAt + 4 * (kPanelRows + c), &high_pair, 4);
        const int32_t negated = -sum;
        __builtin_memcpy(panel + kNegatedSumAt + 4 * c, &negated, 4);
    }
}

}  // namespace

}  // namespace ollamapy::cpu
