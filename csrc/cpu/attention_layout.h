// Where attention keeps its intermediate values. Used by every instruction set and by dispatch.cpp; static,
// so that each has its own copy (simd.h says why).
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"

namespace ollamapy::cpu {

// Scores of one query in one segment, and 16 floats more: rows of a power of two would share cache sets.
constexpr int64_t kScoreStride = kSegmentTokens + 16;

static inline int64_t whole_vectors(int64_t n) {
    return (n + 15) / 16 * 16;
}

// A record of one query and one segment: the largest score m and l = sum(exp(score - m)) at 0 and 1, the sum
// of exp(score - m) * v from kRecordSums on, padded to whole vectors.
constexpr int64_t kRecordSums = 16;
static inline int64_t record_stride(int64_t v_dim) {
    return kRecordSums + whole_vectors(v_dim);
}

struct AttentionScratch {
    int64_t scores;   // [queries][kScoreStride]
    int64_t k_page;   // [head_dim][32], one page as float
    int64_t v_page;   // [32][whole_vectors(v_dim)]
    int64_t records;  // [queries][record_stride]
    int64_t running;  // [queries][2]: m and l of the segments merged so far
    int64_t size;
};

static inline AttentionScratch attention_scratch_layout(int64_t queries, int64_t head_dim, int64_t v_dim) {
    AttentionScratch at;
    at.scores = 0;
    at.k_page = at.scores + queries * kScoreStride;
    at.v_page = at.k_page + head_dim * kPageTokens;
    at.records = at.v_page + kPageTokens * whole_vectors(v_dim);
    at.running = at.records + queries * record_stride(v_dim);
    at.size = at.running + whole_vectors(2 * queries);
    return at;
}

}  // namespace ollamapy::cpu
