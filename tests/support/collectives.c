/* Each rank's input is a function of rank and index, so that every rank can compute what it should
 * get. The values are small integers: sums and averages of them are exact in every dtype where
 * neither order nor rounding shows. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/half.h"
#include "ranks.h"

static int value_of(int rank, int64_t i) {
    return (int)((i * 7 + rank * 3 + i / 11) % 8) - 3;
}

static void store(void *data, ds_dtype dtype, int64_t i, float v) {
    switch (dtype) {
    case DS_F32: ((float *)data)[i] = v; break;
    case DS_BF16: ((uint16_t *)data)[i] = ds_f32_to_bf16(v); break;
    case DS_F16: ((uint16_t *)data)[i] = ds_f32_to_f16(v); break;
    case DS_I8: ((int8_t *)data)[i] = (int8_t)v; break;
    case DS_U8: ((uint8_t *)data)[i] = (uint8_t)(int)v; break;
    case DS_I32: ((int32_t *)data)[i] = (int32_t)v; break;
    case DS_I64: ((int64_t *)data)[i] = (int64_t)v; break;
    case DS_DTYPES: break;
    }
}

typedef struct trial {
    ds_comm *comm;
    ds_dtype dtype;
    ds_comm_op op;
    int64_t count;
    bool in_place, in_background;
    int rank, size;
    void *in, *out, *expected;
} trial;

static float reduced(const trial *t, int64_t i) {
    float r = (float)value_of(0, i);
    for (int k = 1; k < t->size; k++) {
        const float v = (float)value_of(k, i);
        if (t->op == DS_COMM_MAX)
            r = v > r ? v : r;
        else if (t->op == DS_COMM_MIN)
            r = v < r ? v : r;
        else
            r += v;
    }
    /* as the library defines it: times 1/size, then rounded */
    return t->op == DS_COMM_AVG && t->size > 1 ? r * (1.0f / (float)t->size) : r;
}

static void fill(const trial *t, void *data, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        store(data, t->dtype, i, (float)value_of(t->rank, i));
}

static ds_status finish(const trial *t, ds_status status, ds_work *const *work) {
    if (!t->in_background || status != DS_OK)
        return status;
    while (!ds_work_test(*work))
        usleep(20);
    return ds_work_wait(*work);
}

static ds_status compare(const trial *t, const char *what, const void *got, int64_t n) {
    const size_t size = ds_dtype_size(t->dtype);
    if (memcmp(got, t->expected, (size_t)n * size) == 0)
        return DS_OK;
    int64_t i = 0;
    while (memcmp((const char *)got + (size_t)i * size,
                  (const char *)t->expected + (size_t)i * size, size) == 0)
        i++;
    return ds_fail(DS_INVALID, "%s: op %d, %lld %s%s%s: element %lld is wrong", what, (int)t->op,
                   (long long)n, ds_dtype_name(t->dtype), t->in_place ? ", in place" : "",
                   t->in_background ? ", in background" : "", (long long)i);
}

static ds_status all_reduce(const trial *t) {
    ds_work *work = NULL;
    void *in = t->in_place ? t->out : t->in;
    fill(t, in, t->count);
    for (int64_t i = 0; i < t->count; i++)
        store(t->expected, t->dtype, i, reduced(t, i));
    DS_TRY(finish(t,
                  ds_comm_all_reduce(t->comm, in, t->out, t->count, t->dtype, t->op,
                                     (ds_comm_call){.name = "all_reduce's",
                                                    .work = t->in_background ? &work : NULL}),
                  &work));
    return compare(t, "all_reduce", t->out, t->count);
}

static ds_status reduce_scatter(const trial *t) {
    ds_work *work = NULL;
    const size_t block = (size_t)t->count * ds_dtype_size(t->dtype);
    fill(t, t->in, t->count * t->size);
    for (int64_t i = 0; i < t->count; i++)
        store(t->expected, t->dtype, i, reduced(t, t->rank * t->count + i));
    void *out = t->in_place ? (char *)t->in + (size_t)t->rank * block : t->out;
    DS_TRY(finish(t,
                  ds_comm_reduce_scatter(t->comm, t->in, out, t->count, t->dtype, t->op,
                                         (ds_comm_call){.name = "reduce_scatter's",
                                                        .work = t->in_background ? &work : NULL}),
                  &work));
    return compare(t, "reduce_scatter", out, t->count);
}

