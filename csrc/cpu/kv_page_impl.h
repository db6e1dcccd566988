// Writing K and V into a page and reading them as floats, written once against simd.h (layouts: kv_page.h).
//
// What a quantized page holds is the f16 scale times an integer, a product that a float holds exactly: every
// instruction set, and prefill as decode, attends to the same values.
#pragma once

#include "cpu/kv_page.h"
#include "cpu/simd.h"

namespace ollamapy::cpu {
namespace {

// Pages lie anywhere in the pool, so the hardware does not foresee them. Into the second cache: the first one
// has too few outstanding misses for the bandwidth of the memory.
OLLAMAPY_LANES void prefetch(const void* p) {
    __builtin_prefetch(p, 0, 2);
}

// ---- Writing ---------------------------------------------------------------------------------------------

OLLAMAPY_LANES Vec clamp_to_f16(Vec x) {
    return min(broadcast(65504.0f), max(broadcast(-65504.0f), x));  // NaN passes
}

OLLAMAPY_LANES void round_to_f16(const float* x, int64_t lanes, uint16_t* out) {
    store_f16(out, clamp_to_f16(load_part(x, lanes)));
}

OLLAMAPY_LANES uint16_t scale_to_f16(float scale) {
    uint16_t half[kLanes];
    store_f16(half, broadcast(scale));
    return half[0];
}

// Up to 32 values of one token as integers and a scale. q8_0: scale = max|x| / 127, round-half-even(x * (127
// / max|x|)). q4_0, as ggml has it: scale = m / -8 with m the first value of the largest magnitude,
// floor(x * (-8 / m) + 8.5), 15 at most; the result still has its offset of 8. Where the f16 scale is 0 or
// NaN the integers are those of zeros.
uint16_t quantize_block(KvType type, const float* x, int64_t n, int8_t* out) {
    alignas(64) float values[kBlock];
    const Vec a = clamp_to_f16(load_n(x, n < kLanes ? n : kLanes));
    const Vec b = n > kLanes ? clamp_to_f16(load_n(x + kLanes, n - kLanes)) : zero();
    const int8_t nothing = type == KvType::kQ4_0 ? 8 : 0;
    const float nan = sum(a * zero() + b * zero());
    if (nan != nan) {
        memset(out, nothing, kBlock);
        return 0x7e00;
    }
    const float largest_magnitude = largest(max(abs(a), abs(b)));
    store(values, a);
    store(values + kLanes, b);
    float top = largest_magnitude, steps = 127.0f;
    if (type == KvType::kQ4_0) {
        int first = 0;
        while (__builtin_fabsf(values[first]) != largest_magnitude) ++first;
        top = values[first];
        steps = -8.0f;
    }
    const uint16_t scale = scale_to_f16(top / steps);
    if ((scale & 0x7fffu) == 0) {
        memset(out, nothing, kBlock);
        return scale;
    }
    const Vec inverse = broadcast(steps / top);
    if (type == KvType::kQ8_0) {
        const Vec shifter = broadcast(0x1.8p23f);  // adding it leaves the nearest integer
        store(values, a * inverse + shifter - shifter);
        store(values + kLanes, b * inverse + shifter - shifter);
    } else {
        store(values, min(broadcast(15.0f), a * inverse + broadcast(8.5f)));
        store(values + kLanes, min(broadcast(15.0f), b * inverse + broadcast(8.5f)));
    }
    for (int i = 0; i < kBlock; ++i) out[i] = static_cast<int8_t>(values[i]);
    return scale;
}

void store_f16_kv(const KvLayer& kv, uint8_t* base, int32_t slot, const float* k, const float* v) {
    // K [n_kv_heads][head_dim] is one long row whose element i goes to column slot of row i.
    uint16_t* k_out = reinterpret_cast<uint16_t*>(base + kv.k_offset) + slot;
    const int64_t k_size = static_cast<int64_t>(kv.n_kv_heads) * kv.head_dim;
    uint16_t half[kLanes];
    for (int64_t i = 0; i < k_size; i += kLanes) {
        const int64_t lanes = k_size - i < kLanes ? k_size - i : kLanes;
        round_to_f16(k + i, lanes, half);
        for (int64_t j = 0; j < lanes; ++j) k_out[(i + j) * kPageTokens] = half[j];
    }
    for (int64_t h = 0; h < kv.n_kv_heads; ++h) {
        uint16_t* v_out =
            reinterpret_cast<uint16_t*>(base + kv.v_offset) + (h * kPageTokens + slot) * kv.v_dim;
        for (int64_t i = 0; i < kv.v_dim; i += kLanes) {
            const int64_t lanes = kv.v_dim - i < kLanes ? kv.v_dim - i : kLanes;
            round_to_f16(v + h * kv.v_dim + i, lanes, half);
            memcpy(v_out + i, half, static_cast<size_t>(lanes) * sizeof(uint16_t));
        }
    }
}

void store_quantized_k(KvType type, uint8_t* head, int64_t dim, int32_t slot, const float* k) {
    uint16_t* const scales = reinterpret_cast<uint16_t*>(head) + slot;
    uint8_t* out = head + kv_scale_bytes(type, dim) + slot;
    for (int64_t block = 0; block < kv_blocks(dim); ++block) {
        int8_t q[kBlock];
        const int64_t n = dim - block * kBlock;
        scales[block * kPageTokens] = quantize_block(type, k + block * kBlock, n < kBlock ? n : kBlock, q);
        if (type == KvType::kQ8_0) {
            for (int i = 0; i < kBlock; ++i, out += kPageTokens) *out = static_cast<uint8_t>(q[i]);
        } else {
            for (int i = 0; i < kBlock / 2; ++i, out += kPageTokens) {
                *out = static_cast<uint8_t>(q[i] | q[i + kBlock / 2] << 4);
            }
        }
    }
}

void store_quantized_v(KvType type, uint8_t* head, int64_t dim, int32_t slot, const float* v) {
    const int64_t blocks = kv_blocks(dim);
    uint16_t* const scales = reinterpret_cast<uint16_t*>(head) + slot * blocks;
    const int64_t block_bytes = type == KvType::kQ8_0 ? kBlock : kBlock / 2;
    uint8_t* out = head + kv_scale_bytes(type, dim) + slot * blocks * block_bytes;
    for (int64_t block = 0; block < blocks; ++block, out += block_bytes) {
        int8_t q[kBlock];
        const int64_t n = dim - block * kBlock;
        scales[block] = quantize_block(type, v + block * kBlock, n < kBlock ? n : kBlock, q);
        if (type == KvType::kQ8_0) {
            memcpy(out, q, kBlock);
        } else {
            for (int i = 0; i < kBlock / 2; ++i) {
                out[i] = static_cast<uint8_t>(q[i] | q[i + kBlock / 2] << 4);
            }
        }
    }
}

void store_kv(const KvLayer& kv, int32_t page, int32_t slot, const float* k, const float* v) {
    uint8_t* const base = kv.pool + page * kv.page_stride;
    if (kv.type == KvType::kF16) {
        store_f16_kv(kv, base, slot, k, v);
        return;
    }
    for (int64_t h = 0; h < kv.n_kv_heads; ++h) {
        store_quantized_k(kv.type, base + kv.k_offset + h * kv_head_bytes(kv.type, kv.head_dim), kv.head_dim,
                          slot, k + h * kv.head_dim);
        store_quantized_v(kv.type, base + kv.v_offset + h * kv_head_bytes(kv.type, kv.v_dim), kv.v_dim, slot,
                          v + h * kv.v_dim);
    }
}

// ---- Reading ---------------------------------------------------------------------------------------------

// Columns positions of K, [head_dim][Columns], for 16 or 32 positions of a page from `from` on.
template <int64_t Columns>
OLLAMAPY_LANES void convert_k_columns(KvType type, const uint8_t* k, int64_t head_dim, int64_t from,
                                      const uint8_t* next, float* out) {
    const int64_t bytes_per_dim = kv_head_bytes(type, head_dim) / head_dim;
    if (type == KvType::kF16) {
        const uint16_t* values = reinterpret_cast<const uint16_t*>(k) + from;
        for (int64_t d = 0; d < head_dim; ++d, values += kPageTokens) {
            if (from == 0) prefetch(next + d * bytes_per_dim);
            for (int64_t j = 0; j < Columns; j += kLanes, out += kLanes) store(out, load_f16(values + j));
        }
        return;
    }
    const uint16_t* const scales = reinterpret_cast<const uint16_t*>(k) + from;
    const uint8_t* const quants = k + kv_scale_bytes(type, head_dim) + from;
    for (int64_t first = 0; first < head_dim; first += kBlock) {
        const int64_t dims = head_dim - first < kBlock ? head_dim - first : kBlock;
        float* const block = out + first * Columns;
        for (int64_t j = 0; j < Columns; j += kLanes) {
            const Vec scale = load_f16(scales + first / kBlock * kPageTokens + j);
            if (type == KvType::kQ8_0) {
                const int8_t* const q = reinterpret_cast<const int8_t*>(quants) + first * kPageTokens + j;
                for (int64_t d = 0; d < dims; ++d) {
                    if (from + j == 0) prefetch(next + (first + d) * bytes_per_dim);
                    store(block + d * Columns + j, load_i8(q + d * kPageTokens) * scale);
                }
            } else {
                const uint8_t* const q = quants + first / 2 * kPageTokens + j;
                for (int64_t d = 0; d < kBlock / 2 && d < dims; ++d) {
                    if (from + j == 0) prefetch(next + (first + 2 * d) * bytes_per_dim);
                    Vec low, high;
                    load_nibbles(q + d * kPageTokens, low, high);
                    store(block + d * Columns + j, low * scale);
                    if (d + kBlock / 2 < dims) store(block + (d + kBlock / 2) * Columns + j, high * scale);
                }
            }
        }
    }
}

// K of a kv head in a page as float, in the order in which tiles of Columns positions read it: [32 /
// Columns][head_dim][Columns].
template <int64_t Columns>
__attribute__((noinline)) void convert_k_page(KvType type, const uint8_t* k, int64_t head_dim,
                                              const uint8_t* next, float* out) {
    for (int64_t from = 0; from < kPageTokens; from += Columns, out += head_dim * Columns) {
        convert_k_columns<Columns>(type, k, head_dim, from, next, out);
    }
}

// 16 or the last 8 dimensions, from d on, of a kv head's V in a page as float: 16 for each of 32 tokens, at
// out, out + out_stride ...
__attribute__((noinline)) void convert_v_slice(KvType type, const uint8_t* v, int64_t v_dim, int64_t d,
                                               const uint8_t* next, float* out, int64_t out_stride) {
    if (type == KvType::kF16) {
        const uint16_t* values = reinterpret_cast<const uint16_t*>(v) + d;
        const uint16_t* ahead = reinterpret_cast<const uint16_t*>(next) + d;
        const bool whole = v_dim - d >= kLanes;
        for (int64_t t = 0; t < kPageTokens; ++t, values += v_dim, ahead += v_dim) {
            prefetch(ahead);
            store(out + t * out_stride, whole ? load_f16(values) : load_f16_8(values));
        }
        return;
    }
    const int64_t blocks = kv_blocks(v_dim), block = d / kBlock;
    const uint16_t* const scales = reinterpret_cast<const uint16_t*>(v) + block;
    const int64_t start = kv_scale_bytes(type, v_dim);
    if (type == KvType::kQ8_0) {
        const int64_t from = start + d, stride = blocks * kBlock;
        for (int64_t t = 0; t < kPageTokens; ++t) {
            prefetch(next + from + t * stride);
            const Vec q = load_i8(reinterpret_cast<const int8_t*>(v) + from + t * stride);
            store(out + t * out_stride, q * broadcast_f16(scales + t * blocks));
        }
        return;
    }
    const int64_t from = start + block * (kBlock / 2), stride = blocks * (kBlock / 2);
    const bool upper = d % kBlock != 0;
    for (int64_t t = 0; t < kPageTokens; ++t) {
        prefetch(next + from + t * stride);
        Vec low, high;
        load_nibbles(v + from + t * stride, low, high);
        store(out + t * out_stride, (upper ? high : low) * broadcast_f16(scales + t * blocks));
    }
}

}  // namespace
}  // namespace ollamapy::cpu
