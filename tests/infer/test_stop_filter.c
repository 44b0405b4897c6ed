/* Stop strings across pieces: whatever the cuts, the text ends where the earliest one begins. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "infer/stop_filter.h"

static void check(const char *text, size_t piece, const char *const *stops, size_t n,
                  const char *expected) {
    ds_stop_filter f = {.n_stops = n};
    ds_text out = {0};
    for (size_t i = 0; i < n; i++)
        f.stops[i] = stops[i];
    for (size_t at = 0; at < strlen(text); at += piece) {
        const size_t left = strlen(text) - at;
        ds_stop_filter_push(&f, text + at, left < piece ? left : piece, &out);
        /* what is out stays out: never a part of a stop string */
        assert_true(out.length <= strlen(expected));
    }
    assert_int_equal(f.stopped, strlen(expected) < strlen(text));
    ds_stop_filter_finish(&f, &out);
    assert_string_equal(out.data ? out.data : "", expected);
    ds_stop_filter_clear(&f);
    ds_text_clear(&out);
}

static void test_any_cut(void **state) {
    (void)state;
    static const char *const stops[] = {"\n\nUser:", "END", "aab"};
    for (size_t piece = 1; piece < 12; piece++) {
        check("Hello there\n\nUser: me", piece, stops, 3, "Hello there");
        check("aaab", piece, stops, 3, "a");
        check("xENEND", piece, stops, 3, "xEN");
        check("END", piece, stops, 3, "");
        check("no stop here\n\nUse", piece, stops, 3, "no stop here\n\nUse");
        check("", piece, stops, 3, "");
    }
}

static void test_holds_back_no_more_than_needed(void **state) {
    (void)state;
    ds_stop_filter f = {.stops = {"END"}, .n_stops = 1};
    ds_text out = {0};
    ds_stop_filter_push(&f, "abcEN", 5, &out);
    assert_string_equal(out.data, "abc");
    ds_stop_filter_push(&f, "T", 1, &out);
    assert_string_equal(out.data, "abcENT");
    ds_stop_filter_push(&f, "END more", 8, &out);
    ds_stop_filter_push(&f, "and more", 8, &out);
    ds_stop_filter_finish(&f, &out);
    assert_string_equal(out.data, "abcENT");
    ds_stop_filter_clear(&f);
    ds_text_clear(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_cut),
        cmocka_unit_test(test_holds_back_no_more_than_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
