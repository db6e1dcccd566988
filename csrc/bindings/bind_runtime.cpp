// KVCache, Sequence and the Runner for Python.
#include <malloc.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "errors.h"
#include "runtime/kv_cache.h"
#include "runtime/mask_slot.h"
#include "runtime/runner.h"

namespace ollamapy {
namespace {

namespace py = pybind11;

using ItemTuple = std::tuple<std::shared_ptr<Sequence>, int64_t, int64_t, int64_t>;

py::object output_of(const StepResult& result) {
    if (result.output_width == 0) return py::none();
    py::array_t<float> rows({result.output_rows, result.output_width});
    std::copy(result.output.begin(), result.output.end(), rows.mutable_data());
    return rows;
}

GrammarState grammar_state(const py::object&, uintptr_t state, uintptr_t validate, uintptr_t fill,
                           int64_t tokens) {
    if (state == 0 || validate == 0 || fill == 0 || tokens < 1)
        throw InvalidError("a grammar needs its state, its functions and a vocabulary");
    GrammarState grammar;
    grammar.state = reinterpret_cast<void*>(state);
    grammar.validate = reinterpret_cast<decltype(grammar.validate)>(validate);
    grammar.fill = reinterpret_cast<decltype(grammar.fill)>(fill);
    grammar.tokens = tokens;
    return grammar;
}

MaskSlot& mask_of(const Sequence& sequence) {
    if (!sequence.mask()) throw InvalidError("the sequence is not constrained");
    return *sequence.mask();
}

using Mask = py::array_t<uint32_t, py::array::c_style>;

std::span<const uint32_t> words_of(const Mask& mask) {
    if (mask.ndim() != 1 || mask.size() == 0) throw InvalidError("a mask is one row of words");
    return {mask.data(), static_cast<size_t>(mask.size())};
}

}  // namespace

void bind_runtime(py::module_& module) {
    module.attr("PAGE_TOKENS") = cpu::kPageTokens;

    module.def(
        "release_memory",
        [] {
#if defined(__GLIBC__)
            malloc_trim(0);  // all arenas
#endif
        },
        py::call_guard<py::gil_scoped_release>());

    py::class_<KVCache, std::shared_ptr<KVCache>>(module, "KVCache", py::is_final())
        .def(py::init<const Program&, const std::vector<int64_t>&>(), py::arg("program"), py::arg("pages"))
        .def_property_readonly("pages", &KVCache::pages)
        .def("give_back", &KVCache::give_back, py::arg("group"), py::arg("pages"),
             py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("nbytes", &KVCache::nbytes);

    py::class_<GrammarState>(module, "GrammarState", py::is_final())
        .def(py::init(&grammar_state), py::arg("owner"), py::arg("state"), py::arg("validate"),
             py::arg("fill"), py::arg("tokens"), py::keep_alive<1, 2>());

    py::class_<Sequence, std::shared_ptr<Sequence>>(module, "Sequence", py::is_final())
        .def(py::init([](std::vector<int32_t> tokens, std::optional<SamplingParams> sampling,
                         bool constrained, const GrammarState* grammar) {
                 std::unique_ptr<MaskSlot> slot;
                 if (constrained || grammar)
                     slot = std::make_unique<MaskSlot>(grammar ? *grammar : GrammarState{});
                 return std::make_shared<Sequence>(std::move(tokens), std::move(sampling), std::move(slot));
             }),
             py::arg("tokens"), py::arg("sampling") = py::none(), py::arg("constrained") = false,
             py::arg("grammar") = py::none(), py::keep_alive<1, 5>())
        .def(
            "set_mask",
            [](const Sequence& sequence, int64_t position, const Mask& mask) {
                mask_of(sequence).set(position, words_of(mask));
            },
            py::arg("position"), py::arg("mask"))
        .def(
            "ask_grammar",
            [](const Sequence& sequence, int64_t position, const std::optional<Mask>& mask) {
                mask_of(sequence).ask(position, mask ? words_of(*mask) : std::span<const uint32_t>{});
            },
            py::arg("position"), py::arg("mask") = py::none())
        .def_property_readonly("mask_seconds",
                               [](const Sequence& sequence) { return mask_of(sequence).seconds(); })
        .def(
            "close_mask",
            [](const Sequence& sequence) {
                if (sequence.mask()) sequence.mask()->close();
            },
            py::call_guard<py::gil_scoped_release>())
        .def("set_page", &Sequence::set_page, py::arg("group"), py::arg("index"), py::arg("page"));

    py::class_<ItemSample>(module, "Sample", py::is_final())
        .def_property_readonly("item", [](const ItemSample& s) { return s.item; })
        .def_property_readonly("token", [](const ItemSample& s) { return s.sample.token; })
        .def_property_readonly("logprob", [](const ItemSample& s) { return s.sample.logprob; })
        .def_property_readonly("top", [](const ItemSample& s) {
            py::list top;
            for (const TokenLogprob& entry : s.sample.top)
                top.append(py::make_tuple(entry.token, entry.logprob));
            return top;
        });

    py::class_<StepResult>(module, "StepResult", py::is_final())
        .def_property_readonly("step", [](const StepResult& r) { return r.step; })
        .def_property_readonly("started", [](const StepResult& r) { return r.started; })
        .def_property_readonly("ended", [](const StepResult& r) { return r.ended; })
        .def_property_readonly("samples", [](const StepResult& r) { return r.samples; })
        .def_property_readonly("output", &output_of)
        .def_property_readonly("error", [](const StepResult& r) { return r.error; })
        .def_property_readonly("item_errors", [](const StepResult& r) { return r.item_errors; })
        .def_property_readonly("late", [](const StepResult& r) { return r.late; });

    py::class_<Runner>(module, "Runner", py::is_final())
        .def(py::init<std::shared_ptr<Device>>(), py::arg("device"))
        .def("fileno", &Runner::fileno)
        .def(
            "submit",
            [](Runner& runner, std::shared_ptr<Program> program, std::shared_ptr<KVCache> cache,
               const std::vector<ItemTuple>& items, bool want_logits,
               const std::vector<std::tuple<int64_t, int64_t, int64_t>>& copies) {
                std::vector<StepItem> step;
                step.reserve(items.size());
                for (const auto& [sequence, start, count, outputs] : items) {
                    if (!sequence) throw InvalidError("an item without a sequence");
                    step.push_back({sequence, start, count, outputs, {}});
                }
                std::vector<PageCopy> pages;
                for (const auto& [group, from, to] : copies) pages.push_back({group, from, to});
                return runner.submit(std::move(program), std::move(cache), std::move(step), want_logits,
                                     std::move(pages));
            },
            py::arg("program"), py::arg("cache"), py::arg("items"), py::arg("want_logits") = false,
            py::arg("copies") = py::tuple())
        .def("drain", &Runner::drain)
        .def("wait", &Runner::wait, py::call_guard<py::gil_scoped_release>())
        .def("close", &Runner::close, py::call_guard<py::gil_scoped_release>())
        .def("start_profile", &Runner::start_profile, py::call_guard<py::gil_scoped_release>())
        .def("stop_profile", &Runner::stop_profile, py::call_guard<py::gil_scoped_release>());
}

}  // namespace ollamapy
