// Attention over pages, written once against simd.h.
//
// A query is one row and one head; the queries of a call share a kv head. A segment is 256 positions. For a
// query and a segment: scores (a chain of fma over the head dimensions, ascending), their maximum m, p =
// exp(score - m), l = sum of p in a fixed tree, and per value dimension a chain of fma over the visible
// positions, ascending. Segments are merged in ascending order. None of that depends on which queries run
// together, so tiles may have any shape.
//
// A query's scores at positions that it cannot see may be computed (from whatever the page holds) but are
// never read; its chain over values runs over its own positions only.
#pragma once

#include "cpu/attention_layout.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/vec_math.h"

namespace ollamapy::cpu {
namespace {

// Register tiles: queries by vectors of positions or value dimensions. Two to four chains hide the latency of
// fma.
#if defined(OLLAMAPY_SIMD_AVX512)
constexpr int kTileQueries = 8;
constexpr int kTileVectors = 24;  // accumulators, of 32 registers
#else
constexpr int kTileQueries = 6;
constexpr int kTileVectors = 6;  // accumulators, of 8 pairs of registers
#endif

OLLAMAPY_LANES int64_t lesser(int64_t a, int64_t b) {
    return a < b ? a : b;
}
OLLAMAPY_LANES int64_t greater(int64_t a, int64_t b) {
    return a > b ? a : b;
}

OLLAMAPY_LANES Vec load_any(const float* p) {
    return load(p);
}
OLLAMAPY_LANES Vec load_any(const uint16_t* p) {
    return load_f16(p);
}

// The rows of one call and what they see of one segment.
struct Rows {
    const AttentionTask& task;
    int64_t first;  // row in the task
    int64_t count;  // 1 to kAttentionRows
    int64_t kv_head;
    int64_t group;                  // query heads per kv head
    int64_t begin[kAttentionRows];  // positions each row sees in the segment; begin == end: none
    int64_t end[kAttentionRows];

