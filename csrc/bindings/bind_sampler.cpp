#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "runtime/sampler.h"

namespace ollamapy {

namespace py = pybind11;

namespace {

// Seeds of any size and sign are taken modulo 2^64.
uint64_t low_bits(const py::int_& value) {
    const unsigned long long bits = PyLong_AsUnsignedLongLongMask(value.ptr());
    if (bits == static_cast<unsigned long long>(-1) && PyErr_Occurred()) throw py::error_already_set();
    return bits;
}

SamplingParams make_params(double temperature, int64_t top_k, double top_p, double min_p, double typical_p,
                           double repeat_penalty, double presence_penalty, double frequency_penalty,
                           int64_t repeat_last_n, const py::int_& seed, const py::int_& branch,
                           int64_t logprobs, std::vector<std::pair<int32_t, double>> logit_bias) {
    SamplingParams params;
    params.temperature = temperature;
    params.top_k = top_k;
    params.top_p = top_p;
    params.min_p = min_p;
    params.typical_p = typical_p;
    params.repeat_penalty = repeat_penalty;
    params.presence_penalty = presence_penalty;
    params.frequency_penalty = frequency_penalty;
    params.repeat_last_n = repeat_last_n;
    params.seed = low_bits(seed);
    params.branch = low_bits(branch);
    params.logprobs = logprobs;
    params.logit_bias = std::move(logit_bias);
    params.validate();
    return params;
}

using Logits = py::array_t<float, py::array::c_style | py::array::forcecast>;

using Mask = py::array_t<uint32_t, py::array::c_style>;

py::tuple sample(const Logits& logits, const std::vector<int64_t>& history, const SamplingParams& params,
                 int64_t position, const std::optional<Mask>& mask) {
    if (logits.ndim() != 1) throw py::value_error("logits must have one dimension");
    std::vector<int32_t> tokens(history.size());
    for (size_t i = 0; i < history.size(); ++i) {
        const bool fits = history[i] >= 0 && history[i] <= std::numeric_limits<int32_t>::max();
        tokens[i] = fits ? static_cast<int32_t>(history[i]) : -1;
    }
    Sample result;
    try {
        const float* row = logits.data();
        const int64_t n_vocab = logits.size();
        const auto words =
            mask ? std::span(mask->data(), static_cast<size_t>(mask->size())) : std::span<const uint32_t>{};
        py::gil_scoped_release release;
        SamplerScratch scratch;
        result = draw(row, n_vocab, tokens, params, position, scratch, words);
    } catch (const SamplingError& error) {
        throw py::value_error(error.what());
    }
    py::list top;
    for (const TokenLogprob& entry : result.top) top.append(py::make_tuple(entry.token, entry.logprob));
    return py::make_tuple(result.token, result.logprob, top);
}

}  // namespace

void bind_sampler(py::module_& module) {
    const SamplingParams defaults;
    py::class_<SamplingParams>(module, "SamplingParams", py::is_final())
        .def(py::init(&make_params), py::kw_only(), py::arg("temperature") = defaults.temperature,
             py::arg("top_k") = defaults.top_k, py::arg("top_p") = defaults.top_p,
             py::arg("min_p") = defaults.min_p, py::arg("typical_p") = defaults.typical_p,
             py::arg("repeat_penalty") = defaults.repeat_penalty,
             py::arg("presence_penalty") = defaults.presence_penalty,
             py::arg("frequency_penalty") = defaults.frequency_penalty,
             py::arg("repeat_last_n") = defaults.repeat_last_n, py::arg("seed") = defaults.seed,
             py::arg("branch") = defaults.branch, py::arg("logprobs") = defaults.logprobs,
             py::arg("logit_bias") = py::tuple());
    module.def("sample", &sample, py::arg("logits"), py::arg("history"), py::arg("params"),
               py::arg("position"), py::arg("mask") = py::none());
}

}  // namespace ollamapy
