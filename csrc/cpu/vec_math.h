// exp, tanh, erf and the activations on sixteen lanes. Range reductions are the textbook ones; the
// polynomials are our own minimax fits (relative error weighted, coefficients rounded to float one after the
// other).
#pragma once

#include "cpu/simd.h"

namespace ollamapy::cpu {
namespace {

// c[0] + c[1] x + ... by Horner's rule.
template <int N>
OLLAMAPY_LANES Vec polynomial(Vec x, const float (&c)[N]) {
    Vec r = broadcast(c[N - 1]);
#pragma GCC unroll 16
    for (int i = N - 2; i >= 0; --i) r = fma(r, x, broadcast(c[i]));
    return r;
}

// e^x within 1 ulp. Results below 1.2e-38 are 0, so nothing after it meets subnormal numbers; NaN stays NaN.
OLLAMAPY_LANES Vec exp(Vec x) {
    // Adding 1.5 * 2^23 rounds x / ln 2 to an integer n and leaves n in the low bits. Lanes that are too
    // large for that, infinite or NaN give garbage, which the selections at the end replace.
    const Vec shifter = broadcast(0x1.8p23f);
    const Vec shifted = fma(x, broadcast(0x1.715476p+0f), shifter);
    const Vec n = shifted - shifter;
    Vec r = fnma(n, broadcast(0x1.62e43p-1f), x);  // ln 2 in two parts
    r = fnma(n, broadcast(-0x1.05c61p-29f), r);
    // e^r = 1 + (r + r^2 q(r)) for |r| <= ln(2) / 2
    static constexpr float kQ[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558aep-5f, 0x1.12397ep-7f,
                                   0x1.6a4f14p-10f};
    const Vec p = fma(polynomial(r, kQ), r * r, r) + broadcast(1.0f);
    const Vec y = add_exponent(p, shifted);
    const Vec flushed = select(x < broadcast(-87.3f), zero(), y);
    return select(x <= broadcast(0x1.62e42ep+6f), flushed,
                  x + broadcast(__builtin_inff()));  // else inf or NaN
}

// Within 2 ulp; tanh(+-inf) = +-1.
OLLAMAPY_LANES Vec tanh(Vec x) {
    static constexpr float kP[] = {-0x1.555532p-2f, 0x1.1106fap-3f, -0x1.b836c8p-5f, 0x1.52041cp-6f,
                                   -0x1.754f46p-8f};
    const Vec square = x * x;
    const Vec small = fma(x * square, polynomial(square, kP), x);
    const Vec magnitude = abs(x);
    const Vec large = broadcast(1.0f) - broadcast(2.0f) / (exp(magnitude + magnitude) + broadcast(1.0f));
    return copy_sign(select(magnitude < broadcast(0.625f), small, large), x);
}

// Within 2e-7; erf(+-inf) = +-1.
OLLAMAPY_LANES Vec erf(Vec x) {
    static constexpr float kSmall[] = {0x1.06eba8p-3f,  -0x1.812728p-2f, 0x1.ce25e8p-4f,
                                       -0x1.b73f58p-6f, 0x1.4bbc48p-8f,  -0x1.4e3b52p-11f};
    // -log(1 - erf(x)) on [0.84375, 4]; beyond 4 erf rounds to 1.
    static constexpr float kLarge[] = {0x1.c478e4p-14f, 0x1.20c78ep0f,  0x1.45e9dap-1f,  0x1.ac036ep-4f,
                                       -0x1.70af48p-6f, 0x1.9812f2p-9f, -0x1.aa190cp-13f};
    const Vec small = fma(x, polynomial(x * x, kSmall), x);
    const Vec magnitude = min(broadcast(4.0f), abs(x));
    const Vec large = broadcast(1.0f) - exp(zero() - polynomial(magnitude, kLarge));
    return copy_sign(select(magnitude < broadcast(0.84375f), small, large), x);
}

// The lower bound keeps -inf (whose limit is 0) from becoming inf / inf or inf * 0; the results there are -0
// already.
OLLAMAPY_LANES Vec bounded_below(Vec x) {
    return max(broadcast(-1000.0f), x);
}

// x / (1 + e^-x)
OLLAMAPY_LANES Vec silu(Vec x) {
    x = bounded_below(x);
    return x / (exp(zero() - x) + broadcast(1.0f));
}

// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), Hendrycks and Gimpel, arXiv 1606.08415
OLLAMAPY_LANES Vec gelu_tanh(Vec x) {
    x = bounded_below(x);
    const Vec factor = fma(x * x, broadcast(0.044715f), broadcast(1.0f));
    const Vec inner = x * broadcast(0.79788456080286535588f) * factor;
    return x * broadcast(0.5f) * (tanh(inner) + broadcast(1.0f));
}

// x / 2 (1 + erf(x / sqrt(2)))
OLLAMAPY_LANES Vec gelu_erf(Vec x) {
    x = bounded_below(x);
    return x * broadcast(0.5f) * (erf(x * broadcast(0.70710678118654752440f)) + broadcast(1.0f));
}

OLLAMAPY_LANES Vec softcap(Vec x, Vec cap) {
    return cap * tanh(x / cap);
}

}  // namespace
}  // namespace ollamapy::cpu
