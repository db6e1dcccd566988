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
    int64_t scores;     // [queries][kScoreStride]
    int64_t converted;  // as float: K of one page [head_dim][32], or a slice of a segment's V, 16 dimensions
                        // of 256 positions or 32 of 128
    int64_t records;    // [queries][record_stride]
    int64_t running;    // [queries][2]: m and l of the segments merged so far
    int64_t size;
};

static inline AttentionScratch attention_scratch_layout(int64_t queries, int64_t head_dim, int64_t v_dim) {
    AttentionScratch at;
    at.scores = 0;
    at.converted = at.scores + queries * kScoreStride;
    const int64_t k_page = head_dim * kPageTokens, v_slice = kSegmentTokens * 16;
    at.records = at.converted + (k_page > v_slice ? k_page : v_slice);
    at.running = at.records + queries * record_stride(v_dim);
    at.size = at.running + whole_vectors(2 * queries);
    return at;
}

}  // namespace ollamapy::cpu
