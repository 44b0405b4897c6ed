/* Drawing a token from logits: penalties, temperature, top-k, top-p (Holtzman et al. 2020), min-p
 * (Nguyen et al. 2024).
 *
 * Vocabularies have a hundred thousand tokens and more, of which few can be drawn, so that sorting
 * them all would be most of the work. Top-k keeps a heap of k while it passes over the logits once.
 * Top-p first only sums the weights into bins of like weight; the bins that hold the share p are
 * taken out, and of those only the one at the border and the one that the draw falls into are
 * sorted. Without either, sums of blocks tell in which block the draw falls. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "deepseek/inference.h"
#include "infer/weights.h"

enum { BLOCK = 512 };

static int64_t block_at(int64_t i, int64_t n) {
    return n - i < BLOCK ? n - i : BLOCK;
}

static int32_t likeliest(const float *logits, int64_t n) {
    const float top = ds_largest_logit(logits, n);
    int64_t i = 0;
    while (i < n && logits[i] != top)
        i++;
    return i < n ? (int32_t)i : 0;
}

/* ---- no limit: tokens in the order of their ids ---------------------------------------------- */

/* In which block the draw falls, by the blocks' sums; *left: how far into it. */
static int64_t choose_block(const double *sums, int64_t n_blocks, double *left) {
    int64_t chosen = 0;
    for (int64_t b = 0; b < n_blocks; b++) {
        if (!(sums[b] > 0))
            continue;
        chosen = b;
        if (*left - sums[b] <= 0)
            break;
        *left -= sums[b];
    }
    return chosen;
}

static int32_t draw_any(const float *logits, int64_t n, ds_weight_scale scale, double random) {
    const int64_t n_blocks = (n + BLOCK - 1) / BLOCK;
    double weights[BLOCK], total = 0;
    double *sums = ds_calloc((size_t)n_blocks, sizeof *sums);
    for (int64_t b = 0; sums && b < n_blocks; b++) {
        const int64_t count = block_at(b * BLOCK, n);
        ds_weigh(logits + b * BLOCK, count, scale, weights);
        for (int64_t j = 0; j < count; j++)
            sums[b] += weights[j];
        total += sums[b];
    }
    if (!(total > 0)) {
        free(sums);
        return likeliest(logits, n);
    }
    double left = random * total;
    const int64_t first = choose_block(sums, n_blocks, &left) * BLOCK;
    free(sums);
    const int64_t count = block_at(first, n);
    ds_weigh(logits + first, count, scale, weights);
    int64_t last = first;
    for (int64_t j = 0; j < count; j++) {
        if (!(weights[j] > 0))
            continue;
        last = first + j;
        if ((left -= weights[j]) <= 0)
            break;
    }
    return (int32_t)last;
}

/* ---- candidates, likeliest first ------------------------------------------------------------- */

typedef struct candidate {
    double weight;
    float logit;
    int32_t id;
} candidate;

static int likelier_first(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id - y->id;
}

enum {
    BIN_BITS = 3, /* of the mantissa: 8 bins from one weight to its half */
    BINS = 64 << BIN_BITS
};

/* Bins of falling weight; within one, candidates are sorted when it is looked into. */
typedef struct ranking {
    candidate *list;
    int n_bins;
    int64_t starts[BINS + 1];
    double mass[BINS];
    bool sorted[BINS];
    double total; /* of what is left */
} ranking;

/* Weights are in (0, 1]; their bits as integers rise with them. */
static int bin_of(double weight) {
    uint64_t bits;
    memcpy(&bits, &weight, sizeof bits);
    const uint64_t one = UINT64_C(0x3FF0000000000000), bin = (one - bits) >> (52 - BIN_BITS);
    return bin < BINS ? (int)bin : BINS - 1;
}

