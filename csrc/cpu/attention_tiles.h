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
constexpr int kValueVectors = 2;  // vectors of value dimensions in one
#else
constexpr int kTileQueries = 6;
constexpr int kTileWide = 5;
constexpr int kScoreVectors = 1;
constexpr int kValueVectors = 1;
#endif
constexpr int64_t kScoreBlock = kScoreVectors * kLanes;

// ---- What tiles read --------------------------------------------------------------------------------------
//
// Keys of a page's positions, values of any positions. Those that come out of the pool prefetch what is read
// next, laid out alike.

constexpr int64_t kWhole = int64_t{1} << 62;  // not in blocks

struct FloatKeys {  // converted: [32 / kScoreBlock][head_dim][kScoreBlock]
    const float* k;
    int64_t head_dim;
    static constexpr int kMostQueries = kTileQueries;
    static constexpr int kMostVectors = kScoreVectors;
    static constexpr int64_t kBlockDims = kWhole;

    OLLAMAPY_LANES FloatKeys at(int64_t position) const { return {k + position * head_dim, head_dim}; }
    OLLAMAPY_LANES Vec scale(int64_t, int) const { return zero(); }
    OLLAMAPY_LANES Vec load(int64_t d, int j, Vec) const {
        return cpu::load(k + d * kScoreBlock + j * kLanes);
    }
    OLLAMAPY_LANES void ahead(int64_t) const {}
};

struct HalfKeys {
    const uint16_t* k;
    const uint16_t* next;
    static constexpr int kMostQueries = kTileQueries;
    static constexpr int kMostVectors = kPageTokens / kLanes;
    static constexpr int64_t kBlockDims = kWhole;

    OLLAMAPY_LANES HalfKeys at(int64_t position) const { return {k + position, next}; }
    OLLAMAPY_LANES Vec scale(int64_t, int) const { return zero(); }
    OLLAMAPY_LANES Vec load(int64_t d, int j, Vec) const {
        return load_f16(k + d * kPageTokens + j * kLanes);
    }
    OLLAMAPY_LANES void ahead(int64_t d) const { prefetch(next + d * kPageTokens); }
};

// With more queries than these, converting q8_0 first is faster.
constexpr int kMostDirectQ8 = 4;

struct Q8Keys {
    const int8_t* q;
    const uint16_t* scales;
    const int8_t* next;
    static constexpr int kMostQueries = kMostDirectQ8;
    static constexpr int kMostVectors = kPageTokens / kLanes;
    static constexpr int64_t kBlockDims = kBlock;

    OLLAMAPY_LANES Q8Keys at(int64_t position) const { return {q + position, scales + position, next}; }
    OLLAMAPY_LANES Vec scale(int64_t d, int j) const {
        return load_f16(scales + d / kBlock * kPageTokens + j * kLanes);
    }
    OLLAMAPY_LANES Vec load(int64_t d, int j, Vec scale) const {
        return load_i8(q + d * kPageTokens + j * kLanes) * scale;
    }
    OLLAMAPY_LANES void ahead(int64_t d) const { prefetch(next + d * kPageTokens); }
};

OLLAMAPY_LANES Q8Keys q8_keys(const uint8_t* page, int64_t head_dim, const uint8_t* next) {
    const int64_t start = kv_scale_bytes(KvType::kQ8_0, head_dim);
    return {reinterpret_cast<const int8_t*>(page + start), reinterpret_cast<const uint16_t*>(page),
            reinterpret_cast<const int8_t*>(next + start)};
}

// Values are [positions][stride]; the stride travels beside them, so that they fit into registers.

struct FloatValues {
    const float* v;
    static constexpr int kMostQueries = kTileQueries;

    OLLAMAPY_LANES FloatValues at(int64_t position, int64_t d, int64_t stride) const {
        return {v + position * stride + d};
    }
    template <int N>
    OLLAMAPY_LANES void load(int64_t t, int64_t stride, Vec (&out)[N]) const {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) out[j] = cpu::load(v + t * stride + j * kLanes);
    }
};

struct HalfValues {
    const uint16_t* v;
    const uint16_t* next;
    static constexpr int kMostQueries = kTileQueries;

    OLLAMAPY_LANES HalfValues at(int64_t position, int64_t d, int64_t stride) const {
        return {v + position * stride + d, next + position * stride + d};
    }
    template <int N>
    OLLAMAPY_LANES void load(int64_t t, int64_t stride, Vec (&out)[N]) const {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) out[j] = load_f16(v + t * stride + j * kLanes);
#pragma GCC unroll 8
        for (int j = 0; j < N; j += 2) prefetch(next + t * stride + j * kLanes);
    }
};

struct Q8Values {
    const int8_t* q;
    const uint16_t* scales;  // of the tile's first block
    const int8_t* next;
    static constexpr int kMostQueries = kMostDirectQ8;

