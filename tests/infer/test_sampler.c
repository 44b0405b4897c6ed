/* Drawing tokens: what may be drawn under each limit, and how often. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "deepseek/inference.h"

enum { N = 1000, DRAWS = 4000 };

/* Logits in no order, with equal ones among them. */
static void fill(float *logits) {
    for (int i = 0; i < N; i++)
        logits[i] = (float)(ds_philox(3, (uint64_t)i, 0).word[0] % 400) / 50;
}

/* How many are likelier than id. */
static int rank_of(const float *logits, int32_t id) {
    int rank = 0;
    for (int i = 0; i < N; i++)
        rank += logits[i] > logits[id] || (logits[i] == logits[id] && i < id);
    return rank;
}

static int32_t draw(const float *logits, ds_sampling sampling, int64_t position) {
    float copy[N];
    memcpy(copy, logits, sizeof copy);
    return ds_sample(copy, N, sampling, position);
}

static void test_greedy(void **state) {
    (void)state;
    float logits[N];
    fill(logits);
    const int32_t id = draw(logits, (ds_sampling){0}, 0);
    assert_int_equal(rank_of(logits, id), 0);
    assert_int_equal(draw(logits, (ds_sampling){.temperature = 2, .top_k = 1}, 5), id);
}

static void test_top_k(void **state) {
    (void)state;
    float logits[N];
    fill(logits);
    static const int ks[] = {2, 7, 40, 999};
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        int highest = 0;
        for (int d = 0; d < DRAWS; d++) {
            const ds_sampling sampling = {.temperature = 50, .top_k = ks[i], .seed = 1};
            const int rank = rank_of(logits, draw(logits, sampling, d));
            assert_in_range(rank, 0, ks[i] - 1);
            highest = rank > highest ? rank : highest;
        }
        /* almost flat: the last of a few is drawn too */
        if (ks[i] <= 40)
            assert_int_equal(highest, ks[i] - 1);
    }
}

static void test_top_p(void **state) {
    (void)state;
    /* shares 0.5, 0.25, 0.125, …, hidden among tokens of no probability */
    float logits[N];
    for (int i = 0; i < N; i++)
        logits[i] = -1000;
    for (int i = 0; i < 10; i++)
        logits[(i * 377 + 11) % N] = (float)(-i * log(2));
    static const struct {
        float p;
        int n;
    } cases[] = {{0.4f, 1}, {0.6f, 2}, {0.8f, 3}, {0.9f, 4}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int highest = 0;
        for (int d = 0; d < DRAWS; d++) {
            const ds_sampling sampling = {.temperature = 1, .top_p = cases[c].p, .seed = 9};
            const int rank = rank_of(logits, draw(logits, sampling, d));
            highest = rank > highest ? rank : highest;
        }
        assert_int_equal(highest, cases[c].n - 1);
    }
}

static void test_shares(void **state) {
    (void)state;
    /* p ∝ exp(logit / T): with T = 2, shares 1 : e : e² */
    float logits[] = {0, 2, 4}, copy[3];
    int counts[3] = {0};
    for (int d = 0; d < DRAWS; d++) {
        memcpy(copy, logits, sizeof copy);
        counts[ds_sample(copy, 3, (ds_sampling){.temperature = 2, .seed = 4}, d)]++;
    }
    const double total = 1 + exp(1) + exp(2);
    for (int i = 0; i < 3; i++) {
        const double share = exp(i) / total, sigma = sqrt(share * (1 - share) / DRAWS);
        assert_true(fabs((double)counts[i] / DRAWS - share) < 4 * sigma);
    }
}

/* Of logits 0, 1, … 9 those within a tenth of the likeliest are the last three: e⁻² is above it,
 * e⁻³ is not. */
static void test_min_p(void **state) {
    (void)state;
    bool seen[10] = {0};
    for (int64_t i = 0; i < 2000; i++) {
        float logits[10];
        for (int k = 0; k < 10; k++)
            logits[k] = (float)k;
        seen[ds_sample(logits, 10, (ds_sampling){.temperature = 1, .min_p = 0.1f}, i)] = true;
    }
    for (int k = 0; k < 10; k++)
        assert_int_equal(seen[k], k >= 7);
}

static void test_penalties(void **state) {
    (void)state;
    const int32_t prompt[] = {1, 1, 99, -1}, answer[] = {2, 3, 3};
    const ds_logit_bias bias[] = {{4, -50}, {0, 1}, {77, 9}};
    float logits[] = {0, 2, 3, 4, 5, -2};
    ds_sampling s = {
        .presence_penalty = 0.5f, .frequency_penalty = 0.25f, .bias = bias, .n_bias = 3};
    ds_sampling_penalise(logits, 6, &s, prompt, 4, answer, 3);
    const float expected[] = {1, 2, 2.25f, 3, -45, -2};
    for (int i = 0; i < 6; i++)
        assert_float_equal(logits[i], expected[i], 1e-6);
    const int32_t repeated[] = {5, 5, 2};
    s = (ds_sampling){.repetition_penalty = 2};
    ds_sampling_penalise(logits, 6, &s, prompt, 2, repeated, 3);
    const float divided[] = {1, 1, 1.125f, 3, -45, -4}; /* once each; below 0 the other way */
    for (int i = 0; i < 6; i++)
        assert_float_equal(logits[i], divided[i], 1e-6);
}

