/* One rank of the tests that need processes: rank_program WHAT [SECONDS]
 *   check       every collective against plain sums
 *   loop        all-reduces in a loop, each checked, for SECONDS (default 60)
 *   groups      the same in the two groups of even and odd ranks, and among all, in turn
 *   fail        rank 1 ends with status 3 while the others wait
 *   leave       rank 1 ends with status 0, without a word, while the others wait
 *   missing     rank 1 does not come to the all-reduce "grad/wte", which has 2 s
 *   differ      rank 1 makes another call than the others
 *   grow        all-reduces of 4 KiB, 1 MiB, 16 MiB: seconds of each, on rank 0
 * Errors go to standard error, with status 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "support/ranks.h"

enum { COUNT = 20000 };

static ds_status check(ds_comm *comm, double seconds) {
    const int64_t counts[] = {0, 1, 7, 30001, 300000};
    (void)seconds;
    return check_collectives(comm, counts, 5);
}

static ds_status one_sum(ds_comm *comm, float *data, int64_t count, int64_t step) {
    const int size = ds_comm_size(comm);
    for (int64_t i = 0; i < count; i++)
        data[i] = (float)((i + step) % 64 + ds_comm_rank(comm));
    char name[32];
    snprintf(name, sizeof name, "step %lld", (long long)step);
    DS_TRY(ds_comm_all_reduce(comm, data, data, count, DS_F32, DS_COMM_SUM,
                              (ds_comm_call){.name = name}));
    for (int64_t i = 0; i < count; i++)
        if (data[i] != (float)((i + step) % 64 * size + size * (size - 1) / 2))
            return ds_fail(DS_INTERNAL, "WRONG SUM in step %lld", (long long)step);
    return DS_OK;
}

static ds_status loop(ds_comm *comm, double seconds) {
    static float data[COUNT];
    int32_t more = 1;
    if (ds_comm_rank(comm) == 0) {
        printf("looping\n");
        fflush(stdout);
    }
    const double end = ds_clock_s() + seconds;
    for (int64_t step = 0; more; step++) {
        DS_TRY(one_sum(comm, data, step % 3 == 0 ? 16 : COUNT, step));
        more = ds_clock_s() < end; /* rank 0 says for all when it is over */
        if (step % 16 == 0)
            DS_TRY(ds_comm_broadcast(comm, &more, 1, DS_I32, 0, (ds_comm_call){.name = "more"}));
        else
            more = 1;
    }
    return DS_OK;
}

static ds_status groups(ds_comm *comm, double seconds) {
    static float data[COUNT];
    ds_comm *half = NULL;
    (void)seconds;
    DS_TRY(ds_comm_split(comm, ds_comm_rank(comm) % 2, 0, &half));
    ds_status status = DS_OK;
    for (int64_t step = 0; step < 50 && status == DS_OK; step++)
        status = one_sum(step % 2 ? half : comm, data, COUNT, step);
    ds_comm_close(half);
    return status;
}

static ds_status fail_one(ds_comm *comm, double seconds) {
    (void)seconds;
    if (ds_comm_rank(comm) == 1) {
        fprintf(stderr, "this rank gives up\n");
        exit(3);
    }
    return ds_comm_barrier(comm, (ds_comm_call){.name = "the others"});
}

static ds_status leave(ds_comm *comm, double seconds) {
    (void)seconds;
    if (ds_comm_rank(comm) == 1)
        exit(0);
    return ds_comm_barrier(comm, (ds_comm_call){.name = "the others"});
}

static ds_status missing(ds_comm *comm, double seconds) {
    float v = 1;
    (void)seconds;
    DS_TRY(ds_comm_barrier(comm, (ds_comm_call){.name = "start"}));
    if (ds_comm_rank(comm) == 1) {
        for (int i = 0; i < 1000 && ds_comm_check(comm) == DS_OK; i++)
            usleep(10000);
        return ds_comm_check(comm);
    }
    usleep(300000); /* until the store has heard of the barrier */
    return ds_comm_all_reduce(comm, &v, &v, 1, DS_F32, DS_COMM_SUM,
                              (ds_comm_call){.name = "grad/wte", .timeout_s = 2});
}

static ds_status differ(ds_comm *comm, double seconds) {
    float a[64] = {0}, b[64] = {0};
    (void)seconds;
    if (ds_comm_rank(comm) == 1)
        return ds_comm_all_reduce(comm, a, b, 33, DS_F32, DS_COMM_SUM,
                                  (ds_comm_call){.name = "theirs"});
    return ds_comm_all_reduce(comm, a, b, 32, DS_F32, DS_COMM_SUM, (ds_comm_call){.name = "ours"});
}

static ds_status grow(ds_comm *comm, double seconds) {
    (void)seconds;
    for (int64_t count = 1024; count <= 4 << 20; count *= count == 1024 ? 256 : 16) {
        float *data = calloc((size_t)count, sizeof *data);
        const double start = ds_clock_s();
        ds_status status = DS_OK;
        for (int i = 0; i < 5 && status == DS_OK; i++)
            status = one_sum(comm, data, count, i);
        free(data);
        DS_TRY(status);
        if (ds_comm_rank(comm) == 0)
            printf("%lld bytes: %.6f s\n", (long long)count * 4, (ds_clock_s() - start) / 5);
    }
    return DS_OK;
}

static void show(ds_log_level level, const char *line, void *context) {
    (void)level;
    (void)context;
    fprintf(stderr, "%s\n", line);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        ds_status (*run)(ds_comm *comm, double seconds);
    } kinds[] = {{"check", check}, {"loop", loop},       {"groups", groups}, {"fail", fail_one},
                 {"leave", leave}, {"missing", missing}, {"differ", differ}, {"grow", grow}};
    ds_comm *comm = NULL;
    ds_log_to(show, NULL);
    ds_status status = ds_comm_open((ds_comm_opts){0}, &comm);
    bool found = false;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && status == DS_OK; i++)
        if (argc > 1 && strcmp(argv[1], kinds[i].name) == 0) {
            found = true;
            status = kinds[i].run(comm, argc > 2 ? strtod(argv[2], NULL) : 60);
        }
    if (status != DS_OK)
        fprintf(stderr, "error: %s: %s\n", ds_status_string(status), ds_error());
    else if (found && ds_comm_rank(comm) == 0)
        printf("done: %d ranks over %s\n", ds_comm_size(comm), ds_comm_transport(comm));
    ds_comm_close(comm);
    return status == DS_OK && found ? 0 : 1;
}
