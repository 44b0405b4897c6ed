/* Drawing a token from logits: temperature, top-k, top-p (Holtzman et al. 2020). */
#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "deepseek/inference.h"

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

static int likelier_first(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id - y->id;
}

static int32_t likeliest(const float *logits, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

/* How many of the sorted candidates may be drawn. */
static int64_t cut(const candidate *sorted, int64_t n, const ds_sampling *s) {
    int64_t kept = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    if (!(s->top_p > 0 && s->top_p < 1))
        return kept;
    double total = 0, sum = 0;
    const double top = (double)sorted[0].logit, scale = 1 / (double)s->temperature;
    for (int64_t i = 0; i < kept; i++)
        total += exp(((double)sorted[i].logit - top) * scale);
    for (int64_t i = 0; i < kept; i++) {
        sum += exp(((double)sorted[i].logit - top) * scale);
        if (sum >= (double)s->top_p * total)
            return i + 1;
    }
    return kept;
}

int32_t ds_sample(float *logits, int64_t n, ds_sampling s, int64_t position) {
    if (!(s.temperature > 0) || s.top_k == 1)
        return likeliest(logits, n);
    candidate *sorted = ds_malloc((size_t)n * sizeof *sorted);
    if (!sorted)
        return likeliest(logits, n);
    for (int64_t i = 0; i < n; i++)
        sorted[i] = (candidate){isnan(logits[i]) ? -INFINITY : logits[i], (int32_t)i};
    qsort(sorted, (size_t)n, sizeof *sorted, likelier_first);
    const int64_t kept = cut(sorted, n, &s);
    const double top = (double)sorted[0].logit, scale = 1 / (double)s.temperature;
    double total = 0;
    for (int64_t i = 0; i < kept; i++)
        total += exp(((double)sorted[i].logit - top) * scale);
    const ds_philox_block random = ds_philox(ds_mix64(s.seed), (uint64_t)position, 0);
    double left = ((double)random.word[0] + 0.5) * 0x1p-32 * total;
    int64_t i = 0;
    while (i < kept - 1 && (left -= exp(((double)sorted[i].logit - top) * scale)) > 0)
        i++;
    const int32_t id = sorted[i].id;
    free(sorted);
    return id;
}
