// The module ollamapy._core. Its types and docstrings are in ollamapy/_core.pyi.
#include <string_view>

#include "bindings/bindings.h"
#include "errors.h"

PYBIND11_MODULE(_core, module) {
    namespace py = pybind11;
    module.doc() = "The native core of OllamaPy.";
    // Messages may repeat what a file says, in whatever encoding.
    static py::exception<ollamapy::FileError> gguf_error(module, "GGUFError", PyExc_ValueError);
    py::register_exception_translator([](std::exception_ptr pending) {
        try {
            if (pending) std::rethrow_exception(pending);
        } catch (const ollamapy::FileError& error) {
            const std::string_view text = error.what();
            const auto message = py::reinterpret_steal<py::object>(
                PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
            PyErr_SetObject(gguf_error.ptr(), message.ptr());
        }
    });
    ollamapy::bind_gguf(module);
    ollamapy::bind_text(module);
    ollamapy::bind_sampler(module);
    ollamapy::bind_graph(module);
    ollamapy::bind_runtime(module);
    ollamapy::bind_matmul(module);
    ollamapy::bind_rows(module);
}
