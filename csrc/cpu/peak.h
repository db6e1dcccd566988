// What an instruction set can do at most: loops of nothing but the multiplications that the products use, all
// operands in registers. Profiles are read against them.
#pragma once

#include <cstdint>

namespace ollamapy::cpu {

struct PeakKernels {
    // Operations of one round, a multiplication and its addition counting two.
    int64_t int8_operations;
    int64_t f32_operations;
    // So many rounds, at least one. The result says nothing; it keeps the loop from being left out.
    int32_t (*int8)(int64_t rounds);
    float (*f32)(int64_t rounds);
};

const PeakKernels& peak_portable();
const PeakKernels& peak_avx2();    // AVX2, FMA
const PeakKernels& peak_avx512();  // AVX-512 F, VNNI

}  // namespace ollamapy::cpu
