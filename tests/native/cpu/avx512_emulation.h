// The AVX-512 intrinsics that the kernels use, lane by lane, so that CPUs without them can test the kernels'
// arithmetic. For builds with OLLAMAPY_EMULATE_AVX512 only (tests/native/README.md). Semantics: Intel's Intrinsics
// Guide. The vector types are the compiler's; GNU vector arithmetic does the plain operations.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace avx512_emulation {
namespace {

using I8 = int8_t __attribute__((vector_size(64)));
using U8 = uint8_t __attribute__((vector_size(64)));
using I16 = int16_t __attribute__((vector_size(64)));
using U16 = uint16_t __attribute__((vector_size(64)));
using I32 = int32_t __attribute__((vector_size(64)));
using U32 = uint32_t __attribute__((vector_size(64)));

template <class V, class T>
inline V load(const T* p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <class V, class T>
inline V filled(T value) {
    V v;
    for (unsigned i = 0; i < sizeof(V) / sizeof(T); ++i) v[i] = value;
    return v;
}
template <class V, class F>
inline V lanes(F f) {
    V v;
    for (int i = 0; i < 16; ++i) v[i] = f(i);
    return v;
}

inline __m512i loadu_si512(const void* p) { return load<__m512i>(p); }
inline __m512 loadu_ps(const float* p) { return load<__m512>(p); }
inline void storeu_ps(float* p, __m512 v) { memcpy(p, &v, sizeof v); }
inline __m512 mask_loadu_ps(__m512 other, __mmask16 mask, const float* p) {
    return lanes<__m512>([&](int i) { return mask >> i & 1 ? p[i] : other[i]; });
}
inline __m512 maskz_loadu_ps(__mmask16 mask, const float* p) { return mask_loadu_ps(__m512{}, mask, p); }
inline void mask_storeu_ps(float* p, __mmask16 mask, __m512 v) {
    for (int i = 0; i < 16; ++i) {
        if (mask >> i & 1) p[i] = v[i];
    }
}

inline __m512 setzero_ps() { return __m512{}; }
inline __m512i setzero_si512() { return __m512i{}; }
inline __m512 set1_ps(float x) { return filled<__m512>(x); }
inline __m512i set1_epi8(char x) { return (__m512i)filled<I8>(static_cast<int8_t>(x)); }
inline __m512i set1_epi16(short x) { return (__m512i)filled<I16>(static_cast<int16_t>(x)); }
inline __m512i set1_epi32(int x) { return (__m512i)filled<I32>(static_cast<int32_t>(x)); }
template <class... T>
inline __m512i setr_epi32(T... x) {
    return (__m512i)I32{x...};
}

inline __m512 castsi512_ps(__m512i v) { return (__m512)v; }
inline __m512i castps_si512(__m512 v) { return (__m512i)v; }
inline __m512d castps_pd(__m512 v) { return (__m512d)v; }
inline __m256 castps512_ps256(__m512 v) { return load<__m256>(&v); }
inline __m256d extractf64x4_pd(__m512d v, int half) { return load<__m256d>(reinterpret_cast<const char*>(&v) + 32 * half); }

inline __m512 add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 div_ps(__m512 a, __m512 b) { return a / b; }
inline __m512 max_ps(__m512 a, __m512 b) {
    return lanes<__m512>([&](int i) { return a[i] > b[i] ? a[i] : b[i]; });
}
inline __m512 min_ps(__m512 a, __m512 b) {
    return lanes<__m512>([&](int i) { return a[i] < b[i] ? a[i] : b[i]; });
}
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
    return lanes<__m512>([&](int i) { return __builtin_fmaf(a[i], b[i], c[i]); });
}
inline __m512 fnmadd_ps(__m512 a, __m512 b, __m512 c) {
    return lanes<__m512>([&](int i) { return __builtin_fmaf(-a[i], b[i], c[i]); });
}
inline __mmask16 cmp_ps_mask(__m512 a, __m512 b, int predicate) {
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i) {
        const bool holds = predicate == _CMP_LT_OQ ? a[i] < b[i] : a[i] <= b[i];
        mask |= static_cast<unsigned>(holds) << i;
    }
    return static_cast<__mmask16>(mask);
}
inline __m512 mask_blend_ps(__mmask16 mask, __m512 a, __m512 b) {
    return lanes<__m512>([&](int i) { return mask >> i & 1 ? b[i] : a[i]; });
}
inline __m512 maskz_mov_ps(__mmask16 mask, __m512 a) { return mask_blend_ps(mask, __m512{}, a); }
inline __m512 permutex2var_ps(__m512 a, __m512i index, __m512 b) {
    return lanes<__m512>([&](int i) {
        const int from = ((I32)index)[i];
        return from & 16 ? b[from & 15] : a[from & 15];
    });
}

