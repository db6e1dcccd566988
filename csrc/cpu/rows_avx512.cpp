#define OLLAMAPY_SIMD_AVX512
#include "cpu/rows_impl.h"
#include "cpu/tables.h"

namespace ollamapy::cpu {

const RowKernels& rows_avx512() {
    static constexpr RowKernels kTable = row_kernels("avx512");
    return kTable;
}

}  // namespace ollamapy::cpu
