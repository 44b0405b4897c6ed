/* Collectives between ranks that are threads of this process: values, groups, calls in the
 * background, and what happens when ranks do not do the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/log.h"
#include "deepseek/comm.h"
#include "support/ranks.h"

static const ds_comm_opts PATIENT = {.timeout_s = 120};

/* ---- values --------------------------------------------------------------------------------- */

static ds_status all_kinds(ds_comm *comm, void *context) {
    (void)context;
    /* the last: beyond the size where the ring begins, for every dtype; for few ranks, it takes
     * long */
    const int64_t counts[] = {0, 1, 3, 1000, ds_comm_size(comm) <= 3 ? 270001 : 40001};
    return check_collectives(comm, counts, 5);
}

static void test_every_collective_equals_plain_sums(void **state) {
    (void)state;
    for (int size = 1; size <= 8; size++)
        run_ranks(size, PATIENT, all_kinds, NULL);
}

/* Several windows of chunks around the ring, and blocks that differ by one element. */
static ds_status large(ds_comm *comm, void *context) {
    (void)context;
    const int64_t n = 3 * 1024 * 1024 + 5;
    float *data = malloc((size_t)n * sizeof *data);
    const int rank = ds_comm_rank(comm), size = ds_comm_size(comm);
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)(i % 1000 + rank);
    ds_status status = ds_comm_all_reduce(comm, data, data, n, DS_F32, DS_COMM_SUM,
                                          (ds_comm_call){.name = "large"});
    for (int64_t i = 0; i < n && status == DS_OK; i++)
        if (data[i] != (float)(i % 1000 * size + size * (size - 1) / 2))
            status = ds_fail(DS_INVALID, "element %lld is %g", (long long)i, (double)data[i]);
    free(data);
    return status;
}

static void test_large_all_reduce(void **state) {
    (void)state;
    run_ranks(2, PATIENT, large, NULL);
    run_ranks(3, PATIENT, large, NULL);
    run_ranks(5, (ds_comm_opts){.timeout_s = 120, .n_threads = 2}, large, NULL);
}

/* Sums whose value depends on the order of additions, with NaNs: equal bits on all ranks. */
static ds_status same_bits(ds_comm *comm, void *context) {
    const int64_t n = *(const int64_t *)context;
    const int rank = ds_comm_rank(comm), size = ds_comm_size(comm);
    float *data = malloc((size_t)n * sizeof *data);
    uint32_t *all = malloc((size_t)n * sizeof *all * (size_t)size);
    for (int64_t i = 0; i < n; i++)
        data[i] = i % 97 == 0 ? nanf(rank % 2 ? "1" : "2") : 1.0f / (float)(i * 31 + rank * 7 + 1);
    ds_status status = ds_comm_all_reduce(comm, data, data, n, DS_F32, DS_COMM_SUM,
                                          (ds_comm_call){.name = "bits"});
    if (status == DS_OK)
        status = ds_comm_all_gather(comm, data, all, n, DS_F32, (ds_comm_call){0});
    for (int64_t i = 0; i < n * size && status == DS_OK; i++)
        if (all[i] != all[i % n])
            status = ds_fail(DS_INVALID, "rank %lld has other bits than rank 0 at %lld",
                             (long long)(i / n), (long long)(i % n));
    free(data);
    free(all);
    return status;
}

static void test_all_ranks_get_the_same_bits(void **state) {
    (void)state;
    for (int size = 2; size <= 7; size++)
        for (int64_t n = 500; n <= 90000; n *= 180) /* by doubling, by the ring */
            run_ranks(size, PATIENT, same_bits, &n);
}