inline __m512i and_si512(__m512i a, __m512i b) { return a & b; }
inline __m512i or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512i andnot_si512(__m512i a, __m512i b) { return ~a & b; }
inline __m512i slli_epi16(__m512i v, unsigned n) { return (__m512i)((U16)v << static_cast<int>(n)); }
inline __m512i srli_epi16(__m512i v, unsigned n) { return (__m512i)((U16)v >> static_cast<int>(n)); }
inline __m512i slli_epi32(__m512i v, unsigned n) { return (__m512i)((U32)v << static_cast<int>(n)); }
inline __m512i srli_epi32(__m512i v, unsigned n) { return (__m512i)((U32)v >> static_cast<int>(n)); }
inline __m512i srai_epi32(__m512i v, unsigned n) { return (__m512i)((I32)v >> static_cast<int>(n)); }
inline __m512i add_epi32(__m512i a, __m512i b) { return (__m512i)((U32)a + (U32)b); }
inline __m512i mullo_epi32(__m512i a, __m512i b) { return (__m512i)((U32)a * (U32)b); }
inline __m512i madd_epi16(__m512i a, __m512i b) {
    return (__m512i)lanes<I32>([&](int i) {
        const I16 x = (I16)a, y = (I16)b;
        return x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
    });
}
inline __m512i dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
    const U8 x = (U8)a;
    const I8 y = (I8)b;
    return (__m512i)lanes<I32>([&](int i) {
        int total = ((I32)sum)[i];
        for (int k = 4 * i; k < 4 * i + 4; ++k) total += x[k] * y[k];
        return total;
    });
}

