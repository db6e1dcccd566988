// Matrix products with AVX2, FMA and F16C. The arithmetic is that of matmul_portable.cpp, bit for bit.
//
// A tile's 16 rows are two registers of 8 rows x 4 columns. vpmaddubsw multiplies unsigned weights by signed
// activations and adds pairs to int16, and sums of several products stay in int16 as long as they must fit;
// they may wrap on the way. With the offset taken off (for an int16 lane: offset times the sum of its
// activations) a lane holds at most 32512: |w| 8 x 127 x 2 columns x 16 steps for Q4_0, 16 x 8 for Q5_0, 32 x
// 4 for Q6_K. Q8_0 is taken apart into two nibbles.
//
// vpmaddubsw, vpmaddwd, multiplication and fma share two ports, so what counts is how few of them a product
// takes. Registers hold the unpacked weights of a phase, 8 of them, and the activation rows pass by:
// unpacking costs nothing per row, any number of rows takes the same code, and only sums go through memory
// (the first level cache).
#include <immintrin.h>

#include "cpu/matmul_quantize.h"
#include "cpu/matmul_tiles.h"

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
    return _mm256_set1_ps(*reinterpret_cast<const float*>(p));
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

// values: the 16 outputs of row c of the call.
void finish(const TileCall& call, int64_t c, const float* values) {
    float* y = call.y + c * call.y_stride;
    const float* residual = call.residual ? call.residual + c * call.residual_stride : nullptr;
    if (call.outputs == kTileRows) {
        for (int half = 0; half < kHalves; ++half) {
            __m256 v = _mm256_loadu_ps(values + 8 * half);
            if (call.bias) v = _mm256_add_ps(v, _mm256_loadu_ps(call.bias + 8 * half));
            if (residual) v = _mm256_add_ps(v, _mm256_loadu_ps(residual + 8 * half));
            _mm256_storeu_ps(y + 8 * half, v);
        }
        return;
    }
    for (int64_t r = 0; r < call.outputs; ++r) {
        float v = values[r];
        if (call.bias) v += call.bias[r];
        if (residual) v += residual[r];
        y[r] = v;
    }
}

// Fixes a value here: the compiler would regroup long sums and keep more products alive than there are
// registers.
[[gnu::always_inline]] inline void pin(__m256i& v) {
    asm("" : "+x"(v));
}

// Sums of the panel's rows by the two halves of a tile.
struct Sums {
    alignas(32) float acc[kPanelRows][kTileRows];
    alignas(32) int32_t part[kPanelRows][kTileRows];  // int16 pairs or int32 of the phases before the last
};

__m256i load_part(const Sums& sums, int64_t c, int half) {
    return load(sums.part[c] + 8 * half);
}
void store_part(Sums& sums, int64_t c, int half, __m256i v) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums.part[c] + 8 * half), v);
}

// acc += d * s * dot (+ m * s * sum) for one row and half a tile. x: the row's scale in the panel's block.
template <DType T>
[[gnu::always_inline]] inline void add_dot(const Scales& scales, const uint8_t* x, __m256i dot, float* acc) {
    const __m256 scale = broadcast(x);
    __m256 a = _mm256_fmadd_ps(_mm256_mul_ps(scales.d, scale), _mm256_cvtepi32_ps(dot), _mm256_load_ps(acc));
    if constexpr (T == DType::Q2_K) {
        const uint8_t* pairs = x + (kPairSumsAt - kScaleAt);
        const __m256i min =
            _mm256_add_epi32(_mm256_madd_epi16(broadcast_dword(pairs), scales.min[0]),
                             _mm256_madd_epi16(broadcast_dword(pairs + 4 * kPanelRows), scales.min[1]));
        a = _mm256_fnmadd_ps(_mm256_mul_ps(scales.m, scale), _mm256_cvtepi32_ps(min), a);
    } else if constexpr (tile_layout(T).has_min) {
        a = _mm256_fmadd_ps(scales.m, broadcast(x + (kScaledSumAt - kScaleAt)), a);
    }
    _mm256_store_ps(acc, a);
}

// The formats below 8 bits, in two phases of four steps (16 columns) by both halves of the tile.
template <DType T>
struct SmallKernel {
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

