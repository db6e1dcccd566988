// Attention's register tiles: queries by vectors of positions or of value dimensions, f32 arithmetic over
// floats or f16. A sum is one chain of fma, ascending, whatever the shape of its tile.
#pragma once

#include "cpu/attention_layout.h"
#include "cpu/kv_page_impl.h"
#include "cpu/simd.h"

namespace ollamapy::cpu {
namespace {

// Register tiles: queries by vectors of positions or value dimensions.
#if defined(OLLAMAPY_SIMD_AVX512)
constexpr int kTileQueries = 8;
constexpr int kTileWide = 24;
constexpr int kScoreVectors = 2;  // vectors of positions in a tile of kTileQueries
#else
constexpr int kTileQueries = 6;
constexpr int kTileWide = 5;
constexpr int kScoreVectors = 1;
#endif
constexpr int64_t kScoreBlock = kScoreVectors * kLanes;

OLLAMAPY_LANES Vec load_any(const float* p) {
    return load(p);
}
OLLAMAPY_LANES Vec load_any(const uint16_t* p) {
    return load_f16(p);
}

// What is read next. Converted values are in the cache already.
OLLAMAPY_LANES void prefetch_next(const float*) {}
OLLAMAPY_LANES void prefetch_next(const uint16_t* p) {
    prefetch(p);
}

// n queries in tiles as equal as they come: call(first, size).
template <class F>
OLLAMAPY_LANES void each_tile(int64_t n, F call) {
    const uint32_t tiles = (static_cast<uint32_t>(n) + kTileQueries - 1) / kTileQueries;
    const uint32_t size = static_cast<uint32_t>(n) / tiles, longer = static_cast<uint32_t>(n) % tiles;
    int64_t i = 0;
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        const int64_t this_size = size + (tile < longer ? 1 : 0);
        call(i, this_size);
        i += this_size;
    }
}

// s[i][0, 16 N) = q[i] . k for Q queries; k is [head_dim][k_stride] from the first of these positions on.
template <int Q, int N, class T>
__attribute__((noinline)) void score_tile(const T* k, int64_t k_stride, const T* next, const float* const* q,
                                          int64_t head_dim, float* s) {
    Vec total[Q][N];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) total[i][j] = zero();
    }
    for (int64_t d = 0; d < head_dim; ++d) {
        Vec column[N];
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) column[j] = load_any(k + d * k_stride + j * kLanes);
        prefetch_next(next + d * k_stride);
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i) {
            const Vec x = broadcast(q[i][d]);
#pragma GCC unroll 8
            for (int j = 0; j < N; ++j) total[i][j] = fma(x, column[j], total[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) store(s + i * kScoreStride + j * kLanes, total[i][j]);
    }
}

// The same for the positions of a page: as the page has them, [head_dim][32], or converted, [32 /
// kScoreBlock][head_dim][kScoreBlock].
template <int Q>
void score_page(const uint16_t* k, const uint16_t* next, const float* const* q, int64_t head_dim, float* s) {
    constexpr int kMost = kPageTokens / kLanes;
    constexpr int kVectors = Q * kMost <= kTileWide ? kMost : kScoreVectors;
    for (int64_t t = 0; t < kPageTokens; t += kVectors * kLanes) {
        score_tile<Q, kVectors>(k + t, kPageTokens, next, q, head_dim, s + t);
    }
}
template <int Q>
void score_page(const float* k, const float* next, const float* const* q, int64_t head_dim, float* s) {
    for (int64_t t = 0; t < kPageTokens; t += kScoreBlock) {
        score_tile<Q, kScoreVectors>(k + t * head_dim, kScoreBlock, next, q, head_dim, s + t);
    }
}

template <class T, int Q = 1>
void score_queries(int64_t n, const T* k, const T* next, const float* const* q, int64_t head_dim, float* s) {
    if (n == Q) {
        score_page<Q>(k, next, q, head_dim, s);
    } else if constexpr (Q < kTileQueries) {
        score_queries<T, Q + 1>(n, k, next, q, head_dim, s);
    }
}

// sums[i][0, 16 N) += p[i][t] * v[t] for positions t ascending; v is [positions][v_stride].
template <int Q, int N, class T>
__attribute__((noinline)) void value_tile(const T* v, int64_t v_stride, const T* next, const float* p,
                                          int64_t positions, float* sums, int64_t sum_stride) {
    Vec total[Q][N];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) total[i][j] = load(sums + i * sum_stride + j * kLanes);
    }
    for (int64_t t = 0; t < positions; ++t) {
        Vec value[N];
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) value[j] = load_any(v + t * v_stride + j * kLanes);
#pragma GCC unroll 8
        for (int j = 0; j < N; j += 2) prefetch_next(next + t * v_stride + j * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i) {
            const Vec weight = broadcast(p[i * kScoreStride + t]);
#pragma GCC unroll 8
            for (int j = 0; j < N; ++j) total[i][j] = fma(weight, value[j], total[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) store(sums + i * sum_stride + j * kLanes, total[i][j]);
    }
}

// The same for any number of value dimensions that is a multiple of 16.
template <int Q, class T>
void value_dims(const T* v, int64_t v_stride, const T* next, const float* p, int64_t positions, int64_t dims,
                float* sums, int64_t sum_stride) {
    constexpr int kMost = Q * 4 <= kTileWide ? 4 : Q * 2 <= kTileWide ? 2 : 1;
    int64_t d = 0;
    for (; d + kMost * kLanes <= dims; d += kMost * kLanes) {
        value_tile<Q, kMost, T>(v + d, v_stride, next + d, p, positions, sums + d, sum_stride);
    }
    if constexpr (kMost == 4) {
        if (d + 2 * kLanes <= dims) {
            value_tile<Q, 2, T>(v + d, v_stride, next + d, p, positions, sums + d, sum_stride);
            d += 2 * kLanes;
        }
    }
    if constexpr (kMost > 1) {
        if (d < dims) value_tile<Q, 1, T>(v + d, v_stride, next + d, p, positions, sums + d, sum_stride);
    }
}

template <class T, int Q = 1>
void value_queries(int64_t n, const T* v, int64_t v_stride, const T* next, const float* p, int64_t positions,
                   int64_t dims, float* sums, int64_t sum_stride) {
    if (n == Q) {
        value_dims<Q, T>(v, v_stride, next, p, positions, dims, sums, sum_stride);
    } else if constexpr (Q < kTileQueries) {
        value_queries<T, Q + 1>(n, v, v_stride, next, p, positions, dims, sums, sum_stride);
    }
}

}  // namespace
}  // namespace ollamapy::cpu
