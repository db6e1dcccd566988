// The kernels of the CPU device. Two tables per instruction set: matrix products (matmul_*.cpp) and
// everything that works on rows (rows_*.cpp). dispatch.cpp picks one of each at run time.
//
// One row, one result: a kernel's result for one row never depends on which other rows it is called with, on
// how the work is cut, or on the thread. All tables follow the same order of operations with explicit fma, so
// that they also agree with the portable reference bit for bit; the tests demand it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gguf/dtype.h"

namespace ollamapy::cpu {

constexpr int64_t kTileRows = 16;        // weight rows (outputs) interleaved in one tile
constexpr int64_t kBlock = 32;           // inner values per activation block
constexpr int64_t kPageTokens = 32;      // tokens per KV page
constexpr int64_t kSegmentTokens = 256;  // positions per attention segment, counted from position 0

// ---- Matrix products -------------------------------------------------------------------------------------

// A weight matrix [rows][cols] repacked into tiles of 16 rows, blocks of 32 columns, strictly sequential
// (layouts: packed.h). rows is padded with zero rows to a whole tile inside data. data is 64-byte aligned.
struct PackedView {
    DType type;    // the type in the file; it selects layout and kernel
    int64_t rows;  // outputs
    int64_t cols;  // inner dimension
    const uint8_t* data;
};

// True when products with this type take 8-bit activations (QuantizedRows), false when they take f32 rows.
constexpr bool takes_quantized(DType type) {
    return type != DType::F32 && type != DType::F16 && type != DType::BF16;
}

// Activations in 8 bits: per row and block of 32 columns 32 int8, the scale and scale * sum, in panels of
// rows (layout: packed.h). cols is a multiple of 32. The buffer holds quantized_bytes(rows, cols) bytes,
// 64-byte aligned.
struct QuantizedRows {
    uint8_t* data;
    int64_t rows;  // rows the buffer was made for
    int64_t cols;
};
size_t quantized_bytes(int64_t rows, int64_t cols);

// y[m][n] = sum_k x[m][k] w[n][k] (+ bias[n]) (+ residual[m][n]), all f32, in that order.
struct MatmulTask {
    PackedView w;
    QuantizedRows xq;   // when takes_quantized(w.type)
    const float* xf;    // else: f32 rows
    int64_t xf_stride;  // floats between rows of xf
    float* y;
    int64_t y_stride;       // floats between rows of y
    const float* bias;      // [w.rows] or null
    const float* residual;  // [rows][residual_stride] or null; may be y itself
    int64_t residual_stride;
    uint8_t* scratch;  // the calling thread's scratch_bytes(w.type, w.cols), 64-byte aligned
};

struct MatmulKernels {
    const char* name;  // "portable", "avx2", "avx512"
    // Rows [row_begin, row_end) by weight tiles [tile_begin, tile_end). row_begin is a multiple of
    // kPanelRows.
    void (*matmul)(const MatmulTask& task, int64_t tile_begin, int64_t tile_end, int64_t row_begin,
                   int64_t row_end);
    // Quantize blocks [block_begin, block_end) of a row into their place in out; x is the first value of
    // block_begin. How they are rounded: packed.h.
    void (*quantize_row)(const float* x, const QuantizedRows& out, int64_t row, int64_t block_begin,
                         int64_t block_end);
    // Bytes of scratch that products with such weights need, however many the rows. May be 0.
    size_t (*scratch_bytes)(DType type, int64_t cols);
};

// ---- Rows ------------------------------------------------------------------------------------------------

enum class RopePairing : uint8_t {
    kInterleaved,  // pairs (2i, 2i+1): ggml "norm", arch llama
    kHalves,       // pairs (i, i + n/2): ggml "neox", archs qwen3, gemma3
};

// What a KV page holds (layouts: kv_page.h). Attention computes with the values as the page has them.
enum class KvType : uint8_t { kF16, kQ8_0, kQ4_0 };

// Where the K and V of one layer lie: page p of the group's pool starts at pool + p * page_stride; inside it,
// K of all kv heads is at k_offset and V at v_offset. All in bytes; f16 values lie at even addresses.
struct KvLayer {
    uint8_t* pool;
    int64_t page_stride;
    int64_t k_offset;
    int64_t v_offset;
    int32_t n_kv_heads;
    int32_t head_dim;  // of Q and K; a multiple of 8
    int32_t v_dim;     // a multiple of 8
    KvType type;
};

// Rows of one sequence. pages[i] holds positions [32 i, 32 i + 32); only pages that hold a position some row
// of the call sees are looked at. out overlaps nothing else.
struct AttentionTask {
    KvLayer kv;
    const int32_t* pages;
    const float* q;  // [rows][q_stride], head h at h * head_dim
    int64_t q_stride;
    float* out;  // [rows][out_stride], head h at h * v_dim
    int64_t out_stride;
    int32_t n_heads;               // a multiple of n_kv_heads; head h uses kv head h / (n_heads / n_kv_heads)
    float scale;                   // > 0; scores = scale * q.k
    float softcap;                 // > 0: scores = softcap * tanh(scores / softcap)
    const int32_t* visible_begin;  // [rows] first position a row sees
    const int32_t* visible_end;    // [rows] one past the last; begin < end
};

struct RowKernels {
    const char* name;
    // x, y, out: n floats. out may be x or y.
    void (*add)(const float* x, const float* y, float* out, int64_t n);
    void (*scale)(const float* x, float factor, float* out, int64_t n);
    void (*softcap)(const float* x, float cap, float* out, int64_t n);  // cap * tanh(x / cap)
    void (*rms_norm)(const float* x, const float* weight, float eps, float* out, int64_t n);
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, float* out,
                       int64_t n);
    void (*l2_norm)(const float* x, float* out, int64_t n);  // x / max(|x|, 1e-12)
    void (*silu)(const float* x, float* out, int64_t n);
    void (*gelu_tanh)(const float* x, float* out, int64_t n);
    void (*gelu_erf)(const float* x, float* out, int64_t n);
    void (*swiglu)(const float* gate, const float* up, float* out, int64_t n);  // silu(gate) * up
    void (*geglu)(const float* gate, const float* up, float* out, int64_t n);   // gelu_tanh(gate) * up
    // Rotate the first rotary_dims values of each head in place. cos, sin: [rotary_dims / 2].
    void (*rope)(float* x, int64_t n_heads, int64_t head_dim, int64_t rotary_dims, RopePairing pairing,
                 const float* cos, const float* sin);
    // Round one token's K [n_kv_heads][head_dim] and V [n_kv_heads][v_dim], clamped to +-65504, into the
    // page. In a quantized page a NaN makes its whole block NaN.
    void (*store_kv)(const KvLayer& kv, int32_t page, int32_t slot, const float* k, const float* v);
    // Attention of rows [row_begin, row_end), 1 to kAttentionRows of them, for the query heads of one kv
    // head. scratch: attention_scratch() floats.
    void (*attention)(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head,
                      float* scratch);
    // The same in two parts with the same bits, so that threads can share the segments of one long row.
    // partial writes the records of the segments [segment_begin, segment_end) (segment s: positions [256 s,
    // 256 s + 256)), one per segment, row and query head of the kv head, from partials on:
    // attention_partial_floats() per segment. Segments that no row sees are skipped, their records left
    // alone.
    void (*attention_partial)(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head,
                              int64_t segment_begin, int64_t segment_end, float* scratch, float* partials);
    // Merges the records of segments [segment_begin, segment_end), all that the rows see, and writes out.
    // partials starts with the record of segment_begin; row_begin, row_end and kv_head are those of the
    // partial calls.
    void (*attention_merge)(const AttentionTask& task, int64_t row_begin, int64_t row_end, int32_t kv_head,
                            int64_t segment_begin, int64_t segment_end, const float* partials);
    // max over x and log(sum(exp(x - max))): the log of the softmax denominator is max + log_sum.
    void (*log_sum_exp)(const float* x, int64_t n, float* max, float* log_sum);
    // keys[i] = sort_key(x[i]), block_max[b] the greatest key of block b of kKeyBlock (the last may be
    // shorter), and the least and the greatest of all. n > 0.
    void (*sort_keys)(const float* x, int64_t n, int32_t* keys, int32_t* block_max, int32_t* least,
                      int32_t* greatest);
};

