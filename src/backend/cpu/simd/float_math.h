/* Elementary functions without branches or calls, so that loops over them vectorise. Polynomials
 * are near-minimax fits made for these intervals; errors are within about 2 ulp of the result. */
#ifndef DS_CPU_FLOAT_MATH_H
#define DS_CPU_FLOAT_MATH_H

#include <stdint.h>
#include <string.h>

static inline float as_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t as_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float absolute(float x) {
    return as_float(as_bits(x) & 0x7FFFFFFFu);
}

static inline float with_sign_of(float magnitude, float sign) {
    return as_float((as_bits(magnitude) & 0x7FFFFFFFu) | (as_bits(sign) & 0x80000000u));
}

/* e^x = 2^n e^r, |r| ≤ ln 2 / 2. The scaling by 2^n is in two steps, so that results down to the
 * smallest subnormal and up to infinity come out. */
static inline float fast_exp(float x) {
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 · 2^23: the low bits are rounded */
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.395059675e-03f;
    p = p * r + 8.368954058e-03f;
    p = p * r + 4.166620421e-02f;
    p = p * r + 1.666651830e-01f;
    p = p * r + 5.000000096e-01f;
    p = p * (r * r) + r + 1.0f;
    const int32_t i = (int32_t)(as_bits(shifted) - 0x4B400000u), half = i >> 1;
    return p * as_float((uint32_t)(half + 127) << 23) * as_float((uint32_t)(i - half + 127) << 23);
}

/* e^x for x ≤ 0 to about 2e-7 of the result plus the rounding of x, flushed to zero below e^-87:
 * for softmaxes, where such weights are nothing beside the largest. */
static inline float fast_exp_below_zero(float x) {
    const float t = (x < -87.0f ? -87.0f : x) * 1.44269504f;
    const float shifted = t + 12582912.0f; /* as above; a NaN gives any power, and stays one */
    const float n = shifted - 12582912.0f, r = t - n;
    float p = 1.340724930e-03f;
    p = p * r + 9.671875711e-03f;
    p = p * r + 5.550308389e-02f;
    p = p * r + 2.402223461e-01f;
    p = p * r + 6.931472149e-01f;
    p = p * r + 1.0f;
    const float y = p * as_float((as_bits(shifted) - 0x4B400000u + 127u) << 23);
    return x < -87.0f ? 0.0f : y;
}

/* 2^e · m with m in [√½, √2): log x = e ln 2 + log m. */
static inline float fast_log(float x) {
    const float scaled = x < 1.17549435e-38f ? x * 8388608.0f : x; /* subnormals up by 2^23 */
    const uint32_t bits = as_bits(scaled) - 0x3F3504F3u;
    const float e = (float)((int32_t)bits >> 23) - (x < 1.17549435e-38f ? 23.0f : 0.0f);
    const float f = as_float((bits & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
    float p = 6.915259723e-02f;
    p = p * f + -1.178975287e-01f;
    p = p * f + 1.187299594e-01f;
    p = p * f + -1.238435915e-01f;
    p = p * f + 1.421865678e-01f;
    p = p * f + -1.666925015e-01f;
    p = p * f + 2.000222666e-01f;
    p = p * f + -2.499998661e-01f;
    p = p * f + 3.333331044e-01f;
    const float square = f * f;
    float y = p * f * square + e * -2.12194440e-4f;
    y = (y - 0.5f * square) + f + e * 0.693359375f;
    y = x == 0 ? -__builtin_inff() : y;
    y = x < 0 || x != x ? __builtin_nanf("") : y;
    return x == __builtin_inff() ? x : y;
}

static inline float fast_tanh(float x) {
    const float t = absolute(x), s = x * x;
    float p = 2.122737072e-03f;
    p = p * s + -8.156269960e-03f;
    p = p * s + 2.169260234e-02f;
    p = p * s + -5.394537743e-02f;
    p = p * s + 1.333319590e-01f;
    p = p * s + -3.333333057e-01f;
    const float near = x + x * (s * p);
    const float far = with_sign_of(1.0f - 2.0f / (fast_exp(2.0f * t) + 1.0f), x);
    return t < 0.63f ? near : (x == x ? far : x);
}

static inline float fast_sigmoid(float x) {
    return 1.0f / (1.0f + fast_exp(-x));
}

/* erf x = x (1 + P(x²)) near zero, 1 − exp(Q(x) − x) elsewhere. */
static inline float fast_erf(float x) {
    const float s = x * x, t0 = absolute(x), t = t0 > 4.0f ? 4.0f : t0;
    float p = 8.397283189e-05f;
    p = p * s + -8.149686357e-04f;
    p = p * s + 5.201705692e-03f;
    p = p * s + -2.685969815e-02f;
    p = p * s + 1.128370155e-01f;
    p = p * s + -3.761263418e-01f;
    p = p * s + 1.283791667e-01f;
    const float near = x + x * p;
    float q = -2.090071781e-05f;
    q = q * t + 4.322047818e-04f;
    q = q * t + -4.160070314e-03f;
    q = q * t + 2.509034479e-02f;
    q = q * t + -1.082349155e-01f;
    q = q * t + -6.333881251e-01f;
    q = q * t + -1.294944614e-01f;
    q = q * t + 1.704137975e-04f;
    const float far = with_sign_of(1.0f - fast_exp(q - t), x);
    return t0 < 0.92f ? near : (x == x ? far : x);
}

/* ---- bfloat16 -------------------------------------------------------------------------------- */

static inline float from_bf16(uint16_t h) {
    return as_float((uint32_t)h << 16);
}

static inline uint16_t to_bf16(float f) {
    const uint32_t bits = as_bits(f);
    const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    const uint32_t quiet = bits >> 16 | 0x40u;
    return (uint16_t)((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded);
}

#endif
