// Q8_0 by several rows in AVX2. For matmul_avx2.cpp.
//
// Products of 8-bit weights do not fit the sums of vpmaddubsw: it would take a vpmaddwd each besides. With
// both sides widened to 16 bits a single vpmaddwd does a product and its sum with the neighbour in 32 bits,
// and nothing else shares its two ports. The even and odd bytes of a line are one instruction each away from
// the 16-bit lanes; the activations are widened once for all tiles.
#pragma once

#include <immintrin.h>

#include "cpu/matmul_avx2_block.h"
#include "cpu/matmul_tiles.h"

namespace ollamapy::cpu {

namespace {

// A widened block of a panel: for each row 8 pairs of int16, columns (4j, 4j + 2), then 8 pairs (4j + 1,
// 4j + 3); then the int32 -128 * sum of each row, for the stored weights are w + 128.
constexpr int64_t kWideRowBytes = 2 * kBlock;
constexpr int64_t kStartsAt = kPanelRows * kWideRowBytes;
constexpr int64_t kWideBlockBytes = (kStartsAt + kPanelRows * 4 + 31) / 32 * 32;

void widen_panel(const uint8_t* panel, int64_t blocks, int64_t rows, uint8_t* out) {
    for (int64_t block = 0; block < blocks; ++block, panel += kPanelBlockBytes, out += kWideBlockBytes) {
        for (int64_t c = 0; c < rows; ++c) {
            const __m256i q = load(panel + c * kBlock);
            const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8);
            uint8_t* const row = out + c * kWideRowBytes;
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(row), even);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + 32), _mm256_srai_epi16(q, 8));
            int16_t pairs[4];
            __builtin_memcpy(pairs, panel + kPairSumsAt + 4 * c, 4);
            __builtin_memcpy(pairs + 2, panel + kPairSumsAt + 4 * (kPanelRows + c), 4);
            const int32_t start = -128 * (pairs[0] + pairs[1] + pairs[2] + pairs[3]);
            __builtin_memcpy(out + kStartsAt + 4 * c, &start, 4);
        }
    }
}

template <int C>
[[gnu::always_inline]] inline void add_wide_block(const uint8_t* block, const uint8_t* x,
                                                  const uint8_t* starts, const uint8_t* scale,
                                                  __m256 (&acc)[C][kHalves]) {
    __m256i dot[C][kHalves];
    unroll<C>(
        [&](auto c) { unroll<kHalves>([&](auto half) { dot[c][half] = broadcast_dword(starts + 4 * c); }); });
    unroll<8>([&](auto j) {
        unroll<2>([&](auto odd) {
            const __m256i first = load(block + 64 * j);
            const __m256i second = load(block + 64 * j + kHalfBytes);
            const __m256i byte = _mm256_set1_epi16(255);
            const __m256i w0 = odd ? _mm256_srli_epi16(first, 8) : _mm256_and_si256(first, byte);
            const __m256i w1 = odd ? _mm256_srli_epi16(second, 8) : _mm256_and_si256(second, byte);
            unroll<C>([&, w0, w1](auto c) {
                const __m256i q = broadcast_dword(x + kWideRowBytes * c + 32 * odd + 4 * j);
                const __m256i product0 = _mm256_madd_epi16(w0, q);
                const __m256i product1 = _mm256_madd_epi16(w1, q);
                dot[c][0] = _mm256_add_epi32(dot[c][0], product0);
                dot[c][1] = _mm256_add_epi32(dot[c][1], product1);
                pin(dot[c][0]);
                pin(dot[c][1]);
            });
        });
    });
    unroll<kHalves>([&](auto half) {
        const Scales scales = load_scales<DType::Q8_0>(nullptr, block, half);
        unroll<C>([&](auto c) {
            acc[c][half] = add_dot<DType::Q8_0>(scales, scale + 4 * c, dot[c][half], acc[c][half]);
        });
    });
}

}  // namespace

}  // namespace ollamapy::cpu
