// Matrix products with AVX-512 F, BW, DQ, VL and VNNI. The arithmetic is that of matmul_portable.cpp, bit for
// bit.
//
// One register holds a line of a tile, 16 rows x 4 columns, and vpdpbusd adds its products with a broadcast
// dword of activations to 16 int32. Up to 12 activation rows meet a tile at once: their sums stay in
// registers, and each line of weights is unpacked where it is used. What bounds a product is the two ports
// that vpdpbusd shares with multiplication and fma.
#ifdef OLLAMAPY_EMULATE_AVX512
#include "cpu/avx512_emulation.h"
#else
#include <immintrin.h>
#endif

#include "cpu/matmul_quantize.h"
#include "cpu/matmul_tiles.h"

namespace ollamapy::cpu {

namespace {

constexpr int kMostTiles = 2;

__m512i load(const void* p) {
    return _mm512_loadu_si512(p);
}
__m256i load256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
__m512 load_halves(const uint8_t* p) {
    return _mm512_cvtph_ps(load256(p));
}
__m512 broadcast(const uint8_t* p) {
    float v;
    __builtin_memcpy(&v, p, 4);
    return _mm512_set1_ps(v);
}
__m512i broadcast_dword(const uint8_t* p) {
    int32_t v;
    __builtin_memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

// Bits at place kFrom of each byte, moved to place kTo; other bits are the caller's to mask.
template <int kFrom, int kTo>
[[gnu::always_inline]] inline __m512i move_bits(__m512i v) {
    if constexpr (kFrom > kTo) return _mm512_srli_epi16(v, kFrom - kTo);
    if constexpr (kFrom < kTo) return _mm512_slli_epi16(v, kTo - kFrom);
    return v;
}

// Columns 4j..4j+3 of a tile's rows: stored unsigned values as bytes.
template <DType T, int j>
[[gnu::always_inline]] inline __m512i unpack(const uint8_t* block) {
    constexpr TileLayout kLayout = tile_layout(T);
    __m512i v;
    if constexpr (kLayout.low_bytes == 512) {
        v = load(block + 64 * j);
    } else if constexpr (kLayout.low_bytes == 256) {
        v = _mm512_and_si512(move_bits<j / 4 * 4, 0>(load(block + 64 * (j % 4))), _mm512_set1_epi8(15));
    } else {
        v = _mm512_and_si512(move_bits<j % 4 * 2, 0>(load(block + 64 * (j / 4))), _mm512_set1_epi8(3));
    }
    if constexpr (kLayout.high_bytes == 64) {
        const __m512i high = move_bits<j, kLayout.high_shift>(load(block + kLayout.low_bytes));
        v = _mm512_or_si512(v, _mm512_and_si512(high, _mm512_set1_epi8(1 << kLayout.high_shift)));
    } else if constexpr (kLayout.high_bytes == 128) {
        const uint8_t* line = block + kLayout.low_bytes + 64 * (j / 4);
        const __m512i high = move_bits<j % 4 * 2, kLayout.high_shift>(load(line));
        v = _mm512_or_si512(v, _mm512_and_si512(high, _mm512_set1_epi8(3 << kLayout.high_shift)));
    }
    return v;
}

// The scales of a tile's rows in one block.
struct Scales {
    __m512 d;
    __m512 m;          // added times scale * sum
    __m512i scale[2];  // int32: integer scales of the block's halves
    __m512i min[2];    // int16, each twice: integer minima of the halves
};

template <DType T>
[[gnu::always_inline]] inline Scales load_scales(const uint8_t* header, const uint8_t* block) {
    constexpr TileLayout kLayout = tile_layout(T);
    const uint8_t* scales = block + kLayout.low_bytes + kLayout.high_bytes;
    const uint8_t* floats = kLayout.header_bytes ? header : scales;
    Scales s;
    s.d = load_halves(floats);
    s.m = kLayout.has_min ? load_halves(floats + 32) : _mm512_setzero_ps();
    if constexpr (T == DType::Q4_K || T == DType::Q5_K) {
        const auto widen = [](const uint8_t* p) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
            return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
        };
        s.d = _mm512_mul_ps(s.d, widen(scales));
        s.m = _mm512_sub_ps(_mm512_set1_ps(-0.0f), _mm512_mul_ps(s.m, widen(scales + 16)));
    }
    if constexpr (T == DType::Q2_K) {
        const __m512i pairs = _mm512_cvtepi8_epi16(load256(scales));
        const __m512i low = _mm512_set1_epi32(15);
        for (int h = 0; h < 2; ++h) {
            s.scale[h] = _mm512_and_si512(h ? _mm512_srli_epi32(pairs, 16) : pairs, low);
            const __m512i min = _mm512_and_si512(_mm512_srli_epi32(pairs, h ? 20 : 4), low);
            s.min[h] = _mm512_or_si512(min, _mm512_slli_epi32(min, 16));
        }
    } else if constexpr (kLayout.sub_scales) {
        const __m512i pairs = _mm512_cvtepi8_epi16(load256(scales));
        s.scale[0] = _mm512_srai_epi32(_mm512_slli_epi32(pairs, 16), 16);
        s.scale[1] = _mm512_srai_epi32(pairs, 16);
    }
    return s;
}

// acc, the 16 outputs of row c of the call by tile number tile of it, into y.
[[gnu::always_inline]] inline void finish(const TileCall& call, int64_t tile, int64_t c, __m512 acc) {
    const int64_t first = tile * kTileRows;
    const int64_t left = call.outputs - first;
    const auto mask = static_cast<__mmask16>(left >= kTileRows ? 0xffff : (1 << left) - 1);
    if (call.bias) acc = _mm512_add_ps(acc, _mm512_maskz_loadu_ps(mask, call.bias + first));
    if (call.residual) {
        acc =
            _mm512_add_ps(acc, _mm512_maskz_loadu_ps(mask, call.residual + c * call.residual_stride + first));
    }
    _mm512_mask_storeu_ps(call.y + c * call.y_stride + first, mask, acc);
}

// Keeps a value in a register at this place of the program: without it the compiler moves unpacking and
// conversions of later rows forward until registers run out.
[[gnu::always_inline]] inline void pin([[maybe_unused]] __m512i& v) {
#ifndef OLLAMAPY_EMULATE_AVX512
    asm("" : "+v"(v));
#endif
}

// The second cache has more requests on their way to memory than the nearest one. With one or two rows the
// core waits for the memory alone, and that is all that counts; with more it computes, and lines have to be
// in the nearest cache when they are used. So these are fetched twice: from far ahead, and into the nearest
// cache a little ahead.
constexpr int64_t kSecondCacheAhead = 12288, kNearestCacheAhead = 2048;

template <DType T>
struct QuantizedKernel : StoredRows {
    static constexpr TileLayout kLayout = tile_layout(T);
    // All sums of a call stay in registers. Integer scales need registers for the sums of two halves.
#ifdef OLLAMAPY_EMULATE_AVX512
    static constexpr int kMostRows = 3;  // the same arithmetic; more would take the compiler minutes
#else
    static constexpr int kMostRows = kLayout.sub_scales ? 8 : kPanelRows;
#endif
    static_assert((kLayout.offset & (kLayout.offset - 1)) == 0, "start() shifts by it");
    static CallShape shape(int64_t) { return {1, kMostRows}; }

