#include "gguf/dtype.h"

namespace ollamapy {

namespace {

// Types that a file may name although nothing here computes with them; the numbers are ggml's.
const char* foreign_name(uint32_t type) {
    switch (type) {
        case 9:
            return "Q8_1";
        case 15:
            return "Q8_K";
        case 16:
            return "IQ2_XXS";
        case 17:
            return "IQ2_XS";
        case 18:
            return "IQ3_XXS";
        case 19:
            return "IQ1_S";
        case 20:
            return "IQ4_NL";
        case 21:
            return "IQ3_S";
        case 22:
            return "IQ2_S";
        case 23:
            return "IQ4_XS";
        case 24:
            return "I8";
        case 25:
            return "I16";
        case 26:
            return "I32";
        case 27:
            return "I64";
        case 28:
            return "F64";
        case 29:
            return "IQ1_M";
        case 34:
            return "TQ1_0";
        case 35:
            return "TQ2_0";
        case 39:
            return "MXFP4";
        case 40:
            return "NVFP4";
        default:
            return nullptr;
    }
}

}  // namespace

std::string dtype_name(uint32_t type) {
    if (const auto info = dtype_info(type)) return info->name;
    if (const char* name = foreign_name(type)) return name;
    return "type " + std::to_string(type);
}

}  // namespace ollamapy
