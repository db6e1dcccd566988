// From a graph to a Program: fusion and lowering.
//
// Fused here: row-wise neighbours into chains (norm, residual add, activation, quantization); linear layers
// of one input into one dispatch; a residual add into the product's epilogue; QK-norm and RoPE into the step
// that writes K and V. Instructions are appended in the graph's order; a chain may grow later, as long as
// what it reads came before it.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "cpu/kv_page.h"
#include "errors.h"
#include "graph/graph.h"
#include "graph/program.h"

namespace ollamapy {
namespace {

bool row_wise(Op op) {
    switch (op) {
        case Op::kScale:
        case Op::kAdd:
        case Op::kRmsNorm:
        case Op::kLayerNorm:
        case Op::kSilu:
        case Op::kGeluTanh:
        case Op::kGeluErf:
        case Op::kSwiglu:
        case Op::kGeglu:
        case Op::kSoftcap:
            return true;
        default:
            return false;
    }
}

RowStep::Kind step_kind(Op op) {
    switch (op) {
        case Op::kScale:
            return RowStep::Kind::kScale;
        case Op::kAdd:
            return RowStep::Kind::kAdd;
        case Op::kRmsNorm:
            return RowStep::Kind::kRmsNorm;
        case Op::kLayerNorm:
            return RowStep::Kind::kLayerNorm;
        case Op::kSilu:
            return RowStep::Kind::kSilu;
        case Op::kGeluTanh:
            return RowStep::Kind::kGeluTanh;
        case Op::kGeluErf:
            return RowStep::Kind::kGeluErf;
        case Op::kSwiglu:
            return RowStep::Kind::kSwiglu;
        case Op::kGeglu:
            return RowStep::Kind::kGeglu;
        case Op::kSoftcap:
            return RowStep::Kind::kSoftcap;
        default:
            throw InvalidError("not a row-wise operation");
    }
}

class Compiler {
  public:
    Compiler(const Graph& graph, int output, int64_t max_rows, int64_t max_outputs, cpu::KvType kv_type)
        : nodes_(graph.nodes()),
          weights_(*graph.weights()),
          output_(output),
          kv_type_(kv_type),
          program_(std::make_shared<Program>()) {
        program_->device = weights_.device();
        program_->max_rows = max_rows;
        program_->max_outputs = max_outputs;
        program_->output_rows = nodes_[output].rows;
        program_->output_width = nodes_[output].width;
        const size_t count = nodes_.size();
        needed_.assign(count, false);
        uses_.assign(count, 0);
        absorbed_.assign(count, false);
        residual_of_.assign(count, kNone);
        sum_of_.assign(count, kNone);
        values_.resize(count);
    }

    std::shared_ptr<Program> run() {
        count_uses();
        find_linear_groups();
        find_residuals();
        absorb_head_operations();
        for (int id = 0; id < static_cast<int>(nodes_.size()); ++id) {
            if (needed_[id] && !absorbed_[id]) lower(id);
        }
        program_->output = floats(output_);
        finish();
        weights_.load();
        return std::move(program_);
    }

  private:
    // Where a value lies: in buffers, and (or) as the result of a step of a chain.
    struct Place {
        int instruction = kNone;  // that produces it
        int step = kNone;         // of a chain
        int floats = kNone;
        int quantized = kNone;
    };

    // ---- What may be fused ----

    void count_uses() {
        needed_[output_] = true;
        uses_[output_] = 1;
        for (int id = output_; id >= 0; --id) {
            if (!needed_[id]) continue;
            for (const int input : nodes_[id].inputs) {
                needed_[input] = true;
                ++uses_[input];
            }
        }
    }

    void find_linear_groups() {
        for (int id = 0; id < static_cast<int>(nodes_.size()); ++id) {
            if (needed_[id] && nodes_[id].op == Op::kLinear) siblings_[nodes_[id].inputs[0]].push_back(id);
        }
    }

    // a + linear(x), where nothing else reads the product: the sum is written in its place.
    void find_residuals() {
        for (int id = 0; id < static_cast<int>(nodes_.size()); ++id) {
            if (!needed_[id] || nodes_[id].op != Op::kAdd) continue;
            for (const int side : {1, 0}) {
                const int product = nodes_[id].inputs[side], other = nodes_[id].inputs[1 - side];
                if (nodes_[product].op != Op::kLinear || uses_[product] != 1 || product == other) continue;
                // The products of a group are computed where the first of them stands: the other addend must
                // exist by then.
                if (other >= siblings_[nodes_[product].inputs[0]].front()) continue;
                residual_of_[product] = other;
                sum_of_[product] = id;
                absorbed_[id] = true;
                break;
            }
        }
    }

