// A packed block in AVX2 registers: two of 8 rows x 4 columns make a line of a tile. For matmul_avx2.cpp.
//
// vpmaddubsw multiplies unsigned weights by signed activations and adds pairs to int16, and sums of several
// products stay in int16 as long as they must fit in the end; they may wrap on the way. With the offset taken
// off (for an int16 lane: offset times the sum of its activations) 8 steps of two columns give at most 16 x
// 127 x 2 x 8 = 32512 for Q5_0, half of that for Q4_0, 15 x 127 x 2 x 8 = 30480 for Q4_1 and Q4_K; 4 steps
// give 31 x 127 x 2 x 4 = 31496 for Q5_1 and Q5_K, 32512 for Q6_K, less for Q2_K and Q3_K.
#pragma once

#include <immintrin.h>

#include "cpu/packed.h"

namespace ollamapy::cpu {

namespace {

constexpr int kHalves = 2;  // registers to a tile
constexpr int64_t kHalfBytes = 32;

__m256i load(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
__m128i load128(const void* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
__m256 load_halves(const uint8_t* p) {
    return _mm256_cvtph_ps(load128(p));
}
__m256 broadcast(const uint8_t* p) {
    float v;
    __builtin_memcpy(&v, p, 4);
    return _mm256_set1_ps(v);
}
__m256i broadcast_dword(const uint8_t* p) {
    int32_t v;
    __builtin_memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

// Bits at a byte's place shift, moved to place to; other bits are the caller's to mask.
template <int kFrom, int kTo>
[[gnu::always_inline]] inline __m256i move_bits(__m256i v) {
    if constexpr (kFrom > kTo) return _mm256_srli_epi16(v, kFrom - kTo);
    if constexpr (kFrom < kTo) return _mm256_slli_epi16(v, kTo - kFrom);
    return v;
}

// Columns 4j..4j+3 of half a tile's rows: stored unsigned values as bytes. at: the block plus the half's
// offset.
template <DType T, int j>
[[gnu::always_inline]] inline __m256i unpack(const uint8_t* at) {
    constexpr TileLayout kLayout = tile_layout(T);
    __m256i v;
    if constexpr (kLayout.low_bytes == 512) {
        v = load(at + 64 * j);
    } else if constexpr (kLayout.low_bytes == 256) {
        v = _mm256_and_si256(move_bits<j / 4 * 4, 0>(load(at + 64 * (j % 4))), _mm256_set1_epi8(15));
    } else {
        v = _mm256_and_si256(move_bits<j % 4 * 2, 0>(load(at + 64 * (j / 4))), _mm256_set1_epi8(3));
    }
    if constexpr (kLayout.high_bytes == 64) {
        const __m256i high = move_bits<j, kLayout.high_shift>(load(at + kLayout.low_bytes));
        v = _mm256_or_si256(v, _mm256_and_si256(high, _mm256_set1_epi8(1 << kLayout.high_shift)));
    } else if constexpr (kLayout.high_bytes == 128) {
        const __m256i high =
            move_bits<j % 4 * 2, kLayout.high_shift>(load(at + kLayout.low_bytes + 64 * (j / 4)));
        v = _mm256_or_si256(v, _mm256_and_si256(high, _mm256_set1_epi8(3 << kLayout.high_shift)));
    }
    return v;
}

// The scales of half a tile's rows in one block.
struct Scales {
    __m256 d;
    __m256 m;          // added times scale * sum
    __m256i scale[2];  // int16, each twice: integer scales of the block's halves
    __m256i min[2];    // the same of integer minima
};

// int16 pairs (a, b) into (a, a) and (b, b).
[[gnu::always_inline]] inline void duplicate(__m256i pairs, __m256i* out) {
    const __m256i odd = _mm256_set1_epi32(-65536);
    out[0] = _mm256_or_si256(_mm256_andnot_si256(odd, pairs), _mm256_slli_epi32(pairs, 16));
    out[1] = _mm256_or_si256(_mm256_srli_epi32(pairs, 16), _mm256_and_si256(odd, pairs));
}

template <DType T>
[[gnu::always_inline]] inline Scales load_scales(const uint8_t* header, const uint8_t* block, int half) {
    constexpr TileLayout kLayout = tile_layout(T);
    const uint8_t* scales = block + kLayout.low_bytes + kLayout.high_bytes;
    const uint8_t* floats = kLayout.header_bytes ? header : scales;
    Scales s;
    s.d = load_halves(floats + 16 * half);
    s.m = kLayout.has_min ? load_halves(floats + 32 + 16 * half) : _mm256_setzero_ps();
    if constexpr (T == DType::Q4_K || T == DType::Q5_K) {
        const auto widen = [](const uint8_t* p) {
            return _mm256_cvtepi32_ps(
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
        };
        s.d = _mm256_mul_ps(s.d, widen(scales + 8 * half));
        s.m = _mm256_xor_ps(_mm256_mul_ps(s.m, widen(scales + 16 + 8 * half)), _mm256_set1_ps(-0.0f));
    }
    if constexpr (kLayout.sub_scales) {
        const __m256i pairs = _mm256_cvtepi8_epi16(load128(scales + 16 * half));
        if constexpr (T == DType::Q2_K) {
            duplicate(_mm256_and_si256(pairs, _mm256_set1_epi16(15)), s.scale);
            duplicate(_mm256_and_si256(_mm256_srli_epi16(pairs, 4), _mm256_set1_epi16(15)), s.min);
        } else {
            duplicate(pairs, s.scale);
        }
    }
    return s;
}

// Fixes a value here: the compiler would regroup long sums and keep more products alive than there are
// registers.
[[gnu::always_inline]] inline void pin(__m256i& v) {
    asm("" : "+x"(v));
}

// acc + d * s * dot (+ m * s * sum) for one row and half a tile. x: the row's scale in the panel's block.
template <DType T>
[[gnu::always_inline]] inline __m256 add_dot(const Scales& scales, const uint8_t* x, __m256i dot,
                                             __m256 acc) {
    const __m256 scale = broadcast(x);
    acc = _mm256_fmadd_ps(_mm256_mul_ps(scales.d, scale), _mm256_cvtepi32_ps(dot), acc);
    if constexpr (T == DType::Q2_K) {
        const uint8_t* pairs = x + (kPairSumsAt - kScaleAt);
        const __m256i min =
            _mm256_add_epi32(_mm256_madd_epi16(broadcast_dword(pairs), scales.min[0]),
                             _mm256_madd_epi16(broadcast_dword(pairs + 4 * kPanelRows), scales.min[1]));
        acc = _mm256_fnmadd_ps(_mm256_mul_ps(scales.m, scale), _mm256_cvtepi32_ps(min), acc);
    } else if constexpr (tile_layout(T).has_min) {
        acc = _mm256_fmadd_ps(scales.m, broadcast(x + (kScaledSumAt - kScaleAt)), acc);
    }
    return acc;
}

// Steps of 4 columns, in two phases of 4 (16 columns) each.
template <DType T>
struct Phases {
    static constexpr TileLayout kLayout = tile_layout(T);
    // Whether the sums of both phases fit one int16 together.
    static constexpr bool kOneSum = !kLayout.sub_scales && (kLayout.high_bytes == 0 || kLayout.offset != 0);
    static constexpr int kOffsetShift = kLayout.offset == 32   ? 5
                                        : kLayout.offset == 16 ? 4
                                        : kLayout.offset == 8  ? 3
                                                               : 2;

    // The columns / 4 of a phase. Phases of types with integer scales are the block's halves; of the others
    // such that both nibbles of a line are used together.
    static constexpr int column(int phase, int step) {
        return kLayout.sub_scales ? 4 * phase + step : 2 * phase + step / 2 + step % 2 * 4;
    }

    // What is taken off the int16 sums of one row in a phase: offset times the sums of a half of the block,
    // which need not be the columns of the phase as long as both are taken off in the end.
    [[gnu::always_inline]] static inline __m256i offset(const uint8_t* scale, int phase) {
        const __m256i pairs = broadcast_dword(scale + (kPairSumsAt - kScaleAt) + 4 * kPanelRows * phase);
        return _mm256_slli_epi16(pairs, kOffsetShift);
    }

    // The factor of the int16 sums of a phase when they are widened.
    [[gnu::always_inline]] static inline __m256i factor(const Scales& scales, int phase) {
        return kLayout.sub_scales ? scales.scale[phase] : _mm256_set1_epi16(1);
    }
};

}  // namespace

}  // namespace ollamapy::cpu
