// Attention over pages, written once against simd.h.
//
// A query is one row and one head; the queries of a call share a kv head. A segment is 256 positions. For a
// query and a segment: dot products (a chain of fma over the head dimensions, ascending), the maximum m of
// the scores, p = exp(score - m) with one rounding for scale * dot - m, l = sum of p in a fixed tree, and per
// value dimension a chain of fma over the visible positions, ascending. Segments are merged in ascending
// order. None of that depends on which queries run together, so tiles may have any shape.
//
// A query's scores at positions that it cannot see may be computed (from whatever the page holds) but are
// never read; its chain over values runs over its own positions only. Quantized K and V are computed with as
// the floats that they stand for.
#pragma once

#include "cpu/attention_layout.h"
#include "cpu/attention_tiles.h"
#include "cpu/kernels.h"
#include "cpu/kv_page_impl.h"
#include "cpu/simd.h"
#include "cpu/vec_math.h"

namespace ollamapy::cpu {
namespace {

constexpr int64_t kSegmentPages = kSegmentTokens / kPageTokens;
constexpr int64_t kPagesAhead = 3;  // how far prefetching goes before reading

OLLAMAPY_LANES int64_t lesser(int64_t a, int64_t b) {
    return a < b ? a : b;
}
OLLAMAPY_LANES int64_t greater(int64_t a, int64_t b) {
    return a > b ? a : b;
}

struct Span {
    int64_t begin, end;
    bool empty() const { return begin >= end; }
    int64_t size() const { return end - begin; }
};
OLLAMAPY_LANES Span overlap(Span a, Span b) {
    return {greater(a.begin, b.begin), lesser(a.end, b.end)};
}

// The rows of one call and what they see of one segment.
struct Rows {
    const AttentionTask& task;
    int64_t first;  // row in the task
    int64_t count;  // 1 to kAttentionRows
    int64_t kv_head;
    int64_t group;                      // query heads per kv head
    int64_t origin;                     // first position of the segment
    Span visible[kAttentionRows];       // positions each row sees in the segment
    int64_t seen_pages[kSegmentPages];  // of the segment, ascending: those that hold a visible position
    int64_t n_seen;

