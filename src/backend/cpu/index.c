/* Gather and scatter_add: rows by index. moe_route: the order that brings rows to their experts. */
#include <string.h>

#include "backend/cpu/kernels.h"

static ds_status run_gather(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *table = &args->inputs[0], *ids = &args->inputs[1];
    const int64_t row = ds_count(table->dims + 1, table->rank - 1);
    const int64_t n = ds_count(ids->dims, ids->rank);
    const size_t bytes = (size_t)row * ds_dtype_size(table->dtype);
    const int32_t *id = ids->data;
#pragma omp parallel for num_threads(ds_cpu_threads(n *row, args->n_threads)) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        void *to = ds_at(&args->outputs[0], i * row);
        if (id[i] >= 0 && id[i] < table->dims[0])
            memcpy(to, ds_at(table, id[i] * row), bytes);
        else
            memset(to, 0, bytes);
    }
    return DS_OK;
}

const ds_kernel ds_cpu_gather = {.op = &ds_op_gather, .run = run_gather};

/* Adds the rows of x whose ids are in [from, to). */
static void add_rows(const ds_kernel_args *args, int64_t row, int64_t from, int64_t to) {
    const ds_tensor *x = &args->inputs[0], *ids = &args->inputs[1];
    const int64_t n = ds_count(ids->dims, ids->rank);
    const int32_t *id = ids->data;
    float *y = args->outputs[0].data, buffer[DS_BLOCK];
    const float *onto = args->n_inputs == 3 ? args->inputs[2].data : NULL;
    if (!onto)
        memset(y + from * row, 0, (size_t)((to - from) * row) * sizeof *y);
    else if (onto != y)
        memcpy(y + from * row, onto + from * row, (size_t)((to - from) * row) * sizeof *y);
    for (int64_t i = 0; i < n; i++) {
        if (id[i] < from || id[i] >= to)
            continue;
        for (int64_t k = 0; k < row; k += DS_BLOCK) {
            const int64_t length = row - k < DS_BLOCK ? row - k : DS_BLOCK;
            const float *v = ds_cpu_fetch(x, i * row + k, 1, length, buffer);
            ds_cpu_simd()->axpy(1, v, y + id[i] * row + k, length);
        }
    }
}

/* Each thread owns a range of the result's rows and reads every id: no two threads write one row,
 * and each row is summed in order. */
static ds_status run_scatter_add(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *out = &args->outputs[0];
    const int64_t n_rows = out->dims[0], row = ds_count(out->dims + 1, out->rank - 1);
    const int parts = ds_cpu_threads(n_rows * row, args->n_threads);
#pragma omp parallel for num_threads(parts) schedule(static)
    for (int part = 0; part < parts; part++)
        add_rows(args, row, n_rows * part / parts, n_rows * (part + 1) / parts);
    return DS_OK;
}

const ds_kernel ds_cpu_scatter_add = {
    .op = &ds_op_scatter_add, .in_place = 1u << 2, .run = run_scatter_add};

/* A counting sort: how many choose each expert, where its places begin, then each choice to its
 * place. Two reads of a few thousand numbers: not worth a second thread. */
static ds_status run_moe_route(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const int64_t n = ds_count(args->inputs[0].dims, 2), n_experts = args->outputs[1].dims[0] - 1;
    const int32_t *expert = args->inputs[0].data;
    int32_t *order = args->outputs[0].data, *offsets = args->outputs[1].data;
    int32_t *next = args->workspace, total = 0;
    memset(next, 0, (size_t)n_experts * sizeof *next);
    for (int64_t i = 0; i < n; i++)
        if (expert[i] >= 0 && expert[i] < n_experts)
            next[expert[i]]++;
    for (int64_t e = 0; e < n_experts; e++) {
        const int32_t count = next[e];
        offsets[e] = next[e] = total;
        total += count;
    }
    offsets[n_experts] = total;
    for (int64_t i = 0; i < n; i++)
        if (expert[i] >= 0 && expert[i] < n_experts)
            order[next[expert[i]]++] = (int32_t)i;
    for (int64_t i = total; i < n; i++)
        order[i] = -1; /* choices of no expert */
    return DS_OK;
}

static ds_status prepare_moe_route(const ds_kernel_args *args, void **state,
                                   size_t *workspace_bytes) {
    *state = NULL;
    *workspace_bytes = (size_t)args->outputs[1].dims[0] * sizeof(int32_t);
    return DS_OK;
}

const ds_kernel ds_cpu_moe_route = {
    .op = &ds_op_moe_route, .prepare = prepare_moe_route, .run = run_moe_route};