static ds_status edges(ds_comm *comm, void *context) {
    (void)context;
    const int rank = ds_comm_rank(comm);
    float v[3] = {rank == 1 ? NAN : 5, (float)rank, -0.0f};
    DS_TRY(ds_comm_all_reduce(comm, v, v, 3, DS_F32, DS_COMM_MAX, (ds_comm_call){0}));
    if (!isnan(v[0]) || v[1] != (float)(ds_comm_size(comm) - 1))
        return ds_fail(DS_INVALID, "the maximum is %g, %g", (double)v[0], (double)v[1]);
    int8_t bytes[1] = {100};
    DS_TRY(ds_comm_all_reduce(comm, bytes, bytes, 1, DS_I8, DS_COMM_SUM, (ds_comm_call){0}));
    if (bytes[0] != (int8_t)(uint8_t)(100 * ds_comm_size(comm)))
        return ds_fail(DS_INVALID, "the sum of bytes does not wrap: %d", bytes[0]);
    return DS_OK;
}

static void test_nan_wins_and_integers_wrap(void **state) {
    (void)state;
    run_ranks(2, PATIENT, edges, NULL);
    run_ranks(3, PATIENT, edges, NULL);
}

/* ---- groups --------------------------------------------------------------------------------- */

static ds_status mesh(ds_comm *comm, void *context) {
    (void)context;
    const int rank = ds_comm_rank(comm);
    const int64_t counts[] = {0, 5, 20000};
    ds_comm *row = NULL, *column = NULL;
    DS_TRY(ds_comm_split(comm, rank / 3, rank % 3, &row));
    DS_TRY(ds_comm_split(comm, rank % 3, -rank, &column)); /* in reverse order */
    if (ds_comm_size(row) != 3 || ds_comm_rank(row) != rank % 3 || ds_comm_size(column) != 2 ||
        ds_comm_rank(column) != (rank < 3) || ds_comm_world_rank(row, 1) != rank / 3 * 3 + 1)
        return ds_fail(DS_INVALID, "rank %d of 6: row %d of %d, column %d of %d", rank,
                       ds_comm_rank(row), ds_comm_size(row), ds_comm_rank(column),
                       ds_comm_size(column));
    DS_TRY(check_collectives(row, counts, 3));
    DS_TRY(check_collectives(column, counts, 3));
    int32_t sum = rank, sum_of_sums = 0;
    DS_TRY(ds_comm_all_reduce(row, &sum, &sum, 1, DS_I32, DS_COMM_SUM, (ds_comm_call){0}));
    DS_TRY(
        ds_comm_all_reduce(column, &sum, &sum_of_sums, 1, DS_I32, DS_COMM_SUM, (ds_comm_call){0}));
    ds_comm_close(row);
    ds_comm_close(column);
    return sum_of_sums == 15 ? DS_OK : ds_fail(DS_INVALID, "over the mesh: %d", sum_of_sums);
}

static ds_status some_ranks(ds_comm *comm, void *context) {
    (void)context;
    const int rank = ds_comm_rank(comm);
    ds_comm *group = NULL;
    DS_TRY(ds_comm_split(comm, rank == 1 ? -1 : 0, 0, &group));
    if ((group == NULL) != (rank == 1))
        return ds_fail(DS_INVALID, "rank %d: a group where none is due, or none", rank);
    int32_t n = 1;
    if (group)
        DS_TRY(ds_comm_all_reduce(group, &n, &n, 1, DS_I32, DS_COMM_SUM, (ds_comm_call){0}));
    ds_comm_close(group);
    return n == (rank == 1 ? 1 : 2) ? DS_OK : ds_fail(DS_INVALID, "%d ranks in the group", n);
}

static void test_groups_of_a_mesh(void **state) {
    (void)state;
    run_ranks(6, PATIENT, mesh, NULL);
    run_ranks(3, PATIENT, some_ranks, NULL);
}

/* ---- in the background ----------------------------------------------------------------------- */