    int64_t queries() const { return count * group; }
    const float* query(int64_t i) const {
        return task.q + (first + i / group) * task.q_stride +
               (kv_head * group + i % group) * task.kv.head_dim;
    }
    float* out(int64_t i) const {
        return task.out + (first + i / group) * task.out_stride +
               (kv_head * group + i % group) * task.kv.v_dim;
    }
    const uint16_t* k_page(int64_t page) const {
        const KvLayer& kv = task.kv;
        return kv.pool + task.pages[page] * kv.page_stride + kv.k_offset +
               kv_head * kv.head_dim * kPageTokens;
    }
    const uint16_t* v_page(int64_t page) const {
        const KvLayer& kv = task.kv;
        return kv.pool + task.pages[page] * kv.page_stride + kv.v_offset + kv_head * kv.v_dim * kPageTokens;
    }
};

Rows rows_of_call(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head) {
    return {task, row_begin, row_end - row_begin, kv_head, task.n_heads / task.kv.n_kv_heads, {}, {}};
}

// Limits begin and end to a segment. False when no row sees any of it.
bool enter_segment(Rows& rows, int64_t segment) {
    const int64_t first = segment * kSegmentTokens;
    bool any = false;
    for (int64_t r = 0; r < rows.count; ++r) {
        rows.begin[r] = greater(rows.task.visible_begin[rows.first + r], first);
        rows.end[r] = lesser(rows.task.visible_end[rows.first + r], first + kSegmentTokens);
        if (rows.begin[r] < rows.end[r]) {
            any = true;
        } else {
            rows.begin[r] = rows.end[r] = first;
        }
    }
    return any;
}

bool sees(const Rows& rows, int64_t row, int64_t page) {
    return rows.begin[row] < (page + 1) * kPageTokens && rows.end[row] > page * kPageTokens;
}

// The next maximal run of rows, from row r on, that see a page. False when there is none.
struct Run {
    int64_t first, last;
};
bool next_run(const Rows& rows, int64_t page, int64_t r, Run& run) {
    while (r < rows.count && !sees(rows, r, page)) ++r;
    run.first = r;
    while (r < rows.count && sees(rows, r, page)) ++r;
    run.last = r;
    return run.first < run.last;
}

// ---- Scores ----------------------------------------------------------------------------------------------

// s[i][0, 16 N) = q[i] . k for Q queries; k is [head_dim][32 positions] from the first of these positions on.
template <int Q, int N, class T>
void score_tile(const T* k, const float* const* q, int64_t head_dim, float* s) {
    Vec total[Q][N];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) total[i][j] = zero();
    }
    for (int64_t d = 0; d < head_dim; ++d) {
        Vec column[N];
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) column[j] = load_any(k + d * kPageTokens + j * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i) {
            const Vec x = broadcast(q[i][d]);
#pragma GCC unroll 8
            for (int j = 0; j < N; ++j) total[i][j] = fma(x, column[j], total[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) store(s + i * kScoreStride + j * kLanes, total[i][j]);
    }
}

template <int Q, class T>
void score_page_tile(const T* k, const float* const* q, int64_t head_dim, float* s) {
    constexpr int kVectors = kPageTokens / kLanes;
    if constexpr (Q * kVectors <= kTileVectors) {
        score_tile<Q, kVectors, T>(k, q, head_dim, s);
    } else {
        for (int j = 0; j < kVectors; ++j) score_tile<Q, 1, T>(k + j * kLanes, q, head_dim, s + j * kLanes);
    }
}

template <class T, int Q = 1>
void score_queries(int64_t n, const T* k, const float* const* q, int64_t head_dim, float* s) {
    if (n == Q) {
        score_page_tile<Q, T>(k, q, head_dim, s);
    } else if constexpr (Q < kTileQueries) {
        score_queries<T, Q + 1>(n, k, q, head_dim, s);
    }
}

// n queries in tiles as equal as they come: call(first, size).
template <class F>
OLLAMAPY_LANES void each_tile(int64_t n, F call) {
    int64_t tiles = (n + kTileQueries - 1) / kTileQueries;
    for (int64_t i = 0; i < n; --tiles) {
        const int64_t size = (n - i) / tiles;
        call(i, size);
        i += size;
    }
}

template <class T>
void score_page(const Rows& rows, int64_t query_begin, int64_t query_end, const T* k, float* scores) {
    each_tile(query_end - query_begin, [&](int64_t i, int64_t size) {
        const float* q[kTileQueries];
        for (int64_t j = 0; j < size; ++j) q[j] = rows.query(query_begin + i + j);
        score_queries<T>(size, k, q, rows.task.kv.head_dim, scores + (query_begin + i) * kScoreStride);
    });
}

// ---- Softmax of a segment --------------------------------------------------------------------------------

// Turns the dot products s[t] of a segment's slots t into p in place, given that those in [begin, end) are
// visible; record gets m and l. Vector j of the segment goes to chain j % 4 of the sum. Groups of four
// vectors that hold no visible slot are left out: they would add zeros.
void softmax_segment(const AttentionTask& task, int64_t begin, int64_t end, float* s, float* record) {
    constexpr int64_t kGroup = 4 * kLanes;
    const float lowest = -__builtin_inff();
    const Vec scale = broadcast(task.scale), cap = broadcast(task.softcap);
    for (int64_t t = begin / kLanes * kLanes; t < end; t += kLanes) {
        Vec score = load(s + t) * scale;
        if (task.softcap > 0) score = softcap(score, cap);
        store(s + t, score);
    }
    const int64_t first = begin / kGroup * kGroup, last = (end + kGroup - 1) / kGroup * kGroup;
    for (int64_t t = first; t < begin; ++t) s[t] = lowest;
    for (int64_t t = end; t < last; ++t) s[t] = lowest;
    Vec top[4] = {broadcast(lowest), broadcast(lowest), broadcast(lowest), broadcast(lowest)};
    for (int64_t t = first; t < last; t += kGroup) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) top[j] = max(top[j], load(s + t + j * kLanes));
    }
    const float m = largest(max(max(top[0], top[1]), max(top[2], top[3])));
    const Vec shift = broadcast(m == lowest ? 0.0f : m);  // all scores -inf: p = 0, not NaN
    Vec total[4] = {zero(), zero(), zero(), zero()};
    for (int64_t t = first; t < last; t += kGroup) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const Vec p = exp(load(s + t + j * kLanes) - shift);
            store(s + t + j * kLanes, p);
            total[j] = total[j] + p;
        }
    }
    record[0] = m;
    record[1] = sum((total[0] + total[1]) + (total[2] + total[3]));
}

