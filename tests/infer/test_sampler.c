/* Drawing tokens: what may be drawn under each limit, and how often. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),     cmocka_unit_test(test_top_k),
        cmocka_unit_test(test_top_p),      cmocka_unit_test(test_shares),
        cmocka_unit_test(test_odd_logits), cmocka_unit_test(test_min_p),
        cmocka_unit_test(test_penalties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
