#include "bindings/bindings.h"

namespace ollamapy {

void bind_gguf(pybind11::module_&) {}

}  // namespace ollamapy
