// Sixteen float lanes, three times: plain loops, two AVX registers, one AVX-512 register. The kernels of
// rows_impl.h and attention_impl.h are written against these functions only, so every instruction set runs
// the same operations in the same order and gives the same bits (the payload of a NaN excepted).
//
// The including file defines OLLAMAPY_SIMD_PORTABLE, OLLAMAPY_SIMD_AVX2 or OLLAMAPY_SIMD_AVX512. Everything
// is in an anonymous namespace and nothing here or in the kernels uses templates or inline functions of the
// standard library: the linker keeps one copy of those, and a copy compiled for AVX must never reach a CPU
// without it.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(OLLAMAPY_SIMD_AVX512) && defined(__GNUC__) && !defined(__clang__)
// g++ 12 takes the "undefined" operands inside its own avx512fintrin.h for uninitialized variables.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#if defined(OLLAMAPY_SIMD_AVX512) && defined(OLLAMAPY_EMULATE_AVX512)
#include "cpu/avx512_emulation.h"
#elif defined(OLLAMAPY_SIMD_AVX512) || defined(OLLAMAPY_SIMD_AVX2)
#include <immintrin.h>
#elif !defined(OLLAMAPY_SIMD_PORTABLE)
#error "choose an implementation of simd.h"
#endif

#define OLLAMAPY_LANES inline __attribute__((always_inline))