// ---- Values ----------------------------------------------------------------------------------------------

// sums[i][0, 16 N) += p[i][t] * v[t] for positions t ascending.
template <int Q, int N, class T>
void value_tile(const T* v, int64_t v_stride, const float* p, int64_t positions, float* sums,
                int64_t sum_stride) {
    Vec total[Q][N];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) total[i][j] = load(sums + i * sum_stride + j * kLanes);
    }
    for (int64_t t = 0; t < positions; ++t) {
        Vec value[N];
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) value[j] = load_any(v + t * v_stride + j * kLanes);
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

// The same for all value dimensions: v is [positions][v_stride], v_stride a multiple of 16.
template <int Q, class T>
void value_vectors(const T* v, int64_t v_stride, const float* p, int64_t positions, float* sums,
                   int64_t sum_stride) {
    constexpr int kMost = Q * 4 <= kTileVectors ? 4 : Q * 2 <= kTileVectors ? 2 : 1;
    int64_t d = 0;
    for (; d + kMost * kLanes <= v_stride; d += kMost * kLanes) {
        value_tile<Q, kMost, T>(v + d, v_stride, p, positions, sums + d, sum_stride);
    }
    if constexpr (kMost == 4) {
        if (d + 2 * kLanes <= v_stride) {
            value_tile<Q, 2, T>(v + d, v_stride, p, positions, sums + d, sum_stride);
            d += 2 * kLanes;
        }
    }
    if constexpr (kMost > 1) {
        if (d < v_stride) value_tile<Q, 1, T>(v + d, v_stride, p, positions, sums + d, sum_stride);
    }
}

template <class T, int Q = 1>
void value_queries(int64_t n, const T* v, int64_t v_stride, const float* p, int64_t positions, float* sums,
                   int64_t sum_stride) {
    if (n == Q) {
        value_vectors<Q, T>(v, v_stride, p, positions, sums, sum_stride);
    } else if constexpr (Q < kTileQueries) {
        value_queries<T, Q + 1>(n, v, v_stride, p, positions, sums, sum_stride);
    }
}

// The values of one page and the weights and sums of a call's queries.
template <class T>
struct ValuePage {
    const T* v;  // [32][v_stride]
    int64_t v_stride;
    int64_t first;        // position of slot 0
    int64_t segment;      // position of the weights' column 0
    const float* scores;  // p of all queries
    float* sums;          // of all queries
    int64_t sum_stride;

    // Positions [begin, end) for queries [query_begin, query_end).
    void add(int64_t query_begin, int64_t query_end, int64_t begin, int64_t end) const {
        if (begin >= end) return;
        each_tile(query_end - query_begin, [&](int64_t i, int64_t size) {
            const int64_t query = query_begin + i;
            value_queries<T>(size, v + (begin - first) * v_stride, v_stride,
                             scores + query * kScoreStride + begin - segment, end - begin,
                             sums + query * sum_stride, sum_stride);
        });
    }