    void absorb_head_operations() {
        for (int id = 0; id < static_cast<int>(nodes_.size()); ++id) {
            const Node& node = nodes_[id];
            if (!needed_[id] || node.op != Op::kAttention) continue;
            for (const int side : {0, 1}) {
                int value = node.inputs[side];
                if (nodes_[value].op == Op::kRope) {
                    if (nodes_[value].head_dim != node.head_dim)
                        throw InvalidError("rope and attention disagree on head_dim");
                    absorbed_[value] = true;
                    value = nodes_[value].inputs[0];
                }
                if (head_norm(value, node.head_dim)) absorbed_[value] = true;
            }
        }
    }

    bool head_norm(int value, int64_t head_dim) const {
        return nodes_[value].op == Op::kRmsNorm && nodes_[value].head_dim == head_dim && uses_[value] == 1;
    }

    // ---- Places ----

    int new_buffer(int value, bool quantized) {
        program_->buffers.push_back(
            {.rows = nodes_[value].rows, .width = nodes_[value].width, .quantized = quantized});
        return static_cast<int>(program_->buffers.size()) - 1;
    }

    int append(Instruction instruction) {
        program_->instructions.push_back(std::move(instruction));
        return static_cast<int>(program_->instructions.size()) - 1;
    }

    RowStep& step_of(const Place& place) {
        return std::get<RowChain>(program_->instructions[place.instruction]).steps[place.step];
    }

    // The buffer that holds value as f32.
    int floats(int value) {
        Place& place = values_[value];
        if (place.floats == kNone) {
            if (place.step == kNone) throw InvalidError("rope can only feed attention");
            place.floats = new_buffer(value, false);
            step_of(place).store = place.floats;
        }
        return place.floats;
    }

    // The buffer that holds value in 8 bits.
    int quantized(int value) {
        Place& place = values_[value];
        if (place.quantized == kNone) {
            const int buffer = new_buffer(value, true);
            if (place.step != kNone) {
                step_of(place).store_quantized = buffer;
            } else {
                RowChain chain{nodes_[value].rows, nodes_[value].width, {}};
                chain.steps.push_back({.kind = RowStep::Kind::kLoad, .value = value, .other = floats(value)});
                chain.steps.back().store_quantized = buffer;
                append(std::move(chain));
            }
            place.quantized = buffer;
        }
        return place.quantized;
    }

    // ---- Lowering ----

    void lower(int id) {
        const Node& node = nodes_[id];
        if (node.op == Op::kEmbed) {
            lower_embed(id);
        } else if (node.op == Op::kSelectRows) {
            RowChain chain{Rows::kLogits, node.width, {}};
            chain.steps.push_back(
                {.kind = RowStep::Kind::kGather, .value = id, .other = floats(node.inputs[0])});
            values_[id] = {append(std::move(chain)), 0};
        } else if (row_wise(node.op)) {
            lower_row_wise(id);
        } else if (node.op == Op::kLinear) {
            lower_linear(id);
        } else if (node.op == Op::kAttention) {
            lower_attention(id);
        } else if (node.op == Op::kPool) {
            const int x = floats(node.inputs[0]);
            const int out = new_buffer(id, false);
            values_[id] = {append(PoolRows{x, out, node.pool, node.normalize}), kNone, out};
        } else {
            throw InvalidError("rope can only feed attention");
        }
    }

    void lower_embed(int id) {
        const Node& node = nodes_[id];
        RowStep step{.kind = RowStep::Kind::kEmbed, .value = id};
        step.index = node.index;
        step.table = weights_.matrix(node.weight);
        const int64_t rows = step.table->view.rows;
        int64_t& limit = node.index == EmbedIndex::kToken ? program_->vocabulary : program_->positions;
        if (node.index != EmbedIndex::kZero) limit = limit ? std::min(limit, rows) : rows;
        RowChain chain{Rows::kTokens, node.width, {}};
        chain.steps.push_back(std::move(step));
        values_[id] = {append(std::move(chain)), 0};
    }

    // True when value is what a chain ends with, so that the chain may go on from it.
    bool ends_chain(int value) const {
        const Place& place = values_[value];
        if (place.step == kNone) return false;
        const auto& chain = std::get<RowChain>(program_->instructions[place.instruction]);
        return place.step + 1 == static_cast<int>(chain.steps.size());
    }

