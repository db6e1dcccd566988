// Which instruction sets this CPU runs, and the sizes of attention's buffers.
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cpu/attention_layout.h"
#include "cpu/kernels.h"
#include "cpu/peak.h"
#include "cpu/tables.h"
#include "errors.h"

namespace ollamapy::cpu {

namespace {

bool cpu_has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

#if !defined(OLLAMAPY_EMULATE_AVX512)
bool cpu_has_avx512() {
    return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

std::vector<Isa> find_isas() {
    std::vector<Isa> isas;
#if !defined(OLLAMAPY_EMULATE_AVX512)
    if (cpu_has_avx512()) isas.push_back({"avx512", &matmul_avx512(), &rows_avx512(), &peak_avx512()});
#endif
    if (cpu_has_avx2()) isas.push_back({"avx2", &matmul_avx2(), &rows_avx2(), &peak_avx2()});
    isas.push_back({"portable", &matmul_portable(), &rows_portable(), &peak_portable()});
#if defined(OLLAMAPY_EMULATE_AVX512)
    // For tests of the AVX-512 sources on CPUs without it: slow, so never the default.
    if (cpu_has_avx2()) isas.push_back({"avx512-emulated", &matmul_avx512(), &rows_avx512(), &peak_avx512()});
#endif
    return isas;
}

const std::vector<Isa>& isas() {
    static const std::vector<Isa> found = find_isas();
    return found;
}

}  // namespace

const Isa& select_isa(const char* name) {
    if (!name || !*name) name = std::getenv("OLLAMAPY_ISA");
    if (!name || !*name) return isas().front();
    std::string known;
    for (const Isa& isa : isas()) {
        if (std::strcmp(isa.name, name) == 0) return isa;
        known += known.empty() ? isa.name : std::string(", ") + isa.name;
    }
    throw InvalidError("instruction set '" + std::string(name) +
                       "' is unknown or this CPU lacks it; it can run " + known);
}

const char* const* available_isas(size_t* count) {
    static const std::vector<const char*> names = [] {
        std::vector<const char*> result;
        for (const Isa& isa : isas()) result.push_back(isa.name);
        return result;
    }();
    *count = names.size();
    return names.data();
}

size_t attention_scratch(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, int32_t v_dim) {
    const int64_t queries = kAttentionRows * (n_heads / n_kv_heads);
    return static_cast<size_t>(attention_scratch_layout(queries, head_dim, v_dim).size);
}

size_t attention_partial_floats(int32_t n_heads, int32_t n_kv_heads, int32_t v_dim, int64_t rows) {
    return static_cast<size_t>(rows * (n_heads / n_kv_heads) * record_stride(v_dim));
}

}  // namespace ollamapy::cpu