    int64_t queries() const { return count * group; }
    float* out(int64_t row, int64_t head) const {
        return task.out + (first + row) * task.out_stride + (kv_head * group + head) * task.kv.v_dim;
    }
    // Pages of the segment, counted from its first.
    const uint8_t* page(int64_t index) const {
        return task.kv.pool + task.pages[origin / kPageTokens + index] * task.kv.page_stride;
    }
    const uint8_t* k_page(int64_t index) const {
        return page(index) + task.kv.k_offset + kv_head * kv_head_bytes(task.kv.type, task.kv.head_dim);
    }
    const uint8_t* v_page(int64_t index) const {
        return page(index) + task.kv.v_offset + kv_head * kv_head_bytes(task.kv.type, task.kv.v_dim);
    }
    Span page_span(int64_t index) const {
        return {origin + index * kPageTokens, origin + (index + 1) * kPageTokens};
    }
    // The rows from the first to the last one that sees some of the positions.
    Span seeing(Span positions) const {
        Span rows{0, count};
        while (!rows.empty() && overlap(visible[rows.begin], positions).empty()) ++rows.begin;
        while (!rows.empty() && overlap(visible[rows.end - 1], positions).empty()) --rows.end;
        return rows;
    }
};

Rows rows_of_call(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head) {
    return {task, row_begin, row_end - row_begin, kv_head, task.n_heads / task.kv.n_kv_heads, 0, {}, {}, 0};
}

// Sets what the rows see of a segment. False when that is nothing.
bool enter_segment(Rows& rows, int64_t segment) {
    rows.origin = segment * kSegmentTokens;
    const Span all{rows.origin, rows.origin + kSegmentTokens};
    uint32_t seen = 0;
    for (int64_t r = 0; r < rows.count; ++r) {
        const Span sees{rows.task.visible_begin[rows.first + r], rows.task.visible_end[rows.first + r]};
        const Span here = rows.visible[r] = overlap(sees, all);
        if (here.empty()) continue;
        const int64_t first = (here.begin - rows.origin) / kPageTokens;
        const int64_t last = (here.end - 1 - rows.origin) / kPageTokens;
        seen |= ((2u << last) - 1u) & ~((1u << first) - 1u);
    }
    rows.n_seen = 0;
    for (int64_t i = 0; i < kSegmentPages; ++i) {
        if (seen >> i & 1u) rows.seen_pages[rows.n_seen++] = i;
    }
    return rows.n_seen > 0;
}

// What is read of the pool, in order: K of the seen pages, V of them, and what probably follows, the next
// segment's K.
struct Reads {
    const uint8_t* at[2 * kSegmentPages + kPagesAhead];
};

Reads reads_of_segment(const Rows& rows) {
    Reads reads;
    int64_t n = 0;
    for (int64_t i = 0; i < rows.n_seen; ++i) reads.at[n++] = rows.k_page(rows.seen_pages[i]);
    for (int64_t i = 0; i < rows.n_seen; ++i) reads.at[n++] = rows.v_page(rows.seen_pages[i]);
    for (int64_t i = 0; i < kPagesAhead; ++i, ++n) {
        const int64_t position = rows.origin + kSegmentTokens + i * kPageTokens;
        const bool seen =
            rows.task.visible_begin[rows.first] <= position && rows.task.visible_end[rows.first] > position;
        reads.at[n] = seen ? rows.k_page(kSegmentPages + i) : reads.at[n - 1];
    }
    return reads;
}

// ---- Scores ----------------------------------------------------------------------------------------------

// The queries of a span of rows and the keys of a page; s is the row of the first of them.
template <class Keys>
void score_rows(const Rows& rows, Span span, Keys keys, float* s) {
    const AttentionTask& task = rows.task;
    const float* row =
        task.q + (rows.first + span.begin) * task.q_stride + rows.kv_head * rows.group * task.kv.head_dim;
    int64_t head = 0;
    each_tile(span.size() * rows.group, [&](int64_t i, int64_t size) {
        const float* q[kTileQueries];
        for (int64_t j = 0; j < size; ++j) {
            q[j] = row + head * task.kv.head_dim;
            if (++head == rows.group) {
                head = 0;
                row += task.q_stride;
            }
        }
        score_page(size, keys, q, task.kv.head_dim, s + i * kScoreStride);
    });
}

// Dot products of all queries with the positions of the segment that they see, and with some that they do
// not.
void score_segment(const Rows& rows, const Reads& reads, float* converted, float* scores) {
    const KvType type = rows.task.kv.type;
    const int64_t head_dim = rows.task.kv.head_dim;
    for (int64_t n = 0; n < rows.n_seen; ++n) {
        const int64_t i = rows.seen_pages[n];
        const Span seeing = rows.seeing(rows.page_span(i));
        const int64_t queries = seeing.size() * rows.group;
        float* s = scores + seeing.begin * rows.group * kScoreStride + i * kPageTokens;
        const uint8_t* const page = reads.at[n];
        const uint8_t* const next = reads.at[n + kPagesAhead];
        if (type == KvType::kF16 && queries <= HalfKeys::kMostQueries) {
            const HalfKeys keys{reinterpret_cast<const uint16_t*>(page),
                                reinterpret_cast<const uint16_t*>(next)};
            score_rows(rows, seeing, keys, s);
        } else if (type == KvType::kQ8_0 && queries <= Q8Keys::kMostQueries) {
            score_rows(rows, seeing, q8_keys(page, head_dim, next), s);
        } else {
            convert_k_page<kScoreBlock>(type, page, head_dim, next, converted);
            score_rows(rows, seeing, FloatKeys{converted, head_dim}, s);
        }
    }
}

// ---- Softmax of a segment --------------------------------------------------------------------------------

// Turns the dot products s[t] of a segment's slots t into p in place, given that those in [begin, end) are
// visible; record gets m and l. Vector j of the segment goes to chain j % 4 of the sum. Groups of four
// vectors that hold no visible slot are left out: they would add zeros.
__attribute__((noinline)) void softmax_segment(const AttentionTask& task, int64_t begin, int64_t end,
                                               float* s, float* record) {
    constexpr int64_t kGroup = 4 * kLanes;
    const float lowest = -__builtin_inff();
    float factor = task.scale;
    if (task.softcap > 0) {
        const Vec scale = broadcast(task.scale), cap = broadcast(task.softcap);
        for (int64_t t = begin / kLanes * kLanes; t < end; t += kLanes) {
            store(s + t, softcap(load(s + t) * scale, cap));
        }
        factor = 1.0f;
    }
    const int64_t first = begin / kGroup * kGroup, last = (end + kGroup - 1) / kGroup * kGroup;
    for (int64_t t = first; t < begin; ++t) s[t] = lowest;
    for (int64_t t = end; t < last; ++t) s[t] = lowest;
    Vec top[4] = {broadcast(lowest), broadcast(lowest), broadcast(lowest), broadcast(lowest)};
    for (int64_t t = first; t < last; t += kGroup) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) top[j] = max(top[j], load(s + t + j * kLanes));
    }
    const float m = largest(max(max(top[0], top[1]), max(top[2], top[3]))) * factor;
    const Vec shift = broadcast(m == lowest ? 0.0f : -m);  // all scores -inf: p = 0, not NaN
    const Vec scale = broadcast(factor);
    Vec total[4] = {zero(), zero(), zero(), zero()};
    for (int64_t t = first; t < last; t += kGroup) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const Vec p = exp_bounded(fma(load(s + t + j * kLanes), scale, shift));
            store(s + t + j * kLanes, p);
            total[j] = total[j] + p;
        }
    }
    record[0] = m;
    record[1] = sum((total[0] + total[1]) + (total[2] + total[3]));
}

