// Matrix products with AVX2, FMA and F16C. The arithmetic is that of matmul_portable.cpp, bit for bit.
//
// vpmaddubsw, vpmaddwd, multiplication and fma share two ports, so what counts is how few of them a product
// takes. With many rows, registers hold the unpacked weights of a phase, 8 of them, and the activation rows
// pass by: unpacking costs nothing per row, any number of rows takes the same code, and only sums go through
// memory (the first level cache).
#include <immintrin.h>

#include "cpu/matmul_avx2_block.h"
#include "cpu/matmul_avx2_wide.h"
#include "cpu/matmul_quantize.h"
#include "cpu/matmul_tiles.h"

namespace ollamapy::cpu {

namespace {

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

// f(header, block, q of the call's first row, its scale) for all blocks, prefetching.
template <DType T, class F>
[[gnu::always_inline]] inline void each_block(const TileCall& call, const F& f) {
    constexpr TileLayout kLayout = tile_layout(T);
    const uint8_t* at = call.weights;
    const uint8_t* x = call.panel + kBlock * call.row;
    const uint8_t* scale = call.panel + kScaleAt + 4 * call.row;
    const uint8_t* prefetch = call.prefetch;
    for (int64_t step = 0; step < call.steps; step += kLayout.blocks) {
        const uint8_t* header = at;
        at += kLayout.header_bytes;
        for (int b = 0; b < kLayout.blocks; ++b) {
            fetch<T>(prefetch, call.prefetch_step);
            prefetch += call.prefetch_step;
            f(header, at, x, scale);
            at += kLayout.block_bytes();
            x += kPanelBlockBytes;
            scale += kPanelBlockBytes;
        }
    }
}

// ---- A few rows: everything in registers, each weight unpacked where it is used ---------------------------
// ------------------------------

template <DType T, int C>
[[gnu::always_inline]] inline void add_block(const uint8_t* header, const uint8_t* block, const uint8_t* x,
                                             const uint8_t* scale, __m256 (&acc)[C][kHalves]) {
    constexpr TileLayout kLayout = tile_layout(T);
    using P = Phases<T>;
    Scales scales[kHalves];
    if constexpr (kLayout.sub_scales) {
        unroll<kHalves>([&](auto half) { scales[half] = load_scales<T>(header, block, half); });
    }
    __m256i sum[C][kHalves];  // int16, of both phases if kOneSum
    __m256i dot[C][kHalves];
    unroll<2>([&](auto phase) {
        constexpr bool kFirst = phase == 0 || !P::kOneSum;
        unroll<4>([&](auto step) {
            constexpr int j = P::column(phase, step);
            __m256i w[kHalves];
            unroll<kHalves>([&](auto half) { w[half] = unpack<T, j>(block + kHalfBytes * half); });
            unroll<C>([&](auto c) {
                const __m256i q = broadcast_dword(x + kBlock * c + 4 * j);
                unroll<kHalves>([&](auto half) {
                    const __m256i product = _mm256_maddubs_epi16(w[half], q);
                    sum[c][half] = kFirst && step == 0 ? product : _mm256_add_epi16(sum[c][half], product);
                    pin(sum[c][half]);
                });
            });
        });
        unroll<C>([&](auto c) {
            if constexpr (kLayout.offset != 0) {
                const __m256i offset = P::offset(scale + 4 * c, phase);
                unroll<kHalves>([&](auto half) { sum[c][half] = _mm256_sub_epi16(sum[c][half], offset); });
            }
            if constexpr (P::kOneSum && phase == 0) return;
            unroll<kHalves>([&](auto half) {
                const __m256i wide = _mm256_madd_epi16(sum[c][half], P::factor(scales[half], phase));
                dot[c][half] = kFirst && phase == 1 ? _mm256_add_epi32(dot[c][half], wide) : wide;
            });
        });
    });
    unroll<kHalves>([&](auto half) {
        if constexpr (!kLayout.sub_scales) scales[half] = load_scales<T>(header, block, half);
        unroll<C>([&](auto c) {
            acc[c][half] = add_dot<T>(scales[half], scale + 4 * c, dot[c][half], acc[c][half]);
        });
    });
}

// Q8_0: |w| by q with the sign of w; 128 * 127 * 2 = 32512 fits an int16, twice that does not.
template <int C>
[[gnu::always_inline]] inline void add_byte_block(const uint8_t* block, const uint8_t* x,
                                                  const uint8_t* scale, __m256 (&acc)[C][kHalves]) {
    __m256i dot[C][kHalves];
    unroll<8>([&](auto j) {
        unroll<kHalves>([&](auto half) {
            const __m256i stored = unpack<DType::Q8_0, j>(block + kHalfBytes * half);
            const __m256i w = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));
            const __m256i size = _mm256_abs_epi8(w);
            unroll<C>([&](auto c) {
                const __m256i q = _mm256_sign_epi8(broadcast_dword(x + kBlock * c + 4 * j), w);
                const __m256i product =
                    _mm256_madd_epi16(_mm256_maddubs_epi16(size, q), _mm256_set1_epi16(1));
                dot[c][half] = j == 0 ? product : _mm256_add_epi32(dot[c][half], product);
                pin(dot[c][half]);
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

// Through memory of their own: accumulators whose address is taken would be stored in every step.
template <int C>
[[gnu::always_inline]] inline void finish_rows(const TileCall& call, const __m256 (&acc)[C][kHalves]) {
    alignas(32) float values[C][kTileRows];
    unroll<C>([&](auto c) {
        unroll<kHalves>([&](auto half) { _mm256_store_ps(values[c] + 8 * half, acc[c][half]); });
    });
    for (int64_t c = 0; c < C; ++c) finish(call, c, values[c]);
}

template <DType T, int C>
[[gnu::noinline]] void few_rows(const TileCall& call) {
    __m256 acc[C][kHalves];
    unroll<C>([&](auto c) { unroll<kHalves>([&](auto half) { acc[c][half] = _mm256_setzero_ps(); }); });
    each_block<T>(
        call, [&](const uint8_t* header, const uint8_t* block, const uint8_t* x, const uint8_t* scale)
                  __attribute__((always_inline)) {
                      if constexpr (T == DType::Q8_0) {
                          add_byte_block<C>(block, x, scale, acc);
                      } else {
                          add_block<T, C>(header, block, x, scale, acc);
                      }
                  });
    finish_rows<C>(call, acc);
}

// ---- Many rows: the weights of a phase in registers, the rows pass by ------------------------------------
// -----------------------------------------

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

// A phase by both halves of the tile.
template <DType T>
struct SmallKernel {
    static constexpr TileLayout kLayout = tile_layout(T);
    using P = Phases<T>;

    template <int kPhase>
    [[gnu::always_inline]] static inline void add_phase(const uint8_t* header, const uint8_t* block,
                                                        const uint8_t* x, const uint8_t* scale, int64_t rows,
                                                        Sums& sums) {
        __m256i w[4][kHalves];
        unroll<4>([&](auto step) {
            unroll<kHalves>([&](auto half) {
                w[step][half] = unpack<T, P::column(kPhase, step)>(block + kHalfBytes * half);
            });
        });
        Scales scales[kHalves];
        if constexpr (kPhase == 1 || kLayout.sub_scales) {
            unroll<kHalves>([&](auto half) { scales[half] = load_scales<T>(header, block, half); });
        }
        for (int64_t c = 0; c < rows; ++c, x += kBlock, scale += 4) {
            __m256i sum[kHalves];
            unroll<4>([&](auto step) {
                const __m256i q = broadcast_dword(x + 4 * P::column(kPhase, step));
                unroll<kHalves>([&](auto half) {
                    const __m256i product = _mm256_maddubs_epi16(w[step][half], q);
                    sum[half] = step == 0 ? product : _mm256_add_epi16(sum[half], product);
                    pin(sum[half]);
                });
            });
            if constexpr (kLayout.offset != 0) {
                const __m256i offset = P::offset(scale, kPhase);
                unroll<kHalves>([&](auto half) { sum[half] = _mm256_sub_epi16(sum[half], offset); });
            }
            unroll<kHalves>([&](auto half) {
                const __m256i by = P::factor(scales[half], kPhase);
                if constexpr (kPhase == 0) {
                    store_part(sums, c, half, P::kOneSum ? sum[half] : _mm256_madd_epi16(sum[half], by));
                } else {
                    const __m256i part = load_part(sums, c, half);
                    const __m256i dot = P::kOneSum ? _mm256_madd_epi16(_mm256_add_epi16(sum[half], part), by)
                                                   : _mm256_add_epi32(_mm256_madd_epi16(sum[half], by), part);
                    float* acc = sums.acc[c] + 8 * half;
                    _mm256_store_ps(acc, add_dot<T>(scales[half], scale, dot, _mm256_load_ps(acc)));
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

template <int C>
[[gnu::noinline]] void wide_rows(const TileCall& call) {
    __m256 acc[C][kHalves];
    unroll<C>([&](auto c) { unroll<kHalves>([&](auto half) { acc[c][half] = _mm256_setzero_ps(); }); });
    const uint8_t* wide = call.wide + kWideRowBytes * call.row;
    const uint8_t* starts = call.wide + kStartsAt + 4 * call.row;
    each_block<DType::Q8_0>(
        call, [&](const uint8_t*, const uint8_t* block, const uint8_t*, const uint8_t* scale)
                  __attribute__((always_inline)) {
                      add_wide_block<C>(block, wide, starts, scale, acc);
                      wide += kWideBlockBytes;
                      starts += kWideBlockBytes;
                  });
    finish_rows<C>(call, acc);
}

template <DType T>
[[gnu::noinline]] void many_rows(const TileCall& call) {
    Sums sums;
    for (int64_t c = 0; c < call.rows; ++c) {
        for (int half = 0; half < kHalves; ++half)
            _mm256_store_ps(sums.acc[c] + 8 * half, _mm256_setzero_ps());
    }
    each_block<T>(
        call, [&](const uint8_t* header, const uint8_t* block, const uint8_t* x, const uint8_t* scale)
                  __attribute__((always_inline)) {
                      SmallKernel<T>::add_block(header, block, x, scale, call.rows, sums);
                  });
    for (int64_t c = 0; c < call.rows; ++c) finish(call, c, sums.acc[c]);
}

template <DType T>
struct QuantizedKernel {
    // Nibbles are cheap to unpack: they stay in the form with fewer loads and stores.
    static constexpr bool kNibbles = tile_layout(T).low_bytes == 256 && tile_layout(T).high_bytes == 0;
    static constexpr bool kBytes = T == DType::Q8_0;
    static constexpr int64_t kMostRows = kBytes ? 4 : 6;  // whose sums leave registers for the weights
    static constexpr int64_t kWideBytes = kBytes ? kWideBlockBytes : 0;

    static void widen(const uint8_t* panel, int64_t blocks, int64_t rows, uint8_t* out) {
        if (rows > 1) widen_panel(panel, blocks, rows, out);
    }
    static CallShape shape(int64_t) { return {1, kNibbles || kBytes ? kMostRows : kPanelRows}; }
    template <int C>
    static void run_few(const TileCall& call) {
        if constexpr (kBytes && C > 1) {
            wide_rows<C>(call);
        } else {
            few_rows<T, C>(call);
        }
    }
    static void run(const TileCall& call) {
        switch (call.rows) {
            case 1:
                return run_few<1>(call);
            case 2:
                return run_few<2>(call);
            case 3:
                return run_few<3>(call);
        }
        if constexpr (kBytes) {
            run_few<4>(call);
        } else if constexpr (kNibbles) {
            switch (call.rows) {
                case 4:
                    return run_few<4>(call);
                case 5:
                    return run_few<5>(call);
                case 6:
                    return run_few<6>(call);
            }
        } else {
            many_rows<T>(call);
        }
    }
};

// ---- Float weights --------------------------------------------------------------------------------------
// ---------------------------------------------------------------------------------------------

template <DType T>
[[gnu::always_inline]] inline __m256 float_weights(const uint8_t* at, int half) {
    if constexpr (T == DType::F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(at + 32 * half));
    if constexpr (T == DType::F16) return load_halves(at + 16 * half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(at + 16 * half)), 16));
}

// R neighbouring tiles by C rows.
template <DType T, int R, int C>
[[gnu::noinline]] void float_rows(const TileCall& call) {
    __m256 acc[R][C][kHalves];
    unroll<R>([&](auto t) {
        unroll<C>(
            [&](auto c) { unroll<kHalves>([&](auto half) { acc[t][c][half] = _mm256_setzero_ps(); }); });
    });
    const uint8_t* at = call.weights;
    const uint8_t* prefetch = call.prefetch;
    for (int64_t k = 0; k < call.steps; ++k) {
        unroll<R>([&](auto t) {
            _mm_prefetch(reinterpret_cast<const char*>(prefetch + t * call.tile_bytes), _MM_HINT_T0);
        });
        prefetch += call.prefetch_step;
        __m256 w[R][kHalves];
        unroll<R>([&](auto t) {
            unroll<kHalves>(
                [&](auto half) { w[t][half] = float_weights<T>(at + t * call.tile_bytes, half); });
        });
        unroll<C>([&](auto c) {
            const __m256 x = _mm256_set1_ps(call.x[c * call.x_stride + k]);
            unroll<R>([&](auto t) {
                unroll<kHalves>(
                    [&](auto half) { acc[t][c][half] = _mm256_fmadd_ps(w[t][half], x, acc[t][c][half]); });
            });
        });
        at += kColumnsBytes<T>;
    }
    unroll<R>([&](auto t) {
        TileCall one = call;
        one.y += t * kTileRows;
        if (one.bias) one.bias += t * kTileRows;
        if (one.residual) one.residual += t * kTileRows;
        one.outputs = call.outputs - t * kTileRows < kTileRows ? call.outputs - t * kTileRows : kTileRows;
        finish_rows<C>(one, acc[t]);
    });
}

template <DType T>
struct FloatKernel : StoredRows {
    // One or two rows by one tile would wait for the latency of their few sums.
    static CallShape shape(int64_t rows) { return {rows <= 2 ? 2 : 1, 6}; }
    static void run(const TileCall& call) {
        switch (call.rows) {
            case 1:
                return call.tiles == 2 ? float_rows<T, 2, 1>(call) : float_rows<T, 1, 1>(call);
            case 2:
                return call.tiles == 2 ? float_rows<T, 2, 2>(call) : float_rows<T, 1, 2>(call);
            case 3:
                return float_rows<T, 1, 3>(call);
            case 4:
                return float_rows<T, 1, 4>(call);
            case 5:
                return float_rows<T, 1, 5>(call);
            default:
                return float_rows<T, 1, 6>(call);
        }
    }
};

}  // namespace

const MatmulKernels& matmul_avx2() {
    static constexpr MatmulKernels table = {
        "avx2", matmul<QuantizedKernel, FloatKernel>, quantize_row,
        [](DType type, int64_t cols) { return type == DType::Q8_0 ? wide_bytes(kWideBlockBytes, cols) : 0; }};
    return table;
}

}  // namespace ollamapy::cpu
