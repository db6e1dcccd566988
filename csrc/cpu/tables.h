// The kernel tables by instruction set. A table may only be used on a CPU that has the instructions it names;
// dispatch.cpp sees to it.
#pragma once

#include "cpu/kernels.h"

namespace ollamapy::cpu {

const MatmulKernels& matmul_portable();
const MatmulKernels& matmul_avx2();    // AVX2, FMA, F16C
const MatmulKernels& matmul_avx512();  // those and AVX-512 F, BW, DQ, VL, VNNI

const RowKernels& rows_portable();
const RowKernels& rows_avx2();
const RowKernels& rows_avx512();

}  // namespace ollamapy::cpu