static void test_odd_logits(void **state) {
    (void)state;
    float all_nan[N], infinite[N];
    for (int i = 0; i < N; i++) {
        all_nan[i] = NAN;
        infinite[i] = 0;
    }
    infinite[321] = INFINITY;
    const ds_sampling settings[] = {
        {.temperature = 1}, {.temperature = 1, .top_k = 5}, {.temperature = 1, .top_p = 0.5f}};
    for (int i = 0; i < 3; i++) {
        assert_in_range(draw(all_nan, settings[i], 0), 0, N - 1);
        assert_int_equal(draw(infinite, settings[i], 0), 321);
    }
    float one = 3;
    assert_int_equal(ds_sample(&one, 1, settings[2], 0), 0);
}

/* ---- against a sampler that sorts everything ------------------------------------------------- */

enum { LARGE = 30000 };

typedef struct entry {
    double weight;
    float logit;
    int32_t id;
} entry;

static int by_logit(const void *a, const void *b) {
    const entry *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

/* The definition, step by step: order, k, weights, p, min-p, and the place that the number falls
 * on. */
static int32_t draw_plainly(const float *logits, int64_t n, ds_sampling s, int64_t position) {
    static entry list[LARGE];
    const bool ordered = (s.top_k > 0 && s.top_k < n) || (s.top_p > 0 && s.top_p < 1);
    double total = 0, top = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        list[i] = (entry){0, logits[i], (int32_t)i};
        top = fmax(top, (double)logits[i]);
    }
    if (ordered)
        qsort(list, (size_t)n, sizeof *list, by_logit);
    if (s.top_k > 0 && s.top_k < n)
        n = s.top_k;
    for (int64_t i = 0; i < n; i++)
        total += list[i].weight = exp(((double)list[i].logit - top) / (double)s.temperature);
    if (s.top_p > 0 && s.top_p < 1) {
        const double wanted = (double)s.top_p * total;
        int64_t kept = 0;
        for (total = 0; kept < n && total < wanted; kept++)
            total += list[kept].weight;
        n = kept;
    }
    int64_t kept = 0;
    total = 0;
    for (int64_t i = 0; i < n; i++)
        if (list[i].weight >= (double)s.min_p) {
            list[kept++] = list[i];
            total += list[i].weight;
        }
    const ds_philox_block random = ds_philox(ds_mix64(s.seed), (uint64_t)position, 0);
    double left = ((double)random.word[0] + 0.5) * 0x1p-32 * total;
    int64_t i = 0;
    while (i < kept - 1 && (left -= list[i].weight) > 0)
        i++;
    return list[i].id;
}

static void test_as_plainly(void **state) {
    (void)state;
    static float logits[LARGE], copy[LARGE];
    static const ds_sampling cases[] = {
        {.temperature = 1},
        {.temperature = 0.3f},
        {.temperature = 1, .top_k = 40},
        {.temperature = 3, .top_k = 2000},
        {.temperature = 1, .top_p = 0.9f},
        {.temperature = 0.2f, .top_p = 0.5f},
        {.temperature = 4, .top_p = 0.99f},
        {.temperature = 50, .top_p = 0.999999f},
        {.temperature = 1, .min_p = 0.02f},
        {.temperature = 2, .min_p = 1},
        {.temperature = 1.5f, .top_k = 300, .top_p = 0.8f},
        {.temperature = 1.5f, .top_p = 0.97f, .min_p = 0.01f},
        {.temperature = 1.5f, .top_k = 300, .top_p = 0.97f, .min_p = 0.03f},
    };
    for (int i = 0; i < LARGE; i++) {
        float normal[2];
        const ds_philox_block b = ds_philox(5, (uint64_t)i, 0);
        ds_normal_pair(b.word[0], b.word[1], normal);
        /* equal ones among them, and forbidden ones */
        logits[i] = b.word[2] % 10 == 0 ? -INFINITY : roundf(normal[0] * 250) / 100;
    }
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int64_t d = 0; d < 25; d++) {
            /* every number of tokens: whole blocks, and what is left of one */
            const int64_t n = d < 20 ? LARGE - d * 37 : 1 + d;
            ds_sampling s = cases[c];
            s.seed = (uint64_t)c;
            memcpy(copy, logits, sizeof copy);
            const int32_t drawn = ds_sample(copy, n, s, d);
            const int32_t expected = draw_plainly(logits, n, s, d);
            if (drawn != expected)
                fail_msg("case %zu, draw %lld: %d, by sorting %d", c, (long long)d, drawn,
                         expected);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),     cmocka_unit_test(test_top_k),
        cmocka_unit_test(test_top_p),      cmocka_unit_test(test_shares),
        cmocka_unit_test(test_odd_logits), cmocka_unit_test(test_min_p),
        cmocka_unit_test(test_penalties),  cmocka_unit_test(test_as_plainly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