inline __m512 cvtepi32_ps(__m512i v) {
    return lanes<__m512>([&](int i) { return static_cast<float>(((I32)v)[i]); });
}
inline __m512i cvtepu8_epi32(__m128i v) {
    uint8_t bytes[16];
    memcpy(bytes, &v, sizeof bytes);
    return (__m512i)lanes<I32>([&](int i) { return static_cast<int32_t>(bytes[i]); });
}
inline __m512i cvtepi8_epi32(__m128i v) {
    int8_t bytes[16];
    memcpy(bytes, &v, sizeof bytes);
    return (__m512i)lanes<I32>([&](int i) { return static_cast<int32_t>(bytes[i]); });
}
inline __m512i cvtepu16_epi32(__m256i v) {
    uint16_t words[16];
    memcpy(words, &v, sizeof words);
    return (__m512i)lanes<I32>([&](int i) { return static_cast<int32_t>(words[i]); });
}
inline __m512i cvtepi8_epi16(__m256i v) {
    int8_t bytes[32];
    memcpy(bytes, &v, sizeof bytes);
    I16 words;
    for (int i = 0; i < 32; ++i) words[i] = bytes[i];
    return (__m512i)words;
}
inline __m512 cvtph_ps(__m256i v) {
    const __m256 parts[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(v)),
                             _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1))};
    return load<__m512>(parts);
}
// Rounds to nearest even, which is the only way the kernels ask for.
inline __m256i cvtps_ph(__m512 v, int) {
    const __m256 low = load<__m256>(&v);
    const __m256 high = load<__m256>(reinterpret_cast<const char*>(&v) + 32);
    return _mm256_set_m128i(_mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace
}  // namespace avx512_emulation

// The kernels call the intrinsics by their names.
#undef _mm512_loadu_si512
#define _mm512_loadu_si512 avx512_emulation::loadu_si512
#undef _mm512_loadu_ps
#define _mm512_loadu_ps avx512_emulation::loadu_ps
#undef _mm512_storeu_ps
#define _mm512_storeu_ps avx512_emulation::storeu_ps
#undef _mm512_mask_loadu_ps
#define _mm512_mask_loadu_ps avx512_emulation::mask_loadu_ps
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps avx512_emulation::maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps avx512_emulation::mask_storeu_ps
#undef _mm512_setzero_ps
#define _mm512_setzero_ps avx512_emulation::setzero_ps
#undef _mm512_setzero_si512
#define _mm512_setzero_si512 avx512_emulation::setzero_si512
#undef _mm512_set1_ps
#define _mm512_set1_ps avx512_emulation::set1_ps
#undef _mm512_set1_epi8
#define _mm512_set1_epi8 avx512_emulation::set1_epi8
#undef _mm512_set1_epi16
#define _mm512_set1_epi16 avx512_emulation::set1_epi16
#undef _mm512_set1_epi32
#define _mm512_set1_epi32 avx512_emulation::set1_epi32
#undef _mm512_setr_epi32
#define _mm512_setr_epi32 avx512_emulation::setr_epi32
#undef _mm512_castsi512_ps
#define _mm512_castsi512_ps avx512_emulation::castsi512_ps
#undef _mm512_castps_si512
#define _mm512_castps_si512 avx512_emulation::castps_si512
#undef _mm512_castps_pd
#define _mm512_castps_pd avx512_emulation::castps_pd
#undef _mm512_castps512_ps256
#define _mm512_castps512_ps256 avx512_emulation::castps512_ps256
#undef _mm512_extractf64x4_pd
#define _mm512_extractf64x4_pd avx512_emulation::extractf64x4_pd
#undef _mm512_add_ps
#define _mm512_add_ps avx512_emulation::add_ps
#undef _mm512_sub_ps
#define _mm512_sub_ps avx512_emulation::sub_ps
#undef _mm512_mul_ps
#define _mm512_mul_ps avx512_emulation::mul_ps
#undef _mm512_div_ps
#define _mm512_div_ps avx512_emulation::div_ps
#undef _mm512_max_ps
#define _mm512_max_ps avx512_emulation::max_ps
#undef _mm512_min_ps
#define _mm512_min_ps avx512_emulation::min_ps
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps avx512_emulation::fmadd_ps
#undef _mm512_fnmadd_ps
#define _mm512_fnmadd_ps avx512_emulation::fnmadd_ps
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask avx512_emulation::cmp_ps_mask
#undef _mm512_mask_blend_ps
#define _mm512_mask_blend_ps avx512_emulation::mask_blend_ps
#undef _mm512_maskz_mov_ps
#define _mm512_maskz_mov_ps avx512_emulation::maskz_mov_ps
#undef _mm512_permutex2var_ps
#define _mm512_permutex2var_ps avx512_emulation::permutex2var_ps
#undef _mm512_and_si512
#define _mm512_and_si512 avx512_emulation::and_si512
#undef _mm512_or_si512
#define _mm512_or_si512 avx512_emulation::or_si512
#undef _mm512_andnot_si512
#define _mm512_andnot_si512 avx512_emulation::andnot_si512
#undef _mm512_slli_epi16
#define _mm512_slli_epi16 avx512_emulation::slli_epi16
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 avx512_emulation::srli_epi16
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 avx512_emulation::slli_epi32
#undef _mm512_srli_epi32
#define _mm512_srli_epi32 avx512_emulation::srli_epi32
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 avx512_emulation::srai_epi32
#undef _mm512_add_epi32
#define _mm512_add_epi32 avx512_emulation::add_epi32
#undef _mm512_mullo_epi32
#define _mm512_mullo_epi32 avx512_emulation::mullo_epi32
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 avx512_emulation::madd_epi16
#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32 avx512_emulation::dpbusd_epi32
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps avx512_emulation::cvtepi32_ps
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32 avx512_emulation::cvtepu8_epi32
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32 avx512_emulation::cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 avx512_emulation::cvtepu16_epi32
#undef _mm512_cvtepi8_epi16
#define _mm512_cvtepi8_epi16 avx512_emulation::cvtepi8_epi16
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps avx512_emulation::cvtph_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph avx512_emulation::cvtps_ph
#undef _mm512_load_ps
#define _mm512_load_ps avx512_emulation::loadu_ps
#undef _mm512_store_ps
#define _mm512_store_ps avx512_emulation::storeu_ps