/* Many calls under way at once, waited for in another order; with and without a helper thread. */
static ds_status many_at_once(ds_comm *comm, void *context) {
    (void)context;
    enum { N = 12, COUNT = 30000 };
    float *data = malloc(sizeof(float) * N * COUNT);
    ds_work *works[N];
    for (int i = 0; i < N * COUNT; i++)
        data[i] = (float)(i % 100);
    for (int i = 0; i < N; i++)
        DS_TRY(ds_comm_all_reduce(comm, data + i * COUNT, data + i * COUNT, COUNT, DS_F32,
                                  i % 2 ? DS_COMM_SUM : DS_COMM_AVG,
                                  (ds_comm_call){.name = "bucket", .work = &works[i]}));
    for (int i = N - 1; i >= 0; i--)
        DS_TRY(ds_work_wait(works[i]));
    ds_status status = DS_OK;
    for (int i = 0; i < N * COUNT && status == DS_OK; i++) {
        const float factor = i / COUNT % 2 ? (float)ds_comm_size(comm) : 1;
        if (fabsf(data[i] - factor * (float)(i % 100)) > 1e-4f * data[i])
            status = ds_fail(DS_INVALID, "bucket %d is wrong: %g", i / COUNT, (double)data[i]);
    }
    free(data);
    return status;
}

/* Nobody waits: the helper alone has to finish it. */
static ds_status by_the_helper(ds_comm *comm, void *context) {
    (void)context;
    float v = 1;
    ds_work *work = NULL;
    DS_TRY(ds_comm_all_reduce(comm, &v, &v, 1, DS_F32, DS_COMM_SUM, (ds_comm_call){.work = &work}));
    usleep(300000);
    return ds_work_wait(work);
}

static void test_calls_in_the_background(void **state) {
    (void)state;
    for (int n_threads = -1; n_threads <= 2; n_threads++) {
        run_ranks(3, (ds_comm_opts){.timeout_s = 120, .n_threads = n_threads}, many_at_once, NULL);
        run_ranks(2, (ds_comm_opts){.timeout_s = 120, .n_threads = n_threads}, by_the_helper, NULL);
    }
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

static ds_status differ(ds_comm *comm, void *context) {
    const int how = *(const int *)context, odd = ds_comm_rank(comm) == 2;
    float a[600] = {0}, b[600] = {0};
    DS_TRY(ds_comm_barrier(comm, (ds_comm_call){0}));
    switch (how) {
    case 0: /* the operation */
        return odd ? ds_comm_all_gather(comm, a, b, 100, DS_F32, (ds_comm_call){.name = "theirs"})
                   : ds_comm_all_reduce(comm, a, b, 100, DS_F32, DS_COMM_SUM,
                                        (ds_comm_call){.name = "ours"});
    case 1: /* the size */
        return ds_comm_all_reduce(comm, a, b, odd ? 101 : 100, DS_F32, DS_COMM_SUM,
                                  (ds_comm_call){.name = odd ? "theirs" : "ours"});
    case 2: /* the dtype */
        return ds_comm_all_reduce(comm, a, b, 100, odd ? DS_I32 : DS_F32, DS_COMM_SUM,
                                  (ds_comm_call){.name = odd ? "theirs" : "ours"});
    case 3: /* what is done with it */
        return ds_comm_all_reduce(comm, a, b, 100, DS_F32, odd ? DS_COMM_MAX : DS_COMM_SUM,
                                  (ds_comm_call){.name = odd ? "theirs" : "ours"});
    default: /* the root */
        DS_TRY(ds_comm_broadcast(comm, a, 100, DS_F32, odd ? 1 : 0,
                                 (ds_comm_call){.name = odd ? "theirs" : "ours"}));
        return ds_comm_barrier(comm, (ds_comm_call){0});
    }
}

static void test_calls_that_differ_are_refused_on_all_ranks(void **state) {
    (void)state;
    static char message[4][RANK_MESSAGE];
    for (int how = 0; how < 5; how++) {
        ds_status status[4];
        run_ranks_to_failure(4, PATIENT, differ, &how, status, message);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(status[i], DS_INVALID);
            assert_non_null(strstr(message[i], "calls differ: rank "));
            assert_non_null(strstr(message[i], "\"ours\""));
            assert_non_null(strstr(message[i], "\"theirs\""));
            assert_non_null(strstr(message[i], "rank 2"));
        }
    }
}