namespace ollamapy::cpu {
namespace {

constexpr int64_t kLanes = 16;

// Semantics that all implementations share, beyond IEEE arithmetic with rounding to nearest even:
//   fma(a, b, c) = a * b + c and fnma(a, b, c) = c - a * b, rounded once
//   max(a, b) = a > b ? a : b and min(a, b) = a < b ? a : b: b when either is NaN
//   load_n, store_n: the first n lanes, 0 <= n <= 16; the others are fill (0) and are not touched in memory
//   add_exponent(v, t), power_of_two(t): the bits of v, or of 1.0, plus those of t shifted left by 23
//   sum, largest: lanes i and i + 8, then i and i + 4, i + 2, i + 1 are combined, the lower one first
//   load_f16, store_f16: IEEE binary16, to nearest even; a NaN becomes quiet
//   load_nibbles: 16 bytes as their low and their high nibbles, less 8

#if defined(OLLAMAPY_SIMD_PORTABLE)

struct Vec {
    float v[kLanes];
};
struct Mask {
    bool v[kLanes];
};

template <class F>
OLLAMAPY_LANES Vec each_lane(F f) {
    Vec r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
    return r;
}
OLLAMAPY_LANES uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
OLLAMAPY_LANES float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

OLLAMAPY_LANES Vec broadcast(float x) {
    return each_lane([=](int) { return x; });
}
OLLAMAPY_LANES Vec load(const float* p) {
    return each_lane([=](int i) { return p[i]; });
}
OLLAMAPY_LANES Vec load_n(const float* p, int64_t n, float fill = 0.0f) {
    return each_lane([=](int i) { return i < n ? p[i] : fill; });
}
OLLAMAPY_LANES void store(float* p, Vec a) {
    memcpy(p, a.v, sizeof a.v);
}
OLLAMAPY_LANES void store_n(float* p, Vec a, int64_t n) {
    for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
OLLAMAPY_LANES Vec operator+(Vec a, Vec b) {
    return each_lane([&](int i) { return a.v[i] + b.v[i]; });
}
OLLAMAPY_LANES Vec operator-(Vec a, Vec b) {
    return each_lane([&](int i) { return a.v[i] - b.v[i]; });
}
OLLAMAPY_LANES Vec operator*(Vec a, Vec b) {
    return each_lane([&](int i) { return a.v[i] * b.v[i]; });
}
OLLAMAPY_LANES Vec operator/(Vec a, Vec b) {
    return each_lane([&](int i) { return a.v[i] / b.v[i]; });
}
OLLAMAPY_LANES Vec fma(Vec a, Vec b, Vec c) {
    return each_lane([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
OLLAMAPY_LANES Vec fnma(Vec a, Vec b, Vec c) {
    return each_lane([&](int i) { return __builtin_fmaf(-a.v[i], b.v[i], c.v[i]); });
}
OLLAMAPY_LANES Vec max(Vec a, Vec b) {
    return each_lane([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
OLLAMAPY_LANES Vec min(Vec a, Vec b) {
    return each_lane([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
OLLAMAPY_LANES Vec abs(Vec a) {
    return each_lane([&](int i) { return from_bits(to_bits(a.v[i]) & 0x7fffffffu); });
}
OLLAMAPY_LANES Vec copy_sign(Vec magnitude, Vec sign) {
    return each_lane([&](int i) {
        return from_bits((to_bits(magnitude.v[i]) & 0x7fffffffu) | (to_bits(sign.v[i]) & 0x80000000u));
    });
}
OLLAMAPY_LANES Vec add_exponent(Vec a, Vec t) {
    return each_lane([&](int i) { return from_bits(to_bits(a.v[i]) + (to_bits(t.v[i]) << 23)); });
}
OLLAMAPY_LANES Vec power_of_two(Vec t) {
    return each_lane([&](int i) { return from_bits((to_bits(t.v[i]) << 23) + 0x3f800000u); });
}
OLLAMAPY_LANES Mask operator<(Vec a, Vec b) {
    Mask r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = a.v[i] < b.v[i];
    return r;
}
OLLAMAPY_LANES Mask operator<=(Vec a, Vec b) {
    Mask r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = a.v[i] <= b.v[i];
    return r;
}
OLLAMAPY_LANES Vec select(Mask m, Vec yes, Vec no) {
    return each_lane([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}

OLLAMAPY_LANES Vec zero_where(Mask m, Vec a) {
    return each_lane([&](int i) { return m.v[i] ? 0.0f : a.v[i]; });
}

OLLAMAPY_LANES float half_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u;
    const uint32_t fraction = h & 0x3ffu;
    if (exponent == 31) {
        return from_bits(sign | 0x7f800000u | (fraction << 13) | (fraction ? 0x00400000u : 0u));
    }
    // A subnormal is fraction * 2^-24, which a float holds exactly.
    if (exponent == 0) return from_bits(sign | to_bits(static_cast<float>(fraction) * 0x1p-24f));
    return from_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
}
OLLAMAPY_LANES uint16_t float_to_half(float x) {
    const uint32_t bits = to_bits(x);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
    if (magnitude < 0x38800000u) {
        // Below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded by the addition.
        return static_cast<uint16_t>(sign | (to_bits(from_bits(magnitude) + 0.5f) - to_bits(0.5f)));
    }
    const uint32_t odd = (magnitude >> 13) & 1u;
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}
OLLAMAPY_LANES Vec load_f16(const uint16_t* p) {
    return each_lane([=](int i) { return half_to_float(p[i]); });
}
OLLAMAPY_LANES Vec load_f16_8(const uint16_t* p) {  // the upper lanes are 0
    return each_lane([=](int i) { return i < 8 ? half_to_float(p[i]) : 0.0f; });
}
OLLAMAPY_LANES void store_f16(uint16_t* p, Vec a) {
    for (int i = 0; i < kLanes; ++i) p[i] = float_to_half(a.v[i]);
}
OLLAMAPY_LANES Vec broadcast_f16(const uint16_t* p) {
    return broadcast(half_to_float(*p));
}
OLLAMAPY_LANES Vec load_i8(const int8_t* p) {
    return each_lane([=](int i) { return static_cast<float>(p[i]); });
}
OLLAMAPY_LANES void load_nibbles(const uint8_t* p, Vec& low, Vec& high) {
    low = each_lane([=](int i) { return static_cast<float>((p[i] & 15) - 8); });
    high = each_lane([=](int i) { return static_cast<float>((p[i] >> 4) - 8); });
}

OLLAMAPY_LANES float sum(Vec a) {
    for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
    }
    return a.v[0];
}
OLLAMAPY_LANES float largest(Vec a) {
    for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    }
    return a.v[0];
}
OLLAMAPY_LANES float first_lane(Vec a) {
    return a.v[0];
}

// 32 floats x0 y0 x1 y1 ... as their x and their y.
OLLAMAPY_LANES void load_pairs(const float* p, Vec& x, Vec& y) {
    x = each_lane([=](int i) { return p[2 * i]; });
    y = each_lane([=](int i) { return p[2 * i + 1]; });
}
OLLAMAPY_LANES void store_pairs(float* p, Vec x, Vec y) {
    for (int i = 0; i < kLanes; ++i) {
        p[2 * i] = x.v[i];
        p[2 * i + 1] = y.v[i];
    }
}

#else  // AVX2 and AVX-512

OLLAMAPY_LANES float sum8(__m256 a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
OLLAMAPY_LANES float largest8(__m256 a) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// The nibbles of 16 bytes, low or high, less 8.
OLLAMAPY_LANES __m128i low_nibbles(__m128i bytes) {
    return _mm_sub_epi8(_mm_and_si128(bytes, _mm_set1_epi8(15)), _mm_set1_epi8(8));
}
OLLAMAPY_LANES __m128i high_nibbles(__m128i bytes) {
    return low_nibbles(_mm_srli_epi16(bytes, 4));
}

#if defined(OLLAMAPY_SIMD_AVX2)

struct Vec {
    __m256 lo, hi;
};
struct Mask {
    __m256 lo, hi;
};

// Eight dwords that are all ones in the first n lanes of 16, from lane 0 or lane 8 on.
OLLAMAPY_LANES __m256i first_lanes(int64_t n) {
    alignas(64) static constexpr int32_t kOnes[24] = {-1, -1, -1, -1, -1, -1, -1, -1};
    const int64_t clipped = n < 0 ? 0 : n > 8 ? 8 : n;
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kOnes + 8 - clipped));
}

OLLAMAPY_LANES Vec broadcast(float x) {
    return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
OLLAMAPY_LANES Vec load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
OLLAMAPY_LANES Vec load_n(const float* p, int64_t n, float fill = 0.0f) {
    const __m256i lo = first_lanes(n), hi = first_lanes(n - 8);
    const __m256 others = _mm256_set1_ps(fill);
    return {_mm256_blendv_ps(others, _mm256_maskload_ps(p, lo), _mm256_castsi256_ps(lo)),
            _mm256_blendv_ps(others, _mm256_maskload_ps(p + 8, hi), _mm256_castsi256_ps(hi))};
}
OLLAMAPY_LANES void store(float* p, Vec a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
OLLAMAPY_LANES void store_n(float* p, Vec a, int64_t n) {
    _mm256_maskstore_ps(p, first_lanes(n), a.lo);
    _mm256_maskstore_ps(p + 8, first_lanes(n - 8), a.hi);
}
OLLAMAPY_LANES Vec operator+(Vec a, Vec b) {
    return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
OLLAMAPY_LANES Vec operator-(Vec a, Vec b) {
    return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
OLLAMAPY_LANES Vec operator*(Vec a, Vec b) {
    return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
OLLAMAPY_LANES Vec operator/(Vec a, Vec b) {
    return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
OLLAMAPY_LANES Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
OLLAMAPY_LANES Vec fnma(Vec a, Vec b, Vec c) {
    return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
OLLAMAPY_LANES Vec max(Vec a, Vec b) {
    return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
OLLAMAPY_LANES Vec min(Vec a, Vec b) {
    return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
OLLAMAPY_LANES Vec abs(Vec a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
OLLAMAPY_LANES Vec copy_sign(Vec magnitude, Vec sign) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return {_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.lo), _mm256_and_ps(bit, sign.lo)),
            _mm256_or_ps(_mm256_andnot_ps(bit, magnitude.hi), _mm256_and_ps(bit, sign.hi))};
}
OLLAMAPY_LANES Vec add_exponent(Vec a, Vec t) {
    const __m256i lo = _mm256_slli_epi32(_mm256_castps_si256(t.lo), 23);
    const __m256i hi = _mm256_slli_epi32(_mm256_castps_si256(t.hi), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.lo), lo)),
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.hi), hi))};
}
OLLAMAPY_LANES Vec power_of_two(Vec t) {
    const __m256i one = _mm256_set1_epi32(0x3f800000);
    const __m256i lo = _mm256_slli_epi32(_mm256_castps_si256(t.lo), 23);
    const __m256i hi = _mm256_slli_epi32(_mm256_castps_si256(t.hi), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(lo, one)), _mm256_castsi256_ps(_mm256_add_epi32(hi, one))};
}
OLLAMAPY_LANES Mask operator<(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
OLLAMAPY_LANES Mask operator<=(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LE_OQ)};
}
OLLAMAPY_LANES Vec select(Mask m, Vec yes, Vec no) {
    return {_mm256_blendv_ps(no.lo, yes.lo, m.lo), _mm256_blendv_ps(no.hi, yes.hi, m.hi)};
}
OLLAMAPY_LANES Vec zero_where(Mask m, Vec a) {
    return {_mm256_andnot_ps(m.lo, a.lo), _mm256_andnot_ps(m.hi, a.hi)};
}
OLLAMAPY_LANES __m256 load8_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
OLLAMAPY_LANES Vec load_f16(const uint16_t* p) {
    return {load8_f16(p), load8_f16(p + 8)};
}
OLLAMAPY_LANES Vec load_f16_8(const uint16_t* p) {
    return {load8_f16(p), _mm256_setzero_ps()};
}
OLLAMAPY_LANES void store_f16(uint16_t* p, Vec a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
OLLAMAPY_LANES Vec broadcast_f16(const uint16_t* p) {
    const __m256 value = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(*p)));
    return {value, value};
}
OLLAMAPY_LANES Vec from_i8(__m128i bytes) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes)))};
}
OLLAMAPY_LANES Vec load_i8(const int8_t* p) {
    return from_i8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
OLLAMAPY_LANES void load_nibbles(const uint8_t* p, Vec& low, Vec& high) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    low = from_i8(low_nibbles(bytes));
    high = from_i8(high_nibbles(bytes));
}
OLLAMAPY_LANES float sum(Vec a) {
    return sum8(_mm256_add_ps(a.lo, a.hi));
}
OLLAMAPY_LANES float largest(Vec a) {
    return largest8(_mm256_max_ps(a.lo, a.hi));
}
OLLAMAPY_LANES float first_lane(Vec a) {
    return _mm256_cvtss_f32(a.lo);
}

OLLAMAPY_LANES void load8_pairs(const float* p, __m256& x, __m256& y) {
    const __m256 a = _mm256_loadu_ps(p), b = _mm256_loadu_ps(p + 8);
    const __m256 low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
    x = _mm256_shuffle_ps(low, high, 0x88);
    y = _mm256_shuffle_ps(low, high, 0xdd);
}
OLLAMAPY_LANES void store8_pairs(float* p, __m256 x, __m256 y) {
    const __m256 low = _mm256_unpacklo_ps(x, y), high = _mm256_unpackhi_ps(x, y);
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(low, high, 0x20));
    _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(low, high, 0x31));
}
OLLAMAPY_LANES void load_pairs(const float* p, Vec& x, Vec& y) {
    load8_pairs(p, x.lo, y.lo);
    load8_pairs(p + 16, x.hi, y.hi);
}
OLLAMAPY_LANES void store_pairs(float* p, Vec x, Vec y) {
    store8_pairs(p, x.lo, y.lo);
    store8_pairs(p + 16, x.hi, y.hi);
}

#else  // AVX-512

struct Vec {
    __m512 v;
};
using Mask = __mmask16;

OLLAMAPY_LANES Mask first_lanes(int64_t n) {
    return static_cast<Mask>((1u << n) - 1u);
}

OLLAMAPY_LANES Vec broadcast(float x) {
    return {_mm512_set1_ps(x)};
}
OLLAMAPY_LANES Vec load(const float* p) {
    return {_mm512_loadu_ps(p)};
}
OLLAMAPY_LANES Vec load_n(const float* p, int64_t n, float fill = 0.0f) {
    return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(n), p)};
}
OLLAMAPY_LANES void store(float* p, Vec a) {
    _mm512_storeu_ps(p, a.v);
}
OLLAMAPY_LANES void store_n(float* p, Vec a, int64_t n) {
    _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}
