// The module ollamapy._core. Its types and docstrings are in ollamapy/_core.pyi.
#include "bindings/bindings.h"
#include "errors.h"

PYBIND11_MODULE(_core, module) {
    namespace py = pybind11;
    module.doc() = "The native core of OllamaPy.";
    py::register_exception<ollamapy::FileError>(module, "GGUFError", PyExc_ValueError);
    ollamapy::bind_gguf(module);
    ollamapy::bind_text(module);
    ollamapy::bind_sampler(module);
    ollamapy::bind_graph(module);
    ollamapy::bind_runtime(module);
    ollamapy::bind_matmul(module);
    ollamapy::bind_rows(module);
}