static ds_status short_message(ds_comm *comm, void *context) {
    (void)context;
    int32_t v[4] = {0};
    return ds_comm_rank(comm) == 0
               ? ds_comm_send(comm, v, 3, DS_I32, 1, (ds_comm_call){.name = "x"})
               : ds_comm_recv(comm, v, 4, DS_I32, 0, (ds_comm_call){.name = "y"});
}

static void test_a_message_of_another_length_is_refused(void **state) {
    (void)state;
    ds_status status[2];
    static char message[2][RANK_MESSAGE];
    run_ranks_to_failure(2, PATIENT, short_message, NULL, status, message);
    assert_int_equal(status[1], DS_INVALID);
    assert_non_null(strstr(message[1], "recv #1 \"y\" (4 i32, from rank 0)"));
    assert_non_null(strstr(message[1], "send #1 \"x\" (3 i32, to rank 1)"));
}

static ds_status one_is_missing(ds_comm *comm, void *context) {
    (void)context;
    DS_TRY(ds_comm_barrier(comm, (ds_comm_call){.name = "epoch 3"}));
    if (ds_comm_rank(comm) == 1)
        while (ds_comm_check(comm) == DS_OK) /* busy elsewhere until it is told */
            usleep(1000);
    float v = 1;
    return ds_comm_all_reduce(comm, &v, &v, 1, DS_F32, DS_COMM_SUM,
                              (ds_comm_call){.name = "grad/wte", .timeout_s = 2});
}

static void test_a_timeout_names_call_and_missing_rank(void **state) {
    (void)state;
    ds_status status[3];
    static char message[3][RANK_MESSAGE];
    run_ranks_to_failure(3, PATIENT, one_is_missing, NULL, status, message);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(status[i], DS_TIMEOUT);
        assert_non_null(strstr(message[i], "all_reduce #2 \"grad/wte\" (sum of 1 f32) timed out"));
        assert_non_null(
            strstr(message[i], "not arrived: rank 1 (its last call: barrier #1 \"epoch 3\""));
        assert_null(strstr(message[i], "rank 0 (its"));
        assert_null(strstr(message[i], "rank 2 (its"));
    }
}

static _Atomic bool warned;

static void note_warning(ds_log_level level, const char *line, void *context) {
    (void)level;
    (void)context;
    if (strstr(line, "\"late\" timed out") && strstr(line, "not arrived: rank 1"))
        warned = true;
}

/* Rank 1 comes once the others were warned, or told that it is over. */
static ds_status late(ds_comm *comm, void *context) {
    (void)context;
    while (ds_comm_rank(comm) == 1 && !warned && ds_comm_check(comm) == DS_OK)
        usleep(1000);
    return ds_comm_barrier(
        comm, (ds_comm_call){.name = "late", .timeout_s = ds_comm_rank(comm) == 1 ? 60 : 0.2});
}

static void test_without_blocking_wait_a_deadline_only_warns(void **state) {
    (void)state;
    warned = false;
    ds_log_to(note_warning, NULL);
    assert_int_equal(setenv("NCCL_BLOCKING_WAIT", "0", 1), 0);
    run_ranks(2, PATIENT, late, NULL);
    unsetenv("NCCL_BLOCKING_WAIT");
    assert_true(warned);
    warned = false;
    ds_log_to(NULL, NULL);
    ds_status status[2];
    static char message[2][RANK_MESSAGE];
    run_ranks_to_failure(2, PATIENT, late, NULL, status, message);
    assert_int_equal(status[0], DS_TIMEOUT);
    assert_int_equal(status[1], DS_TIMEOUT);
}

