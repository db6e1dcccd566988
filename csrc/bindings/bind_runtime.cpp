// KVCache, Sequence and the Runner for Python.
#include <malloc.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <span>
#include <tuple>

#include "bindings/bindings.h"
#include "errors.h"
#include "runtime/kv_cache.h"
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

void set_mask(Sequence& sequence, int64_t position, const py::array_t<uint32_t, py::array::c_style>& mask) {
    if (!sequence.mask()) throw InvalidError("the sequence is not constrained");
    if (mask.ndim() != 1 || mask.size() == 0) throw InvalidError("a mask is one row of words");
    sequence.mask()->set(position, std::span(mask.data(), static_cast<size_t>(mask.size())));
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

    py::class_<Sequence, std::shared_ptr<Sequence>>(module, "Sequence", py::is_final())
        .def(py::init<std::vector<int32_t>, std::optional<SamplingParams>, bool>(), py::arg("tokens"),
             py::arg("sampling") = py::none(), py::arg("constrained") = false)
        .def("set_mask", &set_mask, py::arg("position"), py::arg("mask"))
        .def("close_mask",
             [](const Sequence& sequence) {
                 if (sequence.mask()) sequence.mask()->close();
             })
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
