/* Schedules, loss scaler and dynamic batch against values worked out by hand, and their promises
 * over long runs. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "deepseek/optim.h"

/* ---- schedules ------------------------------------------------------------------------------- */

static void test_schedule_by_hand(void **state) {
    (void)state;
    const ds_schedule base = {
        .rate = 1, .min_ratio = 0.1f, .warmup_steps = 4, .total_steps = 24, .decay_steps = 8};
    const struct {
        ds_schedule_kind kind;
        int64_t step;
        double expected;
    } cases[] = {
        {DS_SCHEDULE_CONSTANT, 0, 0.25},
        {DS_SCHEDULE_CONSTANT, 3, 1},
        {DS_SCHEDULE_CONSTANT, 1000, 1},
        {DS_SCHEDULE_LINEAR, 1, 0.5},
        {DS_SCHEDULE_LINEAR, 4, 1},
        {DS_SCHEDULE_LINEAR, 14, 0.55}, /* half-way: 0.1 + 0.9 / 2 */
        {DS_SCHEDULE_LINEAR, 24, 0.1},
        {DS_SCHEDULE_LINEAR, 99, 0.1},
        {DS_SCHEDULE_COSINE, 4, 1},
        {DS_SCHEDULE_COSINE, 9, 0.1 + 0.9 * (1 + 0.70710678118654752) / 2}, /* u = 1/4 */
        {DS_SCHEDULE_COSINE, 14, 0.55},
        {DS_SCHEDULE_COSINE, 24, 0.1},
        {DS_SCHEDULE_WSD, 15, 1},
        {DS_SCHEDULE_WSD, 16, 1}, /* the decay starts at 24 − 8 */
        {DS_SCHEDULE_WSD, 20, 0.55},
        {DS_SCHEDULE_WSD, 24, 0.1},
        {DS_SCHEDULE_CONSTANT, -5, 0.25},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_schedule s = base;
        s.kind = cases[i].kind;
        assert_float_equal(ds_schedule_rate(&s, cases[i].step), (float)cases[i].expected, 1e-6f);
    }
}

/* Degenerate lengths give a finite rate between the minimum and the peak at every step. */
static void test_schedule_is_bounded(void **state) {
    (void)state;
    for (int kind = DS_SCHEDULE_CONSTANT; kind <= DS_SCHEDULE_WSD; kind++)
        for (int64_t warmup = 0; warmup < 4; warmup++)
            for (int64_t total = 0; total < 6; total++)
                for (int64_t decay = 0; decay < 8; decay++) {
                    const ds_schedule s = {(ds_schedule_kind)kind, 2, 0.5f, warmup, total, decay};
                    float last = 2;
                    for (int64_t t = 0; t < 10; t++) {
                        const float rate = ds_schedule_rate(&s, t);
                        assert_true(rate > 0 && rate <= 2);
                        if (t >= warmup) {
                            assert_true(rate >= 1 && rate <= last); /* falls, never rises */
                            last = rate;
                        }
                    }
                }
}

static void test_rate_follows_batch(void **state) {
    (void)state;
    assert_float_equal(ds_batch_rate_factor(DS_OPTIMIZER_SGD, 32, 128), 4, 0);
    assert_float_equal(ds_batch_rate_factor(DS_OPTIMIZER_ADAMW, 32, 128), 2, 0);
    assert_float_equal(ds_batch_rate_factor(DS_OPTIMIZER_ADAMW, 0, 128), 1, 0);
}

/* ---- loss scaler ----------------------------------------------------------------------------- */

static void update_times(ds_loss_scaler *s, bool found_inf, int n) {
    for (int i = 0; i < n; i++)
        assert_int_equal(ds_loss_scaler_update(s, found_inf), found_inf);
}

