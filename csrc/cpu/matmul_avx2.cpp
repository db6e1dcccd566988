// Matrix products with AVX2, FMA and F16C. The arithmetic is that of matmul_portable.cpp, bit for bit.
//
// A tile's 16 rows are two registers of 8 rows x 4 columns. vpmaddubsw multiplies unsigned weights by signed
// activations and adds pairs to int16; as many steps as cannot overflow are added there before vpmaddwd
// widens: 32767 / (127 * 2 * largest weight) = 8 steps for 4-bit values, 4 for 5 bits, 2 for 6 bits. Q8_0
// would overflow in one step; |w| by x with w's sign does not (128 * 127 * 2 = 32512).
#include <immintrin.h>

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

// Steps of four columns whose int16 sums cannot overflow together.
template <DType T>
constexpr int kGroup = T == DType::Q8_0                                                    ? 1
                       : T == DType::Q6_K                                                  ? 2
                       : tile_layout(T).low_bytes == 256 && tile_layout(T).high_bytes == 0 ? 8
                                                                                           : 4;

// Sub-scaled types take the columns in order, so that a group has one scale; of the others those that share a
// line of nibbles follow each other.
template <DType T>
constexpr int step_column(int step) {
    return tile_layout(T).sub_scales || T == DType::Q8_0 ? step : step / 2 + step % 2 * 4;
}

// The scales of half a tile in one block.
struct Scales {
    __m256 d;
    __m256 m;          // added times scale * sum
    __m256i scale[2];  // int16, each twice: integer scales of the block's halves
    __m256i offset;    // int16 pairs: -offset * scale
    __m256i min;       // int16 pairs: minima of the block's halves
};

// d and m are given in the header of K types, else they lie in the block.
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
        __m256i pairs = _mm256_cvtepi8_epi16(load128(scales + 16 * half));
        if constexpr (T == DType::Q2_K) {
            s.min = _mm256_and_si256(_mm256_srli_epi16(pairs, 4), _mm256_set1_epi16(15));
            pairs = _mm256_and_si256(pairs, _mm256_set1_epi16(15));
        } else {
            s.offset = _mm256_mullo_epi16(pairs, _mm256_set1_epi16(-kLayout.offset));
        }
        const __m256i low = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
        s.scale[0] = _mm256_or_si256(low, _mm256_slli_epi32(pairs, 16));
        s.scale[1] = _mm256_or_si256(_mm256_srli_epi32(pairs, 16),
                                     _mm256_andnot_si256(_mm256_set1_epi32(0xffff), pairs));
    }
    return s;
}

void finish(const TileCall& call, int64_t c, const __m256* acc) {
    float* y = call.y + c * call.y_stride;
    const float* residual = call.residual ? call.residual + c * call.residual_stride : nullptr;
    if (call.outputs == kTileRows) {
        for (int half = 0; half < kHalves; ++half) {
            __m256 v = acc[half];
            if (call.bias) v = _mm256_add_ps(v, _mm256_loadu_ps(call.bias + 8 * half));
            if (residual) v = _mm256_add_ps(v, _mm256_loadu_ps(residual + 8 * half));
            _mm256_storeu_ps(y + 8 * half, v);
        }
        return;
    }
    float values[kTileRows];
    for (int half = 0; half < kHalves; ++half) _mm256_storeu_ps(values + 8 * half, acc[half]);
    for (int64_t r = 0; r < call.outputs; ++r) {
        float v = values[r];
        if (call.bias) v += call.bias[r];
        if (residual) v += residual[r];
        y[r] = v;
    }
}

template <DType T, int C>
struct QuantizedKernel {
    static constexpr TileLayout kLayout = tile_layout(T);

