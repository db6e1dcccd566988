#include "bindings/bindings.h"

namespace ollamapy {

void bind_runtime(pybind11::module_&) {}

}  // namespace ollamapy
