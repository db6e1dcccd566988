#include "bindings/bindings.h"

namespace ollamapy {

void bind_graph(pybind11::module_&) {}

}  // namespace ollamapy
