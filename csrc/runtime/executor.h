// Runs a Program for one batch.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "graph/program.h"
#include "runtime/kv_cache.h"
#include "runtime/work_shares.h"

namespace ollamapy {

// All new rows of a step, flattened: sequence after sequence, positions ascending.
struct Batch {
    struct Sequence {
        int64_t first_row;
        int64_t rows;
        std::vector<const int32_t*> pages;  // by layer group: entry i holds positions [32 i, 32 i + 32)
    };
    std::vector<Sequence> sequences;
    std::vector<int32_t> tokens;     // [rows]
    std::vector<int32_t> positions;  // [rows]
    std::vector<int32_t> limits;     // [rows] one past the last position a row sees
    std::vector<int32_t> outputs;    // logits: rows that get them; pooled: sequences that give one
    int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
};

class Executor {
  public:
    // Run the whole program and return the output rows, [batch.outputs][program.output_width], valid until
    // the next run on the device. The batch was checked before: rows, outputs, tokens, positions and pages
    // are in range.
    const float* run(const Program& program, const KVCache& cache, const Batch& batch);

    // Nanoseconds by instruction, added up over runs while profiling.
    std::vector<int64_t> profile;
    bool profiling = false;

  private:
    struct AttentionTile {
        int sequence;
        int64_t first_row, rows;
    };
    // Segments [begin, end) of 256 positions that the rows of a tile see.
    struct Segments {
        int64_t begin, end;
    };

    // What a thread has prefetched of a product.
    struct alignas(64) Ahead {
        size_t instruction = 0;
        int64_t bytes = 0;
    };

    int64_t rows_of(Rows rows) const;
    float* floats(int buffer) const;
    cpu::QuantizedRows quantized(int buffer) const;
    cpu::QuantizedRows private_rows(int64_t width, int thread) const;
    cpu::KvLayer kv_layer(int group, int layer) const;

    void prepare();
    int64_t chunks(const Instruction& instruction) const;
    // How many threads may share the segments of one tile and KV head: 1 where there are tiles enough.
    int64_t attention_parts(const AttentionLayer& layer) const;
    size_t partial_stride(const AttentionLayer& layer) const;  // floats between tiles and KV heads
    void chunk(size_t number, int64_t index, int thread);
    // Rows [begin, end). Where 8-bit rows go to a thread of its own (alone), it stores only its share of the
    // f32 rows.
    void run_rows(const RowChain& chain, int64_t begin, int64_t end, int thread, bool alone);
    static int64_t pieces(const MatmulGroup& group);
    void run_matmul(const MatmulGroup& group, int64_t index, int64_t count, int thread, bool alone);
    void run_gated(const MatmulGroup& group, const cpu::QuantizedRows& x, Range pairs, Range rows,
                   int thread);
    void prefetch_ahead(size_t next, int thread);
    void run_rope_table(const RopeTable& table, int64_t begin, int64_t end);
    void run_heads(const HeadPrepare& heads, int64_t begin, int64_t end, int thread);
    void run_attention(const AttentionLayer& layer, int64_t index, int64_t count, int thread);
    void attend(const AttentionLayer& layer, int64_t unit, int64_t part, int64_t parts, int thread);
    void run_pool(const PoolRows& pool, int64_t index);

    const Program* program_ = nullptr;
    const KVCache* cache_ = nullptr;
    const Batch* batch_ = nullptr;
    const cpu::Isa* isa_ = nullptr;
    uint8_t* arena_ = nullptr;
    int threads_ = 1;
    WorkShares shares_;
    std::vector<Ahead> ahead_;                           // per thread
    std::vector<int64_t> counts_;                        // by instruction: chunks
    std::vector<std::vector<float>> row_scratch_;        // per thread
    std::vector<std::vector<float>> attention_scratch_;  // per thread
    std::vector<AlignedBuffer> matmul_scratch_;          // per thread
    std::vector<AlignedBuffer> private_rows_;            // per thread: 8-bit rows of its own
    std::vector<AlignedBuffer> gated_;                   // per thread: gate and up of some outputs
    std::vector<bool> alone_;                            // by instruction: every thread for itself
    std::vector<AttentionTile> tiles_;
    int64_t most_tile_rows_ = 0;
    std::vector<int> sequence_of_row_;
    std::vector<std::vector<int32_t>> visible_begin_;  // by group: [rows]
    std::vector<std::vector<Segments>> segments_;      // by group: [tiles]
    std::vector<int64_t> visible_;                     // by group: positions seen, summed over rows
    AlignedBuffer partials_;                           // of shared tiles
    std::vector<std::atomic<int64_t>> parts_done_;     // by tile and KV head
};

}  // namespace ollamapy
