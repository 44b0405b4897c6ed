#include "infer/logprobs.h"

#include <math.h>

/* log Σ exp(logit), the largest taken out first. */
static double log_total(const float *logits, int64_t n) {
    float most = logits[0];
    double sum = 0;
    for (int64_t i = 1; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)most);
    return (double)most + log(sum);
}

float ds_logprob_of(const float *logits, int64_t n, int32_t token) {
    return (float)((double)logits[token] - log_total(logits, n));
}

int ds_logprobs_top(const float *logits, int64_t n, int k, ds_token_logprob *out) {
    int kept = 0;
    if (k < 1)
        return 0;
    for (int64_t i = 0; i < n; i++) {
        if (kept == k && logits[i] <= out[kept - 1].logprob)
            continue;
        int at = kept < k ? kept++ : k - 1;
        for (; at > 0 && logits[i] > out[at - 1].logprob; at--)
            out[at] = out[at - 1];
        out[at] = (ds_token_logprob){.token = (int32_t)i, .logprob = logits[i]};
    }
    const double total = log_total(logits, n);
    for (int i = 0; i < kept; i++)
        out[i].logprob = (float)((double)out[i].logprob - total);
    return kept;
}