    // d is a multiple of 16, of 32 for tiles of two vectors or more.
    OLLAMAPY_LANES Q8Values at(int64_t position, int64_t d, int64_t stride) const {
        const int64_t step = position * stride + d;
        return {q + step, scales + position * (stride / kBlock) + d / kBlock, next + step};
    }
    template <int N>
    OLLAMAPY_LANES void load(int64_t t, int64_t stride, Vec (&out)[N]) const {
        const int8_t* const row = q + t * stride;
#pragma GCC unroll 8
        for (int j = 0; j < N; j += 2) {
            const Vec scale = broadcast_f16(scales + t * (stride / kBlock) + j / 2);
            out[j] = load_i8(row + j * kLanes) * scale;
            if (j + 1 < N) out[j + 1] = load_i8(row + (j + 1) * kLanes) * scale;
        }
        prefetch(next + t * stride);
    }
};

OLLAMAPY_LANES Q8Values q8_values(const uint8_t* page, int64_t v_dim, const uint8_t* next) {
    const int64_t start = kv_scale_bytes(KvType::kQ8_0, v_dim);
    return {reinterpret_cast<const int8_t*>(page + start), reinterpret_cast<const uint16_t*>(page),
            reinterpret_cast<const int8_t*>(next + start)};
}

// ---- Tiles ------------------------------------------------------------------------------------------------

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

// s[i][0, 16 N) = q[i] . k for Q queries and the first 16 N of the keys.
template <int Q, int N, class Keys>
__attribute__((noinline)) void score_tile(Keys keys, const float* const* q, int64_t head_dim, float* s) {
    Vec total[Q][N];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) total[i][j] = zero();
    }
    for (int64_t d = 0; d < head_dim;) {
        const int64_t end = head_dim - d > Keys::kBlockDims ? d + Keys::kBlockDims : head_dim;
        Vec scale[N];
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) scale[j] = keys.scale(d, j);
        for (; d < end; ++d) {
            Vec column[N];
#pragma GCC unroll 8
            for (int j = 0; j < N; ++j) column[j] = keys.load(d, j, scale[j]);
            keys.ahead(d);
#pragma GCC unroll 8
            for (int i = 0; i < Q; ++i) {
                const Vec x = broadcast(q[i][d]);
#pragma GCC unroll 8
                for (int j = 0; j < N; ++j) total[i][j] = fma(x, column[j], total[i][j]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) store(s + i * kScoreStride + j * kLanes, total[i][j]);
    }
}

// The same for all positions of a page and n queries, at most Keys::kMostQueries.
template <class Keys, int Q = 1>
void score_page(int64_t n, Keys keys, const float* const* q, int64_t head_dim, float* s) {
    if (n == Q) {
        constexpr int kVectors = Q * Keys::kMostVectors <= kTileWide ? Keys::kMostVectors : kScoreVectors;
        for (int64_t t = 0; t < kPageTokens; t += kVectors * kLanes) {
            score_tile<Q, kVectors>(keys.at(t), q, head_dim, s + t);
        }
    } else if constexpr (Q < Keys::kMostQueries) {
        score_page<Keys, Q + 1>(n, keys, q, head_dim, s);
    }
}

// sums[i][0, 16 N) += p[i][t] * v[t] for positions t ascending.
template <int Q, int N, class Source>
__attribute__((noinline)) void value_tile(Source v, int64_t stride, const float* p, int64_t positions,
                                          float* sums, int64_t sum_stride) {
    Vec total[Q][N];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) total[i][j] = load(sums + i * sum_stride + j * kLanes);
    }
    for (int64_t t = 0; t < positions; ++t) {
        Vec value[N];
        v.load(t, stride, value);
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
template <int Q, class Source>
void value_dims(Source v, int64_t stride, const float* p, int64_t positions, int64_t dims, float* sums,
                int64_t sum_stride) {
    constexpr int kMost = Q * 4 <= kTileWide ? 4 : Q * 2 <= kTileWide ? 2 : 1;
    int64_t d = 0;
    for (; d + kMost * kLanes <= dims; d += kMost * kLanes) {
        value_tile<Q, kMost>(v.at(0, d, stride), stride, p, positions, sums + d, sum_stride);
    }
    if constexpr (kMost == 4) {
        if (d + 2 * kLanes <= dims) {
            value_tile<Q, 2>(v.at(0, d, stride), stride, p, positions, sums + d, sum_stride);
            d += 2 * kLanes;
        }
    }
    if constexpr (kMost > 1) {
        if (d < dims) value_tile<Q, 1>(v.at(0, d, stride), stride, p, positions, sums + d, sum_stride);
    }
}

// The same for n queries, at most Source::kMostQueries.
template <class Source, int Q = 1>
void value_queries(int64_t n, Source v, int64_t stride, const float* p, int64_t positions, int64_t dims,
                   float* sums, int64_t sum_stride) {
    if (n == Q) {
        value_dims<Q>(v, stride, p, positions, dims, sums, sum_stride);
    } else if constexpr (Q < Source::kMostQueries) {
        value_queries<Source, Q + 1>(n, v, stride, p, positions, dims, sums, sum_stride);
    }
}

}  // namespace
}  // namespace ollamapy::cpu
