#include "gguf/dequantize.h"

#include <bit>
#include <cstring>

namespace ollamapy {

namespace {

constexpr int kSuper = 256;  // values in a block of the K types

uint16_t load16(const uint8_t* p) {
    return static_cast<uint16_t>(p[0] | p[1] << 8);
}

float load_f16(const uint8_t* p) {
    return f16_to_f32(load16(p));
}

// Each function below decodes one block. Layouts are ggml's; every product and sum is rounded to float in the
// order that the `gguf` package takes, so that the results agree bit for bit.

void decode_f16(const uint8_t* in, float* out) {
    *out = load_f16(in);
}

void decode_bf16(const uint8_t* in, float* out) {
    *out = bf16_to_f32(load16(in));
}

// d, 16 bytes: low nibbles are values 0 to 15, high nibbles 16 to 31.
void decode_q4_0(const uint8_t* in, float* out) {
    const float d = load_f16(in);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>((in[2 + i] & 15) - 8);
        out[16 + i] = d * static_cast<float>((in[2 + i] >> 4) - 8);
    }
}

// d, m, nibbles as in Q4_0.
void decode_q4_1(const uint8_t* in, float* out) {
    const float d = load_f16(in);
    const float m = load_f16(in + 2);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>(in[4 + i] & 15) + m;
        out[16 + i] = d * static_cast<float>(in[4 + i] >> 4) + m;
    }
}

// The fifth bit of value i is bit i of 4 bytes.
int fifth_bit(const uint8_t* high, int i) {
    return (high[i / 8] >> (i % 8) & 1) << 4;
}

// d, fifth bits, nibbles as in Q4_0.
void decode_q5_0(const uint8_t* in, float* out) {
    const float d = load_f16(in);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>(((in[6 + i] & 15) | fifth_bit(in + 2, i)) - 16);
        out[16 + i] = d * static_cast<float>(((in[6 + i] >> 4) | fifth_bit(in + 2, 16 + i)) - 16);
    }
}

// d, m, fifth bits, nibbles as in Q4_0.
void decode_q5_1(const uint8_t* in, float* out) {
    const float d = load_f16(in);
    const float m = load_f16(in + 2);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>((in[8 + i] & 15) | fifth_bit(in + 4, i)) + m;
        out[16 + i] = d * static_cast<float>((in[8 + i] >> 4) | fifth_bit(in + 4, 16 + i)) + m;
    }
}

// d, 32 int8.
void decode_q8_0(const uint8_t* in, float* out) {
    const float d = load_f16(in);
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(in[2 + i]));
}

