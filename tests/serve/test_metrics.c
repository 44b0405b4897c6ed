/* The numbers' text form: every line as Prometheus reads it, histograms that add up. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>

#include <string.h>

#include "serve/metrics.h"

static void expect(const ds_text *text, const char *line) {
    if (!strstr(text->data, line))
        fail_msg("'%s' is not in:\n%s", line, text->data);
}

static void test_text(void **state) {
    (void)state;
    ds_metrics m;
    ds_metrics_init(&m);
    const ds_executor_stats stats = {.n_running = 3,
                                     .prompt_tokens = 280,
                                     .cached_tokens = 70,
                                     .blocks_in_use = 5,
                                     .proposed_tokens = 8,
                                     .accepted_tokens = 6};
    for (int i = 0; i < 3; i++)
        ds_metrics_count_code(&m, 200);
    ds_metrics_count_code(&m, 429);
    ds_metrics_count_disconnect(&m);
    ds_metrics_first_token(&m, 0.001); /* a bucket holds its upper end */
    ds_metrics_first_token(&m, 0.3);
    ds_metrics_first_token(&m, 1000);
    ds_text text = {0};
    ds_metrics_write(&m, &stats, &text);
    expect(&text, "\n# TYPE deepseek_prefix_hit_tokens_total counter\n"
                  "deepseek_prefix_hit_tokens_total 70\n");
    expect(&text, "# TYPE deepseek_requests_running gauge\ndeepseek_requests_running 3\n");
    expect(&text, "\ndeepseek_prefix_hit_ratio 0.25\n");
    expect(&text, "\ndeepseek_accepted_tokens_total 6\n");
    expect(&text, "\ndeepseek_accepted_ratio 0.75\n");
    expect(&text, "deepseek_cache_blocks_in_use 5\n");
    expect(&text, "deepseek_http_requests_total{code=\"200\"} 3\n");
    expect(&text, "deepseek_http_requests_total{code=\"429\"} 1\n");
    expect(&text, "deepseek_disconnects_total 1\n");
    expect(&text, "deepseek_time_to_first_token_seconds_bucket{le=\"0.001\"} 1\n");
    expect(&text, "deepseek_time_to_first_token_seconds_bucket{le=\"0.25\"} 1\n");
    expect(&text, "deepseek_time_to_first_token_seconds_bucket{le=\"0.5\"} 2\n");
    expect(&text, "deepseek_time_to_first_token_seconds_bucket{le=\"30\"} 2\n");
    expect(&text, "deepseek_time_to_first_token_seconds_bucket{le=\"+Inf\"} 3\n");
    expect(&text, "deepseek_time_to_first_token_seconds_count 3\n");
    expect(&text, "deepseek_time_per_output_token_seconds_sum 0\n");
    ds_text_clear(&text);
    ds_metrics_destroy(&m);
}

/* More codes than there are places must not write outside them. */
static void test_many_codes(void **state) {
    (void)state;
    ds_metrics m;
    ds_metrics_init(&m);
    for (unsigned code = 100; code < 600; code++)
        ds_metrics_count_code(&m, code);
    int64_t sum = 0;
    for (int i = 0; i < DS_MOST_CODES; i++)
        sum += m.codes[i].n;
    assert_int_equal(sum, 500);
    ds_metrics_destroy(&m);
}

/* When /health says 503. */
static void test_a_model_that_hangs(void **state) {
    (void)state;
    const ds_executor_stats idle = {.last_step_s = 100},
                            busy = {.last_step_s = 100, .n_running = 1};
    assert_false(ds_metrics_stalled(&idle, HUGE_VAL, 1000));       /* nothing to do */
    assert_false(ds_metrics_stalled(&busy, 50, 100 + DS_STALL_S)); /* it moved */
    assert_true(ds_metrics_stalled(&busy, 50, 100 + DS_STALL_S + 1));
    assert_false(ds_metrics_stalled(&busy, 990, 1000)); /* the work has just come */
    assert_true(ds_metrics_stalled(&busy, 990, 990 + DS_STALL_S + 1));
    assert_false(ds_metrics_stalled(&busy, HUGE_VAL, 1000)); /* the last one is just being ended */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_model_that_hangs),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_many_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
