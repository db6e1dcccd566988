// What each binding file contributes to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace ollamapy {

void bind_gguf(pybind11::module_& module);
void bind_text(pybind11::module_& module);
void bind_sampler(pybind11::module_& module);
void bind_graph(pybind11::module_& module);
void bind_runtime(pybind11::module_& module);
void bind_matmul(pybind11::module_& module);
void bind_rows(pybind11::module_& module);

}  // namespace ollamapy
