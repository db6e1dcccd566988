// How K and V of one layer lie in a KV page. Used by every instruction set, by dispatch.cpp and by the
// compiler of programs; static, so that each has its own copy (simd.h says why).
//
// K and V of one kv head follow each other without gaps, head after head. In f16, K is [dim][32 tokens] and V
// is [32 tokens][dim]. The quantized types hold blocks of 32 dimensions of one token, the last one padded,
// with an f16 scale each, as ggml's q8_0 and q4_0 do; the scales come first:
//   q8_0  K: scales [blocks][32 tokens], int8 [32 blocks][32 tokens]
//         V: scales [32 tokens][blocks], int8 [32 tokens][32 blocks]
//   q4_0  K: scales [blocks][32 tokens], bytes [blocks][16][32 tokens]
//         V: scales [32 tokens][blocks], bytes [32 tokens][blocks][16]
// Byte i of a q4_0 block holds dimension i in its low nibble and dimension 16 + i in the high one, plus 8. No
// byte belongs to two tokens, so threads may write different tokens of a page at once.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"

namespace ollamapy::cpu {

static inline int64_t kv_blocks(int64_t dim) {
    return (dim + kBlock - 1) / kBlock;
}

// Bytes of the scales that a kv head's K (or V) starts with.
static inline int64_t kv_scale_bytes(KvType type, int64_t dim) {
    return type == KvType::kF16 ? 0 : kv_blocks(dim) * kPageTokens * 2;
}

// Bytes of a kv head's K (or V) in a page.
static inline int64_t kv_head_bytes(KvType type, int64_t dim) {
    switch (type) {
        case KvType::kQ8_0:
            return kv_scale_bytes(type, dim) + kv_blocks(dim) * kBlock * kPageTokens;
        case KvType::kQ4_0:
            return kv_scale_bytes(type, dim) + kv_blocks(dim) * kBlock / 2 * kPageTokens;
        case KvType::kF16:
            break;
    }
    return dim * kPageTokens * 2;
}

}  // namespace ollamapy::cpu