static void test_scaler_hysteresis_and_growth(void **state) {
    (void)state;
    ds_loss_scaler s = ds_loss_scaler_dynamic();
    assert_float_equal(s.scale, 65536, 0);
    update_times(&s, true, 1); /* forgiven */
    assert_float_equal(s.scale, 65536, 0);
    update_times(&s, true, 2); /* the second and the third halve */
    assert_float_equal(s.scale, 16384, 0);
    update_times(&s, false, 999);
    assert_float_equal(s.scale, 16384, 0);
    update_times(&s, false, 1);
    assert_float_equal(s.scale, 32768, 0);
    update_times(&s, false, 999);
    update_times(&s, true, 1); /* forgiven again, but the clean steps count anew */
    update_times(&s, false, 999);
    assert_float_equal(s.scale, 32768, 0);
    update_times(&s, false, 1);
    assert_float_equal(s.scale, 65536, 0);
    assert_int_equal(s.skipped_steps, 4);
    assert_int_equal(s.total_steps, 3 + 1000 + 999 + 1 + 1000);
}

static void test_scaler_minimum(void **state) {
    (void)state;
    ds_loss_scaler s = ds_loss_scaler_dynamic();
    update_times(&s, true, 17); /* 2^16 takes 1 + 16 overflows to reach 1 */
    assert_float_equal(s.scale, 1, 0);
    assert_false(ds_loss_scaler_is_stuck(&s));
    update_times(&s, true, 3);
    assert_float_equal(s.scale, 1, 0);
    assert_true(ds_loss_scaler_is_stuck(&s));
    assert_int_equal(s.stuck_steps, 3);
    update_times(&s, false, 1);
    assert_false(ds_loss_scaler_is_stuck(&s));
}

static void test_scaler_maximum_and_static(void **state) {
    (void)state;
    ds_loss_scaler s = ds_loss_scaler_dynamic();
    s.growth_interval = 1;
    update_times(&s, false, 200);
    assert_float_equal(s.scale, 0x1p32f, 0);
    s = ds_loss_scaler_static(128);
    update_times(&s, true, 5);
    update_times(&s, false, 5000);
    assert_float_equal(s.scale, 128, 0);
    assert_int_equal(s.skipped_steps, 5);
    assert_false(ds_loss_scaler_is_stuck(&s));
}

/* Gradients overflow above an unknown limit: the scale finds it and stays within a factor of two
 * below it, whatever the limit; few steps are lost. */
static void test_scaler_finds_the_limit(void **state) {
    (void)state;
    for (int exponent = 1; exponent < 24; exponent++) {
        const float limit = ldexpf(1.3f, exponent);
        ds_loss_scaler s = ds_loss_scaler_dynamic();
        for (int t = 0; t < 20000; t++)
            ds_loss_scaler_update(&s, s.scale > limit);
        assert_true(s.scale <= 2 * limit && s.scale > limit / 4);
        assert_true(s.skipped_steps < 17 + 2 * 20);
        assert_false(ds_loss_scaler_is_stuck(&s));
    }
}

/* ---- dynamic batch --------------------------------------------------------------------------- */

static void test_batch_ramp(void **state) {
    (void)state;
    ds_dynamic_batch_scheduler s;
    assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 8, 64, 0.8f, 30), DS_OK);
    assert_int_equal(ds_dynamic_batch_scheduler_batch(&s), 8);
    int last = 8;
    for (int t = 1; t <= 30; t++) {
        const int batch = ds_dynamic_batch_scheduler_step(&s, 0.3f);
        assert_true(batch >= last);
        if (t % 10 == 0) /* 8 → 64 is three doublings */
            assert_int_equal(batch, 8 << (t / 10));
        last = batch;
    }
    assert_int_equal(ds_dynamic_batch_scheduler_step(&s, 0.3f), 64);
    for (int t = 0; t < 40; t++)
        last = ds_dynamic_batch_scheduler_step(&s, 0.99f);
    assert_int_equal(last, 8);
}

