// Device, Weights, Graph and Program for Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "bindings/bindings.h"
#include "errors.h"
#include "graph/graph.h"
#include "graph/program.h"
#include "runtime/peak.h"

namespace ollamapy {
namespace {

namespace py = pybind11;

// What Python holds of a node: the graph and the node's number.
struct Value {
    std::shared_ptr<Graph> graph;
    int id;
};

int id_in(const std::shared_ptr<Graph>& graph, const Value& value) {
    if (value.graph != graph) throw InvalidError("value of another graph");
    return value.id;
}

EmbedIndex embed_index(const std::string& name) {
    if (name == "token") return EmbedIndex::kToken;
    if (name == "position") return EmbedIndex::kPosition;
    if (name == "zero") return EmbedIndex::kZero;
    throw InvalidError("embed: index must be \"token\", \"position\" or \"zero\", not \"" + name + "\"");
}

cpu::RopePairing rope_pairing(const std::string& name) {
    if (name == "interleaved") return cpu::RopePairing::kInterleaved;
    if (name == "halves") return cpu::RopePairing::kHalves;
    throw InvalidError("rope: pairing must be \"interleaved\" or \"halves\", not \"" + name + "\"");
}

PoolKind pool_kind(const std::string& name) {
    if (name == "mean") return PoolKind::kMean;
    if (name == "cls") return PoolKind::kCls;
    if (name == "last") return PoolKind::kLast;
    throw InvalidError("pool: kind must be \"mean\", \"cls\" or \"last\", not \"" + name + "\"");
}

}  // namespace

cpu::KvType kv_type_named(const std::string& name) {
    if (name == "f16") return cpu::KvType::kF16;
    if (name == "q8_0") return cpu::KvType::kQ8_0;
    if (name == "q4_0") return cpu::KvType::kQ4_0;
    throw InvalidError("KV type must be \"f16\", \"q8_0\" or \"q4_0\", not \"" + name + "\"");
}

namespace {

Op gelu_op(const std::string& approximate) {
    if (approximate == "tanh") return Op::kGeluTanh;
    if (approximate == "none") return Op::kGeluErf;
    throw InvalidError("gelu: approximate must be \"tanh\" or \"none\", not \"" + approximate + "\"");
}

const char* rows_name(Rows rows) {
    return rows == Rows::kTokens ? "tokens" : rows == Rows::kLogits ? "logits" : "sequences";
}

// An instruction for Python.
struct InstructionInfo {
    const char* op;
    const char* rows;
    std::string text;
    // name, type, outputs, inputs, bytes as packed
    std::vector<std::tuple<std::string, std::string, int64_t, int64_t, size_t>> weights;
};

InstructionInfo info_of(const Instruction& instruction) {
    static const char* const ops[] = {"rows", "matmul", "rope_table", "heads", "attention", "pool"};
    static_assert(std::size(ops) == std::variant_size_v<Instruction>);
    InstructionInfo info{ops[instruction.index()], rows_name(Rows::kTokens), describe(instruction), {}};
    if (const auto* chain = std::get_if<RowChain>(&instruction)) {
        info.rows = rows_name(chain->rows);
    } else if (std::holds_alternative<PoolRows>(instruction)) {
        info.rows = rows_name(Rows::kSequences);
    } else if (const auto* matmul = std::get_if<MatmulGroup>(&instruction)) {
        info.rows = rows_name(matmul->rows);
        for (const auto& part : matmul->parts) {
            const cpu::PackedView& view = part.weight->view;
            info.weights.emplace_back(part.weight->name, dtype_info(view.type).name, view.rows, view.cols,
                                      part.weight->bytes);
        }
    }
    return info;
}

using GraphPtr = std::shared_ptr<Graph>;

}  // namespace

void bind_graph(py::module_& module) {
    py::class_<Device, std::shared_ptr<Device>>(module, "Device", py::is_final())
        .def(py::init<int, const std::string&>(), py::arg("threads") = 0, py::arg("isa") = "")
        .def_property_readonly("threads", [](Device& device) { return device.pool().threads(); })
        .def_property_readonly("isa", [](const Device& device) { return device.isa().name; })
        .def("measure_peak", &measure_peak, py::arg("kind"), py::arg("seconds") = 0.5,
             py::call_guard<py::gil_scoped_release>());

    py::class_<Weights, std::shared_ptr<Weights>>(module, "Weights", py::is_final())
        .def(py::init([](std::shared_ptr<GGUFFile> file, std::shared_ptr<Device> device,
                         std::shared_ptr<GGUFFile> adapter, bool deferred) {
                 return std::make_shared<Weights>(std::move(file), std::move(device), std::move(adapter),
                                                  deferred);
             }),
             py::arg("file"), py::arg("device"), py::arg("adapter") = nullptr, py::arg("deferred") = false)
        .def("read", &Weights::read, py::call_guard<py::gil_scoped_release>())
        .def("stop", &Weights::stop)
        .def_property_readonly("nbytes", &Weights::nbytes);

    py::class_<Value>(module, "Value", py::is_final())
        .def_property_readonly("width", [](const Value& value) { return value.graph->node(value.id).width; })
        .def_property_readonly("rows",
                               [](const Value& value) { return rows_name(value.graph->node(value.id).rows); })
        .def(
            "__add__",
            [](const Value& a, const Value& b) {
                return Value{a.graph, a.graph->add(a.id, id_in(a.graph, b))};
            },
            py::arg("other"), py::is_operator());

    py::class_<Program, std::shared_ptr<Program>> program(module, "Program", py::is_final());

    py::class_<LayerGroup>(module, "LayerGroup", py::is_final())
        .def_property_readonly("window", [](const LayerGroup& group) { return group.window; })
        .def_property_readonly("layers", [](const LayerGroup& group) { return group.layers.size(); })
        .def_property_readonly("page_bytes", [](const LayerGroup& group) { return group.page_bytes; });

    py::class_<InstructionInfo>(module, "Instruction", py::is_final())
        .def_readonly("op", &InstructionInfo::op)
        .def_readonly("rows", &InstructionInfo::rows)
        .def_readonly("text", &InstructionInfo::text)
        .def_readonly("weights", &InstructionInfo::weights);

    program.def_property_readonly("kind", [](const Program& p) { return p.pooled() ? "pooled" : "logits"; })
        .def_property_readonly("output_width", [](const Program& p) { return p.output_width; })
        .def_property_readonly("max_rows", [](const Program& p) { return p.max_rows; })
        .def_property_readonly("max_outputs", [](const Program& p) { return p.max_outputs; })
        .def_property_readonly("groups", [](const Program& p) { return p.groups; })
        .def_property_readonly("arena_bytes", [](const Program& p) { return p.arena_bytes; })
        .def_property_readonly("instructions",
                               [](const Program& p) {
                                   std::vector<InstructionInfo> found;
                                   for (const Instruction& each : p.instructions) {
                                       found.push_back(info_of(each));
                                   }
                                   return found;
                               })
        .def("describe", &Program::describe);

    py::class_<Graph, GraphPtr>(module, "Graph", py::is_final())
        .def(py::init([](std::shared_ptr<Weights> weights) {
                 return std::make_shared<Graph>(std::move(weights));
             }),
             py::arg("weights"))
        .def(
            "has",
            [](const Graph& g, const std::string& weight) {
                return g.weights()->file().tensor(weight) != nullptr;
            },
            py::arg("weight"))
        .def(
            "shape",
            [](const Graph& g, const std::string& weight) {
                const TensorInfo& tensor = g.weights()->info(weight);
                py::tuple shape(tensor.n_dims);
                for (uint32_t i = 0; i < tensor.n_dims; ++i) shape[i] = tensor.shape[i];
                return shape;
            },
            py::arg("weight"))
        .def(
            "embed",
            [](GraphPtr g, const std::string& weight, const std::string& index) {
                return Value{g, g->embed(weight, embed_index(index))};
            },
            py::arg("weight"), py::arg("index") = "token")
        .def(
            "scale",
            [](GraphPtr g, const Value& x, float factor) { return Value{g, g->scale(id_in(g, x), factor)}; },
            py::arg("x"), py::arg("factor"))
        .def(
            "add",
            [](GraphPtr g, const Value& a, const Value& b) {
                return Value{g, g->add(id_in(g, a), id_in(g, b))};
            },
            py::arg("a"), py::arg("b"))
        .def(
            "rms_norm",
            [](GraphPtr g, const Value& x, const std::string& weight, float eps, int64_t head_dim) {
                return Value{g, g->rms_norm(id_in(g, x), weight, eps, head_dim)};
            },
            py::arg("x"), py::arg("weight"), py::arg("eps"), py::arg("head_dim") = 0)
        .def(
            "layer_norm",
            [](GraphPtr g, const Value& x, const std::string& weight, const std::string& bias, float eps) {
                return Value{g, g->layer_norm(id_in(g, x), weight, bias, eps)};
            },
            py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("eps"))
        .def(
            "linear",
            [](GraphPtr g, const Value& x, const std::string& weight, const std::string& bias) {
                return Value{g, g->linear(id_in(g, x), weight, bias)};
            },
            py::arg("x"), py::arg("weight"), py::arg("bias") = "")
        .def(
            "rope",
            [](GraphPtr g, const Value& x, int64_t head_dim, double base, const std::string& pairing,
               int64_t rotary_dims, double linear_scale, const std::string& factors) {
                const RopeConfig config{rotary_dims, base, linear_scale, factors};
                return Value{g, g->rope(id_in(g, x), head_dim, config, rope_pairing(pairing))};
            },
            py::arg("x"), py::arg("head_dim"), py::arg("base"), py::arg("pairing"),
            py::arg("rotary_dims") = 0, py::arg("linear_scale") = 1.0, py::arg("factors") = "")
        .def(
            "attention",
            [](GraphPtr g, const Value& q, const Value& k, const Value& v, int64_t head_dim, float scale,
               int64_t window, bool bidirectional, float softcap) {
                return Value{g, g->attention(id_in(g, q), id_in(g, k), id_in(g, v), head_dim, scale, window,
                                             bidirectional, softcap)};
            },
            py::arg("q"), py::arg("k"), py::arg("v"), py::arg("head_dim"), py::arg("scale"),
            py::arg("window") = 0, py::arg("bidirectional") = false, py::arg("softcap") = 0.0f)
        .def(
            "silu", [](GraphPtr g, const Value& x) { return Value{g, g->unary(Op::kSilu, id_in(g, x))}; },
            py::arg("x"))
        .def(
            "gelu",
            [](GraphPtr g, const Value& x, const std::string& approximate) {
                return Value{g, g->unary(gelu_op(approximate), id_in(g, x))};
            },
            py::arg("x"), py::arg("approximate") = "tanh")
        .def(
            "swiglu",
            [](GraphPtr g, const Value& gate, const Value& up) {
                return Value{g, g->glu(Op::kSwiglu, id_in(g, gate), id_in(g, up))};
            },
            py::arg("gate"), py::arg("up"))
        .def(
            "geglu",
            [](GraphPtr g, const Value& gate, const Value& up) {
                return Value{g, g->glu(Op::kGeglu, id_in(g, gate), id_in(g, up))};
            },
            py::arg("gate"), py::arg("up"))
        .def(
            "softcap",
            [](GraphPtr g, const Value& x, float cap) { return Value{g, g->softcap(id_in(g, x), cap)}; },
            py::arg("x"), py::arg("cap"))
        .def(
            "select_logit_rows",
            [](GraphPtr g, const Value& x) { return Value{g, g->select_rows(id_in(g, x))}; }, py::arg("x"))
        .def(
            "pool",
            [](GraphPtr g, const Value& x, const std::string& kind, bool normalize) {
                return Value{g, g->pool(id_in(g, x), pool_kind(kind), normalize)};
            },
            py::arg("x"), py::arg("kind"), py::arg("normalize") = true)
        .def(
            "compile",
            [](GraphPtr g, const Value& output, int64_t max_rows, int64_t max_outputs,
               const std::string& kv_type) {
                const int id = id_in(g, output);
                const cpu::KvType type = kv_type_named(kv_type);
                const py::gil_scoped_release release;
                return g->compile(id, max_rows, max_outputs, type);
            },
            py::arg("output"), py::arg("max_rows") = 512, py::arg("max_outputs") = 64,
            py::arg("kv_type") = "f16");
}

}  // namespace ollamapy
