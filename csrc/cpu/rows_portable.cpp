#define OLLAMAPY_SIMD_PORTABLE
#include "cpu/rows_impl.h"
#include "cpu/tables.h"

namespace ollamapy::cpu {

const RowKernels& rows_portable() {
    static constexpr RowKernels kTable = row_kernels("portable");
    return kTable;
}

}  // namespace ollamapy::cpu
