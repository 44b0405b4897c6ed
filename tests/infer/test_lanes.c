/* Lanes: every row once, errands in order and all of them, while both go on together. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "infer/lanes.h"

enum { ROWS = 97, ROUNDS = 200, KEYS = 5, ERRANDS = 2000 };

static void count_row(int64_t i, void *context) {
    ((int *)context)[i]++; /* one lane's alone, or it would be counted twice */
}

static void every_row_is_done_once(void **unused) {
    (void)unused;
    for (int n = 1; n <= 4; n++) {
        ds_lanes *l = NULL;
        int counts[ROWS] = {0};
        assert_int_equal(ds_lanes_new(n, &l), DS_OK);
        for (int round = 0; round < ROUNDS; round++)
            ds_lanes_share(l, round % ROWS, count_row, counts);
        ds_lanes_free(l);
        int expected[ROWS] = {0};
        for (int round = 0; round < ROUNDS; round++)
            for (int i = 0; i < round % ROWS; i++)
                expected[i]++;
        assert_memory_equal(counts, expected, sizeof counts);
    }
}

typedef struct note {
    ds_errand errand;
    int number;
    int *last; /* of its key */
    atomic_int *n_done, *n_disordered;
} note;

static void run_note(ds_errand *errand) {
    note *n = (note *)errand;
    atomic_fetch_add(n->n_disordered, *n->last != n->number - 1);
    *n->last = n->number;
    atomic_fetch_add(n->n_done, 1);
    free(n);
}

/* Rows are shared in between, as a step does while the callbacks of the last one are called. */
static void errands_come_in_order(void **unused) {
    (void)unused;
    ds_lanes *l = NULL;
    static int last[KEYS], counts[ROWS];
    atomic_int n_done, n_disordered;
    atomic_init(&n_done, 0);
    atomic_init(&n_disordered, 0);
    assert_int_equal(ds_lanes_new(3, &l), DS_OK);
    for (int i = 1; i <= ERRANDS; i++) {
        for (int key = 0; key < KEYS; key++) {
            note *n = calloc(1, sizeof *n);
            assert_non_null(n);
            *n = (note){.errand = {.run = run_note},
                        .number = i,
                        .last = &last[key],
                        .n_done = &n_done,
                        .n_disordered = &n_disordered};
            ds_lanes_leave(l, (uint64_t)key, &n->errand);
        }
        if (i % 50 == 0)
            ds_lanes_share(l, ROWS, count_row, counts);
        if (i % 200 == 0)
            ds_lanes_await(l, 10);
    }
    ds_lanes_await(l, 1);
    assert_int_equal(atomic_load(&n_done), ERRANDS * KEYS);
    assert_int_equal(atomic_load(&n_disordered), 0);
    for (int i = 0; i < ROWS; i++)
        assert_int_equal(counts[i], ERRANDS / 50);
    ds_lanes_free(l);
}

typedef struct slow_note {
    ds_errand errand;
    atomic_int *n_done;
} slow_note;

static void run_slowly(ds_errand *errand) {
    usleep(1000);
    atomic_fetch_add(((slow_note *)errand)->n_done, 1);
}

/* What was left is done before the lanes end. */
static void freeing_does_what_was_left(void **unused) {
    (void)unused;
    ds_lanes *l = NULL;
    slow_note notes[20];
    atomic_int n_done;
    atomic_init(&n_done, 0);
    assert_int_equal(ds_lanes_new(1, &l), DS_OK);
    for (int i = 0; i < 20; i++) {
        notes[i] = (slow_note){.errand = {.run = run_slowly}, .n_done = &n_done};
        ds_lanes_leave(l, 0, &notes[i].errand);
    }
    ds_lanes_free(l);
    assert_int_equal(atomic_load(&n_done), 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_done_once),
        cmocka_unit_test(errands_come_in_order),
        cmocka_unit_test(freeing_does_what_was_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