OLLAMAPY_LANES Vec operator+(Vec a, Vec b) {
    return {_mm512_add_ps(a.v, b.v)};
}
OLLAMAPY_LANES Vec operator-(Vec a, Vec b) {
    return {_mm512_sub_ps(a.v, b.v)};
}
OLLAMAPY_LANES Vec operator*(Vec a, Vec b) {
    return {_mm512_mul_ps(a.v, b.v)};
}
OLLAMAPY_LANES Vec operator/(Vec a, Vec b) {
    return {_mm512_div_ps(a.v, b.v)};
}
OLLAMAPY_LANES Vec fma(Vec a, Vec b, Vec c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
OLLAMAPY_LANES Vec fnma(Vec a, Vec b, Vec c) {
    return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
OLLAMAPY_LANES Vec max(Vec a, Vec b) {
    return {_mm512_max_ps(a.v, b.v)};
}
OLLAMAPY_LANES Vec min(Vec a, Vec b) {
    return {_mm512_min_ps(a.v, b.v)};
}
OLLAMAPY_LANES Vec abs(Vec a) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    return {_mm512_castsi512_ps(_mm512_and_si512(magnitude, _mm512_castps_si512(a.v)))};
}
OLLAMAPY_LANES Vec copy_sign(Vec magnitude, Vec sign) {
    const __m512i mask = _mm512_set1_epi32(0x7fffffff);
    const __m512i kept = _mm512_and_si512(mask, _mm512_castps_si512(magnitude.v));
    return {
        _mm512_castsi512_ps(_mm512_or_si512(kept, _mm512_andnot_si512(mask, _mm512_castps_si512(sign.v))))};
}
OLLAMAPY_LANES Vec add_exponent(Vec a, Vec t) {
    const __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(t.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), shifted))};
}
OLLAMAPY_LANES Vec power_of_two(Vec t) {
    const __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(t.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(0x3f800000)))};
}
OLLAMAPY_LANES Mask operator<(Vec a, Vec b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
}
OLLAMAPY_LANES Mask operator<=(Vec a, Vec b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ);
}
OLLAMAPY_LANES Vec select(Mask m, Vec yes, Vec no) {
    return {_mm512_mask_blend_ps(m, no.v, yes.v)};
}
OLLAMAPY_LANES Vec zero_where(Mask m, Vec a) {
    return {_mm512_maskz_mov_ps(static_cast<Mask>(~m), a.v)};
}
OLLAMAPY_LANES Vec load_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
OLLAMAPY_LANES Vec load_f16_8(const uint16_t* p) {
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtph_ps(_mm256_zextsi128_si256(low))};
}
OLLAMAPY_LANES void store_f16(uint16_t* p, Vec a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
OLLAMAPY_LANES Vec broadcast_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(*p)))};
}
OLLAMAPY_LANES Vec from_i8(__m128i bytes) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
OLLAMAPY_LANES Vec load_i8(const int8_t* p) {
    return from_i8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
OLLAMAPY_LANES void load_nibbles(const uint8_t* p, Vec& low, Vec& high) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    low = from_i8(low_nibbles(bytes));
    high = from_i8(high_nibbles(bytes));
}
OLLAMAPY_LANES __m256 upper_half(__m512 a) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
}
OLLAMAPY_LANES float sum(Vec a) {
    return sum8(_mm256_add_ps(_mm512_castps512_ps256(a.v), upper_half(a.v)));
}
OLLAMAPY_LANES float largest(Vec a) {
    return largest8(_mm256_max_ps(_mm512_castps512_ps256(a.v), upper_half(a.v)));
}
OLLAMAPY_LANES float first_lane(Vec a) {
    return _mm256_cvtss_f32(_mm512_castps512_ps256(a.v));
}

OLLAMAPY_LANES void load_pairs(const float* p, Vec& x, Vec& y) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
    x.v = _mm512_permutex2var_ps(a, even, b);
    y.v = _mm512_permutex2var_ps(a, odd, b);
}
OLLAMAPY_LANES void store_pairs(float* p, Vec x, Vec y) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    _mm512_storeu_ps(p, _mm512_permutex2var_ps(x.v, low, y.v));
    _mm512_storeu_ps(p + 16, _mm512_permutex2var_ps(x.v, high, y.v));
}

#endif
#endif

OLLAMAPY_LANES Vec zero() {
    return broadcast(0.0f);
}

// Masked memory operations are slow on some CPUs: only where a vector is not full.
OLLAMAPY_LANES Vec load_part(const float* p, int64_t lanes) {
    return lanes == kLanes ? load(p) : load_n(p, lanes);
}
OLLAMAPY_LANES void store_part(float* p, Vec a, int64_t lanes) {
    if (lanes == kLanes) {
        store(p, a);
    } else {
        store_n(p, a, lanes);
    }
}

}  // namespace
}  // namespace ollamapy::cpu