    template <int kPhase>
    [[gnu::always_inline]] static inline void add_phase(const uint8_t* header, const uint8_t* block,
                                                        const uint8_t* x, const uint8_t* scale, int64_t rows,
                                                        Sums& sums) {
        __m256i w[4][kHalves];
        unroll<4>([&](auto step) {
            unroll<kHalves>([&](auto half) {
                w[step][half] = unpack<T, column(kPhase, step)>(block + kHalfBytes * half);
            });
        });
        Scales scales[kHalves];
        if constexpr (kPhase == 1 || kLayout.sub_scales) {
            unroll<kHalves>([&](auto half) { scales[half] = load_scales<T>(header, block, half); });
        }
        for (int64_t c = 0; c < rows; ++c, x += kBlock, scale += 4) {
            __m256i sum[kHalves];
            unroll<4>([&](auto step) {
                const __m256i q = broadcast_dword(x + 4 * column(kPhase, step));
                unroll<kHalves>([&](auto half) {
                    const __m256i product = _mm256_maddubs_epi16(w[step][half], q);
                    sum[half] = step == 0 ? product : _mm256_add_epi16(sum[half], product);
                    pin(sum[half]);
                });
            });
            if constexpr (kLayout.offset != 0) {
                const __m256i pairs =
                    broadcast_dword(scale + (kPairSumsAt - kScaleAt) + 4 * kPanelRows * kPhase);
                const __m256i offset = _mm256_slli_epi16(pairs, kOffsetShift);
                unroll<kHalves>([&](auto half) { sum[half] = _mm256_sub_epi16(sum[half], offset); });
            }
            unroll<kHalves>([&](auto half) {
                const __m256i by = kLayout.sub_scales ? scales[half].scale[kPhase] : _mm256_set1_epi16(1);
                if constexpr (kPhase == 0) {
                    store_part(sums, c, half, kOneSum ? sum[half] : _mm256_madd_epi16(sum[half], by));
                } else {
                    const __m256i part = load_part(sums, c, half);
                    const __m256i dot = kOneSum ? _mm256_madd_epi16(_mm256_add_epi16(sum[half], part), by)
                                                : _mm256_add_epi32(_mm256_madd_epi16(sum[half], by), part);
                    add_dot<T>(scales[half], scale, dot, sums.acc[c] + 8 * half);
                }
            });
        }
    }

    [[gnu::always_inline]] static inline void add_block(const uint8_t* header, const uint8_t* block,
                                                        const uint8_t* x, const uint8_t* scale, int64_t rows,
                                                        Sums& sums) {
        add_phase<0>(header, block, x, scale, rows, sums);
        add_phase<1>(header, block, x, scale, rows, sums);
    }
};

// Q8_0: the stored w + 128 is 16 * high + low; each half of a tile takes two phases of 4 steps.
struct ByteKernel {
    static constexpr TileLayout kLayout = tile_layout(DType::Q8_0);

    template <int kHalf, int kPhase>
    [[gnu::always_inline]] static inline void add_phase(const uint8_t* block, const uint8_t* x,
                                                        const uint8_t* scale, int64_t rows, Sums& sums) {
        const __m256i nibble = _mm256_set1_epi8(15);
        __m256i low[4];
        __m256i high[4];
        unroll<4>([&](auto step) {
            const __m256i w = unpack<DType::Q8_0, 4 * kPhase + step>(block + kHalfBytes * kHalf);
            low[step] = _mm256_and_si256(w, nibble);
            high[step] = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
        });
        const Scales scales = load_scales<DType::Q8_0>(nullptr, block, kHalf);
        for (int64_t c = 0; c < rows; ++c, x += kBlock, scale += 4) {
            __m256i low_sum;
            __m256i high_sum;
            unroll<4>([&](auto step) {
                const __m256i q = broadcast_dword(x + 16 * kPhase + 4 * step);
                const __m256i low_product = _mm256_maddubs_epi16(low[step], q);
                const __m256i high_product = _mm256_maddubs_epi16(high[step], q);
                low_sum = step == 0 ? low_product : _mm256_add_epi16(low_sum, low_product);
                high_sum = step == 0 ? high_product : _mm256_add_epi16(high_sum, high_product);
                pin(low_sum);
                pin(high_sum);
            });
            // 128 = 8 * 16
            const __m256i pairs = broadcast_dword(scale + (kPairSumsAt - kScaleAt) + 4 * kPanelRows * kPhase);
            high_sum = _mm256_sub_epi16(high_sum, _mm256_slli_epi16(pairs, 3));
            if constexpr (kPhase == 0) {
                store_part(sums, c, 0, low_sum);
                store_part(sums, c, 1, high_sum);
            } else {
                low_sum = _mm256_add_epi16(low_sum, load_part(sums, c, 0));
                high_sum = _mm256_add_epi16(high_sum, load_part(sums, c, 1));
                const __m256i dot = _mm256_add_epi32(_mm256_madd_epi16(low_sum, _mm256_set1_epi16(1)),
                                                     _mm256_madd_epi16(high_sum, _mm256_set1_epi16(16)));
                add_dot<DType::Q8_0>(scales, scale, dot, sums.acc[c] + 8 * kHalf);
            }
        }
    }