    void lower_row_wise(int id) {
        const Node& node = nodes_[id];
        RowStep step{.kind = step_kind(node.op), .value = id};
        step.factor = node.op == Op::kRmsNorm || node.op == Op::kLayerNorm ? node.eps : node.factor;
        step.head_dim = node.head_dim;
        if (!node.weight.empty()) step.weight = weights_.vector(node.weight);
        if (!node.bias.empty()) step.bias = weights_.vector(node.bias);

        int current = node.inputs[0];
        if (node.inputs.size() == 2) {
            const int a = node.inputs[0], b = node.inputs[1];
            // Go on from the later chain: the other operand was complete before it began.
            const bool from_b =
                ends_chain(b) && (!ends_chain(a) || values_[b].instruction > values_[a].instruction);
            current = from_b ? b : a;
            const int other = from_b ? a : b;
            step.swapped = from_b;
            step.other = floats(other);
            if (!ends_chain(current) || values_[other].instruction >= values_[current].instruction) {
                start_chain(id, current, std::move(step));
                return;
            }
        } else if (!ends_chain(current)) {
            start_chain(id, current, std::move(step));
            return;
        }
        const int instruction = values_[current].instruction;
        auto& chain = std::get<RowChain>(program_->instructions[instruction]);
        chain.steps.push_back(std::move(step));
        values_[id] = {instruction, static_cast<int>(chain.steps.size()) - 1};
    }

    void start_chain(int id, int input, RowStep step) {
        RowChain chain{nodes_[id].rows, nodes_[id].width, {}};
        chain.steps.push_back({.kind = RowStep::Kind::kLoad, .value = input, .other = floats(input)});
        chain.steps.push_back(std::move(step));
        values_[id] = {append(std::move(chain)), 1};
    }

    void lower_linear(int id) {
        const int input = nodes_[id].inputs[0];
        const std::vector<int>& group = siblings_[input];
        if (group.front() != id) return;  // computed with the first of its group
        MatmulGroup matmul{.rows = nodes_[id].rows, .cols = nodes_[input].width};
        for (const int linear : group) {
            const Node& node = nodes_[linear];
            MatmulGroup::Part part{.weight = weights_.matrix(node.weight), .bias = nullptr, .y = kNone};
            if (!node.bias.empty()) part.bias = weights_.vector(node.bias);
            if (cpu::takes_quantized(part.weight->view.type)) {
                matmul.quantized = quantized(input);
            } else {
                matmul.floats = floats(input);
            }
            if (residual_of_[linear] != kNone) part.residual = floats(residual_of_[linear]);
            part.y = new_buffer(linear, false);
            matmul.parts.push_back(std::move(part));
        }
        std::vector<int> outputs;
        for (const auto& part : matmul.parts) outputs.push_back(part.y);
        const int instruction = append(std::move(matmul));
        for (size_t i = 0; i < group.size(); ++i) {
            const int value = sum_of_[group[i]] == kNone ? group[i] : sum_of_[group[i]];
            values_[value] = {instruction, kNone, outputs[i]};
        }
    }

    int rope_table(const RopeConfig& config) {
        for (size_t i = 0; i < program_->instructions.size(); ++i) {
            const auto* table = std::get_if<RopeTable>(&program_->instructions[i]);
            if (table && table->config == config) return static_cast<int>(i);
        }
        RopeTable table{.config = config, .frequencies = {}, .cos = kNone, .sin = kNone};
        const int64_t half = config.rotary_dims / 2;
        std::shared_ptr<const std::vector<float>> factors;
        if (!config.factors.empty()) factors = weights_.vector(config.factors);
        for (int64_t i = 0; i < half; ++i) {
            double frequency = std::pow(
                config.base, -2.0 * static_cast<double>(i) / static_cast<double>(config.rotary_dims));
            if (factors) {
                const double factor = (*factors)[i];
                if (!(factor > 0))
                    throw FileError("tensor '" + config.factors + "' has a factor that is not positive");
                frequency /= factor;
            }
            table.frequencies.push_back(frequency / config.linear_scale);
        }
        for (int* place : {&table.cos, &table.sin}) {
            program_->buffers.push_back({.rows = Rows::kTokens, .width = half, .quantized = false});
            *place = static_cast<int>(program_->buffers.size()) - 1;
        }
        return append(std::move(table));
    }

