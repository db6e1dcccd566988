// Tensor element types of GGUF, numbered as in the file, and their block geometry.
// Source of the numbers and formats: ggml's type list as published in the GGUF specification.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace ollamapy {

enum class DType : uint32_t {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    BF16 = 30,
};

// All of them.
inline constexpr DType kDTypes[] = {
    DType::F32,  DType::F16,  DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1,
    DType::Q8_0, DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K,
};

struct DTypeInfo {
    const char* name;      // as printed by the field: "Q4_K"
    uint32_t block_size;   // values per block
    uint32_t block_bytes;  // bytes per block
};

// The geometry of a type, or nullopt for a number that is not in the enum above.
constexpr std::optional<DTypeInfo> dtype_info(uint32_t type) {
    switch (static_cast<DType>(type)) {
        case DType::F32:
            return DTypeInfo{"F32", 1, 4};
        case DType::F16:
            return DTypeInfo{"F16", 1, 2};
        case DType::BF16:
            return DTypeInfo{"BF16", 1, 2};
        case DType::Q4_0:
            return DTypeInfo{"Q4_0", 32, 18};
        case DType::Q4_1:
            return DTypeInfo{"Q4_1", 32, 20};
        case DType::Q5_0:
            return DTypeInfo{"Q5_0", 32, 22};
        case DType::Q5_1:
            return DTypeInfo{"Q5_1", 32, 24};
        case DType::Q8_0:
            return DTypeInfo{"Q8_0", 32, 34};
        case DType::Q2_K:
            return DTypeInfo{"Q2_K", 256, 84};
        case DType::Q3_K:
            return DTypeInfo{"Q3_K", 256, 110};
        case DType::Q4_K:
            return DTypeInfo{"Q4_K", 256, 144};
        case DType::Q5_K:
            return DTypeInfo{"Q5_K", 256, 176};
        case DType::Q6_K:
            return DTypeInfo{"Q6_K", 256, 210};
    }
    return std::nullopt;
}

constexpr DTypeInfo dtype_info(DType type) {
    return *dtype_info(static_cast<uint32_t>(type));
}

// The field's name of any type number: "Q4_K", also of those that only others compute with ("MXFP4"); "type
// 99" when it has none.
std::string dtype_name(uint32_t type);

}  // namespace ollamapy
