// The graph that a model writes down: one node per operation, values are matrices of symbolic rows by width
// floats.
//
// The builder checks names and shapes against the file and reads no tensor; compile() (compile.cpp) turns the
// graph into a Program.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "runtime/weights.h"

namespace ollamapy {

class Program;

// What a value has one row for.
enum class Rows : uint8_t {
    kTokens,     // every new token of the step
    kLogits,     // the rows that will be sampled
    kSequences,  // every sequence that asks for a pooled output
};

enum class Op : uint8_t {
    kEmbed,
    kScale,
    kAdd,
    kRmsNorm,
    kLayerNorm,
    kLinear,
    kRope,
    kAttention,
    kSilu,
    kGeluTanh,
    kGeluErf,
    kSwiglu,
    kGeglu,
    kSoftcap,
    kSelectRows,
    kPool,
};

enum class EmbedIndex : uint8_t { kToken, kPosition, kZero };
enum class PoolKind : uint8_t { kMean, kCls, kLast };

// Frequencies of a rotary embedding; layers that share them share the table of sines.
struct RopeConfig {
    int64_t rotary_dims = 0;
    double base = 10000.0;
    double linear_scale = 1.0;
    std::string factors{};  // tensor of rotary_dims / 2 divisors, or empty
    bool operator==(const RopeConfig&) const = default;
};

struct Node {
    Op op;
    std::vector<int> inputs{};
    Rows rows = Rows::kTokens;
    int64_t width = 0;

    std::string weight{};  // embed, norms, linear
    std::string bias{};    // layer norm, linear
    float eps = 0;
    float factor = 0;      // scale, softcap of logits
    int64_t head_dim = 0;  // norms per head (0: whole width), rope, attention
    EmbedIndex index = EmbedIndex::kToken;
    PoolKind pool = PoolKind::kMean;
    bool normalize = false;
    RopeConfig rope{};
    cpu::RopePairing pairing = cpu::RopePairing::kInterleaved;
    int64_t window = 0;
    bool bidirectional = false;
    float scale = 1;
    float softcap = 0;  // of attention scores
};

class Graph {
  public:
    explicit Graph(std::shared_ptr<Weights> weights) : weights_(std::move(weights)) {}

    // Each returns the new node's number. Throws FileError for a missing or misshapen tensor, InvalidError
    // for values that do not fit together.
    int embed(const std::string& weight, EmbedIndex index);
    int scale(int x, float factor);
    int add(int a, int b);
    int rms_norm(int x, const std::string& weight, float eps, int64_t head_dim);
    int layer_norm(int x, const std::string& weight, const std::string& bias, float eps);
    int linear(int x, const std::string& weight, const std::string& bias);
    int rope(int x, int64_t head_dim, const RopeConfig& config, cpu::RopePairing pairing);
    int attention(int q, int k, int v, int64_t head_dim, float scale, int64_t window, bool bidirectional,
                  float softcap);
    int unary(Op op, int x);
    int glu(Op op, int gate, int up);
    int softcap(int x, float cap);
    int select_rows(int x);
    int pool(int x, PoolKind kind, bool normalize);

    const Node& node(int value) const;
    const std::vector<Node>& nodes() const { return nodes_; }
    const std::shared_ptr<Weights>& weights() const { return weights_; }

    // Fuse, plan and load the weights it needs. kv_type: what the pages of causal layers hold; those of
    // bidirectional ones, which live for one step, hold f16. Throws as above, and std::bad_alloc.
    std::shared_ptr<Program> compile(int output, int64_t max_rows, int64_t max_outputs,
                                     cpu::KvType kv_type) const;

  private:
    int push(Node node);
    void expect_vector(const std::string& name, int64_t length) const;

    std::shared_ptr<Weights> weights_;
    std::vector<Node> nodes_;
};

}  // namespace ollamapy
