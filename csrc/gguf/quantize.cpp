#include "gguf/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "gguf/dequantize.h"

namespace ollamapy {

namespace {

constexpr int kBlock = 32;
constexpr int kSuper = 256;      // values in a block of the K types
constexpr float kTiny = 1e-15F;  // a group whose values are all smaller is zero

int nearest(float value) {
    return static_cast<int>(std::lrint(value));
}

int nearest(float value, int low, int high) {
    // Clamped first: what is out of range has no nearest int.
    return nearest(std::clamp(value, static_cast<float>(low), static_cast<float>(high)));
}

float store_f16(uint8_t* out, float value) {
    const uint16_t half = f32_to_f16(value);
    out[0] = static_cast<uint8_t>(half);
    out[1] = static_cast<uint8_t>(half >> 8);
    return f16_to_f32(half);
}

// The value of largest magnitude, with its sign.
float extreme(const float* x, int n) {
    float found = 0;
    for (int i = 0; i < n; ++i)
        if (std::fabs(x[i]) > std::fabs(found)) found = x[i];
    return found;
}

// ---- Blocks of 32 ----------------------------------------------------------------------------------

// Nibbles of values 0..15 and 16..31, and bit 4 of value i in bit i of high (if any).
void store_nibbles(const int* q, uint8_t* low, uint8_t* high) {
    for (int i = 0; i < 16; ++i) low[i] = static_cast<uint8_t>((q[i] & 15) | (q[16 + i] & 15) << 4);
    if (!high) return;
    std::fill_n(high, 4, uint8_t{0});
    for (int i = 0; i < kBlock; ++i) high[i / 8] |= static_cast<uint8_t>((q[i] >> 4 & 1) << (i % 8));
}

// The extreme value becomes the level -half exactly, which has no positive counterpart.
void encode_symmetric(const float* x, uint8_t* out, int half, uint8_t* low, uint8_t* high) {
    const float d = extreme(x, kBlock) / static_cast<float>(-half);
    const float inverse = d != 0 ? 1.0F / d : 0.0F;
    store_f16(out, d);
    int q[kBlock];
    for (int i = 0; i < kBlock; ++i) q[i] = nearest(x[i] * inverse, -half, half - 1) + half;
    store_nibbles(q, low, high);
}

void encode_affine(const float* x, uint8_t* out, int levels, uint8_t* low, uint8_t* high) {
    const auto [least, most] = std::minmax_element(x, x + kBlock);
    const float d = (*most - *least) / static_cast<float>(levels);
    const float inverse = d != 0 ? 1.0F / d : 0.0F;
    store_f16(out, d);
    store_f16(out + 2, *least);
    int q[kBlock];
    for (int i = 0; i < kBlock; ++i) q[i] = nearest((x[i] - *least) * inverse, 0, levels);
    store_nibbles(q, low, high);
}

void encode_q4_0(const float* x, uint8_t* out) {
    encode_symmetric(x, out, 8, out + 2, nullptr);
}

void encode_q4_1(const float* x, uint8_t* out) {
    encode_affine(x, out, 15, out + 4, nullptr);
}

void encode_q5_0(const float* x, uint8_t* out) {
    encode_symmetric(x, out, 16, out + 6, out + 2);
}

void encode_q5_1(const float* x, uint8_t* out) {
    encode_affine(x, out, 31, out + 8, out + 4);
}

void encode_q8_0(const float* x, uint8_t* out) {
    const float d = std::fabs(extreme(x, kBlock)) / 127.0F;
    const float inverse = d != 0 ? 1.0F / d : 0.0F;
    store_f16(out, d);
    for (int i = 0; i < kBlock; ++i) out[2 + i] = static_cast<uint8_t>(nearest(x[i] * inverse, -127, 127));
}

// ---- Searches for the scales of the K types -------------------------------------------------------

// x ~ scale * q - min with 0 <= q <= levels and min >= 0.
struct Affine {
    float scale;
    float min;
};

// Tries `steps` + 1 inverse scales from (levels + first) / range, `step` apart; each rounding gets the scale
// and minimum of least weighted squares (two normal equations), and the one of least weighted error is kept.
// absolute: the error is the sum of w |r| instead of w r^2.
Affine fit_affine(const float* x, const float* w, int n, int levels, float first, float step, int steps,
                  bool absolute) {
    float least = x[0], most = x[0], sum_w = 0, sum_x = 0;
    for (int i = 0; i < n; ++i) {
        least = std::min(least, x[i]);
        most = std::max(most, x[i]);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    least = std::min(least, 0.0F);
    if (most - least < kTiny) return {0.0F, -least};
    float range = most - least;
    std::array<float, kBlock> q{};
    const auto round = [&](float inverse) {
        for (int i = 0; i < n; ++i)
            q[static_cast<size_t>(i)] = static_cast<float>(nearest(inverse * (x[i] - least), 0, levels));
    };
    const auto error = [&](float scale, float offset) {
        float sum = 0;
        for (int i = 0; i < n; ++i) {
            const float r = scale * q[static_cast<size_t>(i)] + offset - x[i];
            sum += w[i] * (absolute ? std::fabs(r) : r * r);
        }
        return sum;
    };
    round(static_cast<float>(levels) / range);
    Affine best{range / static_cast<float>(levels), -least};
    float best_error = error(best.scale, least);
    for (int k = 0; k <= steps; ++k) {
        round((static_cast<float>(levels) + first + step * static_cast<float>(k)) / range);
        float sum_q = 0, sum_qq = 0, sum_xq = 0;
        for (int i = 0; i < n; ++i) {
            const float v = q[static_cast<size_t>(i)];
            sum_q += w[i] * v;
            sum_qq += w[i] * v * v;
            sum_xq += w[i] * v * x[i];
        }
        const float determinant = sum_w * sum_qq - sum_q * sum_q;
        if (!(determinant > 0)) continue;
        float scale = (sum_w * sum_xq - sum_x * sum_q) / determinant;
        float offset = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
        if (offset > 0) {  // the format can only subtract
            offset = 0;
            scale = sum_xq / sum_qq;
        }
        const float now = error(scale, offset);
        if (now < best_error) {
            best_error = now;
            best = {scale, -offset};
            least = offset;  // later roundings start from the best minimum so far
            range = most - least;
        }
    }
    return best;
}

// x ~ scale * q with -half <= q < half; squares are weighted by x^2. The scale may be negative.
float fit_symmetric(const float* x, int n, int half) {
    const float top = extreme(x, n);
    if (std::fabs(top) < kTiny) return 0;
    float best_scale = 0, best_gain = 0;
    for (int k = -9; k <= 9; ++k) {
        const float inverse = -(static_cast<float>(half) + 0.1F * static_cast<float>(k)) / top;
        float sum_xq = 0, sum_qq = 0;
        for (int i = 0; i < n; ++i) {
            const float q = static_cast<float>(nearest(inverse * x[i], -half, half - 1));
            const float w = x[i] * x[i];
            sum_xq += w * x[i] * q;
            sum_qq += w * q * q;
        }
        // With the best scale sum_xq / sum_qq the error falls by sum_xq^2 / sum_qq.
        if (sum_qq > 0 && sum_xq * sum_xq > best_gain * sum_qq) {
            best_scale = sum_xq / sum_qq;
            best_gain = best_scale * sum_xq;
        }
    }
    return best_scale;
}

// As fit_symmetric, then single values move to the level that is best for the scale of the others, until none
// does: with four levels a side this finds more than other first roundings.
float refine_symmetric(const float* x, int n, int half) {
    const float top = extreme(x, n);
    if (std::fabs(top) < kTiny) return 0;
    std::array<float, 16> q{};
    float sum_xq = 0, sum_qq = 0;
    for (int i = 0; i < n; ++i) {
        const float v = static_cast<float>(nearest(-static_cast<float>(half) / top * x[i], -half, half - 1));
        const float w = x[i] * x[i];
        q[static_cast<size_t>(i)] = v;
        sum_xq += w * x[i] * v;
        sum_qq += w * v * v;
    }
    for (int round = 0; round < 5; ++round) {
        bool moved = false;
        for (int i = 0; i < n; ++i) {
            float& old = q[static_cast<size_t>(i)];
            const float w = x[i] * x[i];
            const float rest_xq = sum_xq - w * x[i] * old;
            const float rest_qq = sum_qq - w * old * old;
            if (!(rest_xq > 0)) continue;
            const float v = static_cast<float>(nearest(x[i] * rest_qq / rest_xq, -half, half - 1));
            const float new_xq = rest_xq + w * x[i] * v;
            const float new_qq = rest_qq + w * v * v;
            if (v != old && new_qq > 0 && new_xq * new_xq * sum_qq > sum_xq * sum_xq * new_qq) {
                old = v;
                sum_xq = new_xq;
                sum_qq = new_qq;
                moved = true;
            }
        }
        if (!moved) break;
    }
    return sum_qq > 0 ? sum_xq / sum_qq : 0;
}

// ---- K types: 256 values, scales of groups in few bits ---------------------------------------------

// Two bits of each value: byte j of a half's 32 holds values j, 32 + j, 64 + j and 96 + j of that half.
void store_pairs(const int* q, uint8_t* out) {
    std::fill_n(out, kSuper / 4, uint8_t{0});
    for (int i = 0; i < kSuper; ++i)
        out[i / 128 * 32 + i % 32] |= static_cast<uint8_t>((q[i] & 3) << (i % 128 / 32 * 2));
}

void encode_q2_k(const float* x, uint8_t* out) {
    std::array<Affine, 16> fits;
    float top_scale = 0, top_min = 0;
    for (int g = 0; g < 16; ++g) {
        float w[16];
        for (int i = 0; i < 16; ++i) w[i] = std::fabs(x[16 * g + i]);
        Affine& fit = fits[static_cast<size_t>(g)];
        fit = fit_affine(x + 16 * g, w, 16, 3, -0.5F, 0.1F, 15, true);
        top_scale = std::max(top_scale, fit.scale);
        top_min = std::max(top_min, fit.min);
    }
    const float d = store_f16(out + 80, top_scale / 15.0F);
    const float dmin = store_f16(out + 82, top_min / 15.0F);
    int q[kSuper];
    for (int g = 0; g < 16; ++g) {
        const Affine fit = fits[static_cast<size_t>(g)];
        const int scale = top_scale > 0 ? nearest(15.0F / top_scale * fit.scale, 0, 15) : 0;
        const int min = top_min > 0 ? nearest(15.0F / top_min * fit.min, 0, 15) : 0;
        out[g] = static_cast<uint8_t>(scale | min << 4);
        const float dl = d * static_cast<float>(scale), ml = dmin * static_cast<float>(min);
        for (int i = 16 * g; i < 16 * g + 16; ++i) q[i] = dl != 0 ? nearest((x[i] + ml) / dl, 0, 3) : 0;
    }
    store_pairs(q, out + 16);
}

void encode_q3_k(const float* x, uint8_t* out) {
    float scales[16];
    for (int g = 0; g < 16; ++g) scales[g] = refine_symmetric(x + 16 * g, 16, 4);
    const float top = extreme(scales, 16);
    const float d = store_f16(out + 108, top / -32.0F);
    uint8_t* packed = out + 96;
    std::fill_n(packed, 12, uint8_t{0});
    int q[kSuper];
    for (int g = 0; g < 16; ++g) {
        const int scale = top != 0 ? nearest(-32.0F / top * scales[g], -32, 31) : 0;
        const int stored = scale + 32;
        packed[g % 8] |= static_cast<uint8_t>((stored & 15) << (g / 8 * 4));
        packed[8 + g % 4] |= static_cast<uint8_t>(stored >> 4 << (g / 4 * 2));
        const float dl = d * static_cast<float>(scale);
        for (int i = 16 * g; i < 16 * g + 16; ++i) q[i] = (dl != 0 ? nearest(x[i] / dl, -4, 3) : 0) + 4;
    }
    std::fill_n(out, 32, uint8_t{0});
    for (int i = 0; i < kSuper; ++i) out[i % 32] |= static_cast<uint8_t>((q[i] >> 2) << (i / 32));
    store_pairs(q, out + 32);
}

// Eight 6-bit scales and mins in 12 bytes; dequantize.cpp reads them back.
void store_scale_and_min(uint8_t* packed, int j, int scale, int min) {
    if (j < 4) {
        packed[j] |= static_cast<uint8_t>(scale);
        packed[4 + j] |= static_cast<uint8_t>(min);
    } else {
        packed[4 + j] |= static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
        packed[j - 4] |= static_cast<uint8_t>(scale >> 4 << 6);
        packed[j] |= static_cast<uint8_t>(min >> 4 << 6);
    }
}

// What Q4_K and Q5_K share: d, dmin, the packed scales, and levels of 0..levels in q.
void encode_k_affine(const float* x, uint8_t* out, int levels, float first, int steps, int* q) {
    std::array<Affine, 8> fits;
    float top_scale = 0, top_min = 0;
    for (int g = 0; g < 8; ++g) {
        const float* group = x + kBlock * g;
        float sum = 0;
        for (int i = 0; i < kBlock; ++i) sum += group[i] * group[i];
        const float rms = std::sqrt(sum / kBlock);
        float w[kBlock];  // large values matter more, small ones still do
        for (int i = 0; i < kBlock; ++i) w[i] = rms + std::fabs(group[i]);
        Affine& fit = fits[static_cast<size_t>(g)];
        fit = fit_affine(group, w, kBlock, levels, first, 0.1F, steps, false);
        top_scale = std::max(top_scale, fit.scale);
        top_min = std::max(top_min, fit.min);
    }
    const float d = store_f16(out, top_scale / 63.0F);
    const float dmin = store_f16(out + 2, top_min / 63.0F);
    uint8_t* packed = out + 4;
    std::fill_n(packed, 12, uint8_t{0});
    for (int g = 0; g < 8; ++g) {
        const Affine fit = fits[static_cast<size_t>(g)];
        const int scale = top_scale > 0 ? nearest(63.0F / top_scale * fit.scale, 0, 63) : 0;
        const int min = top_min > 0 ? nearest(63.0F / top_min * fit.min, 0, 63) : 0;
        store_scale_and_min(packed, g, scale, min);
        const float dl = d * static_cast<float>(scale), ml = dmin * static_cast<float>(min);
        for (int i = kBlock * g; i < kBlock * (g + 1); ++i)
            q[i] = dl != 0 ? nearest((x[i] + ml) / dl, 0, levels) : 0;
    }
}

// Of each 64 values: low nibbles are the first 32, high ones the others.
void store_k_nibbles(const int* q, uint8_t* out) {
    for (int j = 0; j < kSuper / 64; ++j)
        for (int i = 0; i < 32; ++i)
            out[32 * j + i] = static_cast<uint8_t>((q[64 * j + i] & 15) | (q[64 * j + 32 + i] & 15) << 4);
}

void encode_q4_k(const float* x, uint8_t* out) {
    int q[kSuper];
    encode_k_affine(x, out, 15, -1.0F, 20, q);
    store_k_nibbles(q, out + 16);
}

void encode_q5_k(const float* x, uint8_t* out) {
    int q[kSuper];
    encode_k_affine(x, out, 31, -0.5F, 15, q);
    std::fill_n(out + 16, 32, uint8_t{0});
    for (int i = 0; i < kSuper; ++i) out[16 + i % 32] |= static_cast<uint8_t>((q[i] >> 4) << (i / 32));
    store_k_nibbles(q, out + 48);
}

void encode_q6_k(const float* x, uint8_t* out) {
    float scales[16];
    for (int g = 0; g < 16; ++g) scales[g] = fit_symmetric(x + 16 * g, 16, 32);
    const float top = extreme(scales, 16);
    const float d = store_f16(out + 208, top / -128.0F);
    uint8_t* low = out;
    uint8_t* high = out + 128;
    std::fill_n(out, 192, uint8_t{0});
    for (int g = 0; g < 16; ++g) {
        const int scale = top != 0 ? nearest(-128.0F / top * scales[g], -128, 127) : 0;
        out[192 + g] = static_cast<uint8_t>(scale);
        const float dl = d * static_cast<float>(scale);
        for (int i = 16 * g; i < 16 * g + 16; ++i) {
            const int q = (dl != 0 ? nearest(x[i] / dl, -32, 31) : 0) + 32;
            const int half = i / 128;
            low[half * 64 + i % 64] |= static_cast<uint8_t>((q & 15) << (i % 128 / 64 * 4));
            high[half * 32 + i % 32] |= static_cast<uint8_t>((q >> 4) << (i % 128 / 32 * 2));
        }
    }
}

void encode_f16(const float* x, uint8_t* out) {
    store_f16(out, *x);
}

void encode_bf16(const float* x, uint8_t* out) {
    // The upper half of the bits, to nearest even.
    const uint32_t bits = std::bit_cast<uint32_t>(*x);
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    out[0] = static_cast<uint8_t>(rounded >> 16);
    out[1] = static_cast<uint8_t>(rounded >> 24);
}

void encode_f32(const float* x, uint8_t* out) {
    std::memcpy(out, x, sizeof *x);
}

using Encode = void (*)(const float* x, uint8_t* out);

Encode encoder(DType type) {
    switch (type) {
        case DType::F32:
            return encode_f32;
        case DType::F16:
            return encode_f16;
        case DType::BF16:
            return encode_bf16;
        case DType::Q4_0:
            return encode_q4_0;
        case DType::Q4_1:
            return encode_q4_1;
        case DType::Q5_0:
            return encode_q5_0;
        case DType::Q5_1:
            return encode_q5_1;
        case DType::Q8_0:
            return encode_q8_0;
        case DType::Q2_K:
            return encode_q2_k;
        case DType::Q3_K:
            return encode_q3_k;
        case DType::Q4_K:
            return encode_q4_k;
        case DType::Q5_K:
            return encode_q5_k;
        case DType::Q6_K:
            return encode_q6_k;
    }
    return nullptr;
}

// The largest magnitude whose scale every format can hold as f16 (Q4_0: a seventh or eighth; Q4_1 keeps the
// minimum itself).
constexpr float kLargest = 60000.0F;

}  // namespace

bool quantize(DType type, const float* src, uint8_t* out, int64_t count) {
    const float largest = type == DType::F32 || type == DType::BF16 ? 3e38F : kLargest;
    for (int64_t i = 0; i < count; ++i)
        if (!(std::fabs(src[i]) <= largest)) return false;
    const DTypeInfo info = dtype_info(type);
    const Encode encode = encoder(type);
    const int64_t blocks = count / info.block_size;
    for (int64_t i = 0; i < blocks; ++i) encode(src + i * info.block_size, out + i * info.block_bytes);
    return true;
}

}  // namespace ollamapy
