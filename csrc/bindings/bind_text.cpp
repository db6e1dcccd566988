#include "bindings/bindings.h"

namespace ollamapy {

void bind_text(pybind11::module_&) {}

}  // namespace ollamapy