// ---- Values ----------------------------------------------------------------------------------------------

// Values of some positions, and the weights and sums of a call's queries.
template <class Source>
struct Values {
    Source v;
    int64_t stride;
    int64_t dims;
    Span positions;
    const float* p;  // [queries][kScoreStride], from the first of the positions on
    float* sums;     // [queries][sum_stride]
    int64_t sum_stride;

    void add(const Rows& rows, Span span, Span part) const {
        if (part.empty()) return;
        const int64_t from = part.begin - positions.begin, first = span.begin * rows.group;
        each_tile(span.size() * rows.group, [&](int64_t i, int64_t size) {
            value_queries(size, v.at(from, 0, stride), stride, p + (first + i) * kScoreStride + from,
                          part.size(), dims, sums + (first + i) * sum_stride, sum_stride);
        });
    }

    // The positions that all rows see in common tiles, those before and after them row by row: a row's sums
    // never take in a value that it does not see, not even with weight 0.
    void add(const Rows& rows) const {
        const Span seeing = rows.seeing(positions);
        Span common = positions;
        for (int64_t r = seeing.begin; r < seeing.end; ++r) common = overlap(common, rows.visible[r]);
        if (common.empty()) common = {positions.end, positions.end};
        const Span before{positions.begin, common.begin}, after{common.end, positions.end};
        for (int64_t r = seeing.begin; r < seeing.end; ++r)
            add(rows, {r, r + 1}, overlap(before, rows.visible[r]));
        add(rows, seeing, common);
        for (int64_t r = seeing.begin; r < seeing.end; ++r)
            add(rows, {r, r + 1}, overlap(after, rows.visible[r]));
    }
};

