/* Drawing a token from logits: penalties, temperature, top-k, top-p (Holtzman et al. 2020), min-p
 * (Nguyen et al. 2024). */
#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "deepseek/inference.h"

typedef struct candidate {
    float logit;
    int32_t id;
    double weight;
} candidate;

static int likelier_first(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id - y->id;
}

/* The first of the largest; numbers that are none are passed over. Two loops that the compiler
 * turns into vectors: vocabularies are long. */
static int32_t likeliest(const float *logits, int64_t n) {
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int64_t i = 0; i < n; i++)
        if (logits[i] == most)
            return (int32_t)i;
    return 0;
}

/* Sinks the root of a heap whose root is the least likely. */
static void sink(candidate *heap, int64_t n) {
    for (int64_t i = 0, child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && likelier_first(&heap[child], &heap[child + 1]) < 0)
            child++;
        if (likelier_first(&heap[i], &heap[child]) >= 0)
            return;
        const candidate kept = heap[i];
        heap[i] = heap[child];
        heap[child] = kept;
    }
}

/* The k likeliest of n, likeliest first. The first k, sorted falling, are a heap already turned
 * over; each later one that is likelier than the heap's root takes its place. */
static int64_t keep_top_k(candidate *list, int64_t n, int64_t k) {
    qsort(list, (size_t)k, sizeof *list, likelier_first);
    for (int64_t i = 0; i < k / 2; i++) {
        const candidate kept = list[i];
        list[i] = list[k - 1 - i];
        list[k - 1 - i] = kept;
    }
    for (int64_t i = k; i < n; i++)
        if (likelier_first(&list[i], &list[0]) < 0) {
            list[0] = list[i];
            sink(list, k);
        }
    qsort(list, (size_t)k, sizeof *list, likelier_first);
    return k;
}

/* exp((logit − top) / temperature) of each. Returns their sum. */
static double weigh(candidate *list, int64_t n, double temperature) {
    float top = list[0].logit;
    double total = 0;
    for (int64_t i = 1; i < n; i++)
        top = list[i].logit > top ? list[i].logit : top;
    for (int64_t i = 0; i < n; i++) {
        list[i].weight = exp(((double)list[i].logit - (double)top) / temperature);
        total += list[i].weight;
    }
    return total;
}

/* The fewest of the likeliest that hold the share p of the total; *total becomes theirs. One below
 * (1 − p)/n of the total cannot be among them: all of those together hold less than is left out. */
static int64_t keep_top_p(candidate *list, int64_t n, double p, double *total) {
    const double least = (1 - p) / (double)n * *total;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (list[i].weight >= least)
            list[kept++] = list[i];
    qsort(list, (size_t)kept, sizeof *list, likelier_first);
    double sum = 0;
    int64_t i = 0;
    while (i < kept && sum < p * *total)
        sum += list[i++].weight;
    *total = sum;
    return i;
}

/* Those at least so likely, as a part of the likeliest. Weights are relative to it already. */
static int64_t keep_min_p(candidate *list, int64_t n, double p, double *total) {
    double most = 0, sum = 0;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        most = list[i].weight > most ? list[i].weight : most;
    for (int64_t i = 0; i < n; i++)
        if (list[i].weight >= p * most) {
            sum += list[i].weight;
            list[kept++] = list[i];
        }
    *total = sum;
    return kept;
}

static void penalise_repetition(float *logits, int64_t n, float penalty, const int32_t *tokens,
                                int64_t n_tokens, unsigned char *seen) {
    for (int64_t i = 0; i < n_tokens; i++) {
        const int32_t id = tokens[i];
        if (id < 0 || id >= n || (seen[id / 8] & (1 << id % 8)))
            continue;
        seen[id / 8] |= (unsigned char)(1 << id % 8);
        logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    }
}

/* Once for standing in the answer, and for each time it does. */
static void penalise_answer(float *logits, int64_t n, const ds_sampling *s, const int32_t *answer,
                            int64_t n_answer, unsigned char *seen) {
    for (int64_t i = 0; i < n_answer; i++) {
        const int32_t id = answer[i];
        if (id < 0 || id >= n)
            continue;
        logits[id] -= s->frequency_penalty;
        if (!(seen[id / 8] & (1 << id % 8)))
            logits[id] -= s->presence_penalty;
        seen[id / 8] |= (unsigned char)(1 << id % 8);
    }
}

void ds_sampling_penalise(float *logits, int64_t n, const ds_sampling *s, const int32_t *prompt,
                          int64_t n_prompt, const int32_t *answer, int64_t n_answer) {
    const bool repeats = s->repetition_penalty > 0 && s->repetition_penalty != 1;
    const bool counts = s->presence_penalty != 0 || s->frequency_penalty != 0;
    for (size_t i = 0; i < s->n_bias; i++)
        if (s->bias[i].token >= 0 && s->bias[i].token < n)
            logits[s->bias[i].token] += s->bias[i].bias;
    if (!repeats && !counts)
        return;
    unsigned char *seen = ds_calloc(2, (size_t)(n + 7) / 8); /* short of memory: no penalties */
    if (seen && repeats) {
        penalise_repetition(logits, n, s->repetition_penalty, prompt, n_prompt, seen);
        penalise_repetition(logits, n, s->repetition_penalty, answer, n_answer, seen);
    }
    if (seen && counts)
        penalise_answer(logits, n, s, answer, n_answer, seen + (n + 7) / 8);
    free(seen);
}

int32_t ds_sample(float *logits, int64_t n, ds_sampling s, int64_t position) {
    if (!(s.temperature > 0) || s.top_k == 1)
        return likeliest(logits, n);
    candidate *list = ds_malloc((size_t)n * sizeof *list);
    if (!list)
        return likeliest(logits, n);
    for (int64_t i = 0; i < n; i++)
        list[i] = (candidate){isnan(logits[i]) ? -INFINITY : logits[i], (int32_t)i, 0};
    int64_t kept = s.top_k > 0 && s.top_k < n ? keep_top_k(list, n, s.top_k) : n;
    double total = weigh(list, kept, (double)s.temperature);
    if (!isfinite(total)) {
        free(list);
        return likeliest(logits, n);
    }
    if (s.top_p > 0 && s.top_p < 1)
        kept = keep_top_p(list, kept, (double)s.top_p, &total);
    if (s.min_p > 0)
        kept = keep_min_p(list, kept, fmin((double)s.min_p, 1), &total);
    const ds_philox_block random = ds_philox(ds_mix64(s.seed), (uint64_t)position, 0);
    double left = ((double)random.word[0] + 0.5) * 0x1p-32 * total;
    int64_t i = 0;
    while (i < kept - 1 && (left -= list[i].weight) > 0)
        i++;
    const int32_t id = list[i].id;
    free(list);
    return id;
}
