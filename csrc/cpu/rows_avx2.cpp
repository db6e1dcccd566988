#define OLLAMAPY_SIMD_AVX2
#include "cpu/rows_impl.h"
#include "cpu/tables.h"

namespace ollamapy::cpu {

const RowKernels& rows_avx2() {
    static constexpr RowKernels kTable = row_kernels("avx2");
    return kTable;
}

}  // namespace ollamapy::cpu