static void sort_bin(ranking *r, int b) {
    if (!r->sorted[b])
        qsort(r->list + r->starts[b], (size_t)(r->starts[b + 1] - r->starts[b]), sizeof *r->list,
              likelier_first);
    r->sorted[b] = true;
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

/* One bin of the k likeliest. A heap whose root is the least likely; each later token that is
 * likelier takes the root's place. */
static bool rank_top_k(const float *logits, int64_t n, int64_t k, ds_weight_scale scale,
                       ranking *r) {
    candidate *list = ds_malloc((size_t)k * sizeof *list);
    r->list = list;
    if (!list)
        return false;
    int64_t filled = 0;
    for (int64_t i = 0; i < n; i++) {
        if (filled == k && !(logits[i] > list[0].logit))
            continue;
        const float logit = isnan(logits[i]) ? -INFINITY : logits[i];
        if (filled < k) {
            list[filled++] = (candidate){0, logit, (int32_t)i};
            if (filled == k) { /* sorted falling and turned over, it is a heap */
                qsort(list, (size_t)k, sizeof *list, likelier_first);
                for (int64_t j = 0; j < k / 2; j++) {
                    const candidate kept = list[j];
                    list[j] = list[k - 1 - j];
                    list[k - 1 - j] = kept;
                }
            }
            continue;
        }
        list[0] = (candidate){0, logit, (int32_t)i};
        sink(list, k);
    }
    qsort(list, (size_t)k, sizeof *list, likelier_first);
    *r = (ranking){.list = list, .n_bins = 1, .starts = {0, k}, .sorted = {true}};
    for (int64_t i = 0; i < k; i++) {
        ds_weigh(&list[i].logit, 1, scale, &list[i].weight);
        r->mass[0] += list[i].weight;
    }
    r->total = r->mass[0];
    return true;
}

/* Candidates with these weights or more, in the order of their ids, as one bin. */
static bool rank_min_p(const float *logits, int64_t n, double least, ds_weight_scale scale,
                       ranking *r) {
    const double slack = 1e-6 * (fabs(scale.top) + 1);
    const double edge = scale.top + log(least) / scale.factor - slack;
    int64_t most = 0, kept = 0;
    for (int64_t i = 0; i < n; i++)
        most += (double)logits[i] >= edge;
    *r = (ranking){.list = ds_malloc((size_t)(most + 1) * sizeof *r->list), .n_bins = 1};
    if (!r->list)
        return false;
    for (int64_t i = 0; i < n; i++) {
        candidate c = {.logit = logits[i], .id = (int32_t)i};
        if (!((double)c.logit >= edge))
            continue;
        ds_weigh(&c.logit, 1, scale, &c.weight);
        if (!(c.weight >= least))
            continue;
        r->list[kept++] = c;
        r->mass[0] += c.weight;
    }
    r->starts[1] = kept;
    r->sorted[0] = true; /* as it shall be */
    r->total = r->mass[0];
    return true;
}

/* Counts and sums by bin over the whole vocabulary. */
static void fill_bins(const float *logits, int64_t n, ds_weight_scale scale, ranking *r,
                      int64_t *counts) {
    double weights[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = block_at(i, n);
        ds_weigh(logits + i, count, scale, weights);
        for (int64_t j = 0; j < count; j++) {
            if (!(weights[j] > 0))
                continue;
            const int b = bin_of(weights[j]);
            counts[b]++;
            r->mass[b] += weights[j];
        }
    }
    for (int b = 0; b < BINS; b++)
        r->total += r->mass[b];
}

/* What of a block of logits may be among the kept ones. */
typedef struct few {
    int64_t n;
    float logits[BLOCK];
    int32_t ids[BLOCK];
    double weights[BLOCK];
} few;

static void take_few(const float *logits, int64_t first, int64_t count, double edge,
                     ds_weight_scale scale, few *f) {
    f->n = 0;
    for (int64_t i = first; i < first + count; i++) {
        f->logits[f->n] = logits[i];
        f->ids[f->n] = (int32_t)i;
        f->n += (double)logits[i] >= edge;
    }
    ds_weigh(f->logits, f->n, scale, f->weights);
}

/* Bins of the likeliest that hold the share p, and more of the last one. */
static bool rank_top_p(const float *logits, int64_t n, double p, ds_weight_scale scale,
                       ranking *r) {
    int64_t counts[BINS] = {0}, ends[BINS];
    *r = (ranking){0};
    fill_bins(logits, n, scale, r, counts);
    double sum = 0;
    while (r->n_bins < BINS && sum < p * r->total)
        sum += r->mass[r->n_bins++];
    for (int b = 0; b < r->n_bins; b++) {
        ends[b] = r->starts[b];
        r->starts[b + 1] = r->starts[b] + counts[b];
    }
    r->list = ds_malloc((size_t)(r->starts[r->n_bins] + 1) * sizeof *r->list);
    if (!r->list)
        return false;
    /* weights of the last bin are above the lower edge of its power of two */
    const double halvings = (double)(r->n_bins >> BIN_BITS) + 1;
    const double slack = 1e-6 * (fabs(scale.top) + 1);
    const double edge =
        r->n_bins == BINS ? -INFINITY : scale.top - halvings * log(2) / scale.factor - slack;
    few f = {0};
    for (int64_t i = 0; i < n; i += BLOCK) {
        take_few(logits, i, block_at(i, n), edge, scale, &f);
        for (int64_t j = 0; j < f.n; j++) {
            const int b = f.weights[j] > 0 ? bin_of(f.weights[j]) : BINS;
            if (b < r->n_bins)
                r->list[ends[b]++] = (candidate){f.weights[j], f.logits[j], f.ids[j]};
        }
    }
    return true;
}

/* ---- limits ---------------------------------------------------------------------------------- */

/* The fewest of the likeliest that hold the share p of the total. */
static void keep_top_p(ranking *r, double p) {
    const double wanted = p * r->total;
    double before = 0, sum = 0;
    int b = 0;
    while (b < r->n_bins - 1 && before + r->mass[b] < wanted)
        before += r->mass[b++];
    sort_bin(r, b);
    int64_t i = r->starts[b];
    while (i < r->starts[b + 1] && before + sum < wanted)
        sum += r->list[i++].weight;
    r->starts[b + 1] = i;
    r->mass[b] = sum;
    r->n_bins = b + 1;
    r->total = before + sum;
}

/* Those at least so likely, as a part of the likeliest, whose weight is 1. */
static void keep_min_p(ranking *r, double p) {
    const int border = r->n_bins == 1 || bin_of(p) >= r->n_bins ? r->n_bins - 1 : bin_of(p);
    int64_t kept = r->starts[border];
    double sum = 0;
    for (int64_t i = kept; i < r->starts[border + 1]; i++)
        if (r->list[i].weight >= p) {
            sum += r->list[i].weight;
            r->list[kept++] = r->list[i];
        }
    r->starts[border + 1] = kept;
    r->mass[border] = sum;
    r->n_bins = border + 1;
    r->total = 0;
    for (int b = 0; b < r->n_bins; b++)
        r->total += r->mass[b];
}

static int32_t draw_ranked(ranking *r, double random) {
    double left = random * r->total;
    int b = 0;
    while (r->n_bins > 1 && r->starts[r->n_bins - 1] == r->starts[r->n_bins])
        r->n_bins--;
    while (b < r->n_bins - 1 && left - r->mass[b] > 0)
        left -= r->mass[b++];
    while (b > 0 && !(r->mass[b] > 0))
        b--; /* however sums were rounded, what has no weight is not drawn: it may be forbidden */
    sort_bin(r, b);
    int64_t i = r->starts[b];
    while (i < r->starts[b + 1] - 1 && (left -= r->list[i].weight) > 0)
        i++;
    while (i > r->starts[b] && !(r->list[i].weight > 0))
        i--; /* one that is possible at all, in whatever way sums were rounded */
    return r->list[i].id;
}

/* ---- penalties ------------------------------------------------------------------------------- */

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

/* ---- the draw -------------------------------------------------------------------------------- */

static bool rank(const float *logits, int64_t n, const ds_sampling *s, ds_weight_scale scale,
                 ranking *r) {
    if (s->top_k > 0 && s->top_k < n)
        return rank_top_k(logits, n, s->top_k, scale, r);
    if (s->top_p > 0 && s->top_p < 1)
        return rank_top_p(logits, n, (double)s->top_p, scale, r);
    return rank_min_p(logits, n, fmin((double)s->min_p, 1), scale, r);
}

int32_t ds_sample(float *logits, int64_t n, ds_sampling s, int64_t position) {
    if (!(s.temperature > 0) || s.top_k == 1)
        return likeliest(logits, n);
    const ds_weight_scale scale = {.top = (double)ds_largest_logit(logits, n),
                                   .factor = 1 / (double)s.temperature};
    if (!isfinite(scale.top) || !isfinite(scale.factor))
        return likeliest(logits, n);
    const ds_philox_block random = ds_philox(ds_mix64(s.seed), (uint64_t)position, 0);
    const double uniform = ((double)random.word[0] + 0.5) * 0x1p-32;
    const bool top_k = s.top_k > 0 && s.top_k<n, top_p = s.top_p> 0 && s.top_p < 1;
    if (!top_k && !top_p && !(s.min_p > 0))
        return draw_any(logits, n, scale, uniform);
    ranking r;
    int32_t id = -1;
    if (rank(logits, n, &s, scale, &r)) {
        if (top_p)
            keep_top_p(&r, (double)s.top_p);
        if (s.min_p > 0)
            keep_min_p(&r, fmin((double)s.min_p, 1));
        id = draw_ranked(&r, uniform);
    } else {
        id = likeliest(logits, n); /* short of memory */
    }
    free(r.list);
    return id;
}