    HeadPrepare::Heads heads(int value, int64_t head_dim) {
        HeadPrepare::Heads out{.buffer = kNone, .count = nodes_[value].width / head_dim, .norm = nullptr};
        if (nodes_[value].op == Op::kRope) {
            const Node& rope = nodes_[value];
            out.table = rope_table(rope.rope);
            out.rotary_dims = rope.rope.rotary_dims;
            out.pairing = rope.pairing;
            value = rope.inputs[0];
        }
        if (absorbed_[value] && head_norm(value, head_dim)) {
            const Node& norm = nodes_[value];
            out.normalized = true;
            out.eps = norm.eps;
            if (!norm.weight.empty()) out.norm = weights_.vector(norm.weight);
            value = norm.inputs[0];
        }
        out.buffer = floats(value);
        return out;
    }

    // The value that `heads` reads for an operand of attention.
    int head_source(int value, int64_t head_dim) const {
        if (nodes_[value].op == Op::kRope) value = nodes_[value].inputs[0];
        if (absorbed_[value] && head_norm(value, head_dim)) value = nodes_[value].inputs[0];
        return value;
    }

    int group_of(const Node& node) {
        auto& groups = program_->groups;
        for (size_t i = 0; i < groups.size(); ++i) {
            if (groups[i].scratch != node.bidirectional) {
                throw InvalidError("causal and bidirectional layers in one program");
            }
            if (groups[i].window == node.window) return static_cast<int>(i);
        }
        const cpu::KvType type = node.bidirectional ? cpu::KvType::kF16 : kv_type_;
        groups.push_back({.window = node.window, .scratch = node.bidirectional, .type = type});
        return static_cast<int>(groups.size()) - 1;
    }

    void lower_attention(int id) {
        const Node& node = nodes_[id];
        const int q = node.inputs[0], k = node.inputs[1], v = node.inputs[2];
        HeadPrepare prepare{};
        prepare.head_dim = node.head_dim;
        prepare.q = heads(q, node.head_dim);
        prepare.k = heads(k, node.head_dim);
        prepare.v = floats(v);
        prepare.v_dim = nodes_[v].width / prepare.k.count;
        const bool q_changes = prepare.q.normalized || prepare.q.table != kNone;
        const int source = head_source(q, node.head_dim);
        // In place only where nobody else reads the projection.
        const bool alone = uses_[source] == 1 && (source == q || uses_[q] == 1);
        prepare.q_out = q_changes && !alone ? new_buffer(q, false) : prepare.q.buffer;
        prepare.group = group_of(node);
        LayerGroup& group = program_->groups[prepare.group];
        prepare.layer = static_cast<int>(group.layers.size());
        const int64_t k_size = prepare.k.count * cpu::kv_head_bytes(group.type, node.head_dim);
        const int64_t v_size = prepare.k.count * cpu::kv_head_bytes(group.type, prepare.v_dim);
        const int64_t start = group.scratch ? 0 : group.page_bytes;
        group.layers.push_back({start, start + k_size, prepare.k.count, node.head_dim, prepare.v_dim});
        group.page_bytes = std::max(group.page_bytes, start + k_size + v_size);

        AttentionLayer attention{};
        attention.q = prepare.q_out;
        attention.out = new_buffer(id, false);
        attention.n_heads = prepare.q.count;
        attention.n_kv_heads = prepare.k.count;
        attention.head_dim = node.head_dim;
        attention.v_dim = prepare.v_dim;
        attention.scale = node.scale;
        attention.softcap = node.softcap;
        attention.group = prepare.group;
        attention.layer = prepare.layer;
        append(std::move(prepare));
        const int out = attention.out;
        program_->attention_scratch =
            std::max(program_->attention_scratch,
                     cpu::attention_scratch(
                         static_cast<int32_t>(attention.n_heads), static_cast<int32_t>(attention.n_kv_heads),
                         static_cast<int32_t>(attention.head_dim), static_cast<int32_t>(attention.v_dim)));
        values_[id] = {append(attention), kNone, out};
    }

    void finish() {
        for (const Instruction& instruction : program_->instructions) {
            int64_t width = 0;
            if (const auto* matmul = std::get_if<MatmulGroup>(&instruction)) {
                for (const auto& part : matmul->parts) {
                    const size_t bytes =
                        program_->device->isa().matmul->scratch_bytes(part.weight->view.type, matmul->cols);
                    program_->matmul_scratch = std::max(program_->matmul_scratch, bytes);
                }
            }
            if (const auto* chain = std::get_if<RowChain>(&instruction)) {
                width = chain->width;
            } else if (const auto* prepare = std::get_if<HeadPrepare>(&instruction)) {
                width = prepare->k.count * prepare->head_dim;
            }
            program_->widest_row = std::max(program_->widest_row, width);
        }
        fuse(*program_);
        plan_memory(*program_);
    }