// Sixteen bytes of scales (low nibble) and mins (high), 64 bytes of 2-bit values, d, dmin. Byte j of each
// half's 32 holds, from low to high bits, values j, 32 + j, 64 + j and 96 + j of that half; a scale covers 16
// values.
void decode_q2_k(const uint8_t* in, float* out) {
    const uint8_t* scales = in;
    const uint8_t* values = in + 16;
    const float d = load_f16(in + 80);
    const float dmin = load_f16(in + 82);
    for (int i = 0; i < kSuper; ++i) {
        const uint8_t scale = scales[i / 16];
        const float dl = d * static_cast<float>(scale & 15);
        const float ml = dmin * static_cast<float>(scale >> 4);
        const int value = values[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        out[i] = dl * static_cast<float>(value) - ml;
    }
}

// 32 bytes of high bits (byte j, bit b: value 32 b + j; a zero bit subtracts 4), 64 bytes of 2-bit values as
// in Q2_K, 12 bytes of sixteen 6-bit scales less 32 (low nibbles in the first 8 bytes, two high bits in the
// last 4), d.
void decode_q3_k(const uint8_t* in, float* out) {
    const uint8_t* high = in;
    const uint8_t* values = in + 32;
    const uint8_t* scales = in + 96;
    const float d = load_f16(in + 108);
    for (int i = 0; i < kSuper; ++i) {
        const int s = i / 16;
        const int low = scales[s % 8] >> (s / 8 * 4) & 15;
        const int top = scales[8 + s % 4] >> (s / 4 * 2) & 3;
        const float dl = d * static_cast<float>((low | top << 4) - 32);
        const int value = values[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        const int offset = (high[i % 32] >> (i / 32) & 1) ? 0 : 4;
        out[i] = dl * static_cast<float>(value - offset);
    }
}

// Scale and min j of the eight that Q4_K and Q5_K pack as 6 bits into 12 bytes: the first four scales and
// mins are the low 6 bits of bytes 0 to 3 and 4 to 7; the others have their low nibbles in bytes 8 to 11 and
// their upper two bits in what the first left free.
void scale_and_min(const uint8_t* packed, int j, int* scale, int* min) {
    if (j < 4) {
        *scale = packed[j] & 63;
        *min = packed[4 + j] & 63;
    } else {
        *scale = (packed[4 + j] & 15) | (packed[j - 4] >> 6) << 4;
        *min = packed[4 + j] >> 4 | (packed[j] >> 6) << 4;
    }
}

// d, dmin, 12 bytes of scales and mins, 128 bytes: of each 32, the low nibbles are 32 values and the high
// ones the next 32.
void decode_q4_k(const uint8_t* in, float* out) {
    const float d = load_f16(in);
    const float dmin = load_f16(in + 2);
    for (int j = 0; j < 8; ++j) {
        int scale, min;
        scale_and_min(in + 4, j, &scale, &min);
        const float dl = d * static_cast<float>(scale);
        const float ml = dmin * static_cast<float>(min);
        const uint8_t* values = in + 16 + j / 2 * 32;
        for (int i = 0; i < 32; ++i) {
            const int value = values[i] >> (j % 2 * 4) & 15;
            out[j * 32 + i] = dl * static_cast<float>(value) - ml;
        }
    }
}

// d, dmin, scales and mins, 32 bytes of fifth bits (byte i, bit j: value 32 j + i), nibbles as in Q4_K.
void decode_q5_k(const uint8_t* in, float* out) {
    const float d = load_f16(in);
    const float dmin = load_f16(in + 2);
    for (int j = 0; j < 8; ++j) {
        int scale, min;
        scale_and_min(in + 4, j, &scale, &min);
        const float dl = d * static_cast<float>(scale);
        const float ml = dmin * static_cast<float>(min);
        const uint8_t* values = in + 48 + j / 2 * 32;
        for (int i = 0; i < 32; ++i) {
            const int value = (values[i] >> (j % 2 * 4) & 15) | (in[16 + i] >> j & 1) << 4;
            out[j * 32 + i] = dl * static_cast<float>(value) - ml;
        }
    }
}

// 128 bytes of low nibbles (of each 64: low ones first), 64 bytes of two high bits each (as Q2_K packs its
// values), sixteen int8 scales, d; values less 32.
void decode_q6_k(const uint8_t* in, float* out) {
    const uint8_t* low = in;
    const uint8_t* high = in + 128;
    const uint8_t* scales = in + 192;
    const float d = load_f16(in + 208);
    for (int i = 0; i < kSuper; ++i) {
        const float dl = d * static_cast<float>(static_cast<int8_t>(scales[i / 16]));
        const int half = i / 128;
        const int nibble = low[half * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        const int top = high[half * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        out[i] = dl * static_cast<float>((nibble | top << 4) - 32);
    }
}

using Decode = void (*)(const uint8_t* in, float* out);

Decode decoder(DType type) {
    switch (type) {
        case DType::F32:
            break;
        case DType::F16:
            return decode_f16;
        case DType::BF16:
            return decode_bf16;
        case DType::Q4_0:
            return decode_q4_0;
        case DType::Q4_1:
            return decode_q4_1;
        case DType::Q5_0:
            return decode_q5_0;
        case DType::Q5_1:
            return decode_q5_1;
        case DType::Q8_0:
            return decode_q8_0;
        case DType::Q2_K:
            return decode_q2_k;
        case DType::Q3_K:
            return decode_q3_k;
        case DType::Q4_K:
            return decode_q4_k;
        case DType::Q5_K:
            return decode_q5_k;
        case DType::Q6_K:
            return decode_q6_k;
    }
    return nullptr;
}

}  // namespace

void dequantize(DType type, const uint8_t* src, float* out, int64_t count) {
    const DTypeInfo info = dtype_info(type);
    const Decode decode = decoder(type);
    if (!decode) {  // F32
        std::memcpy(out, src, static_cast<size_t>(count) * sizeof(float));
        return;
    }
    const int64_t blocks = count / info.block_size;
    for (int64_t i = 0; i < blocks; ++i) decode(src + i * info.block_bytes, out + i * info.block_size);
}

float f16_to_f32(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t exponent = half >> 10 & 31;
    const uint32_t mantissa = half & 0x3ff;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0) {
        // Zero or subnormal: mantissa * 2^-24, exact in float.
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
    }
    return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t f32_to_f16(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = bits >> 16 & 0x8000;
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000)
        return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more round to infinity
    if (magnitude < 0x38800000) {
        // Below 2^-14: a multiple of 2^-24. Adding 0.5, whose last place is 2^-24, lets the FPU round to
        // even.
        const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000));
    }
    // Half of the dropped 13 bits less one, plus one if the kept part is odd: to nearest, ties to even.
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}

float bf16_to_f32(uint16_t half) {
    return std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
}

}  // namespace ollamapy