static ds_status all_gather(const trial *t) {
    ds_work *work = NULL;
    const size_t block = (size_t)t->count * ds_dtype_size(t->dtype);
    void *in = t->in_place ? (char *)t->out + (size_t)t->rank * block : t->in;
    memset(t->out, 0, block * (size_t)t->size);
    fill(t, in, t->count);
    for (int r = 0; r < t->size; r++)
        for (int64_t i = 0; i < t->count; i++)
            store(t->expected, t->dtype, r * t->count + i, (float)value_of(r, i));
    DS_TRY(finish(t,
                  ds_comm_all_gather(t->comm, in, t->out, t->count, t->dtype,
                                     (ds_comm_call){.name = "all_gather's",
                                                    .work = t->in_background ? &work : NULL}),
                  &work));
    return compare(t, "all_gather", t->out, t->count * t->size);
}

static ds_status broadcast(const trial *t) {
    ds_work *work = NULL;
    const int root = (int)(t->count % t->size);
    memset(t->out, 0, (size_t)t->count * ds_dtype_size(t->dtype));
    if (t->rank == root)
        fill(t, t->out, t->count);
    for (int64_t i = 0; i < t->count; i++)
        store(t->expected, t->dtype, i, (float)value_of(root, i));
    DS_TRY(finish(t,
                  ds_comm_broadcast(t->comm, t->out, t->count, t->dtype, root,
                                    (ds_comm_call){.name = "broadcast's",
                                                   .work = t->in_background ? &work : NULL}),
                  &work));
    return compare(t, "broadcast", t->out, t->count);
}

static ds_status all_to_all(const trial *t) {
    ds_work *work = NULL;
    fill(t, t->in, t->count * t->size);
    for (int r = 0; r < t->size; r++)
        for (int64_t i = 0; i < t->count; i++)
            store(t->expected, t->dtype, r * t->count + i,
                  (float)value_of(r, t->rank * t->count + i));
    DS_TRY(finish(t,
                  ds_comm_all_to_all(t->comm, t->in, t->out, t->count, t->dtype,
                                     (ds_comm_call){.name = "all_to_all's",
                                                    .work = t->in_background ? &work : NULL}),
                  &work));
    return compare(t, "all_to_all", t->out, t->count * t->size);
}

/* To the next rank, from the one before; in pairs that would wait for each other if each did one
 * thing at a time. */
static ds_status around(const trial *t) {
    if (t->size == 1)
        return DS_OK;
    const int left = (t->rank + t->size - 1) % t->size, right = (t->rank + 1) % t->size;
    ds_work *sent = NULL, *received = NULL;
    fill(t, t->in, t->count);
    for (int64_t i = 0; i < t->count; i++)
        store(t->expected, t->dtype, i, (float)value_of(left, i));
    DS_TRY(ds_comm_send(t->comm, t->in, t->count, t->dtype, right,
                        (ds_comm_call){.name = "around", .work = &sent}));
    DS_TRY(ds_comm_recv(t->comm, t->out, t->count, t->dtype, left,
                        (ds_comm_call){.name = "around", .work = &received}));
    const ds_status a = ds_work_wait(received), b = ds_work_wait(sent);
    DS_TRY(a != DS_OK ? a : b);
    return compare(t, "send and recv", t->out, t->count);
}

static ds_status check_dtype(trial *t) {
    static const ds_comm_op ops[] = {DS_COMM_SUM, DS_COMM_MAX, DS_COMM_MIN, DS_COMM_AVG};
    const bool reduces = t->dtype != DS_U8;
    for (int i = 0; i < 4 && reduces; i++) {
        t->op = ops[i];
        if (t->op == DS_COMM_AVG && !ds_dtype_is_float(t->dtype))
            continue;
        DS_TRY(all_reduce(t));
        DS_TRY(reduce_scatter(t));
    }
    DS_TRY(all_gather(t));
    DS_TRY(broadcast(t));
    DS_TRY(all_to_all(t));
    return around(t);
}

ds_status check_collectives(ds_comm *comm, const int64_t *counts, int n_counts) {
    trial t = {.comm = comm, .rank = ds_comm_rank(comm), .size = ds_comm_size(comm)};
    ds_status status = DS_OK;
    for (int i = 0; i < n_counts && status == DS_OK; i++) {
        const size_t room = (size_t)counts[i] * (size_t)t.size * sizeof(int64_t) + 1;
        t.count = counts[i];
        t.in = malloc(room);
        t.out = malloc(room);
        t.expected = malloc(room);
        for (int dtype = 0; dtype < DS_DTYPES && status == DS_OK; dtype++)
            for (int way = 0; way < 3 && status == DS_OK; way++) {
                t.dtype = (ds_dtype)dtype;
                t.in_place = way == 1;
                t.in_background = way == 2;
                status = check_dtype(&t);
            }
        free(t.in);
        free(t.out);
        free(t.expected);
        if (status == DS_OK)
            status = ds_comm_barrier(comm, (ds_comm_call){.name = "between counts"});
    }
    return status;
}