    [[gnu::always_inline]] static inline void add_block(const uint8_t*, const uint8_t* block,
                                                        const uint8_t* x, const uint8_t* scale, int64_t rows,
                                                        Sums& sums) {
        add_phase<0, 0>(block, x, scale, rows, sums);
        add_phase<0, 1>(block, x, scale, rows, sums);
        add_phase<1, 0>(block, x, scale, rows, sums);
        add_phase<1, 1>(block, x, scale, rows, sums);
    }
};

template <DType T>
struct QuantizedKernel {
    static constexpr int64_t kTiles = 1;
    static int64_t rows_at_once(int64_t left) { return left; }
    static constexpr TileLayout kLayout = tile_layout(T);

    static void run(const TileCall& call) {
        Sums sums;
        for (int64_t c = 0; c < call.rows; ++c) {
            for (int half = 0; half < kHalves; ++half)
                _mm256_store_ps(sums.acc[c] + 8 * half, _mm256_setzero_ps());
        }
        const uint8_t* at = call.weights;
        const uint8_t* x = call.panel + kBlock * call.row;
        const uint8_t* scale = call.panel + kScaleAt + 4 * call.row;
        const uint8_t* prefetch = call.prefetch;
        for (int64_t step = 0; step < call.steps; step += kLayout.blocks) {
            const uint8_t* header = at;
            at += kLayout.header_bytes;
            for (int b = 0; b < kLayout.blocks; ++b) {
                for (int64_t line = 0; line < call.prefetch_step; line += 64) {
                    _mm_prefetch(reinterpret_cast<const char*>(prefetch + line), _MM_HINT_T0);
                }
                prefetch += call.prefetch_step;
                if constexpr (T == DType::Q8_0) {
                    ByteKernel::add_block(header, at, x, scale, call.rows, sums);
                } else {
                    SmallKernel<T>::add_block(header, at, x, scale, call.rows, sums);
                }
                at += kLayout.block_bytes();
                x += kPanelBlockBytes;
                scale += kPanelBlockBytes;
            }
        }
        for (int64_t c = 0; c < call.rows; ++c) finish(call, c, sums.acc[c]);
    }
};

template <DType T>
struct FloatKernel {
    static constexpr int64_t kTiles = 1;
    static int64_t rows_at_once(int64_t left) { return left <= 6 ? left : (left + 1) / 2; }

    [[gnu::always_inline]] static inline __m256 weights(const uint8_t* at, int half) {
        if constexpr (T == DType::F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(at + 32 * half));
        if constexpr (T == DType::F16) return load_halves(at + 16 * half);
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(at + 16 * half)), 16));
    }

    template <int C>
    static void run_rows(const TileCall& call) {
        __m256 acc[C][kHalves];
        unroll<C>([&](auto c) { unroll<kHalves>([&](auto half) { acc[c][half] = _mm256_setzero_ps(); }); });
        const uint8_t* at = call.weights;
        const uint8_t* prefetch = call.prefetch;
        for (int64_t k = 0; k < call.steps; ++k) {
            _mm_prefetch(reinterpret_cast<const char*>(prefetch), _MM_HINT_T0);
            prefetch += call.prefetch_step;
            __m256 w[kHalves];
            unroll<kHalves>([&](auto half) { w[half] = weights(at, half); });
            unroll<C>([&](auto c) {
                const __m256 x = _mm256_set1_ps(call.x[c * call.x_stride + k]);
                unroll<kHalves>([&](auto half) { acc[c][half] = _mm256_fmadd_ps(w[half], x, acc[c][half]); });
            });
            at += T == DType::F32 ? 64 : 32;
        }
        // Through memory of their own: accumulators whose address is taken would be stored in every step.
        alignas(32) float values[C][kTileRows];
        unroll<C>([&](auto c) {
            unroll<kHalves>([&](auto half) { _mm256_store_ps(values[c] + 8 * half, acc[c][half]); });
        });
        for (int64_t c = 0; c < C; ++c) finish(call, c, values[c]);
    }

    static void run(const TileCall& call) {
        switch (call.rows) {
            case 1:
                return run_rows<1>(call);
            case 2:
                return run_rows<2>(call);
            case 3:
                return run_rows<3>(call);
            case 4:
                return run_rows<4>(call);
            case 5:
                return run_rows<5>(call);
            default:
                return run_rows<6>(call);
        }
    }
};

}  // namespace

const MatmulKernels& matmul_avx2() {
    static constexpr MatmulKernels table = {"avx2", matmul<QuantizedKernel, FloatKernel>, quantize_row};
    return table;
}

}  // namespace ollamapy::cpu
