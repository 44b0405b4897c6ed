/* The configuration reader with a table of its own: the types and limits that the training table
 * does not use. Places and messages are tested in tests/train/test_train_config.c. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"

typedef struct thing {
    int64_t size, count, wide;
    int narrow;
    double wait;
    char *name;
    ds_config_strings names;
    ds_config_ints numbers;
} thing;

static const ds_config_key keys[] = {
    {.path = "size", .type = DS_CONFIG_BYTES, DS_CONFIG_FIELD(thing, size), .fallback = "1MiB"},
    {.path = "count", .type = DS_CONFIG_COUNT, DS_CONFIG_FIELD(thing, count), .fallback = "0"},
    {.path = "a.wide", .type = DS_CONFIG_INT, DS_CONFIG_FIELD(thing, wide), .fallback = "0"},
    {.path = "a.narrow", .type = DS_CONFIG_INT, DS_CONFIG_FIELD(thing, narrow), .fallback = "0"},
    {.path = "a.b.wait", .type = DS_CONFIG_DURATION, DS_CONFIG_FIELD(thing, wait), .fallback = "0"},
    {.path = "a.b.name", .type = DS_CONFIG_STRING, DS_CONFIG_FIELD(thing, name)},
    {.path = "names", .type = DS_CONFIG_STRINGS, DS_CONFIG_FIELD(thing, names)},
    {.path = "numbers",
     .type = DS_CONFIG_INTS,
     DS_CONFIG_FIELD(thing, numbers),
     .range = {.min = 0, .max = 9}},
};
static const ds_config_table table = {.title = "Thing",
                                      .keys = keys,
                                      .n_keys = sizeof keys / sizeof *keys,
                                      .struct_size = sizeof(thing)};

/* Reads one assignment into a fresh struct; on success the caller releases it. */
static ds_status assign(const char *assignment, thing *out) {
    ds_config *config = NULL;
    assert_int_equal(ds_config_new(&table, out, &config), DS_OK);
    const ds_status status = ds_config_override(config, assignment);
    ds_config_free(config);
    if (status != DS_OK)
        ds_config_release(&table, out);
    return status;
}

static void test_units(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t value;
    } sizes[] = {{"8GiB", 8LL << 30}, {"8 GiB", 8LL << 30}, {"1.5KiB", 1536}, {"7", 7},
                 {"3B", 3},           {"2MB", 2000000},     {"1kB", 1000},    {"1_000", 1000}},
      counts[] = {{"2.5B", 2500000000}, {"1e9", 1000000000},
                  {"300k", 300000},     {"1T", 1000000000000},
                  {"-3", -3},           {"9007199254740993", 9007199254740993}};
    char text[64];
    thing t;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(text, sizeof text, "size=%s", sizes[i].text);
        assert_int_equal(assign(text, &t), DS_OK);
        assert_int_equal(t.size, sizes[i].value);
        ds_config_release(&table, &t);
    }
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        snprintf(text, sizeof text, "count=%s", counts[i].text);
        assert_int_equal(assign(text, &t), DS_OK);
        assert_int_equal(t.count, counts[i].value);
        ds_config_release(&table, &t);
    }
    static const struct {
        const char *text;
        double value;
    } times[] = {{"500ms", 0.5}, {"2", 2},      {"1.5h", 5400},
                 {"3us", 3e-6},  {"5min", 300}, {"1d", 86400}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        snprintf(text, sizeof text, "a.b.wait=%s", times[i].text);
        assert_int_equal(assign(text, &t), DS_OK);
        assert_true(fabs(t.wait - times[i].value) < 1e-12);
        ds_config_release(&table, &t);
    }
}

static void test_refused(void **state) {
    (void)state;
    static const char *const refused[] = {
        "size=8G",
        "size=8gib",
        "size=1.3B",
        "size=0x10",
        "size=1e400",
        "size=1e30",
        "size=",
        "size=.",
        "size=1e",
        "size=--1",
        "size=1_",
        "size=1__0",
        "a.wide=1e3",
        "a.wide=9223372036854775808",
        "a.narrow=2147483648",
        "a.b.wait=inf",
        "a.b.wait=1y",
        "numbers=[1, x]",
        "numbers=[10]",
        "numbers=[[1]]",
        "names=[{a: b}]",
        "names=[null]",
        "a.b=5",
        "a=[1]",
        "a.b.wait.c=1",
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        thing t;
        if (assign(refused[i], &t) == DS_OK)
            fail_msg("accepted: %s", refused[i]);
        assert_int_equal(strncmp(ds_error(), "command line: ", 14), 0);
    }
}

static void test_lists_and_dump(void **state) {
    (void)state;
    static const char yaml[] = "names: [one, \"t w o\", 'null', \"\\x01\"]\n"
                               "numbers: [1, 2, 3]\n"
                               "size: 3GiB\n"
                               "a:\n  b: {wait: 1.25ms, name: ''}\n  narrow: -7\n";
    thing t, again;
    ds_config *config = NULL;
    assert_int_equal(ds_config_new(&table, &t, &config), DS_OK);
    if (ds_config_read_text(config, "t", yaml, strlen(yaml)) != DS_OK)
        fail_msg("%s", ds_error());
    assert_true(ds_config_given(config, "a.b.name"));
    assert_false(ds_config_given(config, "a.wide"));
    assert_int_equal(ds_config_fail(config, "a.narrow", "too %s", "small"), DS_INVALID);
    assert_string_equal(ds_error(), "t:6:11: a.narrow: too small");
    assert_int_equal(ds_config_fail(config, "a.wide", "odd"), DS_INVALID);
    assert_string_equal(ds_error(), "a.wide: odd");
    ds_config_free(config);
    assert_string_equal(t.name, "");
    ds_text dump = {0};
    ds_config_dump(&table, &t, &dump);
    assert_string_equal(dump.data, "size: 3GiB\n"
                                   "count: 0\n"
                                   "a:\n"
                                   "  wide: 0\n"
                                   "  narrow: -7\n"
                                   "  b:\n"
                                   "    wait: 0.00125s\n"
                                   "    name: \"\"\n"
                                   "names: [one, \"t w o\", \"null\", \"\\u0001\"]\n"
                                   "numbers: [1, 2, 3]\n");
    assert_int_equal(ds_config_new(&table, &again, &config), DS_OK);
    assert_int_equal(ds_config_read_text(config, "dump", dump.data, dump.length), DS_OK);
    /* A list that fails to read leaves the old one as it was. */
    assert_int_equal(ds_config_override(config, "names=[x, [y]]"), DS_INVALID);
    assert_true(ds_config_equal(&table, &t, &again, NULL));
    assert_int_equal(ds_config_override(config, "names=x"), DS_OK);
    assert_int_equal(again.names.n, 1);
    assert_int_equal(ds_config_override(config, "names="), DS_OK);
    assert_int_equal(again.names.n, 0);
    ds_config_free(config);
    ds_config_release(&table, &t);
    ds_config_release(&table, &again);
    ds_text_clear(&dump);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_lists_and_dump),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