    // Where the dot products of half kHalf (2: of the whole block) start: -offset times the sum of the row.
    template <int kHalf>
    [[gnu::always_inline]] static inline __m512i start(const uint8_t* scale) {
        if constexpr (kLayout.offset == 0) return _mm512_setzero_si512();
        if constexpr (kHalf == 2) {
            constexpr int kShift = __builtin_ctz(kLayout.offset | 1 << 30);
            return _mm512_slli_epi32(broadcast_dword(scale + (kNegatedSumAt - kScaleAt)), kShift);
        }
        const uint8_t* pairs = scale + (kPairSumsAt - kScaleAt) + 4 * kPanelRows * kHalf;
        return _mm512_madd_epi16(broadcast_dword(pairs), _mm512_set1_epi16(-kLayout.offset));
    }

    // dots of C rows and columns [4 kFrom, 4 kTo) of a block, each line of weights unpacked where it is used.
    template <int C, int kHalf, int kFrom, int kTo>
    [[gnu::always_inline]] static inline void multiply(const uint8_t* block, const uint8_t* x,
                                                       const uint8_t* scale, __m512i (&dots)[C]) {
        unroll<C>([&](auto c) { dots[c] = start<kHalf>(scale + 4 * c); });
        unroll<kTo - kFrom>([&](auto step) {
            constexpr int j = kFrom + step;
            const __m512i w = unpack<T, j>(block);
            unroll<C>([&](auto c) {
                dots[c] = _mm512_dpbusd_epi32(dots[c], w, broadcast_dword(x + kBlock * c + 4 * j));
                pin(dots[c]);
            });
        });
    }

    template <int C>
    [[gnu::always_inline]] static inline void add_block(const uint8_t* header, const uint8_t* block,
                                                        const uint8_t* x, const uint8_t* scale,
                                                        __m512 (&acc)[C]) {
        __m512i dots[C];
        Scales scales;
        if constexpr (kLayout.sub_scales) {
            scales = load_scales<T>(header, block);
            multiply<C, 0, 0, 4>(block, x, scale, dots);
            unroll<C>([&](auto c) {
                dots[c] = _mm512_mullo_epi32(dots[c], scales.scale[0]);
                pin(dots[c]);
            });
            __m512i second[C];
            multiply<C, 1, 4, 8>(block, x, scale, second);
            unroll<C>([&](auto c) {
                dots[c] = _mm512_add_epi32(dots[c], _mm512_mullo_epi32(second[c], scales.scale[1]));
            });
        } else {
            multiply<C, 2, 0, 8>(block, x, scale, dots);
            scales = load_scales<T>(header, block);
        }
        unroll<C>([&](auto c) {
            const uint8_t* at = scale + 4 * c;
            const __m512 s = broadcast(at);
            __m512 sum = _mm512_fmadd_ps(_mm512_mul_ps(scales.d, s), _mm512_cvtepi32_ps(dots[c]), acc[c]);
            if constexpr (T == DType::Q2_K) {
                const uint8_t* pairs = at + (kPairSumsAt - kScaleAt);
                const __m512i min = _mm512_add_epi32(
                    _mm512_madd_epi16(broadcast_dword(pairs), scales.min[0]),
                    _mm512_madd_epi16(broadcast_dword(pairs + 4 * kPanelRows), scales.min[1]));
                sum = _mm512_fnmadd_ps(_mm512_mul_ps(scales.m, s), _mm512_cvtepi32_ps(min), sum);
            } else if constexpr (kLayout.has_min) {
                sum = _mm512_fmadd_ps(scales.m, broadcast(at + (kScaledSumAt - kScaleAt)), sum);
            }
            acc[c] = sum;
        });
    }