    const std::vector<Node>& nodes_;
    Weights& weights_;
    const int output_;
    const cpu::KvType kv_type_;
    std::shared_ptr<Program> program_;
    std::vector<bool> needed_;
    std::vector<int> uses_;
    std::vector<bool> absorbed_;                // lowered as a part of another node
    std::vector<int> residual_of_, sum_of_;     // by linear node: the other addend, the add node
    std::map<int, std::vector<int>> siblings_;  // linear nodes by their input
    std::vector<Place> values_;
};

const char* rows_name(Rows rows) {
    switch (rows) {
        case Rows::kTokens:
            return "tokens";
        case Rows::kLogits:
            return "logits";
        case Rows::kSequences:
            return "sequences";
    }
    return "";
}

const char* step_name(RowStep::Kind kind) {
    static const char* const names[] = {"load",     "gather",     "embed",  "scale",     "add",
                                        "rms_norm", "layer_norm", "silu",   "gelu_tanh", "gelu_erf",
                                        "swiglu",   "geglu",      "softcap"};
    return names[static_cast<size_t>(kind)];
}

}  // namespace

std::string describe(const Instruction& instruction) {
    std::string text;
    if (const auto* chain = std::get_if<RowChain>(&instruction)) {
        text = std::string("rows[") + rows_name(chain->rows) + "]";
        if (chain->feeds_next) text += " feeds";
        for (const RowStep& step : chain->steps) {
            text += std::string(" ") + step_name(step.kind);
            if (step.other != kNone) text += "(b" + std::to_string(step.other) + ")";
            if (step.store != kNone) text += " ->b" + std::to_string(step.store);
            if (step.store_quantized != kNone) text += " ->q8:b" + std::to_string(step.store_quantized);
        }
    } else if (const auto* matmul = std::get_if<MatmulGroup>(&instruction)) {
        text = std::string("matmul[") + rows_name(matmul->rows) + "]";
        if (matmul->quantized != kNone) text += " q8:b" + std::to_string(matmul->quantized);
        if (matmul->floats != kNone) text += " b" + std::to_string(matmul->floats);
        for (const auto& part : matmul->parts) {
            text += " " + part.weight->name + ":" + dtype_info(part.weight->view.type).name;
            if (part.residual != kNone) text += "+b" + std::to_string(part.residual);
            if (part.y != kNone) text += "->b" + std::to_string(part.y);
        }
        if (matmul->gated) {
            text += std::string(" ") + step_name(matmul->gated->activation) + " ->q8:b" +
                    std::to_string(matmul->gated->out);
        }
    } else if (const auto* table = std::get_if<RopeTable>(&instruction)) {
        text = "rope_table base " + std::to_string(table->config.base);
    } else if (const auto* heads = std::get_if<HeadPrepare>(&instruction)) {
        text = "heads q:b" + std::to_string(heads->q.buffer) + "->b" + std::to_string(heads->q_out) + " k:b" +
               std::to_string(heads->k.buffer) + " v:b" + std::to_string(heads->v) + " ->group " +
               std::to_string(heads->group) + " layer " + std::to_string(heads->layer) +
               (heads->q.normalized ? " norm" : "") + (heads->q.table != kNone ? " rope" : "");
    } else if (const auto* attention = std::get_if<AttentionLayer>(&instruction)) {
        text = "attention b" + std::to_string(attention->q) + "->b" + std::to_string(attention->out) +
               " group " + std::to_string(attention->group) + " layer " + std::to_string(attention->layer);
    } else if (const auto* pool = std::get_if<PoolRows>(&instruction)) {
        text = "pool b" + std::to_string(pool->x) + "->b" + std::to_string(pool->out);
    }
    return text;
}

std::string Program::describe() const {
    std::string text;
    for (size_t i = 0; i < instructions.size(); ++i) {
        text += std::to_string(i) + " " + ollamapy::describe(instructions[i]) + "\n";
    }
    return text;
}

std::shared_ptr<Program> Graph::compile(int output, int64_t max_rows, int64_t max_outputs,
                                        cpu::KvType kv_type) const {
    if (max_rows < 1 || max_rows > 65536) throw InvalidError("max_rows must be from 1 to 65536");
    if (max_outputs < 1 || max_outputs > 65536) throw InvalidError("max_outputs must be from 1 to 65536");
    if (node(output).rows == Rows::kTokens) {
        throw InvalidError("the output must be logit rows (select_logit_rows) or pooled sequences (pool)");
    }
    return Compiler(*this, output, max_rows, max_outputs, kv_type).run();
}

}  // namespace ollamapy