    // A run of rows: the positions that all of them see in common tiles, those before and after row by row.
    void add_run(const Rows& rows, const Run& run) const {
        int64_t common_begin = first, common_end = first + kPageTokens;
        for (int64_t r = run.first; r < run.last; ++r) {
            common_begin = greater(common_begin, rows.begin[r]);
            common_end = lesser(common_end, rows.end[r]);
        }
        if (common_begin >= common_end) common_begin = common_end = first + kPageTokens;
        for (int64_t r = run.first; r < run.last; ++r) {
            add_row(rows, r, first, common_begin);
        }
        add(run.first * rows.group, run.last * rows.group, common_begin, common_end);
        for (int64_t r = run.first; r < run.last; ++r) {
            add_row(rows, r, common_end, first + kPageTokens);
        }
    }

    void add_row(const Rows& rows, int64_t r, int64_t begin, int64_t end) const {
        add(r * rows.group, (r + 1) * rows.group, greater(begin, rows.begin[r]), lesser(end, rows.end[r]));
    }
};

// One page as float: K [head_dim][32], or V [32][v_dim] with rows padded to whole vectors.
void convert_k_page(const uint16_t* k, int64_t head_dim, float* out) {
    for (int64_t i = 0; i < head_dim * kPageTokens; i += kLanes) store(out + i, load_f16(k + i));
}

void convert_v_page(const uint16_t* v, int64_t v_dim, float* out) {
    for (int64_t t = 0; t < kPageTokens; ++t) {
        int64_t d = 0;
        for (; d + kLanes <= v_dim; d += kLanes, out += kLanes) store(out, load_f16(v + t * v_dim + d));
        if (d < v_dim) {
            store(out, load_f16_8(v + t * v_dim + d));
            out += kLanes;
        }
    }
}

// ---- Segments --------------------------------------------------------------------------------------------

// The records of one segment, which some row sees.
void segment_records(const Rows& rows, int64_t segment, float* scratch, float* records) {
    const KvLayer& kv = rows.task.kv;
    const int64_t queries = rows.queries();
    const AttentionScratch at = attention_scratch_layout(queries, kv.head_dim, kv.v_dim);
    float* scores = scratch + at.scores;
    const int64_t stride = record_stride(kv.v_dim);
    const int64_t origin = segment * kSegmentTokens;
    const int64_t first_page = origin / kPageTokens, last_page = first_page + kSegmentTokens / kPageTokens;
    Run run;

    for (int64_t page = first_page; page < last_page; ++page) {
        const float* converted = nullptr;
        for (int64_t r = 0; next_run(rows, page, r, run); r = run.last) {
            const int64_t begin = run.first * rows.group, end = run.last * rows.group;
            float* page_scores = scores + page * kPageTokens - origin;
            if (end - begin <= kTileQueries) {
                score_page(rows, begin, end, rows.k_page(page), page_scores);
                continue;
            }
            if (!converted) {
                convert_k_page(rows.k_page(page), kv.head_dim, scratch + at.k_page);
                converted = scratch + at.k_page;
            }
            score_page(rows, begin, end, converted, page_scores);
        }
    }

    for (int64_t i = 0; i < queries; ++i) {
        const int64_t r = i / rows.group;
        if (rows.begin[r] == rows.end[r]) continue;
        float* record = records + i * stride;
        softmax_segment(rows.task, rows.begin[r] - origin, rows.end[r] - origin, scores + i * kScoreStride,
                        record);
        memset(record + kRecordSums, 0, static_cast<size_t>(stride - kRecordSums) * sizeof(float));
    }

    for (int64_t page = first_page; page < last_page; ++page) {
        const float* converted = nullptr;
        for (int64_t r = 0; next_run(rows, page, r, run); r = run.last) {
            const int64_t position = page * kPageTokens;
            if ((run.last - run.first) * rows.group <= kTileQueries && kv.v_dim % kLanes == 0) {
                const ValuePage<uint16_t> values{rows.v_page(page),     kv.v_dim, position, origin, scores,
                                                 records + kRecordSums, stride};
                values.add_run(rows, run);
                continue;
            }
            if (!converted) {
                convert_v_page(rows.v_page(page), kv.v_dim, scratch + at.v_page);
                converted = scratch + at.v_page;
            }
            const ValuePage<float> values{converted, whole_vectors(kv.v_dim), position, origin,
                                          scores,    records + kRecordSums,   stride};
            values.add_run(rows, run);
        }
    }
}

