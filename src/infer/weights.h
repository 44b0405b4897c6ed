/* Weights of a softmax over many logits: the passes that every draw and every probability makes
 * over the whole vocabulary. */
#ifndef DS_INFER_WEIGHTS_H
#define DS_INFER_WEIGHTS_H

#include <stdint.h>

/* weight = exp((logit − top) · factor) */
typedef struct ds_weight_scale {
    double top, factor;
} ds_weight_scale;

/* Of logits [n], n ≥ 1; what is no number is passed over; -INFINITY if nothing is one. */
float ds_largest_logit(const float *logits, int64_t n);

/* Weights [n] of logits [n], within 1e-9 of their exact values, in proportion. What is no number,
 * or whose weight is below e⁻⁷⁰⁰, weighs nothing. Each depends on its logit alone, not on its
 * place. */
void ds_weigh(const float *logits, int64_t n, ds_weight_scale scale, double *weights);

/* log Σ exp(logit) */
double ds_log_sum_exp(const float *logits, int64_t n);

#endif
