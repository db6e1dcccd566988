// A compiled graph: a flat list of instructions over one arena, and the layer groups of its KV cache.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "cpu/kernels.h"
#include "graph/graph.h"
#include "runtime/weights.h"

namespace ollamapy {

constexpr int kNone = -1;

// A place in the arena for one row symbol's worth of f32 or quantized rows.
struct Buffer {
    Rows rows;
    int64_t width;
    bool quantized;
    size_t offset = 0;  // bytes from the start of the arena
    size_t bytes = 0;   // at the program's largest row counts
    int first = kNone;  // instructions that write and last read it
    int last = kNone;
};

// One step of a row-wise chain: it turns the current row into the next one.
struct RowStep {
    enum class Kind : uint8_t {
        kLoad,    // the row of buffer `other`
        kGather,  // the row of buffer `other` that the step's n-th output row stands at
        kEmbed,
        kScale,
        kAdd,  // + the row of buffer `other`
        kRmsNorm,
        kLayerNorm,
        kSilu,
        kGeluTanh,
        kGeluErf,
        kSwiglu,  // with buffer `other` as up, or as gate when `swapped`
        kGeglu,
        kSoftcap,
    };
    Kind kind;
    int value;  // the graph's value that this step computes
    int other = kNone;
    bool swapped = false;
    float factor = 0;  // scale, cap or eps
    int64_t head_dim = 0;
    EmbedIndex index = EmbedIndex::kToken;
    std::shared_ptr<const Matrix> table{};
    std::shared_ptr<const std::vector<float>> weight{}, bias{};
    int store = kNone;            // buffer that keeps this value as f32
    int store_quantized = kNone;  // buffer that keeps it in 8 bits
};

// Row-wise operations, fused: each row walks through all steps while it lies in the nearest cache.
struct RowChain {
    Rows rows;
    int64_t width;
    std::vector<RowStep> steps;
    // The next instruction is the only reader of its 8-bit rows: when there are few, every thread computes
    // them for itself, which costs less than to wait for each other and to move them between cores.
    bool feeds_next = false;
};

// Products of one input with several weights, one dispatch.
struct MatmulGroup {
    struct Part {
        std::shared_ptr<const Matrix> weight;
        std::shared_ptr<const std::vector<float>> bias;
        int y;
        int residual = kNone;
    };
    Rows rows;
    int64_t cols;
    int quantized = kNone;  // input in 8 bits
    int floats = kNone;     // input as f32
    std::vector<Part> parts{};
    // Two parts, gate and up, whose products nobody sees: what is kept is activation(gate) * up in 8 bits.
    struct Gated {
        RowStep::Kind activation;  // kSwiglu or kGeglu
        int gate;                  // which part
        int out;                   // quantized buffer
    };
    std::optional<Gated> gated{};
};

// cos and sin of every row's position.
struct RopeTable {
    RopeConfig config;
    std::vector<double> frequencies;  // rotary_dims / 2, radians per position
    int cos;
    int sin;
};

// QK-norm and RoPE of q in place, of k on its way into the page, v into the page.
struct HeadPrepare {
    struct Heads {
        int buffer;
        int64_t count;
        std::shared_ptr<const std::vector<float>> norm;  // null: none
        float eps = 0;
        bool normalized = false;
        int table = kNone;  // instruction number of the RopeTable
        int64_t rotary_dims = 0;
        cpu::RopePairing pairing = cpu::RopePairing::kInterleaved;
    };
    Heads q, k;
    int q_out;
    int v;
    int64_t head_dim;
    int64_t v_dim;
    int group;
    int layer;
};

struct AttentionLayer {
    int q;
    int out;
    int64_t n_heads;
    int64_t n_kv_heads;
    int64_t head_dim;
    int64_t v_dim;
    float scale;
    float softcap;
    int group;
    int layer;
};

struct PoolRows {
    int x;
    int out;
    PoolKind kind;
    bool normalize;
};

using Instruction = std::variant<RowChain, MatmulGroup, RopeTable, HeadPrepare, AttentionLayer, PoolRows>;

// Layers that share a page table. A page holds kPageTokens tokens of all of them.
struct LayerGroup {
    struct Layer {
        int64_t k_offset, v_offset;  // bytes from the start of the page
        int64_t n_kv_heads, head_dim, v_dim;
    };
    int64_t window = 0;    // 0: global
    bool scratch = false;  // bidirectional: one step's K and V, all layers in the same place
    cpu::KvType type = cpu::KvType::kF16;
    int64_t page_bytes = 0;
    std::vector<Layer> layers{};
};

class Program {
  public:
    std::shared_ptr<Device> device;
    std::vector<Instruction> instructions;
    std::vector<Buffer> buffers;
    std::vector<LayerGroup> groups;
    int output = kNone;  // buffer
    Rows output_rows = Rows::kLogits;
    int64_t output_width = 0;
    int64_t max_rows = 0;
    int64_t max_outputs = 0;
    int64_t widest_row = 0;        // floats a thread needs for one row of any chain
    int64_t vocabulary = 0;        // rows of the token table, 0: none
    int64_t positions = 0;         // rows of the position table, 0: no limit of its own
    size_t attention_scratch = 0;  // floats a thread needs
    size_t matmul_scratch = 0;     // bytes a thread needs
    size_t private_rows = 0;       // bytes a thread needs for rows of its own (RowChain::feeds_next)
    bool gated = false;            // some product is
    size_t arena_bytes = 0;

    bool pooled() const { return output_rows == Rows::kSequences; }
    std::string describe() const;
};

// One line about an instruction.
std::string describe(const Instruction& instruction);

// Calls touch(buffer) for every buffer that an instruction reads or writes; kNone is among them.
void for_buffers(const Instruction& instruction, const Program& program,
                 const std::function<void(int)>& touch);

// Fusion over whole instructions: gate, up and their activation become one product, and chains that feed the
// next instruction are found.
void fuse(Program& program);

// Give every buffer its place; buffers whose lives do not overlap share memory. Fills offsets and
// arena_bytes.
void plan_memory(Program& program);

// Rows of a chain with feeds_next that every thread computes for itself, at most.
constexpr int64_t kPrivateRows = 16;

}  // namespace ollamapy
