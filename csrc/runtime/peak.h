// How much a device computes at most, measured.
#pragma once

#include <string>

#include "runtime/device.h"

namespace ollamapy {

// Operations per second of all threads together, a multiplication and its addition counting two: the best of
// several runs in about so many seconds. kind is "int8" or "f32". Throws InvalidError.
double measure_peak(Device& device, const std::string& kind, double seconds);

}  // namespace ollamapy
