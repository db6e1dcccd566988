// float32 to blocks of a quantized type.
//
// Block layouts are ggml's (dequantize.cpp describes them). The scales of the K types come from a search:
// each group tries several roundings, and each rounding gets the scale (and minimum) of least weighted
// squares.
#pragma once

#include <cstdint>

#include "gguf/dtype.h"

namespace ollamapy {

// count values, a multiple of the type's block size, to count / block_size * block_bytes bytes. F32, F16 and
// BF16 are rounded to nearest even. False when a value is infinite or not a number, or so large that the
// format cannot hold its scale: out is then unspecified.
bool quantize(DType type, const float* src, uint8_t* out, int64_t count);

}  // namespace ollamapy