// What the segment adds to the sums of all queries, given the weights in scores.
void add_values(const Rows& rows, const Reads& reads, float* converted, const float* scores, float* sums,
                int64_t sum_stride) {
    const KvType type = rows.task.kv.type;
    const int64_t v_dim = rows.task.kv.v_dim;
    const auto direct = [&](int64_t stride, auto source) {
        for (int64_t n = 0; n < rows.n_seen; ++n) {
            const int64_t i = rows.seen_pages[n];
            const uint8_t* const* v = reads.at + rows.n_seen + n;
            const auto values = source(v[0], v[kPagesAhead]);
            const float* const p = scores + i * kPageTokens;
            Values<decltype(source(v[0], v[0]))>{values, stride, v_dim,     rows.page_span(i),
                                                 p,      sums,   sum_stride}
                .add(rows);
        }
    };
    if (type == KvType::kF16 && rows.queries() <= HalfValues::kMostQueries && v_dim % kLanes == 0) {
        direct(v_dim, [](const uint8_t* page, const uint8_t* next) {
            return HalfValues{reinterpret_cast<const uint16_t*>(page),
                              reinterpret_cast<const uint16_t*>(next)};
        });
        return;
    }
    if (type == KvType::kQ8_0 && rows.queries() <= Q8Values::kMostQueries && v_dim % kLanes == 0) {
        direct(kv_blocks(v_dim) * kBlock,
               [=](const uint8_t* page, const uint8_t* next) { return q8_values(page, v_dim, next); });
        return;
    }
    // Slices of a tile's dimensions and of so many positions that a slice stays in the first cache for all
    // tiles of queries.
    constexpr int64_t kSlicePages = kSegmentPages / kValueVectors;
    for (int64_t d = 0; d < v_dim; d += kValueVectors * kLanes) {
        const int64_t width = lesser(whole_vectors(v_dim - d), kValueVectors * kLanes);
        for (int64_t n = 0; n < rows.n_seen;) {
            const int64_t first = rows.seen_pages[n] / kSlicePages * kSlicePages;
            for (; n < rows.n_seen && rows.seen_pages[n] < first + kSlicePages; ++n) {
                const uint8_t* const* v = reads.at + rows.n_seen + n;
                float* out = converted + (rows.seen_pages[n] - first) * kPageTokens * width;
                for (int64_t i = 0; i < width; i += kLanes) {
                    convert_v_slice(type, v[0], v_dim, d + i, v[kPagesAhead], out + i, width);
                }
            }
            const Span part{rows.page_span(first).begin, rows.page_span(first + kSlicePages - 1).end};
            const float* const p = scores + first * kPageTokens;
            Values<FloatValues>{{converted}, width, width, part, p, sums + d, sum_stride}.add(rows);
        }
    }
}

// ---- Segments --------------------------------------------------------------------------------------------

// The records of the segment that rows entered: [rows][group][record_stride].
void segment_records(const Rows& rows, float* scratch, float* records) {
    const KvLayer& kv = rows.task.kv;
    const AttentionScratch at = attention_scratch_layout(rows.queries(), kv.head_dim, kv.v_dim);
    const int64_t stride = record_stride(kv.v_dim);
    float* scores = scratch + at.scores;
    const Reads reads = reads_of_segment(rows);
    score_segment(rows, reads, scratch + at.converted, scores);
    for (int64_t r = 0; r < rows.count; ++r) {
        const Span visible = rows.visible[r];
        if (visible.empty()) continue;
        for (int64_t i = r * rows.group; i < (r + 1) * rows.group; ++i) {
            float* record = records + i * stride;
            softmax_segment(rows.task, visible.begin - rows.origin, visible.end - rows.origin,
                            scores + i * kScoreStride, record);
            for (int64_t d = kRecordSums; d < stride; d += kLanes) store(record + d, zero());
        }
    }
    add_values(rows, reads, scratch + at.converted, scores, records + kRecordSums, stride);
}

// Merges a record into the running m, l and the output row: the larger maximum becomes the common one.
void merge_record(const float* record, int64_t v_dim, float* running, float* out) {
    const float lowest = -__builtin_inff();
    const float m = record[0] > running[0] ? record[0] : running[0];
    const Vec shift = broadcast(m == lowest ? 0.0f : m);
    const Vec kept = broadcast(first_lane(exp_bounded(broadcast(running[0]) - shift)));
    const Vec added = broadcast(first_lane(exp_bounded(broadcast(record[0]) - shift)));
    running[0] = m;
    running[1] = first_lane(fma(broadcast(running[1]), kept, broadcast(record[1]) * added));
    for (int64_t d = 0; d < v_dim; d += kLanes) {
        const int64_t lanes = lesser(v_dim - d, kLanes);
        const Vec sums = load(record + kRecordSums + d) * added;
        store_part(out + d, fma(load_part(out + d, lanes), kept, sums), lanes);
    }
}

