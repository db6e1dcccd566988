#include "graph/graph.h"

#include <cmath>

#include "errors.h"

namespace ollamapy {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 22;
constexpr int64_t kMaxHeadDim = 1024;

std::string shape_text(const TensorInfo& tensor) {
    std::string text = "[";
    for (uint32_t i = 0; i < tensor.n_dims; ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[i]);
    return text + "]";
}

[[noreturn]] void misshapen(const TensorInfo& tensor, const std::string& wanted) {
    throw FileError("tensor '" + tensor.name + "' has shape " + shape_text(tensor) + ", expected " + wanted);
}

void expect_finite(float value, const char* what) {
    if (!std::isfinite(value)) throw InvalidError(std::string(what) + " is not a finite number");
}

}  // namespace

const Node& Graph::node(int value) const {
    if (value < 0 || value >= static_cast<int>(nodes_.size())) throw InvalidError("value of another graph");
    return nodes_[value];
}

int Graph::push(Node node) {
    if (node.width <= 0 || node.width > kMaxWidth) {
        throw InvalidError("a value of width " + std::to_string(node.width) + " cannot be computed");
    }
    nodes_.push_back(std::move(node));
    return static_cast<int>(nodes_.size()) - 1;
}

void Graph::expect_vector(const std::string& name, int64_t length) const {
    const TensorInfo& tensor = weights_->info(name);
    if (tensor.elements() != length || tensor.shape[0] != length) {
        misshapen(tensor, "[" + std::to_string(length) + "]");
    }
}

int Graph::embed(const std::string& weight, EmbedIndex index) {
    const TensorInfo& tensor = weights_->info(weight);
    if (tensor.n_dims > 2) misshapen(tensor, "a matrix");
    Node node{.op = Op::kEmbed};
    node.width = tensor.shape[0];
    node.weight = weight;
    node.index = index;
    return push(std::move(node));
}

int Graph::scale(int x, float factor) {
    expect_finite(factor, "scale");
    Node node{.op = Op::kScale, .inputs = {x}, .rows = this->node(x).rows, .width = this->node(x).width};
    node.factor = factor;
    return push(std::move(node));
}

int Graph::add(int a, int b) {
    const Node &x = node(a), &y = node(b);
    if (x.width != y.width || x.rows != y.rows) {
        throw InvalidError("add: widths " + std::to_string(x.width) + " and " + std::to_string(y.width) +
                           " or rows differ");
    }
    return push({.op = Op::kAdd, .inputs = {a, b}, .rows = x.rows, .width = x.width});
}

int Graph::rms_norm(int x, const std::string& weight, float eps, int64_t head_dim) {
    expect_finite(eps, "eps");
    const Node& input = node(x);
    if (head_dim < 0 || (head_dim > 0 && input.width % head_dim != 0)) {
        throw InvalidError("rms_norm: width " + std::to_string(input.width) +
                           " is not a multiple of head_dim " + std::to_string(head_dim));
    }
    if (!weight.empty()) expect_vector(weight, head_dim ? head_dim : input.width);
    Node out{.op = Op::kRmsNorm, .inputs = {x}, .rows = input.rows, .width = input.width};
    out.weight = weight;
    out.eps = eps;
    out.head_dim = head_dim;
    return push(std::move(out));
}

int Graph::layer_norm(int x, const std::string& weight, const std::string& bias, float eps) {
    expect_finite(eps, "eps");
    const Node& input = node(x);
    expect_vector(weight, input.width);
    expect_vector(bias, input.width);
    Node out{.op = Op::kLayerNorm, .inputs = {x}, .rows = input.rows, .width = input.width};
    out.weight = weight;
    out.bias = bias;
    out.eps = eps;
    return push(std::move(out));
}

int Graph::linear(int x, const std::string& weight, const std::string& bias) {
    const Node& input = node(x);
    const TensorInfo& tensor = weights_->info(weight);
    if (tensor.n_dims > 2 || tensor.shape[0] != input.width) {
        misshapen(tensor, "[" + std::to_string(input.width) + ", outputs]");
    }
    if (cpu::takes_quantized(static_cast<DType>(tensor.type_id)) && tensor.shape[0] % cpu::kBlock != 0) {
        misshapen(tensor, "a multiple of 32 inputs");
    }
    if (!bias.empty()) expect_vector(bias, tensor.shape[1]);
    Node out{.op = Op::kLinear, .inputs = {x}, .rows = input.rows, .width = tensor.shape[1]};
    out.weight = weight;
    out.bias = bias;
    return push(std::move(out));
}