    // from: kPrefetchAhead bytes behind the weights that are used now, or a little more.
    template <int C>
    [[gnu::always_inline]] static inline void fetch_weights(const uint8_t* from, int64_t bytes) {
        if constexpr (C <= 2) return fetch<T, kSecondCache>(from, bytes);
        fetch<T, kSecondCache>(from + (kSecondCacheAhead - kPrefetchAhead), bytes);
        fetch<T, kNearestCache>(from - (kPrefetchAhead - kNearestCacheAhead), bytes);
    }

    template <int C>
    [[gnu::noinline]] static void run_rows(const TileCall& call) {
        __m512 acc[C];
        unroll<C>([&](auto c) { acc[c] = _mm512_setzero_ps(); });
        fetch_outputs(call);
        const uint8_t* at = call.weights;
        const uint8_t* x = call.panel + kBlock * call.row;
        const uint8_t* scale = call.panel + kScaleAt + 4 * call.row;
        const uint8_t* prefetch = call.prefetch;
        for (int64_t step = 0; step < call.steps; step += kLayout.blocks) {
            const uint8_t* header = at;
            at += kLayout.header_bytes;
            for (int b = 0; b < kLayout.blocks; ++b) {
                fetch_weights<C>(prefetch, call.prefetch_step);
                prefetch += call.prefetch_step;
                add_block<C>(header, at, x, scale, acc);
                at += kLayout.block_bytes();
                x += kPanelBlockBytes;
                scale += kPanelBlockBytes;
            }
        }
        unroll<C>([&](auto c) { finish(call, 0, c, acc[c]); });
    }

    template <int C = kMostRows>
    static void run(const TileCall& call) {
        if (call.rows == C) return run_rows<C>(call);
        if constexpr (C > 1) run<C - 1>(call);
    }
};

template <DType T>
struct FloatKernel : StoredRows {
    static CallShape shape(int64_t) { return {kMostTiles, 6}; }

    [[gnu::always_inline]] static inline __m512 weights(const uint8_t* at) {
        if constexpr (T == DType::F32) return _mm512_loadu_ps(reinterpret_cast<const float*>(at));
        if constexpr (T == DType::F16) return load_halves(at);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(at)), 16));
    }

    template <int R, int C>
    static void run_rows(const TileCall& call) {
        __m512 acc[C][R];
        unroll<C>([&](auto c) { unroll<R>([&](auto t) { acc[c][t] = _mm512_setzero_ps(); }); });
        const uint8_t* at = call.weights;
        const uint8_t* prefetch = call.prefetch;
        for (int64_t k = 0; k < call.steps; ++k) {
            unroll<R>([&](auto t) {
                _mm_prefetch(reinterpret_cast<const char*>(prefetch + t * call.tile_bytes), _MM_HINT_T0);
            });
            prefetch += call.prefetch_step;
            __m512 w[R];
            unroll<R>([&](auto t) { w[t] = weights(at + t * call.tile_bytes); });
            unroll<C>([&](auto c) {
                const __m512 x = _mm512_set1_ps(call.x[c * call.x_stride + k]);
                unroll<R>([&](auto t) { acc[c][t] = _mm512_fmadd_ps(w[t], x, acc[c][t]); });
            });
            at += kColumnsBytes<T>;
        }
        unroll<C>([&](auto c) { unroll<R>([&](auto t) { finish(call, t, c, acc[c][t]); }); });
    }

    template <int R>
    static void run_tiles(const TileCall& call) {
        switch (call.rows) {
            case 1:
                return run_rows<R, 1>(call);
            case 2:
                return run_rows<R, 2>(call);
            case 3:
                return run_rows<R, 3>(call);
            case 4:
                return run_rows<R, 4>(call);
            case 5:
                return run_rows<R, 5>(call);
            default:
                return run_rows<R, 6>(call);
        }
    }

    static void run(const TileCall& call) {
        return call.tiles == 2 ? run_tiles<2>(call) : run_tiles<1>(call);
    }
};

}  // namespace

const MatmulKernels& matmul_avx512() {
    static constexpr MatmulKernels table = {"avx512", matmul<QuantizedKernel, FloatKernel>, quantize_row,
                                            [](DType, int64_t) { return size_t{0}; }};
    return table;
}

}  // namespace ollamapy::cpu
