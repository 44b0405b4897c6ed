/* The store: keys, tokens, who is alive; by its table with a clock of our own, and over TCP. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "comm/environment.h"
#include "comm/store.h"
#include "comm/store_table.h"
#include "launch/lines.h"

/* ---- the table ------------------------------------------------------------------------------- */

static bool tell(ds_store_table *t, ds_store_visitor *v, uint8_t op, const char *key,
                 const void *value, size_t size, double now) {
    ds_text out = {0};
    const ds_frame frame = {.op = op,
                            .key = (const uint8_t *)key,
                            .key_size = strlen(key),
                            .value = value,
                            .value_size = size};
    const bool open = ds_store_table_answer(t, v, &frame, now, &out);
    ds_text_clear(&out);
    return open;
}

static bool enter(ds_store_table *t, ds_store_visitor *v, int32_t rank, double now) {
    *v = ds_store_visitor_new();
    return tell(t, v, DS_FRAME_HELLO, "secret", &rank, sizeof rank, now);
}

static void test_strangers_and_doubles_are_refused(void **state) {
    (void)state;
    ds_store_table t;
    ds_store_visitor a, b;
    const int32_t rank = 0;
    assert_int_equal(ds_store_table_init(&t, "secret", 2, 1.5), DS_OK);
    a = ds_store_visitor_new();
    assert_false(tell(&t, &a, DS_FRAME_HELLO, "guess", &rank, sizeof rank, 0));
    a = ds_store_visitor_new();
    assert_false(tell(&t, &a, DS_FRAME_SET, "key", "v", 1, 0)); /* without a hello */
    assert_true(enter(&t, &a, 0, 0));
    assert_false(enter(&t, &b, 0, 0)); /* the rank is taken */
    assert_false(enter(&t, &b, 2, 0)); /* there is no such rank */
    assert_true(enter(&t, &b, -1, 0));
    assert_true(tell(&t, &b, DS_FRAME_SET, "key", "value", 5, 0));
    assert_false(tell(&t, &b, 99, "", "", 0, 0));
    ds_store_table_clear(&t);
}

static void test_a_silent_rank_is_dead_when_its_lease_ends(void **state) {
    (void)state;
    ds_store_table t;
    ds_store_visitor a, b;
    assert_int_equal(ds_store_table_init(&t, "secret", 2, 1.5), DS_OK);
    assert_true(enter(&t, &a, 0, 10) && enter(&t, &b, 1, 10));
    for (double now = 10; now < 11.45; now += 0.1) {
        assert_true(tell(&t, &a, DS_FRAME_BEAT, "", "", 0, now));
        ds_store_table_judge(&t, now);
        assert_int_equal(t.status, DS_OK);
    }
    ds_store_table_judge(&t, 11.52);
    assert_int_equal(t.status, DS_UNAVAILABLE);
    assert_non_null(strstr(t.reason, "rank 1 was not heard of for 1.5 s"));
    ds_store_table_clear(&t);
}

static void test_a_store_that_slept_blames_nobody(void **state) {
    (void)state;
    ds_store_table t;
    ds_store_visitor a;
    assert_int_equal(ds_store_table_init(&t, "secret", 1, 1.5), DS_OK);
    assert_true(enter(&t, &a, 0, 10));
    ds_store_table_judge(&t, 10);
    ds_store_table_judge(&t, 20); /* its machine was stopped: so were the beats' answers */
    assert_int_equal(t.status, DS_OK);
    ds_store_table_clear(&t);
}

static void test_an_end_without_farewell_is_a_death_and_the_first_word_stays(void **state) {
    (void)state;
    ds_store_table t;
    ds_store_visitor a, b;
    assert_int_equal(ds_store_table_init(&t, "secret", 2, 1.5), DS_OK);
    assert_true(enter(&t, &a, 0, 0) && enter(&t, &b, 1, 0));
    assert_true(tell(&t, &a, DS_FRAME_BYE, "", "", 0, 0.1));
    ds_store_table_lost(&t, &a, 0.1);
    ds_store_table_lost(&t, &b, 0.1);
    ds_store_table_judge(&t, 0.2); /* the launcher may know better */
    assert_int_equal(t.status, DS_OK);
    ds_store_table_judge(&t, 0.4);
    assert_int_equal(t.status, DS_UNAVAILABLE);
    assert_non_null(strstr(t.reason, "rank 1 is gone"));
    ds_store_table_abort(&t, DS_TIMEOUT, "a later word");
    assert_int_equal(t.status, DS_UNAVAILABLE);
    assert_true(ds_store_table_all_left(&t));
    ds_store_table_clear(&t);
}

/* ---- over TCP -------------------------------------------------------------------------------- */

