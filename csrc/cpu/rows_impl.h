// The row kernels of kernels.h, written once against simd.h. A value's place in a sum depends on its index
// alone: vector i of a row goes to chain i % 4, the chains and then the lanes are combined as a tree, and a
// last vector that is not full is padded.
#pragma once

#include "cpu/attention_impl.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/vec_math.h"

namespace ollamapy::cpu {
namespace {

constexpr int64_t kChains = 4;

// The vector at out + i = op(i, lanes) for every vector of n values.
template <class Op>
OLLAMAPY_LANES void map(int64_t n, float* out, Op op) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(out + i, op(i, kLanes));
    if (i < n) store_n(out + i, op(i, n - i), n - i);
}

template <class Op>
OLLAMAPY_LANES void map_unary(const float* x, float* out, int64_t n, Op op) {
    map(n, out, [=](int64_t i, int64_t lanes) { return op(load_part(x + i, lanes)); });
}

template <class Op>
OLLAMAPY_LANES void map_binary(const float* x, const float* y, float* out, int64_t n, Op op) {
    map(n, out,
        [=](int64_t i, int64_t lanes) { return op(load_part(x + i, lanes), load_part(y + i, lanes)); });
}

// chain = accumulate(chain, i, lanes) for the vectors at i of n values, every chain from start.
template <class Accumulate>
OLLAMAPY_LANES void reduce_lanes(int64_t n, Vec start, Vec (&chains)[kChains], Accumulate accumulate) {
    for (Vec& chain : chains) chain = start;
    int64_t i = 0;
    for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
#pragma GCC unroll 4
        for (int64_t c = 0; c < kChains; ++c) chains[c] = accumulate(chains[c], i + c * kLanes, kLanes);
    }
    for (int64_t c = 0; i < n; ++c, i += kLanes) {
        const int64_t lanes = n - i < kLanes ? n - i : kLanes;
        chains[c] = accumulate(chains[c], i, lanes);
    }
}

template <class Accumulate>
OLLAMAPY_LANES float sum_over(int64_t n, Accumulate accumulate) {
    Vec chains[kChains];
    reduce_lanes(n, zero(), chains, accumulate);
    return sum((chains[0] + chains[1]) + (chains[2] + chains[3]));
}

float sum_of_squares(const float* x, int64_t n) {
    return sum_over(n, [=](Vec total, int64_t i, int64_t lanes) {
        const Vec v = load_part(x + i, lanes);
        return fma(v, v, total);
    });
}

// ---- Elementwise -----------------------------------------------------------------------------------------

void add(const float* x, const float* y, float* out, int64_t n) {
    map_binary(x, y, out, n, [](Vec a, Vec b) { return a + b; });
}

void scale(const float* x, float factor, float* out, int64_t n) {
    const Vec f = broadcast(factor);
    map_unary(x, out, n, [=](Vec a) { return a * f; });
}

void softcap_row(const float* x, float cap, float* out, int64_t n) {
    const Vec c = broadcast(cap);
    map_unary(x, out, n, [=](Vec a) { return softcap(a, c); });
}

void silu_row(const float* x, float* out, int64_t n) {
    map_unary(x, out, n, [](Vec a) { return silu(a); });
}

void gelu_tanh_row(const float* x, float* out, int64_t n) {
    map_unary(x, out, n, [](Vec a) { return gelu_tanh(a); });
}

void gelu_erf_row(const float* x, float* out, int64_t n) {
    map_unary(x, out, n, [](Vec a) { return gelu_erf(a); });
}

void swiglu(const float* gate, const float* up, float* out, int64_t n) {
    map_binary(gate, up, out, n, [](Vec g, Vec u) { return silu(g) * u; });
}

void geglu(const float* gate, const float* up, float* out, int64_t n) {
    map_binary(gate, up, out, n, [](Vec g, Vec u) { return gelu_tanh(g) * u; });
}

// ---- Norms -----------------------------------------------------------------------------------------------

void rms_norm(const float* x, const float* weight, float eps, float* out, int64_t n) {
    const float mean = sum_of_squares(x, n) / static_cast<float>(n);
    const Vec inverse = broadcast(1.0f / __builtin_sqrtf(mean + eps));
    if (weight) {
        map_binary(x, weight, out, n, [=](Vec a, Vec w) { return a * inverse * w; });
    } else {
        map_unary(x, out, n, [=](Vec a) { return a * inverse; });
    }
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, float* out, int64_t n) {
    const float count = static_cast<float>(n);
    const float mean =
        sum_over(n, [=](Vec total, int64_t i, int64_t lanes) { return total + load_part(x + i, lanes); }) /
        count;
    const Vec center = broadcast(mean);
    const float variance = sum_over(n,
                                    [=](Vec total, int64_t i, int64_t lanes) {
                                        // padded with the mean, so that padding adds nothing
                                        const Vec v =
                                            lanes == kLanes ? load(x + i) : load_n(x + i, lanes, mean);
                                        return fma(v - center, v - center, total);
                                    }) /
                           count;
    const Vec inverse = broadcast(1.0f / __builtin_sqrtf(variance + eps));
    map(n, out, [=](int64_t i, int64_t lanes) {
        const Vec normal = (load_part(x + i, lanes) - center) * inverse;
        return fma(normal, load_part(weight + i, lanes), load_part(bias + i, lanes));
    });
}

void l2_norm(const float* x, float* out, int64_t n) {
    const float length = __builtin_sqrtf(sum_of_squares(x, n));
    const Vec divisor = broadcast(length < 1e-12f ? 1e-12f : length);
    map_unary(x, out, n, [=](Vec a) { return a / divisor; });
}

// ---- Rotary embedding ------------------------------------------------------------------------------------