// Floats as integers of the same order: comparing them is fast and total, and -0 equals 0. NaNs lie beyond
// the infinities, on both sides.
static constexpr int32_t sort_key(float x) {
    const auto bits = __builtin_bit_cast(int32_t, x + 0.0f);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}
static constexpr float from_sort_key(int32_t key) {
    return __builtin_bit_cast(float, key ^ ((key >> 31) & 0x7fffffff));
}
constexpr int64_t kKeyBlock = 64;

constexpr int64_t kAttentionRows = 32;  // most rows in one attention call
size_t attention_scratch(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, int32_t v_dim);  // floats
size_t attention_partial_floats(int32_t n_heads, int32_t n_kv_heads, int32_t v_dim,
                                int64_t rows);  // per segment

// ---- Dispatch --------------------------------------------------------------------------------------------

struct PeakKernels;  // cpu/peak.h

// The tables by name, widest the CPU can run when name is empty ("" or OLLAMAPY_ISA unset).
// Throws InvalidError for an unknown name or an instruction set that this CPU lacks.
struct Isa {
    const char* name;  // "portable", "avx2", "avx512"
    const MatmulKernels* matmul;
    const RowKernels* rows;
    const PeakKernels* peak;
};
const Isa& select_isa(const char* name);
// Names that this CPU can run, widest first.
const char* const* available_isas(size_t* count);

}  // namespace ollamapy::cpu