static void test_batch_rests_in_band(void **state) {
    (void)state;
    ds_dynamic_batch_scheduler s;
    assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 8, 64, 0.8f, 100), DS_OK);
    for (int t = 0; t < 40; t++)
        ds_dynamic_batch_scheduler_step(&s, 0.5f);
    for (int t = 0; t < 40; t++)
        ds_dynamic_batch_scheduler_step(&s, 0.81f);
    const int settled = ds_dynamic_batch_scheduler_batch(&s);
    for (int t = 0; t < 1000; t++) {
        const float noise = ds_uniform(ds_philox(1, (uint64_t)t, 0).word[0]) - 0.5f;
        assert_int_equal(ds_dynamic_batch_scheduler_step(&s, 0.8f + 0.1f * noise), settled);
    }
    assert_int_equal(ds_dynamic_batch_scheduler_step(&s, NAN), settled);
}

/* Closed loop with devices whose utilisation saturates as batch / (batch + half), with noise: it
 * ends in the band where the range allows, else at the nearer limit. */
static void test_batch_keeps_utilisation_in_band(void **state) {
    (void)state;
    for (int half = 1; half <= 40; half++) {
        ds_dynamic_batch_scheduler s;
        assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 8, 64, 0.8f, 200), DS_OK);
        int batch = 8, changes = 0;
        double mean = 0;
        for (int t = 0; t < 2000; t++) {
            const double noise = (double)ds_uniform(ds_philox(2, (uint64_t)t, 0).word[0]) - 0.5;
            const double utilization = (double)batch / (double)(batch + half) + 0.04 * noise;
            const int next = ds_dynamic_batch_scheduler_step(&s, (float)utilization);
            changes += t >= 1000 && next != batch;
            mean += t >= 1000 ? utilization / 1000 : 0;
            batch = next;
        }
        const double lowest = 8.0 / (8 + half), highest = 64.0 / (64 + half);
        if (highest < 0.75)
            assert_int_equal(batch, 64);
        else if (lowest > 0.86)
            assert_int_equal(batch, 8);
        else
            assert_true(mean > 0.745 && mean < 0.86);
        assert_true(changes < 10);
    }
}

static void test_batch_multiples_and_limits(void **state) {
    (void)state;
    ds_dynamic_batch_scheduler s;
    assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 10, 50, 0.8f, 50), DS_OK);
    s.multiple = 8;
    for (int t = 0; t < 60; t++) {
        const int batch = ds_dynamic_batch_scheduler_step(&s, 0);
        assert_true(batch % 8 == 0 && batch >= 16 && batch <= 48);
    }
    s.multiple = 64; /* none within the range */
    const int batch = ds_dynamic_batch_scheduler_step(&s, 0);
    assert_true(batch >= 10 && batch <= 50);
    assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 4, 9, 0.8f, 0), DS_OK);
    assert_int_equal(ds_dynamic_batch_scheduler_step(&s, 0.1f), 9);
    assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 1, INT32_MAX, 0.8f, 1), DS_OK);
    assert_int_equal(ds_dynamic_batch_scheduler_step(&s, 0.1f), INT32_MAX);
}

static void test_batch_refusals(void **state) {
    (void)state;
    ds_dynamic_batch_scheduler s;
    assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 0, 64, 0.8f, 10), DS_INVALID);
    assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 65, 64, 0.8f, 10), DS_INVALID);
    assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 8, 64, 80, 10), DS_INVALID);
    assert_non_null(strstr(ds_error(), "0.8 is 80 %"));
    assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 8, 64, NAN, 10), DS_INVALID);
    assert_int_equal(ds_dynamic_batch_scheduler_init(&s, 8, 64, 0.8f, -1), DS_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedule_by_hand),
        cmocka_unit_test(test_schedule_is_bounded),
        cmocka_unit_test(test_rate_follows_batch),
        cmocka_unit_test(test_scaler_hysteresis_and_growth),
        cmocka_unit_test(test_scaler_minimum),
        cmocka_unit_test(test_scaler_maximum_and_static),
        cmocka_unit_test(test_scaler_finds_the_limit),
        cmocka_unit_test(test_batch_ramp),
        cmocka_unit_test(test_batch_rests_in_band),
        cmocka_unit_test(test_batch_keeps_utilisation_in_band),
        cmocka_unit_test(test_batch_multiples_and_limits),
        cmocka_unit_test(test_batch_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
