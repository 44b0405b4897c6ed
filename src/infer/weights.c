#include "infer/weights.h"

#include <math.h>
#include <string.h>

/* Several at once, so that compilers may use vectors. */
float ds_largest_logit(const float *logits, int64_t n) {
    enum { AT_ONCE = 16 };
    float most[AT_ONCE];
    for (int j = 0; j < AT_ONCE; j++)
        most[j] = -INFINITY;
    int64_t i = 0;
    for (; i + AT_ONCE <= n; i += AT_ONCE)
        for (int j = 0; j < AT_ONCE; j++)
            most[j] = logits[i + j] > most[j] ? logits[i + j] : most[j];
    for (; i < n; i++)
        most[0] = logits[i] > most[0] ? logits[i] : most[0];
    for (int j = 1; j < AT_ONCE; j++)
        most[0] = most[j] > most[0] ? most[j] : most[0];
    return most[0];
}

/* eˣ = 2ᵏ·eʳ with |r| at most half of log 2, eʳ by its series (Cody and Waite 1980), in a loop that
 * compilers turn into vectors. */
void ds_weigh(const float *logits, int64_t n, ds_weight_scale s, double *weights) {
    static const double log2e = 1.4426950408889634, high = 0x1.62e42feep-1,
                        low = 0x1.a39ef35793c76p-33, to_integer = 0x1.8p52, least = -700;
    for (int64_t i = 0; i < n; i++) {
        const double exact = ((double)logits[i] - s.top) * s.factor;
        const double x = exact >= least ? exact : least;
        const double shifted = x * log2e + to_integer, k = shifted - to_integer;
        const double r = x - k * high - k * low;
        double e = 1.0 / 40320; /* 1/8! */
        e = e * r + 1.0 / 5040;
        e = e * r + 1.0 / 720;
        e = e * r + 1.0 / 120;
        e = e * r + 1.0 / 24;
        e = e * r + 1.0 / 6;
        e = e * r + 0.5;
        e = e * r + 1;
        e = e * r + 1;
        uint64_t bits, power;
        memcpy(&bits, &e, sizeof bits);
        memcpy(&power, &shifted, sizeof power);
        bits += power << 52;
        memcpy(&e, &bits, sizeof e);
        weights[i] = exact >= least ? e : 0;
    }
}

double ds_log_sum_exp(const float *logits, int64_t n) {
    enum { BLOCK = 512 };
    double weights[BLOCK], sum = 0;
    const ds_weight_scale scale = {.top = (double)ds_largest_logit(logits, n), .factor = 1};
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = n - i < BLOCK ? n - i : BLOCK;
        ds_weigh(logits + i, count, scale, weights);
        for (int64_t j = 0; j < count; j++)
            sum += weights[j];
    }
    return scale.top + log(sum);
}