    // Adds one block to acc.
    [[gnu::always_inline]] static inline void add_block(const uint8_t* header, const uint8_t* block,
                                                        const uint8_t* x, const uint8_t* sums,
                                                        __m256 (&acc)[C][kHalves]) {
        __m256i dot[C][kHalves];
        Scales scales[kHalves];
        if constexpr (kLayout.sub_scales) {
            unroll<kHalves>([&](auto half) { scales[half] = load_scales<T>(header, block, half); });
        }
        // The offset of the stored values comes off with the sums of the activations.
        if constexpr (kLayout.offset != 0 && T != DType::Q8_0) {
            unroll<C>([&](auto c) {
                const __m256i sum = broadcast_dword(sums + (kHalfSumsAt - kScaleAt) + 4 * c);
                unroll<kHalves>([&](auto half) {
                    dot[c][half] = _mm256_madd_epi16(
                        sum, kLayout.sub_scales ? scales[half].offset : _mm256_set1_epi16(-kLayout.offset));
                });
            });
        } else {
            unroll<C>(
                [&](auto c) { unroll<kHalves>([&](auto half) { dot[c][half] = _mm256_setzero_si256(); }); });
        }
        unroll<8 / kGroup<T>>([&](auto group) {
            __m256i sum[C][kHalves];
            unroll<kGroup<T>>([&](auto step) {
                constexpr int j = step_column<T>(group * kGroup<T> + step);
                __m256i w[kHalves];
                __m256i size[kHalves];
                unroll<kHalves>([&](auto half) {
                    w[half] = unpack<T, j>(block + kHalfBytes * half);
                    if constexpr (T == DType::Q8_0) {
                        w[half] = _mm256_xor_si256(w[half], _mm256_set1_epi8(-128));
                        size[half] = _mm256_abs_epi8(w[half]);
                    }
                });
                unroll<C>([&](auto c) {
                    const __m256i q = broadcast_dword(x + kBlock * c + 4 * j);
                    unroll<kHalves>([&](auto half) {
                        __m256i product;
                        if constexpr (T == DType::Q8_0) {
                            product = _mm256_maddubs_epi16(size[half], _mm256_sign_epi8(q, w[half]));
                        } else {
                            product = _mm256_maddubs_epi16(w[half], q);
                        }
                        sum[c][half] = step == 0 ? product : _mm256_add_epi16(sum[c][half], product);
                    });
                });
            });
            unroll<C>([&](auto c) {
                unroll<kHalves>([&](auto half) {
                    const __m256i by =
                        kLayout.sub_scales ? scales[half].scale[group * kGroup<T> / 4] : _mm256_set1_epi16(1);
                    dot[c][half] = _mm256_add_epi32(dot[c][half], _mm256_madd_epi16(sum[c][half], by));
                });
            });
        });
        if constexpr (!kLayout.sub_scales) {
            unroll<kHalves>([&](auto half) { scales[half] = load_scales<T>(header, block, half); });
        }
        unroll<C>([&](auto c) {
            const __m256 scale = broadcast(sums + 4 * c);
            unroll<kHalves>([&](auto half) {
                __m256& a = acc[c][half];
                a = _mm256_fmadd_ps(_mm256_mul_ps(scales[half].d, scale), _mm256_cvtepi32_ps(dot[c][half]),
                                    a);
                if constexpr (T == DType::Q2_K) {
                    const __m256i min = _mm256_madd_epi16(
                        broadcast_dword(sums + (kHalfSumsAt - kScaleAt) + 4 * c), scales[half].min);
                    a = _mm256_fnmadd_ps(_mm256_mul_ps(scales[half].m, scale), _mm256_cvtepi32_ps(min), a);
                } else if constexpr (kLayout.has_min) {
                    a = _mm256_fmadd_ps(scales[half].m, broadcast(sums + (kScaledSumAt - kScaleAt) + 4 * c),
                                        a);
                }
            });
        });
    }

    static void run(const TileCall& call) {
        __m256 acc[C][kHalves];
        unroll<C>([&](auto c) { unroll<kHalves>([&](auto half) { acc[c][half] = _mm256_setzero_ps(); }); });
        const uint8_t* at = call.weights;
        const uint8_t* x = call.panel + kBlock * call.row;
        const uint8_t* sums = call.panel + kScaleAt + 4 * call.row;
        const uint8_t* prefetch = call.prefetch;
        for (int64_t step = 0; step < call.steps; step += kLayout.blocks) {
            const uint8_t* header = at;
            at += kLayout.header_bytes;
            for (int b = 0; b < kLayout.blocks; ++b) {
                for (int64_t line = 0; line < call.prefetch_step; line += 64) {
                    _mm_prefetch(reinterpret_cast<const char*>(prefetch + line), _MM_HINT_T0);
                }
                prefetch += call.prefetch_step;
                add_block(header, at, x, sums, acc);
                at += kLayout.block_bytes();
                x += kPanelBlockBytes;
                sums += kPanelBlockBytes;
            }
        }
        unroll<C>([&](auto c) { finish(call, c, acc[c]); });
    }
};