static ds_status aborts(ds_comm *comm, void *context) {
    (void)context;
    if (ds_comm_rank(comm) == 1) {
        usleep(50000);
        ds_comm_abort(comm, "the disk is full");
        return ds_comm_barrier(comm, (ds_comm_call){0});
    }
    return ds_comm_barrier(comm, (ds_comm_call){.name = "never"});
}

static void test_an_abort_reaches_all(void **state) {
    (void)state;
    ds_status status[3];
    static char message[3][RANK_MESSAGE];
    run_ranks_to_failure(3, PATIENT, aborts, NULL, status, message);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(status[i], DS_CANCELLED);
        assert_non_null(strstr(message[i], "rank 1 stopped all: the disk is full"));
        assert_true(i == 1 || strstr(message[i], "was in barrier #1 \"never\", waiting for rank"));
    }
}

static void test_wrong_arguments_are_refused_at_once(void **state) {
    (void)state;
    ds_comm *comm = NULL;
    float v = 1;
    const ds_comm_call call = {0};
    assert_int_equal(ds_comm_open((ds_comm_opts){.transport = "self"}, &comm), DS_OK);
    assert_string_equal(ds_comm_transport(comm), "self");
    assert_int_equal(ds_comm_all_reduce(comm, &v, &v, -1, DS_F32, DS_COMM_SUM, call), DS_INVALID);
    assert_int_equal(ds_comm_all_reduce(comm, NULL, &v, 1, DS_F32, DS_COMM_SUM, call), DS_INVALID);
    assert_int_equal(ds_comm_all_reduce(comm, &v, &v, 1, DS_U8, DS_COMM_SUM, call), DS_UNSUPPORTED);
    assert_int_equal(ds_comm_all_reduce(comm, &v, &v, 1, DS_I32, DS_COMM_AVG, call),
                     DS_UNSUPPORTED);
    assert_int_equal(ds_comm_broadcast(comm, &v, 1, DS_F32, 1, call), DS_INVALID);
    assert_int_equal(ds_comm_send(comm, &v, 1, DS_F32, 0, call), DS_INVALID);
    assert_non_null(strstr(ds_error(), "itself"));
    assert_int_equal(ds_comm_all_reduce(comm, &v, &v, 1, DS_F32, DS_COMM_SUM, call), DS_OK);
    ds_comm_close(comm);
    assert_int_equal(ds_comm_open_threads(0, PATIENT, &comm), DS_INVALID);
}

static void test_variables_are_checked(void **state) {
    (void)state;
    static const char *const wrong[][2] = {{"NCCL_DEBUG", "LOUD"},
                                           {"NCCL_SOCKET_NTHREADS", "many"},
                                           {"NCCL_BLOCKING_WAIT", "2"},
                                           {"DS_COMM_TIMEOUT_S", "-1"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ds_comm *comm = NULL;
        setenv(wrong[i][0], wrong[i][1], 1);
        assert_int_equal(ds_comm_open_threads(1, (ds_comm_opts){0}, &comm), DS_INVALID);
        assert_non_null(strstr(ds_error(), wrong[i][0]));
        unsetenv(wrong[i][0]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_collective_equals_plain_sums),
        cmocka_unit_test(test_large_all_reduce),
        cmocka_unit_test(test_all_ranks_get_the_same_bits),
        cmocka_unit_test(test_nan_wins_and_integers_wrap),
        cmocka_unit_test(test_groups_of_a_mesh),
        cmocka_unit_test(test_calls_in_the_background),
        cmocka_unit_test(test_calls_that_differ_are_refused_on_all_ranks),
        cmocka_unit_test(test_a_message_of_another_length_is_refused),
        cmocka_unit_test(test_a_timeout_names_call_and_missing_rank),
        cmocka_unit_test(test_without_blocking_wait_a_deadline_only_warns),
        cmocka_unit_test(test_an_abort_reaches_all),
        cmocka_unit_test(test_wrong_arguments_are_refused_at_once),
        cmocka_unit_test(test_variables_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
