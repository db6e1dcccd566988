// Scalar reference: blocks of a quantized type to float32, bit for bit what the `gguf` package computes.
#pragma once

#include <cstdint>

#include "gguf/dtype.h"

namespace ollamapy {

// count values, a multiple of the type's block size, from src (count / block_size * block_bytes bytes) to
// out.
void dequantize(DType type, const uint8_t* src, float* out, int64_t count);

float f16_to_f32(uint16_t half);
uint16_t f32_to_f16(float value);  // round to nearest even
float bf16_to_f32(uint16_t half);

}  // namespace ollamapy