struct Pair {
    Vec x, y;
};

OLLAMAPY_LANES Pair rotate(Vec x, Vec y, Vec cos, Vec sin) {
    return {fnma(y, sin, x * cos), fma(y, cos, x * sin)};
}

void rope_halves(float* x, int64_t pairs, const float* cos, const float* sin) {
    for (int64_t i = 0; i < pairs; i += kLanes) {
        const int64_t lanes = pairs - i < kLanes ? pairs - i : kLanes;
        const Pair r = rotate(load_part(x + i, lanes), load_part(x + pairs + i, lanes),
                              load_part(cos + i, lanes), load_part(sin + i, lanes));
        store_part(x + i, r.x, lanes);
        store_part(x + pairs + i, r.y, lanes);
    }
}

void rope_interleaved(float* x, int64_t pairs, const float* cos, const float* sin) {
    int64_t i = 0;
    Vec even, odd;
    for (; i + kLanes <= pairs; i += kLanes) {
        load_pairs(x + 2 * i, even, odd);
        const Pair r = rotate(even, odd, load(cos + i), load(sin + i));
        store_pairs(x + 2 * i, r.x, r.y);
    }
    if (i < pairs) {
        const int64_t lanes = pairs - i;
        float padded[2 * kLanes] = {};
        memcpy(padded, x + 2 * i, static_cast<size_t>(2 * lanes) * sizeof(float));
        load_pairs(padded, even, odd);
        const Pair r = rotate(even, odd, load_n(cos + i, lanes), load_n(sin + i, lanes));
        store_pairs(padded, r.x, r.y);
        memcpy(x + 2 * i, padded, static_cast<size_t>(2 * lanes) * sizeof(float));
    }
}

void rope(float* x, int64_t n_heads, int64_t head_dim, int64_t rotary_dims, RopePairing pairing,
          const float* cos, const float* sin) {
    for (int64_t h = 0; h < n_heads; ++h) {
        if (pairing == RopePairing::kHalves) {
            rope_halves(x + h * head_dim, rotary_dims / 2, cos, sin);
        } else {
            rope_interleaved(x + h * head_dim, rotary_dims / 2, cos, sin);
        }
    }
}

// ---- The softmax denominator -----------------------------------------------------------------------------

// log(x) of a positive finite normal double, 0 or NaN: x = m 2^e with m in [sqrt(1/2), sqrt(2)) and
// log m = 2 artanh((m - 1) / (m + 1)), a series that has converged to double precision at its 11th term.
double log_of_sum(double x) {
    if (x == 0.0) return -__builtin_inf();
    if (!(x < __builtin_inf())) return x;
    uint64_t bits;
    memcpy(&bits, &x, 8);
    int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
    bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, 8);
    if (m >= 1.4142135623730951) {
        m *= 0.5;
        ++exponent;
    }
    const double s = (m - 1.0) / (m + 1.0), square = s * s;
    double series = 0.0;
    for (int i = 21; i >= 1; i -= 2) series = series * square + 1.0 / i;
    return static_cast<double>(exponent) * 0.6931471805599453 + 2.0 * s * series;
}

void log_sum_exp(const float* x, int64_t n, float* max_out, float* log_sum) {
    const float lowest = -__builtin_inff();
    Vec chains[kChains];
    reduce_lanes(n, broadcast(lowest), chains, [=](Vec so_far, int64_t i, int64_t lanes) {
        return max(so_far, lanes == kLanes ? load(x + i) : load_n(x + i, lanes, lowest));
    });
    const float top = largest(max(max(chains[0], chains[1]), max(chains[2], chains[3])));
    const Vec shift = broadcast(top == lowest ? 0.0f : top);  // -inf alone: log(0), not NaN
    // Blocks bound the rounding error of the float lanes however long the row is.
    constexpr int64_t kBlockSize = 1024;
    double total = 0.0;
    for (int64_t begin = 0; begin < n; begin += kBlockSize) {
        const float* block = x + begin;
        const int64_t size = n - begin < kBlockSize ? n - begin : kBlockSize;
        total += static_cast<double>(sum_over(size, [=](Vec so_far, int64_t i, int64_t lanes) {
            return so_far +
                   exp((lanes == kLanes ? load(block + i) : load_n(block + i, lanes, lowest)) - shift);
        }));
    }
    *max_out = top;
    *log_sum = static_cast<float>(log_of_sum(total));
}

// Plain loops: what they compile to depends on the file that includes them.
void sort_keys(const float* x, int64_t n, int32_t* keys, int32_t* block_max, int32_t* least,
               int32_t* greatest) {
    *least = INT32_MAX;
    *greatest = INT32_MIN;
    for (int64_t begin = 0; begin < n; begin += kKeyBlock) {
        const int64_t end = begin + kKeyBlock < n ? begin + kKeyBlock : n;
        int32_t low = INT32_MAX, high = INT32_MIN;
        for (int64_t i = begin; i < end; ++i) {
            const int32_t key = sort_key(x[i]);
            keys[i] = key;
            high = key > high ? key : high;
            low = key < low ? key : low;
        }
        block_max[begin / kKeyBlock] = high;
        *least = low < *least ? low : *least;
        *greatest = high > *greatest ? high : *greatest;
    }
}

constexpr RowKernels row_kernels(const char* name) {
    return {name,     add,      scale,         softcap_row,       rms_norm,        layer_norm,
            l2_norm,  silu_row, gelu_tanh_row, gelu_erf_row,      swiglu,          geglu,
            rope,     store_kv, attention,     attention_partial, attention_merge, log_sum_exp,
            sort_keys};
}

}  // namespace
}  // namespace ollamapy::cpu
