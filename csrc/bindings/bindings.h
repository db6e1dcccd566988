// What each binding file contributes to the module.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "cpu/kernels.h"

namespace ollamapy {

void bind_gguf(pybind11::module_& module);
void bind_text(pybind11::module_& module);
void bind_sampler(pybind11::module_& module);
void bind_graph(pybind11::module_& module);
void bind_runtime(pybind11::module_& module);
void bind_matmul(pybind11::module_& module);
void bind_rows(pybind11::module_& module);

// "f16", "q8_0" or "q4_0". Throws InvalidError.
cpu::KvType kv_type_named(const std::string& name);

}  // namespace ollamapy