static void test_keys_over_tcp(void **state) {
    (void)state;
    ds_store_server *server = NULL;
    ds_store *one = NULL, *two = NULL;
    void *value = NULL;
    size_t size = 0;
    assert_int_equal(
        ds_store_server_start((ds_store_server_opts){"127.0.0.1:0", "secret", 2, 0}, &server),
        DS_OK);
    const char *address = ds_store_server_address(server);
    assert_int_equal(ds_store_connect(address, "guess", -1, 5, &one), DS_INVALID);
    assert_non_null(strstr(ds_error(), "token"));
    assert_int_equal(ds_store_connect(address, "secret", -1, 5, &one), DS_OK);
    assert_int_equal(ds_store_connect(address, "secret", -1, 5, &two), DS_OK);
    assert_int_equal(ds_store_wait(two, "big", 0.1, &value, &size), DS_TIMEOUT);
    char *big = calloc(1, 500000);
    big[499999] = 7;
    assert_int_equal(ds_store_set(one, "big", big, 500000), DS_OK);
    assert_int_equal(ds_store_wait(two, "big", 5, &value, &size), DS_OK);
    assert_int_equal(size, 500000);
    assert_memory_equal(value, big, size);
    free(value);
    free(big);
    ds_store_close(one);
    ds_store_close(two);
    ds_store_server_stop(server, 0);
    assert_int_equal(ds_store_connect("127.0.0.1:1", "", -1, 0.1, &one), DS_UNAVAILABLE);
    assert_int_equal(ds_store_connect("nowhere", "", -1, 0.1, &one), DS_INVALID);
}

static bool wait_for_abort(ds_membership *m, double seconds) {
    for (double end = ds_clock_s() + seconds; ds_clock_s() < end && !m->aborted;)
        usleep(5000);
    return m->aborted;
}

static void test_aborts_and_whereabouts_over_tcp(void **state) {
    (void)state;
    ds_store_server *server = NULL;
    ds_store *stores[2];
    ds_membership *members[2];
    char reason[DS_ABORT_TEXT];
    assert_int_equal(
        ds_store_server_start((ds_store_server_opts){"127.0.0.1:0", "secret", 2, 20}, &server),
        DS_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            ds_store_connect(ds_store_server_address(server), "secret", -1, 5, &stores[i]), DS_OK);
        assert_int_equal(ds_liveness_start(stores[i], "secret", i, &members[i]), DS_OK);
    }
    ds_whereabouts here = {.n = 1, .at = {{.sequence = 41, .kind = 0, .name = "wte"}}}, there = {0};
    members[1]->ops->publish(members[1], &here);
    double age = 0;
    for (int i = 0; i < 500 && there.n == 0; i++) {
        usleep(10000);
        assert_true(members[0]->ops->read(members[0], 1, &there, &age));
    }
    assert_int_equal(there.at[0].sequence, 41);
    assert_string_equal(there.at[0].name, "wte");
    members[1]->ops->abort(members[1], DS_TIMEOUT, "the reason");
    assert_true(wait_for_abort(members[0], 10));
    assert_int_equal(members[0]->ops->reason(members[0], reason), DS_TIMEOUT);
    assert_string_equal(reason, "the reason");
    for (int i = 0; i < 2; i++)
        members[i]->ops->close(members[i], false);
    ds_store_server_stop(server, 5);
}

/* ---- who started us -------------------------------------------------------------------------- */

static void test_the_first_host_of_a_list_of_slurm(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"node[03-07,9],other", "node03:27321"},
                                           {"a1,b2", "a1:27321"},
                                           {"rack[1,2]", "rack1:27321"},
                                           {"single", "single:27321"}};
    setenv("SLURM_PROCID", "1", 1);
    setenv("SLURM_NTASKS", "4", 1);
    setenv("SLURM_JOB_ID", "7321", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_rank_environment e;
        setenv("SLURM_STEP_NODELIST", cases[i][0], 1);
        assert_int_equal(ds_rank_environment_read(&e), DS_OK);
        assert_string_equal(e.store, cases[i][1]);
        assert_string_equal(e.started_by, "Slurm");
        assert_int_equal(e.rank, 1);
        assert_int_equal(e.size, 4);
    }
    unsetenv("SLURM_PROCID");
    unsetenv("SLURM_NTASKS");
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_STEP_NODELIST");
}

/* ---- lines ----------------------------------------------------------------------------------- */

static void collect(const char *line, size_t length, void *context) {
    ds_text_printf(context, "<%.*s>", (int)length, line);
}

static void test_lines_come_whole(void **state) {
    (void)state;
    ds_text pending = {0}, got = {0};
    static const char *const pieces[] = {"ab", "c\n\nde", "f\ngh", "i"};
    for (size_t i = 0; i < 4; i++)
        ds_lines_take(&pending, pieces[i], strlen(pieces[i]), collect, &got);
    assert_string_equal(got.data, "<abc><><def>");
    ds_lines_finish(&pending, collect, &got);
    ds_lines_finish(&pending, collect, &got);
    assert_string_equal(got.data, "<abc><><def><ghi>");
    ds_text_clear(&got);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strangers_and_doubles_are_refused),
        cmocka_unit_test(test_a_silent_rank_is_dead_when_its_lease_ends),
        cmocka_unit_test(test_a_store_that_slept_blames_nobody),
        cmocka_unit_test(test_an_end_without_farewell_is_a_death_and_the_first_word_stays),
        cmocka_unit_test(test_keys_over_tcp),
        cmocka_unit_test(test_aborts_and_whereabouts_over_tcp),
        cmocka_unit_test(test_the_first_host_of_a_list_of_slurm),
        cmocka_unit_test(test_lines_come_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