// Merges a record into the running m, l and the output row: the larger maximum becomes the common one.
void merge_record(const float* record, int64_t v_dim, float* running, float* out) {
    const float lowest = -__builtin_inff();
    const float m = record[0] > running[0] ? record[0] : running[0];
    const Vec shift = broadcast(m == lowest ? 0.0f : m);
    const Vec kept = broadcast(first_lane(exp(broadcast(running[0]) - shift)));
    const Vec added = broadcast(first_lane(exp(broadcast(record[0]) - shift)));
    running[0] = m;
    running[1] = first_lane(fma(broadcast(running[1]), kept, broadcast(record[1]) * added));
    for (int64_t d = 0; d < v_dim; d += kLanes) {
        const int64_t lanes = lesser(v_dim - d, kLanes);
        const Vec sums = load(record + kRecordSums + d) * added;
        store_n(out + d, fma(load_n(out + d, lanes), kept, sums), lanes);
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
        store_n(out + d, load_n(out + d, lanes) / divisor, lanes);
    }
}

// ---- What the table offers -------------------------------------------------------------------------------

void attention_partial(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head,
                       int64_t segment_begin, int64_t segment_end, float* scratch, float* partials) {
    Rows rows = rows_of_call(task, row_begin, row_end, kv_head);
    const int64_t size = rows.queries() * record_stride(task.kv.v_dim);
    for (int64_t s = segment_begin; s < segment_end; ++s, partials += size) {
        if (enter_segment(rows, s)) segment_records(rows, s, scratch, partials);
    }
}

void attention_merge(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head,
                     int64_t segment_begin, int64_t segment_end, const float* partials) {
    Rows rows = rows_of_call(task, row_begin, row_end, kv_head);
    const int64_t v_dim = task.kv.v_dim, stride = record_stride(v_dim);
    for (int64_t i = 0; i < rows.queries(); ++i) {
        float running[2];
        start_row(v_dim, running, rows.out(i));
        for (int64_t s = segment_begin; s < segment_end; ++s) {
            enter_segment(rows, s);
            const int64_t r = i / rows.group;
            if (rows.begin[r] == rows.end[r]) continue;
            merge_record(partials + ((s - segment_begin) * rows.queries() + i) * stride, v_dim, running,
                         rows.out(i));
        }
        finish_row(v_dim, running, rows.out(i));
    }
}

void attention(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head,
               float* scratch) {
    Rows rows = rows_of_call(task, row_begin, row_end, kv_head);
    const int64_t v_dim = task.kv.v_dim, queries = rows.queries();
    const AttentionScratch at = attention_scratch_layout(queries, task.kv.head_dim, v_dim);
    float* records = scratch + at.records;
    float* running = scratch + at.running;
    int64_t first = task.visible_begin[row_begin], last = task.visible_end[row_begin];
    for (int64_t r = row_begin + 1; r < row_end; ++r) {
        first = lesser(first, task.visible_begin[r]);
        last = greater(last, task.visible_end[r]);
    }
    for (int64_t i = 0; i < queries; ++i) start_row(v_dim, running + 2 * i, rows.out(i));
    for (int64_t s = first / kSegmentTokens; s * kSegmentTokens < last; ++s) {
        if (!enter_segment(rows, s)) continue;
        segment_records(rows, s, scratch, records);
        for (int64_t i = 0; i < queries; ++i) {
            const int64_t r = i / rows.group;
            if (rows.begin[r] == rows.end[r]) continue;
            merge_record(records + i * record_stride(v_dim), v_dim, running + 2 * i, rows.out(i));
        }
    }
    for (int64_t i = 0; i < queries; ++i) finish_row(v_dim, running + 2 * i, rows.out(i));
}

}  // namespace
}  // namespace ollamapy::cpu