int Graph::rope(int x, int64_t head_dim, const RopeConfig& config, cpu::RopePairing pairing) {
    const Node& input = node(x);
    if (head_dim <= 0 || input.width % head_dim != 0) {
        throw InvalidError("rope: width " + std::to_string(input.width) + " is not a multiple of head_dim " +
                           std::to_string(head_dim));
    }
    RopeConfig full = config;
    if (full.rotary_dims == 0) full.rotary_dims = head_dim;
    if (full.rotary_dims < 0 || full.rotary_dims > head_dim || full.rotary_dims % 2 != 0) {
        throw InvalidError("rope: " + std::to_string(full.rotary_dims) + " rotary dimensions in heads of " +
                           std::to_string(head_dim));
    }
    if (!(full.base > 0) || !std::isfinite(full.base))
        throw InvalidError("rope: base must be a positive number");
    if (!(full.linear_scale > 0) || !std::isfinite(full.linear_scale)) {
        throw InvalidError("rope: linear_scale must be a positive number");
    }
    if (!full.factors.empty()) expect_vector(full.factors, full.rotary_dims / 2);
    if (input.rows != Rows::kTokens) throw InvalidError("rope: its input has no positions");
    Node out{.op = Op::kRope, .inputs = {x}, .rows = input.rows, .width = input.width};
    out.head_dim = head_dim;
    out.rope = full;
    out.pairing = pairing;
    return push(std::move(out));
}

int Graph::attention(int q, int k, int v, int64_t head_dim, float scale, int64_t window, bool bidirectional,
                     float softcap) {
    expect_finite(scale, "attention scale");
    expect_finite(softcap, "attention softcap");
    const Node &qn = node(q), &kn = node(k), &vn = node(v);
    if (head_dim <= 0 || head_dim > kMaxHeadDim || head_dim % 8 != 0) {
        throw InvalidError("attention: head_dim " + std::to_string(head_dim) +
                           " is not a multiple of 8 up to 1024");
    }
    if (qn.width % head_dim != 0 || kn.width % head_dim != 0) {
        throw InvalidError("attention: widths of q and k are not multiples of head_dim");
    }
    const int64_t heads = qn.width / head_dim, kv_heads = kn.width / head_dim;
    if (heads % kv_heads != 0) {
        throw InvalidError("attention: " + std::to_string(heads) + " heads do not divide among " +
                           std::to_string(kv_heads) + " KV heads");
    }
    if (vn.width % kv_heads != 0 || vn.width / kv_heads % 8 != 0 || vn.width / kv_heads > kMaxHeadDim) {
        throw InvalidError("attention: width " + std::to_string(vn.width) + " of v does not fit " +
                           std::to_string(kv_heads) + " KV heads of a multiple of 8");
    }
    if (window < 0) throw InvalidError("attention: negative window");
    if (bidirectional && window) throw InvalidError("attention: a bidirectional layer has no window");
    if (qn.rows != Rows::kTokens || kn.rows != Rows::kTokens || vn.rows != Rows::kTokens) {
        throw InvalidError("attention: its inputs have no positions");
    }
    Node out{.op = Op::kAttention, .inputs = {q, k, v}, .rows = Rows::kTokens};
    out.width = heads * (vn.width / kv_heads);
    out.head_dim = head_dim;
    out.scale = scale;
    out.window = window;
    out.bidirectional = bidirectional;
    out.softcap = softcap;
    return push(std::move(out));
}

int Graph::unary(Op op, int x) {
    return push({.op = op, .inputs = {x}, .rows = node(x).rows, .width = node(x).width});
}

int Graph::glu(Op op, int gate, int up) {
    const Node &g = node(gate), &u = node(up);
    if (g.width != u.width || g.rows != u.rows) {
        throw InvalidError("gate and up differ: widths " + std::to_string(g.width) + " and " +
                           std::to_string(u.width));
    }
    return push({.op = op, .inputs = {gate, up}, .rows = g.rows, .width = g.width});
}

int Graph::softcap(int x, float cap) {
    expect_finite(cap, "softcap");
    if (!(cap > 0)) throw InvalidError("softcap must be positive");
    Node out{.op = Op::kSoftcap, .inputs = {x}, .rows = node(x).rows, .width = node(x).width};
    out.factor = cap;
    return push(std::move(out));
}

int Graph::select_rows(int x) {
    if (node(x).rows != Rows::kTokens) throw InvalidError("select_logit_rows: rows were selected before");
    return push({.op = Op::kSelectRows, .inputs = {x}, .rows = Rows::kLogits, .width = node(x).width});
}

int Graph::pool(int x, PoolKind kind, bool normalize) {
    if (node(x).rows != Rows::kTokens) throw InvalidError("pool: its input has no tokens");
    Node out{.op = Op::kPool, .inputs = {x}, .rows = Rows::kSequences, .width = node(x).width};
    out.pool = kind;
    out.normalize = normalize;
    return push(std::move(out));
}

}  // namespace ollamapy