template <DType T, int C>
struct FloatKernel {
    [[gnu::always_inline]] static inline __m256 weights(const uint8_t* at, int half) {
        if constexpr (T == DType::F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(at + 32 * half));
        if constexpr (T == DType::F16) return load_halves(at + 16 * half);
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(at + 16 * half)), 16));
    }

    static void run(const TileCall& call) {
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
        unroll<C>([&](auto c) { finish(call, c, acc[c]); });
    }
};

template <DType T>
struct Quantized {
    template <int C>
    using Kernel = QuantizedKernel<T, C>;
};
template <DType T>
struct Float {
    template <int C>
    using Kernel = FloatKernel<T, C>;
};

#ifndef MM_C
#define MM_C 4
#endif
void matmul(const MatmulTask& task, int64_t tile_begin, int64_t tile_end, int64_t row_begin,
            int64_t row_end) {
    const auto run = [&](auto rows_by_tiles) {
        rows_by_tiles(task, tile_begin, tile_end, row_begin, row_end);
    };
    switch (task.w.type) {
        case DType::F32:
            return run(run_tiles<Float<DType::F32>::Kernel, 4>);
        case DType::F16:
            return run(run_tiles<Float<DType::F16>::Kernel, 4>);
        case DType::BF16:
            return run(run_tiles<Float<DType::BF16>::Kernel, 4>);
        case DType::Q4_0:
            return run(run_tiles<Quantized<DType::Q4_0>::Kernel, MM_C>);
        case DType::Q4_1:
            return run(run_tiles<Quantized<DType::Q4_1>::Kernel, MM_C>);
        case DType::Q5_0:
            return run(run_tiles<Quantized<DType::Q5_0>::Kernel, MM_C>);
        case DType::Q5_1:
            return run(run_tiles<Quantized<DType::Q5_1>::Kernel, MM_C>);
        case DType::Q8_0:
            return run(run_tiles<Quantized<DType::Q8_0>::Kernel, MM_C>);
        case DType::Q2_K:
            return run(run_tiles<Quantized<DType::Q2_K>::Kernel, MM_C>);
        case DType::Q3_K:
            return run(run_tiles<Quantized<DType::Q3_K>::Kernel, MM_C>);
        case DType::Q4_K:
            return run(run_tiles<Quantized<DType::Q4_K>::Kernel, MM_C>);
        case DType::Q5_K:
            return run(run_tiles<Quantized<DType::Q5_K>::Kernel, MM_C>);
        case DType::Q6_K:
            return run(run_tiles<Quantized<DType::Q6_K>::Kernel, MM_C>);
    }
}

void quantize_row(const float* x, const QuantizedRows& out, int64_t row) {
    const int64_t blocks = out.cols / kBlock;
    const int64_t c = row % kPanelRows;
    uint8_t* panel = out.data + row / kPanelRows * blocks * kPanelBlockBytes;
    const __m256i positive = _mm256_set1_epi32(0x7fffffff);
    for (int64_t block = 0; block < blocks; ++block, panel += kPanelBlockBytes, x += kBlock) {
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
            scale = max / 127.0f;
            const __m256 inverse = _mm256_set1_ps(127.0f / max);
            __m256i wide[4];
            for (int i = 0; i < 4; ++i) wide[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
            q = _mm256_packs_epi16(_mm256_packs_epi32(wide[0], wide[1]),
                                   _mm256_packs_epi32(wide[2], wide[3]));
            // The packs interleave the 128-bit lanes.
            q = _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        }
        // Pair sums of bytes, then of words, then of dwords; each 128-bit lane is one half of the block.
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
        __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0x4e));
        sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0xb1));
        const int32_t sum0 = _mm256_extract_epi32(sums, 0);
        const int32_t sum1 = _mm256_extract_epi32(sums, 4);
        const float scaled_sum = scale * static_cast<float>(sum0 + sum1);
        const int16_t halves[2] = {static_cast<int16_t>(sum0), static_cast<int16_t>(sum1)};
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(panel + c * kBlock), q);
        __builtin_memcpy(panel + kScaleAt + 4 * c, &scale, 4);
        __builtin_memcpy(panel + kScaledSumAt + 4 * c, &scaled_sum, 4);
        __builtin_memcpy(panel + kHalfSumsAt + 4 * c, halves, 4);
    }
}

}  // namespace

const MatmulKernels& matmul_avx2() {
    static constexpr MatmulKernels table = {"avx2", matmul, quantize_row};
    return table;
}

}  // namespace ollamapy::cpu
