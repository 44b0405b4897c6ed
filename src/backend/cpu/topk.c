/* The largest elements of each row, and where they are: argmax and topk. A whole block of a row is
 * skipped when its largest element is not large enough; where there are NaNs, which compare with
 * nothing, elements are taken one by one. The earlier of equals wins. */
#include <math.h>

#include <omp.h>

#include "backend/cpu/rows.h"

enum { BUFFERS = 2, SKIP = 64 };

static ds_status prepare(const ds_kernel_args *args, void **state, size_t *workspace_bytes) {
    *state = NULL;
    *workspace_bytes = ds_row_buffers(args, BUFFERS, ds_columns(&args->inputs[0]));
    return DS_OK;
}

static int64_t first_largest(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t start = 0; start < n; start += SKIP) {
        const int64_t end = n - start < SKIP ? n : start + SKIP;
        if (ds_cpu_simd()->max(x + start, end - start) <= x[best])
            continue;
        for (int64_t i = start; i < end; i++)
            if (x[i] > x[best])
                best = i;
    }
    return best;
}

static ds_status run_argmax(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *in = &args->inputs[0];
    const int64_t n = ds_columns(in), rows = ds_rows(in);
    int32_t *out = args->outputs[0].data;
#pragma omp parallel for num_threads(ds_cpu_threads(rows *n, args->n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *buffer = ds_row_buffer(args, BUFFERS, n, omp_get_thread_num());
        out[r] = (int32_t)first_largest(ds_cpu_fetch(in, r * n, 1, n, buffer), n);
    }
    return DS_OK;
}

/* The best so far, best first. */
typedef struct list {
    float *values;
    int32_t *indices;
    int64_t k, found;
} list;

static void offer(list *l, float x, int32_t index) {
    if (l->found == l->k && !(x > l->values[l->k - 1]))
        return;
    int64_t at = l->found < l->k ? l->found++ : l->k - 1;
    for (; at > 0 && x > l->values[at - 1]; at--) {
        l->values[at] = l->values[at - 1];
        l->indices[at] = l->indices[at - 1];
    }
    l->values[at] = x;
    l->indices[at] = index;
}

static void fill_list(list *l, const float *x, int64_t n) {
    for (int64_t start = 0; start < n; start += SKIP) {
        const int64_t end = n - start < SKIP ? n : start + SKIP;
        if (l->found == l->k && ds_cpu_simd()->max(x + start, end - start) <= l->values[l->k - 1])
            continue;
        for (int64_t i = start; i < end; i++)
            offer(l, x[i], (int32_t)i);
    }
}

static ds_status run_topk(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *in = &args->inputs[0], *out = &args->outputs[0];
    const int64_t n = ds_columns(in), rows = ds_rows(in), k = ds_columns(out);
#pragma omp parallel for num_threads(ds_cpu_threads(rows *n, args->n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *buffer = ds_row_buffer(args, BUFFERS, n, omp_get_thread_num());
        const float *x = ds_cpu_fetch(in, r * n, 1, n, buffer);
        list l = {.values = ds_cpu_target(out, r * k, buffer + ds_row_stride(n)),
                  .indices = (int32_t *)args->outputs[1].data + r * k,
                  .k = k};
        fill_list(&l, x, n);
        ds_cpu_put(out, r * k, l.values, k);
    }
    return DS_OK;
}

const ds_kernel ds_cpu_argmax = {.op = &ds_op_argmax, .prepare = prepare, .run = run_argmax};
const ds_kernel ds_cpu_topk = {.op = &ds_op_topk, .prepare = prepare, .run = run_topk};