void start_row(int64_t v_dim, float* running, float* out) {
    running[0] = -__builtin_inff();
    running[1] = 0.0f;
    memset(out, 0, static_cast<size_t>(v_dim) * sizeof(float));
}

void finish_row(int64_t v_dim, const float* running, float* out) {
    const Vec divisor = broadcast(running[1]);
    for (int64_t d = 0; d < v_dim; d += kLanes) {
        const int64_t lanes = lesser(v_dim - d, kLanes);
        store_part(out + d, load_part(out + d, lanes) / divisor, lanes);
    }
}

// Merges the records of the segment that rows entered into running m and l, [rows][group][2], and the output.
void merge_records(const Rows& rows, const float* records, float* running) {
    const int64_t v_dim = rows.task.kv.v_dim;
    for (int64_t r = 0; r < rows.count; ++r) {
        if (rows.visible[r].empty()) continue;
        for (int64_t h = 0; h < rows.group; ++h) {
            const int64_t i = r * rows.group + h;
            merge_record(records + i * record_stride(v_dim), v_dim, running + 2 * i, rows.out(r, h));
        }
    }
}

// ---- What the table offers -------------------------------------------------------------------------------

void attention_partial(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head,
                       int64_t segment_begin, int64_t segment_end, float* scratch, float* partials) {
    Rows rows = rows_of_call(task, row_begin, row_end, kv_head);
    const int64_t size = rows.queries() * record_stride(task.kv.v_dim);
    for (int64_t s = segment_begin; s < segment_end; ++s, partials += size) {
        if (enter_segment(rows, s)) segment_records(rows, scratch, partials);
    }
}

void attention_merge(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head,
                     int64_t segment_begin, int64_t segment_end, const float* partials) {
    const int64_t v_dim = task.kv.v_dim;
    Rows rows = rows_of_call(task, row_begin, row_end, kv_head);
    const int64_t stride = record_stride(v_dim), size = rows.queries() * stride;
    for (int64_t r = 0; r < rows.count; ++r) {
        const Span sees{task.visible_begin[row_begin + r], task.visible_end[row_begin + r]};
        const Span segments =
            overlap({segment_begin, segment_end},
                    {sees.begin / kSegmentTokens, (sees.end + kSegmentTokens - 1) / kSegmentTokens});
        for (int64_t h = 0; h < rows.group; ++h) {
            float* out = rows.out(r, h);
            float running[2];
            start_row(v_dim, running, out);
            const float* records = partials + (r * rows.group + h) * stride;
            for (int64_t s = segments.begin; s < segments.end; ++s) {
                merge_record(records + (s - segment_begin) * size, v_dim, running, out);
            }
            finish_row(v_dim, running, out);
        }
    }
}

void attention(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head,
               float* scratch) {
    Rows rows = rows_of_call(task, row_begin, row_end, kv_head);
    const int64_t v_dim = task.kv.v_dim;
    const AttentionScratch at = attention_scratch_layout(rows.queries(), task.kv.head_dim, v_dim);
    float* records = scratch + at.records;
    float* running = scratch + at.running;
    Span sees{task.visible_begin[row_begin], task.visible_end[row_begin]};
    for (int64_t r = row_begin + 1; r < row_end; ++r) {
        sees = {lesser(sees.begin, task.visible_begin[r]), greater(sees.end, task.visible_end[r])};
    }
    for (int64_t r = 0; r < rows.count; ++r) {
        for (int64_t h = 0; h < rows.group; ++h) {
            start_row(v_dim, running + 2 * (r * rows.group + h), rows.out(r, h));
        }
    }
    for (int64_t s = sees.begin / kSegmentTokens; s * kSegmentTokens < sees.end; ++s) {
        if (!enter_segment(rows, s)) continue;
        segment_records(rows, scratch, records);
        merge_records(rows, records, running);
    }
    for (int64_t r = 0; r < rows.count; ++r) {
        for (int64_t h = 0; h < rows.group; ++h) {
            finish_row(v_dim, running + 2 * (r * rows.group + h), rows.out(r, h));
        }
    }
}

}  // namespace
}  // namespace ollamapy::cpu
